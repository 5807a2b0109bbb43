//! The parameter structs of `kernels/linear_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;
use turbowan_cuda::device::Params;

/// `linear_state.cu`: sums over chunks of rows of a head.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearStateParams {
    /// Rows of D that become features, on 16 bytes.
    pub x: *const tw_bf16,
    /// Rows of D at the y strides, on 16 bytes.
    pub y: *const tw_bf16,
    /// `[problems, len]`: a factor of each row of `y`; null in the plain form.
    pub scales: *const f32,
    /// `[problems, len]`: a factor of each row's features in their sum; null in the plain form.
    pub weights: *const f32,
    /// `[problems, chunks, D + 1, D]`, with scales `D + 2`; on 8 bytes.
    pub partial: *mut f32,
    /// Rows of a head, at least 1.
    pub len: i64,
    /// Of a sample.
    pub heads: i64,
    /// A multiple of 8, as the next two.
    pub sample_stride: i64,
    /// Values from a head to the next.
    pub head_stride: i64,
    /// Values from a row to the next.
    pub row_stride: i64,
    /// A multiple of 8, as the next two.
    pub y_sample_stride: i64,
    /// Values from a head to the next.
    pub y_head_stride: i64,
    /// Values from a row to the next.
    pub y_row_stride: i64,
    /// Rows of a chunk, a multiple of 32.
    pub chunk_rows: i64,
    /// `ceil(len / chunk_rows)`.
    pub chunks: i64,
    /// 0 softmax, 1 elu + 1, 2 relu.
    pub features: i32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearStateParams"][::std::mem::size_of::<LinearStateParams>() - 128usize];
    ["Alignment of LinearStateParams"][::std::mem::align_of::<LinearStateParams>() - 8usize];
    ["Offset of field: LinearStateParams::x"][::std::mem::offset_of!(LinearStateParams, x) - 0usize];
    ["Offset of field: LinearStateParams::y"][::std::mem::offset_of!(LinearStateParams, y) - 8usize];
    ["Offset of field: LinearStateParams::scales"][::std::mem::offset_of!(LinearStateParams, scales) - 16usize];
    ["Offset of field: LinearStateParams::weights"][::std::mem::offset_of!(LinearStateParams, weights) - 24usize];
    ["Offset of field: LinearStateParams::partial"][::std::mem::offset_of!(LinearStateParams, partial) - 32usize];
    ["Offset of field: LinearStateParams::len"][::std::mem::offset_of!(LinearStateParams, len) - 40usize];
    ["Offset of field: LinearStateParams::heads"][::std::mem::offset_of!(LinearStateParams, heads) - 48usize];
    ["Offset of field: LinearStateParams::sample_stride"][::std::mem::offset_of!(LinearStateParams, sample_stride) - 56usize];
    ["Offset of field: LinearStateParams::head_stride"][::std::mem::offset_of!(LinearStateParams, head_stride) - 64usize];
    ["Offset of field: LinearStateParams::row_stride"][::std::mem::offset_of!(LinearStateParams, row_stride) - 72usize];
    ["Offset of field: LinearStateParams::y_sample_stride"][::std::mem::offset_of!(LinearStateParams, y_sample_stride) - 80usize];
    ["Offset of field: LinearStateParams::y_head_stride"][::std::mem::offset_of!(LinearStateParams, y_head_stride) - 88usize];
    ["Offset of field: LinearStateParams::y_row_stride"][::std::mem::offset_of!(LinearStateParams, y_row_stride) - 96usize];
    ["Offset of field: LinearStateParams::chunk_rows"][::std::mem::offset_of!(LinearStateParams, chunk_rows) - 104usize];
    ["Offset of field: LinearStateParams::chunks"][::std::mem::offset_of!(LinearStateParams, chunks) - 112usize];
    ["Offset of field: LinearStateParams::features"][::std::mem::offset_of!(LinearStateParams, features) - 120usize];
    ["Offset of field: LinearStateParams::unused"][::std::mem::offset_of!(LinearStateParams, unused) - 124usize];
};
/// `linear_state.cu`: the chunks of each head added in order.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearReduceParams {
    /// `[problems, chunks, values]`, on 16 bytes.
    pub partial: *const f32,
    /// `[problems, values]`, on 16 bytes.
    pub state: *mut f32,
    /// At least 1.
    pub problems: i64,
    /// At least 1.
    pub chunks: i64,
    /// A multiple of 4.
    pub values: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearReduceParams"][::std::mem::size_of::<LinearReduceParams>() - 40usize];
    ["Alignment of LinearReduceParams"][::std::mem::align_of::<LinearReduceParams>() - 8usize];
    ["Offset of field: LinearReduceParams::partial"][::std::mem::offset_of!(LinearReduceParams, partial) - 0usize];
    ["Offset of field: LinearReduceParams::state"][::std::mem::offset_of!(LinearReduceParams, state) - 8usize];
    ["Offset of field: LinearReduceParams::problems"][::std::mem::offset_of!(LinearReduceParams, problems) - 16usize];
    ["Offset of field: LinearReduceParams::chunks"][::std::mem::offset_of!(LinearReduceParams, chunks) - 24usize];
    ["Offset of field: LinearReduceParams::values"][::std::mem::offset_of!(LinearReduceParams, values) - 32usize];
};
/// `linear_fold.cu`: a projection folded into the sums of each head.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearFoldParams {
    /// `[problems, chunks, state_rows, D]`: of the chunks' sum, rows before D are folded; on 16 bytes.
    pub state: *const f32,
    /// `[D, D]`, on 16 bytes; null: the state as it is.
    pub weight: *const f32,
    /// `[problems, D + 1, D]`, on 16 bytes.
    pub folded: *mut tw_bf16,
    /// At least 1.
    pub problems: i64,
    /// At least 1.
    pub chunks: i64,
    /// At least D + 1.
    pub state_rows: i64,
    /// 1: the state times the transpose of `weight`.
    pub is_transposed: i32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearFoldParams"][::std::mem::size_of::<LinearFoldParams>() - 56usize];
    ["Alignment of LinearFoldParams"][::std::mem::align_of::<LinearFoldParams>() - 8usize];
    ["Offset of field: LinearFoldParams::state"][::std::mem::offset_of!(LinearFoldParams, state) - 0usize];
    ["Offset of field: LinearFoldParams::weight"][::std::mem::offset_of!(LinearFoldParams, weight) - 8usize];
    ["Offset of field: LinearFoldParams::folded"][::std::mem::offset_of!(LinearFoldParams, folded) - 16usize];
    ["Offset of field: LinearFoldParams::problems"][::std::mem::offset_of!(LinearFoldParams, problems) - 24usize];
    ["Offset of field: LinearFoldParams::chunks"][::std::mem::offset_of!(LinearFoldParams, chunks) - 32usize];
    ["Offset of field: LinearFoldParams::state_rows"][::std::mem::offset_of!(LinearFoldParams, state_rows) - 40usize];
    ["Offset of field: LinearFoldParams::is_transposed"][::std::mem::offset_of!(LinearFoldParams, is_transposed) - 48usize];
    ["Offset of field: LinearFoldParams::unused"][::std::mem::offset_of!(LinearFoldParams, unused) - 52usize];
};
/// `linear_apply.cu`: the branch's rows, alone or added to others.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearApplyParams {
    /// Rows of D, on 16 bytes.
    pub q: *const tw_bf16,
    /// `[problems, D + 1, D]`, on 16 bytes.
    pub folded: *const tw_bf16,
    /// `[D]`, on 16 bytes, or null.
    pub bias: *const f32,
    /// Rows of D, the strides of `q`, on 16 bytes.
    pub out: *mut tw_bf16,
    /// Rows of a head, at least 1.
    pub len: i64,
    /// Of a sample.
    pub heads: i64,
    /// A multiple of 8, as the next two.
    pub sample_stride: i64,
    /// Values from a head to the next.
    pub head_stride: i64,
    /// Values from a row to the next.
    pub row_stride: i64,
    /// 0 softmax, 1 elu + 1, 2 relu.
    pub features: i32,
    /// 1: added to what `out` holds.
    pub adds: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearApplyParams"][::std::mem::size_of::<LinearApplyParams>() - 80usize];
    ["Alignment of LinearApplyParams"][::std::mem::align_of::<LinearApplyParams>() - 8usize];
    ["Offset of field: LinearApplyParams::q"][::std::mem::offset_of!(LinearApplyParams, q) - 0usize];
    ["Offset of field: LinearApplyParams::folded"][::std::mem::offset_of!(LinearApplyParams, folded) - 8usize];
    ["Offset of field: LinearApplyParams::bias"][::std::mem::offset_of!(LinearApplyParams, bias) - 16usize];
    ["Offset of field: LinearApplyParams::out"][::std::mem::offset_of!(LinearApplyParams, out) - 24usize];
    ["Offset of field: LinearApplyParams::len"][::std::mem::offset_of!(LinearApplyParams, len) - 32usize];
    ["Offset of field: LinearApplyParams::heads"][::std::mem::offset_of!(LinearApplyParams, heads) - 40usize];
    ["Offset of field: LinearApplyParams::sample_stride"][::std::mem::offset_of!(LinearApplyParams, sample_stride) - 48usize];
    ["Offset of field: LinearApplyParams::head_stride"][::std::mem::offset_of!(LinearApplyParams, head_stride) - 56usize];
    ["Offset of field: LinearApplyParams::row_stride"][::std::mem::offset_of!(LinearApplyParams, row_stride) - 64usize];
    ["Offset of field: LinearApplyParams::features"][::std::mem::offset_of!(LinearApplyParams, features) - 72usize];
    ["Offset of field: LinearApplyParams::adds"][::std::mem::offset_of!(LinearApplyParams, adds) - 76usize];
};
/// `linear_gradient.cu`: gradients of rows, of the queries or of the keys and values.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearGradientParams {
    /// Queries, or keys: rows of D, on 16 bytes.
    pub x: *const tw_bf16,
    /// The output's gradient, or values: rows of D, the strides of `x`, on 16 bytes.
    pub u: *const tw_bf16,
    /// `[problems, D + 1, D]`: H', or dH; on 16 bytes.
    pub folded: *const tw_bf16,
    /// `[problems, state_rows, D]`, whose row D is read: z, or dz; on 16 bytes.
    pub state: *const f32,
    /// Rows of D at the gradients' strides, on 16 bytes.
    pub x_gradient: *mut f32,
    /// Of the values, as `x_gradient`; null for queries.
    pub u_gradient: *mut f32,
    /// `[problems, len]`: 1 / denominator; null for keys.
    pub scales: *mut f32,
    /// `[problems, len]`: gradient of the denominator; null for keys.
    pub weights: *mut f32,
    /// Rows of a head, at least 1.
    pub len: i64,
    /// Of a sample.
    pub heads: i64,
    /// A multiple of 8, as the next two.
    pub sample_stride: i64,
    /// Values from a head to the next.
    pub head_stride: i64,
    /// Values from a row to the next.
    pub row_stride: i64,
    /// At least D + 1.
    pub state_rows: i64,
    /// 0 softmax, 1 elu + 1, 2 relu.
    pub features: i32,
    /// 1: added to what the gradients hold.
    pub adds: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearGradientParams"][::std::mem::size_of::<LinearGradientParams>() - 120usize];
    ["Alignment of LinearGradientParams"][::std::mem::align_of::<LinearGradientParams>() - 8usize];
    ["Offset of field: LinearGradientParams::x"][::std::mem::offset_of!(LinearGradientParams, x) - 0usize];
    ["Offset of field: LinearGradientParams::u"][::std::mem::offset_of!(LinearGradientParams, u) - 8usize];
    ["Offset of field: LinearGradientParams::folded"][::std::mem::offset_of!(LinearGradientParams, folded) - 16usize];
    ["Offset of field: LinearGradientParams::state"][::std::mem::offset_of!(LinearGradientParams, state) - 24usize];
    ["Offset of field: LinearGradientParams::x_gradient"][::std::mem::offset_of!(LinearGradientParams, x_gradient) - 32usize];
    ["Offset of field: LinearGradientParams::u_gradient"][::std::mem::offset_of!(LinearGradientParams, u_gradient) - 40usize];
    ["Offset of field: LinearGradientParams::scales"][::std::mem::offset_of!(LinearGradientParams, scales) - 48usize];
    ["Offset of field: LinearGradientParams::weights"][::std::mem::offset_of!(LinearGradientParams, weights) - 56usize];
    ["Offset of field: LinearGradientParams::len"][::std::mem::offset_of!(LinearGradientParams, len) - 64usize];
    ["Offset of field: LinearGradientParams::heads"][::std::mem::offset_of!(LinearGradientParams, heads) - 72usize];
    ["Offset of field: LinearGradientParams::sample_stride"][::std::mem::offset_of!(LinearGradientParams, sample_stride) - 80usize];
    ["Offset of field: LinearGradientParams::head_stride"][::std::mem::offset_of!(LinearGradientParams, head_stride) - 88usize];
    ["Offset of field: LinearGradientParams::row_stride"][::std::mem::offset_of!(LinearGradientParams, row_stride) - 96usize];
    ["Offset of field: LinearGradientParams::state_rows"][::std::mem::offset_of!(LinearGradientParams, state_rows) - 104usize];
    ["Offset of field: LinearGradientParams::features"][::std::mem::offset_of!(LinearGradientParams, features) - 112usize];
    ["Offset of field: LinearGradientParams::adds"][::std::mem::offset_of!(LinearGradientParams, adds) - 116usize];
};
/// `linear_weight.cu`: gradients of the projection.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearWeightParams {
    /// `[problems, D + 1, D]`: H and z; on 16 bytes.
    pub state: *const f32,
    /// `[problems, D + 2, D]`: M, dz and the sum of the output's gradient; on 16 bytes.
    pub gradient: *const f32,
    /// `[D, D]`.
    pub weight: *mut f32,
    /// `[D]`.
    pub bias: *mut f32,
    /// At least 1.
    pub problems: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearWeightParams"][::std::mem::size_of::<LinearWeightParams>() - 40usize];
    ["Alignment of LinearWeightParams"][::std::mem::align_of::<LinearWeightParams>() - 8usize];
    ["Offset of field: LinearWeightParams::state"][::std::mem::offset_of!(LinearWeightParams, state) - 0usize];
    ["Offset of field: LinearWeightParams::gradient"][::std::mem::offset_of!(LinearWeightParams, gradient) - 8usize];
    ["Offset of field: LinearWeightParams::weight"][::std::mem::offset_of!(LinearWeightParams, weight) - 16usize];
    ["Offset of field: LinearWeightParams::bias"][::std::mem::offset_of!(LinearWeightParams, bias) - 24usize];
    ["Offset of field: LinearWeightParams::problems"][::std::mem::offset_of!(LinearWeightParams, problems) - 32usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearStateParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("y", self.y as u64);
        visit("scales", self.scales as u64);
        visit("weights", self.weights as u64);
        visit("partial", self.partial as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearReduceParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("partial", self.partial as u64);
        visit("state", self.state as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearFoldParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("state", self.state as u64);
        visit("weight", self.weight as u64);
        visit("folded", self.folded as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearApplyParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("folded", self.folded as u64);
        visit("bias", self.bias as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearGradientParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("u", self.u as u64);
        visit("folded", self.folded as u64);
        visit("state", self.state as u64);
        visit("x_gradient", self.x_gradient as u64);
        visit("u_gradient", self.u_gradient as u64);
        visit("scales", self.scales as u64);
        visit("weights", self.weights as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearWeightParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("state", self.state as u64);
        visit("gradient", self.gradient as u64);
        visit("weight", self.weight as u64);
        visit("bias", self.bias as u64);
    }
}
