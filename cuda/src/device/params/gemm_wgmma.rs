//! The parameter structs of `kernels/gemm_wgmma_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use crate::device::Params;
use crate::device::TensorMap as tw_tensor_map;
use crate::device::params::{GemmBf16Params, GemmI8Params};

/// `gemm_i8_wgmma.cu`: the int8 product with block scales, and what follows it (`gemm_end.cuh`).
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct GemmI8WgmmaParams {
    /// `[rows, depth]` in tiles of 256 x 128, with the 128-byte swizzle.
    pub a: tw_tensor_map,
    /// `[columns, depth]` in tiles of 128 x 128, with the 128-byte swizzle.
    pub w: tw_tensor_map,
    /// All else.
    pub gemm: GemmI8Params,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmI8WgmmaParams"][::std::mem::size_of::<GemmI8WgmmaParams>() - 512usize];
    ["Alignment of GemmI8WgmmaParams"][::std::mem::align_of::<GemmI8WgmmaParams>() - 64usize];
    ["Offset of field: GemmI8WgmmaParams::a"][::std::mem::offset_of!(GemmI8WgmmaParams, a) - 0usize];
    ["Offset of field: GemmI8WgmmaParams::w"][::std::mem::offset_of!(GemmI8WgmmaParams, w) - 192usize];
    ["Offset of field: GemmI8WgmmaParams::gemm"][::std::mem::offset_of!(GemmI8WgmmaParams, gemm) - 384usize];
};
/// `gemm_bf16_wgmma.cu`: the dense product, and what follows it (`gemm_end.cuh`).
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct GemmBf16WgmmaParams {
    /// `[rows, depth]` in tiles of 128 x 64, with the 128-byte swizzle.
    pub x: tw_tensor_map,
    /// `[columns, depth]` in tiles of 256 x 64, with the 128-byte swizzle.
    pub w: tw_tensor_map,
    /// All else.
    pub gemm: GemmBf16Params,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmBf16WgmmaParams"][::std::mem::size_of::<GemmBf16WgmmaParams>() - 512usize];
    ["Alignment of GemmBf16WgmmaParams"][::std::mem::align_of::<GemmBf16WgmmaParams>() - 64usize];
    ["Offset of field: GemmBf16WgmmaParams::x"][::std::mem::offset_of!(GemmBf16WgmmaParams, x) - 0usize];
    ["Offset of field: GemmBf16WgmmaParams::w"][::std::mem::offset_of!(GemmBf16WgmmaParams, w) - 192usize];
    ["Offset of field: GemmBf16WgmmaParams::gemm"][::std::mem::offset_of!(GemmBf16WgmmaParams, gemm) - 384usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for GemmI8WgmmaParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.a.addresses("a", visit);
        self.w.addresses("w", visit);
        self.gemm.addresses(visit);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for GemmBf16WgmmaParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.x.addresses("x", visit);
        self.w.addresses("w", visit);
        self.gemm.addresses(visit);
    }
}
