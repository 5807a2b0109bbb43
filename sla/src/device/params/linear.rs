//! Written from `kernels/linear_params.h`.

use half::bf16 as tw_bf16;

use turbowan_cuda::device::Params;

/// `linear_state.cu`: sums over chunks of rows of a head.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearStateParams {
    /// Rows of D that become features, on 16 bytes.
    pub x: *const tw_bf16,
    /// Rows of D, the same strides, on 16 bytes.
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
    /// Rows of a chunk, a multiple of 32.
    pub chunk_rows: i64,
    /// `ceil(len / chunk_rows)`.
    pub chunks: i64,
    /// 0 softmax, 1 elu + 1, 2 relu.
    pub features: i32,
    /// 0.
    pub unused: i32,
}
const _: () = {
    assert!(size_of::<LinearStateParams>() == 104);
    assert!(std::mem::offset_of!(LinearStateParams, unused) == 100);
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
const _: () = {
    assert!(size_of::<LinearReduceParams>() == 40);
    assert!(std::mem::offset_of!(LinearReduceParams, values) == 32);
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearReduceParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("partial", self.partial as u64);
        visit("state", self.state as u64);
    }
}

/// `linear_fold.cu`: a projection folded into the sums of each head.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearFoldParams {
    /// `[problems, state_rows, D]`: rows 0 to D - 1 are folded, row D is kept; on 16 bytes.
    pub state: *const f32,
    /// `[D, D]`, on 16 bytes; null: the state as it is.
    pub weight: *const f32,
    /// `[problems, D + 1, D]`, on 16 bytes.
    pub folded: *mut tw_bf16,
    /// At least 1.
    pub problems: i64,
    /// At least D + 1.
    pub state_rows: i64,
    /// 1: the state times the transpose of `weight`.
    pub is_transposed: i32,
    /// 0.
    pub unused: i32,
}
const _: () = {
    assert!(size_of::<LinearFoldParams>() == 48);
    assert!(std::mem::offset_of!(LinearFoldParams, unused) == 44);
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearFoldParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("state", self.state as u64);
        visit("weight", self.weight as u64);
        visit("folded", self.folded as u64);
    }
}

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
const _: () = {
    assert!(size_of::<LinearApplyParams>() == 80);
    assert!(std::mem::offset_of!(LinearApplyParams, adds) == 76);
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearApplyParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("folded", self.folded as u64);
        visit("bias", self.bias as u64);
        visit("out", self.out as u64);
    }
}

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
const _: () = {
    assert!(size_of::<LinearGradientParams>() == 120);
    assert!(std::mem::offset_of!(LinearGradientParams, adds) == 116);
};

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
const _: () = {
    assert!(size_of::<LinearWeightParams>() == 40);
    assert!(std::mem::offset_of!(LinearWeightParams, problems) == 32);
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearWeightParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("state", self.state as u64);
        visit("gradient", self.gradient as u64);
        visit("weight", self.weight as u64);
        visit("bias", self.bias as u64);
    }
}
