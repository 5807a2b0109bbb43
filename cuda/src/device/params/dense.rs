//! The parameter structs of `kernels/params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use crate::device::Params;

/// `quant_block.cu`: rows become int8, with a scale for each block.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantBlockParams {
    /// `[rows, width]`, on 16 bytes.
    pub x: *const tw_bf16,
    /// `[rows, blocks * 128]`, on 8 bytes: blocks are ceil(width / 128).
    pub values: *mut i8,
    /// `[ceil(rows / block_rows), blocks]`.
    pub scales: *mut f32,
    /// At least 1.
    pub rows: i64,
    /// A multiple of 8, at least 8.
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
/// `norm_mod_quant.cu`: layer norm, modulation or affine, bf16 and int8 rows out.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NormModQuantParams {
    /// `[rows, width]`, on 16 bytes.
    pub x: *const tw_bf16,
    /// Modulation: scale `[groups, width]`; affine: weight `[width]`. On 16 bytes.
    pub factors: *const f32,
    /// Modulation: shift `[groups, width]`; affine: bias `[width]`. On 16 bytes.
    pub offsets: *const f32,
    /// `[rows, width]`, on 16 bytes; may be null.
    pub out: *mut tw_bf16,
    /// `[rows, blocks * 128]`, on 8 bytes; may be null. Blocks are ceil(width / 128).
    pub values: *mut i8,
    /// `[rows, blocks]`; null with `values`.
    pub scales: *mut f32,
    /// A multiple of 8, at most 5120.
    pub width: i64,
    /// At least 1; affine: at least all rows.
    pub rows_per_group: i64,
    /// Added to the variance.
    pub eps: f32,
    /// Zero columns that the variance counts.
    pub padding: f32,
    /// 1 or 0.
    pub is_modulation: i32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormModQuantParams"][::std::mem::size_of::<NormModQuantParams>() - 80usize];
    ["Alignment of NormModQuantParams"][::std::mem::align_of::<NormModQuantParams>() - 8usize];
    ["Offset of field: NormModQuantParams::x"][::std::mem::offset_of!(NormModQuantParams, x) - 0usize];
    ["Offset of field: NormModQuantParams::factors"][::std::mem::offset_of!(NormModQuantParams, factors) - 8usize];
    ["Offset of field: NormModQuantParams::offsets"][::std::mem::offset_of!(NormModQuantParams, offsets) - 16usize];
    ["Offset of field: NormModQuantParams::out"][::std::mem::offset_of!(NormModQuantParams, out) - 24usize];
    ["Offset of field: NormModQuantParams::values"][::std::mem::offset_of!(NormModQuantParams, values) - 32usize];
    ["Offset of field: NormModQuantParams::scales"][::std::mem::offset_of!(NormModQuantParams, scales) - 40usize];
    ["Offset of field: NormModQuantParams::width"][::std::mem::offset_of!(NormModQuantParams, width) - 48usize];
    ["Offset of field: NormModQuantParams::rows_per_group"][::std::mem::offset_of!(NormModQuantParams, rows_per_group) - 56usize];
    ["Offset of field: NormModQuantParams::eps"][::std::mem::offset_of!(NormModQuantParams, eps) - 64usize];
    ["Offset of field: NormModQuantParams::padding"][::std::mem::offset_of!(NormModQuantParams, padding) - 68usize];
    ["Offset of field: NormModQuantParams::is_modulation"][::std::mem::offset_of!(NormModQuantParams, is_modulation) - 72usize];
    ["Offset of field: NormModQuantParams::unused"][::std::mem::offset_of!(NormModQuantParams, unused) - 76usize];
};
/// `rms_rope.cu`: RMS norm and rotary embedding.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RmsRopeParams {
    /// Rows `x_stride` values apart, on 16 bytes.
    pub x: *const tw_bf16,
    /// `[width]`, on 16 bytes.
    pub weight: *const f32,
    /// `[positions, head_dim / 2, 2]`, on 8 bytes; null: no rotation.
    pub turns: *const f32,
    /// On 16 bytes, by the strides below.
    pub out: *mut tw_bf16,
    /// A multiple of `head_dim`; at most 5120.
    pub width: i64,
    /// A multiple of 8.
    pub x_stride: i64,
    /// Rows of a sample, at least 1.
    pub tokens: i64,
    /// Values from a sample to the next, a multiple of 8, as the next two.
    pub out_batch: i64,
    /// Values from a head to the next.
    pub out_head: i64,
    /// Values from a token to the next.
    pub out_token: i64,
    /// A multiple of 8; at most 256 where there are turns.
    pub head_dim: i32,
    /// Tokens of a frame's height.
    pub height: i32,
    /// Tokens of a frame's width.
    pub breadth: i32,
    /// 1: also before the weight.
    pub rounds_twice: i32,
    /// Added to the mean square.
    pub eps: f32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsRopeParams"][::std::mem::size_of::<RmsRopeParams>() - 104usize];
    ["Alignment of RmsRopeParams"][::std::mem::align_of::<RmsRopeParams>() - 8usize];
    ["Offset of field: RmsRopeParams::x"][::std::mem::offset_of!(RmsRopeParams, x) - 0usize];
    ["Offset of field: RmsRopeParams::weight"][::std::mem::offset_of!(RmsRopeParams, weight) - 8usize];
    ["Offset of field: RmsRopeParams::turns"][::std::mem::offset_of!(RmsRopeParams, turns) - 16usize];
    ["Offset of field: RmsRopeParams::out"][::std::mem::offset_of!(RmsRopeParams, out) - 24usize];
    ["Offset of field: RmsRopeParams::width"][::std::mem::offset_of!(RmsRopeParams, width) - 32usize];
    ["Offset of field: RmsRopeParams::x_stride"][::std::mem::offset_of!(RmsRopeParams, x_stride) - 40usize];
    ["Offset of field: RmsRopeParams::tokens"][::std::mem::offset_of!(RmsRopeParams, tokens) - 48usize];
    ["Offset of field: RmsRopeParams::out_batch"][::std::mem::offset_of!(RmsRopeParams, out_batch) - 56usize];
    ["Offset of field: RmsRopeParams::out_head"][::std::mem::offset_of!(RmsRopeParams, out_head) - 64usize];
    ["Offset of field: RmsRopeParams::out_token"][::std::mem::offset_of!(RmsRopeParams, out_token) - 72usize];
    ["Offset of field: RmsRopeParams::head_dim"][::std::mem::offset_of!(RmsRopeParams, head_dim) - 80usize];
    ["Offset of field: RmsRopeParams::height"][::std::mem::offset_of!(RmsRopeParams, height) - 84usize];
    ["Offset of field: RmsRopeParams::breadth"][::std::mem::offset_of!(RmsRopeParams, breadth) - 88usize];
    ["Offset of field: RmsRopeParams::rounds_twice"][::std::mem::offset_of!(RmsRopeParams, rounds_twice) - 92usize];
    ["Offset of field: RmsRopeParams::eps"][::std::mem::offset_of!(RmsRopeParams, eps) - 96usize];
    ["Offset of field: RmsRopeParams::unused"][::std::mem::offset_of!(RmsRopeParams, unused) - 100usize];
};
/// `gemm_i8_mma.cu`: the int8 product with block scales, and what follows it (`gemm_end.cuh`).
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GemmI8Params {
    /// `[rows, depth]`, on 16 bytes.
    pub a: *const i8,
    /// `[ceil(rows / a_block_rows), depth / 128]`.
    pub a_scales: *const f32,
    /// `[columns, depth]`, on 16 bytes.
    pub w: *const i8,
    /// `[ceil(columns / 128), depth / 128]`.
    pub w_scales: *const f32,
    /// `[columns]`, on 4 bytes, or null.
    pub bias: *const tw_bf16,
    /// `[rows, columns]`, on 16 bytes: of a store; of a gated sum, added to.
    pub out_bf16: *mut tw_bf16,
    /// `[rows, columns]`, on 8 bytes: of a store in f32.
    pub out_f32: *mut f32,
    /// `[rows, ceil(columns / 128)]`, sums of squares: of a store, or null.
    pub row_sums: *mut f32,
    /// `[rows, ceil(columns / 128) * 128]`, on 16 bytes: of a quantised end.
    pub out_values: *mut i8,
    /// `[rows, ceil(columns / 128)]`: of a quantised end.
    pub out_scales: *mut f32,
    /// `[ceil(rows / rows_per_gate), columns]`, on 16 bytes: of a gated sum.
    pub gate: *const f32,
    /// At least 1.
    pub rows: i64,
    /// At least 1.
    pub columns: i64,
    /// A multiple of 128, at least 128.
    pub depth: i64,
    /// 1 or 128.
    pub a_block_rows: i64,
    /// At least 1 in a gated sum.
    pub rows_per_gate: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmI8Params"][::std::mem::size_of::<GemmI8Params>() - 128usize];
    ["Alignment of GemmI8Params"][::std::mem::align_of::<GemmI8Params>() - 8usize];
    ["Offset of field: GemmI8Params::a"][::std::mem::offset_of!(GemmI8Params, a) - 0usize];
    ["Offset of field: GemmI8Params::a_scales"][::std::mem::offset_of!(GemmI8Params, a_scales) - 8usize];
    ["Offset of field: GemmI8Params::w"][::std::mem::offset_of!(GemmI8Params, w) - 16usize];
    ["Offset of field: GemmI8Params::w_scales"][::std::mem::offset_of!(GemmI8Params, w_scales) - 24usize];
    ["Offset of field: GemmI8Params::bias"][::std::mem::offset_of!(GemmI8Params, bias) - 32usize];
    ["Offset of field: GemmI8Params::out_bf16"][::std::mem::offset_of!(GemmI8Params, out_bf16) - 40usize];
    ["Offset of field: GemmI8Params::out_f32"][::std::mem::offset_of!(GemmI8Params, out_f32) - 48usize];
    ["Offset of field: GemmI8Params::row_sums"][::std::mem::offset_of!(GemmI8Params, row_sums) - 56usize];
    ["Offset of field: GemmI8Params::out_values"][::std::mem::offset_of!(GemmI8Params, out_values) - 64usize];
    ["Offset of field: GemmI8Params::out_scales"][::std::mem::offset_of!(GemmI8Params, out_scales) - 72usize];
    ["Offset of field: GemmI8Params::gate"][::std::mem::offset_of!(GemmI8Params, gate) - 80usize];
    ["Offset of field: GemmI8Params::rows"][::std::mem::offset_of!(GemmI8Params, rows) - 88usize];
    ["Offset of field: GemmI8Params::columns"][::std::mem::offset_of!(GemmI8Params, columns) - 96usize];
    ["Offset of field: GemmI8Params::depth"][::std::mem::offset_of!(GemmI8Params, depth) - 104usize];
    ["Offset of field: GemmI8Params::a_block_rows"][::std::mem::offset_of!(GemmI8Params, a_block_rows) - 112usize];
    ["Offset of field: GemmI8Params::rows_per_gate"][::std::mem::offset_of!(GemmI8Params, rows_per_gate) - 120usize];
};
/// `gemm_bf16_mma.cu`: the dense product, and what follows it (`gemm_end.cuh`).
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GemmBf16Params {
    /// `[rows, depth]`, on 16 bytes.
    pub x: *const tw_bf16,
    /// `[columns, depth]`, on 16 bytes.
    pub w: *const tw_bf16,
    /// `[columns]`, on 4 bytes, or null.
    pub bias: *const tw_bf16,
    /// `[rows, columns]`, on 16 bytes: of a store; of a gated sum, added to.
    pub out_bf16: *mut tw_bf16,
    /// `[rows, columns]`, on 8 bytes: of a store in f32.
    pub out_f32: *mut f32,
    /// `[rows, ceil(columns / 128)]`, sums of squares: of a store, or null.
    pub row_sums: *mut f32,
    /// `[ceil(rows / rows_per_gate), columns]`, on 16 bytes: of a gated sum.
    pub gate: *const f32,
    /// At least 1.
    pub rows: i64,
    /// At least 1.
    pub columns: i64,
    /// A multiple of 8, at least 8.
    pub depth: i64,
    /// At least 1 in a gated sum.
    pub rows_per_gate: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmBf16Params"][::std::mem::size_of::<GemmBf16Params>() - 88usize];
    ["Alignment of GemmBf16Params"][::std::mem::align_of::<GemmBf16Params>() - 8usize];
    ["Offset of field: GemmBf16Params::x"][::std::mem::offset_of!(GemmBf16Params, x) - 0usize];
    ["Offset of field: GemmBf16Params::w"][::std::mem::offset_of!(GemmBf16Params, w) - 8usize];
    ["Offset of field: GemmBf16Params::bias"][::std::mem::offset_of!(GemmBf16Params, bias) - 16usize];
    ["Offset of field: GemmBf16Params::out_bf16"][::std::mem::offset_of!(GemmBf16Params, out_bf16) - 24usize];
    ["Offset of field: GemmBf16Params::out_f32"][::std::mem::offset_of!(GemmBf16Params, out_f32) - 32usize];
    ["Offset of field: GemmBf16Params::row_sums"][::std::mem::offset_of!(GemmBf16Params, row_sums) - 40usize];
    ["Offset of field: GemmBf16Params::gate"][::std::mem::offset_of!(GemmBf16Params, gate) - 48usize];
    ["Offset of field: GemmBf16Params::rows"][::std::mem::offset_of!(GemmBf16Params, rows) - 56usize];
    ["Offset of field: GemmBf16Params::columns"][::std::mem::offset_of!(GemmBf16Params, columns) - 64usize];
    ["Offset of field: GemmBf16Params::depth"][::std::mem::offset_of!(GemmBf16Params, depth) - 72usize];
    ["Offset of field: GemmBf16Params::rows_per_gate"][::std::mem::offset_of!(GemmBf16Params, rows_per_gate) - 80usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for QuantBlockParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("values", self.values as u64);
        visit("scales", self.scales as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for NormModQuantParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("factors", self.factors as u64);
        visit("offsets", self.offsets as u64);
        visit("out", self.out as u64);
        visit("values", self.values as u64);
        visit("scales", self.scales as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for RmsRopeParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("weight", self.weight as u64);
        visit("turns", self.turns as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for GemmI8Params {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("a", self.a as u64);
        visit("a_scales", self.a_scales as u64);
        visit("w", self.w as u64);
        visit("w_scales", self.w_scales as u64);
        visit("bias", self.bias as u64);
        visit("out_bf16", self.out_bf16 as u64);
        visit("out_f32", self.out_f32 as u64);
        visit("row_sums", self.row_sums as u64);
        visit("out_values", self.out_values as u64);
        visit("out_scales", self.out_scales as u64);
        visit("gate", self.gate as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for GemmBf16Params {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("w", self.w as u64);
        visit("bias", self.bias as u64);
        visit("out_bf16", self.out_bf16 as u64);
        visit("out_f32", self.out_f32 as u64);
        visit("row_sums", self.row_sums as u64);
        visit("gate", self.gate as u64);
    }
}
