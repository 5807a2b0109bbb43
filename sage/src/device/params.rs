//! The parameter struct of `kernels/sage_params.h`: the same members, sizes and offsets.

use std::mem::{offset_of, size_of};

use half::bf16;
use turbowan_cuda::device::Params;

/// Attention over quantised operands; the header says what each member is.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub(super) struct SageAttnParams {
    pub q: *const i8,
    pub q_scales: *const f32,
    pub k: *const i8,
    pub k_scales: *const f32,
    pub v_f16: *const half::f16,
    pub v_e4m3: *const u8,
    pub v_scales: *const f32,
    pub lut: *const u32,
    pub out: *mut bf16,
    pub lse: *mut f32,
    pub out_values: *mut i8,
    pub out_scales: *mut f32,
    pub added_q: *const bf16,
    pub added_state: *const bf16,
    pub added_bias: *const f32,
    pub query_len: i64,
    pub key_len: i64,
    pub heads: i64,
    pub v_sample_stride: i64,
    pub v_head_stride: i64,
    pub v_row_stride: i64,
    pub out_sample_stride: i64,
    pub out_head_stride: i64,
    pub out_row_stride: i64,
    pub q_groups: i64,
    pub k_groups: i64,
    pub q_group_rows: u32,
    pub q_group_lanes: u32,
    pub k_group_rows: u32,
    pub k_group_lanes: u32,
    pub block_q: u32,
    pub block_k: u32,
    pub kept: u32,
    pub causal: u32,
    pub score_scale: f32,
    pub feature: u32,
}

// The header asserts the same.
const _: () = assert!(
    size_of::<SageAttnParams>() == 248
        && offset_of!(SageAttnParams, lse) == 72
        && offset_of!(SageAttnParams, k_groups) == 200
        && offset_of!(SageAttnParams, score_scale) == 240
        && offset_of!(SageAttnParams, feature) == 244
);

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for SageAttnParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("q_scales", self.q_scales as u64);
        visit("k", self.k as u64);
        visit("k_scales", self.k_scales as u64);
        visit("v_f16", self.v_f16 as u64);
        visit("v_e4m3", self.v_e4m3 as u64);
        visit("v_scales", self.v_scales as u64);
        visit("lut", self.lut as u64);
        visit("out", self.out as u64);
        visit("lse", self.lse as u64);
        visit("out_values", self.out_values as u64);
        visit("out_scales", self.out_scales as u64);
        visit("added_q", self.added_q as u64);
        visit("added_state", self.added_state as u64);
        visit("added_bias", self.added_bias as u64);
    }
}
