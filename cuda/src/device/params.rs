//! The parameter structs of `kernels/params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use super::launch::Params;

/// `quant_block.cu`: rows become int8, with a scale for each block.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantBlockParams {
    /// `[rows, width]`, on 16 bytes.
    pub x: *const tw_bf16,
    /// `[rows, width]`, on 8 bytes.
    pub values: *mut i8,
    /// `[ceil(rows / block_rows), width / 128]`.
    pub scales: *mut f32,
    /// At least 1.
    pub rows: i64,
    /// A multiple of 128, at least 128.
    pub width: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantBlockParams"][::std::mem::size_of::<QuantBlockParams>() - 40usize];
    ["Alignment of QuantBlockParams"][::std::mem::align_of::<QuantBlockParams>() - 8usize];
    ["Offset of field: QuantBlockParams::x"][::std::mem::offset_of!(QuantBlockParams, x) - 0usize];
    ["Offset of field: QuantBlockParams::values"][::std::mem::offset_of!(QuantBlockParams, values) - 8usize];
    ["Offset of field: QuantBlockParams::scales"][::std::mem::offset_of!(QuantBlockParams, scales) - 16usize];
    ["Offset of field: QuantBlockParams::rows"][::std::mem::offset_of!(QuantBlockParams, rows) - 24usize];
    ["Offset of field: QuantBlockParams::width"][::std::mem::offset_of!(QuantBlockParams, width) - 32usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for QuantBlockParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("values", self.values as u64);
        visit("scales", self.scales as u64);
    }
}
