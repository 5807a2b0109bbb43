//! The parameter structs of `kernels/sage_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;
use half::f16 as tw_f16;
use turbowan_cuda::device::Params;

pub const SAGE_FEATURE_SOFTMAX: u32 = 0;
pub const SAGE_FEATURE_ELU: u32 = 1;
pub const SAGE_FEATURE_RELU: u32 = 2;
/// The attention kernels: attention over quantised operands, and what may be added to it (`attention_end.cuh`). A problem is
/// one head of one sample. Tiled keys and values (`sage_attn_wgmma.cu`) are those of `tile_layout.cuh`.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SageAttnParams {
    /// `[problems, query_len, D]`, on 16 bytes.
    pub q: *const i8,
    /// `[problems, q_groups]`.
    pub q_scales: *const f32,
    /// `[problems, key_len, D]`, or tiled; on 16 bytes.
    pub k: *const i8,
    /// `[problems, k_groups]`.
    pub k_scales: *const f32,
    /// Rows of D f16 at the v strides, on 16 bytes; null for e4m3.
    pub v_f16: *const tw_f16,
    /// `[problems, D, v_row_stride]` e4m3, keys permuted in each 16, or tiled; on 16 bytes; null for f16.
    pub v_e4m3: *const u8,
    /// `[problems, D]` of e4m3 values; null for f16.
    pub v_scales: *const f32,
    /// `[problems, ceil(query_len / block_q), kept]` key blocks, ascending; null when dense.
    pub lut: *const u32,
    /// Rows of D bf16 at the out strides, on 16 bytes; null with out_values.
    pub out: *mut tw_bf16,
    /// `[problems, query_len]` natural log-sum-exp of the scores; may be null.
    pub lse: *mut f32,
    /// Rows of D = 128 int8 at the out strides, on 16 bytes; null with out.
    pub out_values: *mut i8,
    /// `[samples, query_len, heads]`; null with out.
    pub out_scales: *mut f32,
    /// `[problems, query_len, D]`, on 16 bytes; null: nothing is added.
    pub added_q: *const tw_bf16,
    /// `[problems, D + 1, D]`, on 16 bytes: M transposed, then z; null with added_q.
    pub added_state: *const tw_bf16,
    /// `[D]`, on 8 bytes; may be null.
    pub added_bias: *const f32,
    /// At least 1.
    pub query_len: i64,
    /// At least 1.
    pub key_len: i64,
    /// Of a sample.
    pub heads: i64,
    /// Of f16 values, as the next.
    pub v_sample_stride: i64,
    /// From a head to the next.
    pub v_head_stride: i64,
    /// Of e4m3 values: keys of a channel, padding included, a multiple of 64.
    pub v_row_stride: i64,
    /// From a sample to the next.
    pub out_sample_stride: i64,
    /// From a head to the next.
    pub out_head_stride: i64,
    /// From a row to the next.
    pub out_row_stride: i64,
    /// Scales of a head.
    pub q_groups: i64,
    /// Scales of a head.
    pub k_groups: i64,
    /// Group of query row r: r / q_group_rows * q_group_lanes + r % q_group_lanes.
    pub q_group_rows: u32,
    /// 1, or 8.
    pub q_group_lanes: u32,
    /// Group of key row r: r / k_group_rows * k_group_lanes + r / 2 % k_group_lanes.
    pub k_group_rows: u32,
    /// 1, or 4; `k_group_rows` is a multiple of 64.
    pub k_group_lanes: u32,
    /// Query rows of a block of the map, a multiple of the kernel's tile; 0 when dense.
    pub block_q: u32,
    /// Key rows of a block of the map, a multiple of 64; 0 when dense.
    pub block_k: u32,
    /// Key blocks of a list, at least 1; 0 when dense.
    pub kept: u32,
    /// 1: query i sees keys up to i.
    pub causal: u32,
    /// What makes q . k a base-2 logarithm: log2(e) / sqrt(head dim), or 1 where q holds it.
    pub score_scale: f32,
    /// Of the added term: a SAGE_FEATURE.
    pub feature: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SageAttnParams"][::std::mem::size_of::<SageAttnParams>() - 248usize];
    ["Alignment of SageAttnParams"][::std::mem::align_of::<SageAttnParams>() - 8usize];
    ["Offset of field: SageAttnParams::q"][::std::mem::offset_of!(SageAttnParams, q) - 0usize];
    ["Offset of field: SageAttnParams::q_scales"][::std::mem::offset_of!(SageAttnParams, q_scales) - 8usize];
    ["Offset of field: SageAttnParams::k"][::std::mem::offset_of!(SageAttnParams, k) - 16usize];
    ["Offset of field: SageAttnParams::k_scales"][::std::mem::offset_of!(SageAttnParams, k_scales) - 24usize];
    ["Offset of field: SageAttnParams::v_f16"][::std::mem::offset_of!(SageAttnParams, v_f16) - 32usize];
    ["Offset of field: SageAttnParams::v_e4m3"][::std::mem::offset_of!(SageAttnParams, v_e4m3) - 40usize];
    ["Offset of field: SageAttnParams::v_scales"][::std::mem::offset_of!(SageAttnParams, v_scales) - 48usize];
    ["Offset of field: SageAttnParams::lut"][::std::mem::offset_of!(SageAttnParams, lut) - 56usize];
    ["Offset of field: SageAttnParams::out"][::std::mem::offset_of!(SageAttnParams, out) - 64usize];
    ["Offset of field: SageAttnParams::lse"][::std::mem::offset_of!(SageAttnParams, lse) - 72usize];
    ["Offset of field: SageAttnParams::out_values"][::std::mem::offset_of!(SageAttnParams, out_values) - 80usize];
    ["Offset of field: SageAttnParams::out_scales"][::std::mem::offset_of!(SageAttnParams, out_scales) - 88usize];
    ["Offset of field: SageAttnParams::added_q"][::std::mem::offset_of!(SageAttnParams, added_q) - 96usize];
    ["Offset of field: SageAttnParams::added_state"][::std::mem::offset_of!(SageAttnParams, added_state) - 104usize];
    ["Offset of field: SageAttnParams::added_bias"][::std::mem::offset_of!(SageAttnParams, added_bias) - 112usize];
    ["Offset of field: SageAttnParams::query_len"][::std::mem::offset_of!(SageAttnParams, query_len) - 120usize];
    ["Offset of field: SageAttnParams::key_len"][::std::mem::offset_of!(SageAttnParams, key_len) - 128usize];
    ["Offset of field: SageAttnParams::heads"][::std::mem::offset_of!(SageAttnParams, heads) - 136usize];
    ["Offset of field: SageAttnParams::v_sample_stride"][::std::mem::offset_of!(SageAttnParams, v_sample_stride) - 144usize];
    ["Offset of field: SageAttnParams::v_head_stride"][::std::mem::offset_of!(SageAttnParams, v_head_stride) - 152usize];
    ["Offset of field: SageAttnParams::v_row_stride"][::std::mem::offset_of!(SageAttnParams, v_row_stride) - 160usize];
    ["Offset of field: SageAttnParams::out_sample_stride"][::std::mem::offset_of!(SageAttnParams, out_sample_stride) - 168usize];
    ["Offset of field: SageAttnParams::out_head_stride"][::std::mem::offset_of!(SageAttnParams, out_head_stride) - 176usize];
    ["Offset of field: SageAttnParams::out_row_stride"][::std::mem::offset_of!(SageAttnParams, out_row_stride) - 184usize];
    ["Offset of field: SageAttnParams::q_groups"][::std::mem::offset_of!(SageAttnParams, q_groups) - 192usize];
    ["Offset of field: SageAttnParams::k_groups"][::std::mem::offset_of!(SageAttnParams, k_groups) - 200usize];
    ["Offset of field: SageAttnParams::q_group_rows"][::std::mem::offset_of!(SageAttnParams, q_group_rows) - 208usize];
    ["Offset of field: SageAttnParams::q_group_lanes"][::std::mem::offset_of!(SageAttnParams, q_group_lanes) - 212usize];
    ["Offset of field: SageAttnParams::k_group_rows"][::std::mem::offset_of!(SageAttnParams, k_group_rows) - 216usize];
    ["Offset of field: SageAttnParams::k_group_lanes"][::std::mem::offset_of!(SageAttnParams, k_group_lanes) - 220usize];
    ["Offset of field: SageAttnParams::block_q"][::std::mem::offset_of!(SageAttnParams, block_q) - 224usize];
    ["Offset of field: SageAttnParams::block_k"][::std::mem::offset_of!(SageAttnParams, block_k) - 228usize];
    ["Offset of field: SageAttnParams::kept"][::std::mem::offset_of!(SageAttnParams, kept) - 232usize];
    ["Offset of field: SageAttnParams::causal"][::std::mem::offset_of!(SageAttnParams, causal) - 236usize];
    ["Offset of field: SageAttnParams::score_scale"][::std::mem::offset_of!(SageAttnParams, score_scale) - 240usize];
    ["Offset of field: SageAttnParams::feature"][::std::mem::offset_of!(SageAttnParams, feature) - 244usize];
};

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
