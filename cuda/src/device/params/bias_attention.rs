//! The parameter structs of `kernels/bias_attention_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use crate::device::Params;

/// `bias_attention.cu`: attention without a scale, with a bias of each head for every distance.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BiasAttentionParams {
    /// Rows of `heads * head_dim` values, `stride` values apart, on 16 bytes.
    pub q: *const tw_bf16,
    /// As `q`.
    pub k: *const tw_bf16,
    /// As `q`.
    pub v: *const tw_bf16,
    /// `[heads, rows + keys - 1]`: of key j and query i at j - i + rows - 1.
    pub bias: *const f32,
    /// `[rows, heads * head_dim]`, on 16 bytes.
    pub out: *mut tw_bf16,
    /// At least 1.
    pub rows: i64,
    /// Rows that are seen, from 1 to `rows`.
    pub keys: i64,
    /// At least 1.
    pub heads: i64,
    /// A multiple of 8, at most 64.
    pub head_dim: i64,
    /// A multiple of 8.
    pub stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BiasAttentionParams"][::std::mem::size_of::<BiasAttentionParams>() - 80usize];
    ["Alignment of BiasAttentionParams"][::std::mem::align_of::<BiasAttentionParams>() - 8usize];
    ["Offset of field: BiasAttentionParams::q"][::std::mem::offset_of!(BiasAttentionParams, q) - 0usize];
    ["Offset of field: BiasAttentionParams::k"][::std::mem::offset_of!(BiasAttentionParams, k) - 8usize];
    ["Offset of field: BiasAttentionParams::v"][::std::mem::offset_of!(BiasAttentionParams, v) - 16usize];
    ["Offset of field: BiasAttentionParams::bias"][::std::mem::offset_of!(BiasAttentionParams, bias) - 24usize];
    ["Offset of field: BiasAttentionParams::out"][::std::mem::offset_of!(BiasAttentionParams, out) - 32usize];
    ["Offset of field: BiasAttentionParams::rows"][::std::mem::offset_of!(BiasAttentionParams, rows) - 40usize];
    ["Offset of field: BiasAttentionParams::keys"][::std::mem::offset_of!(BiasAttentionParams, keys) - 48usize];
    ["Offset of field: BiasAttentionParams::heads"][::std::mem::offset_of!(BiasAttentionParams, heads) - 56usize];
    ["Offset of field: BiasAttentionParams::head_dim"][::std::mem::offset_of!(BiasAttentionParams, head_dim) - 64usize];
    ["Offset of field: BiasAttentionParams::stride"][::std::mem::offset_of!(BiasAttentionParams, stride) - 72usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for BiasAttentionParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("v", self.v as u64);
        visit("bias", self.bias as u64);
        visit("out", self.out as u64);
    }
}
