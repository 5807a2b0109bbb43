//! The parameter structs of `kernels/attend_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;
use turbowan_cuda::device::Params;

/// `attend_fwd.cu`, `attend_fwd_wgmma.cu`: softmax attention in bf16, over all keys or over the lists of a block map.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttendParams {
    /// `query_len` rows a problem at the query strides, on 16 bytes.
    pub q: *const tw_bf16,
    /// `key_len` rows a problem at the key strides, on 16 bytes.
    pub k: *const tw_bf16,
    /// As `k`.
    pub v: *const tw_bf16,
    /// `[problems, ceil(query_len / block_q), kept]` key blocks, ascending; null when dense.
    pub lists: *const u32,
    /// As `q`; null with `out_values`.
    pub out: *mut tw_bf16,
    /// `[problems, query_len]`, base-2 logarithm of the softmax denominator; may be null.
    pub lse: *mut f32,
    /// `[samples, query_len, parts]`: sums of squares of the rows of all heads; null: no norm.
    pub squares: *const f32,
    /// Rows of D = 128 at the query strides, on 16 bytes; null with `out`.
    pub out_values: *mut i8,
    /// `[samples, query_len, heads]`; null with `out`.
    pub out_scales: *mut f32,
    /// Sums of a row of `squares`.
    pub parts: i64,
    /// At least 1.
    pub query_len: i64,
    /// At least 1.
    pub key_len: i64,
    /// Of a sample.
    pub heads: i64,
    /// From one sample to the next.
    pub query_sample: i64,
    /// From one head to the next.
    pub query_head: i64,
    /// From one row to the next: a multiple of 8.
    pub query_row: i64,
    /// 0 where all samples share their keys.
    pub key_sample: i64,
    /// From one head to the next.
    pub key_head: i64,
    /// From one row to the next: a multiple of 8.
    pub key_row: i64,
    /// Query rows of a block of the map, a multiple of the kernel's tile; 0 when dense.
    pub block_q: u32,
    /// Key rows of a block of the map, a multiple of 64; 0 when dense.
    pub block_k: u32,
    /// Key blocks of a list, at least 1; 0 when dense.
    pub kept: u32,
    /// 1: query i sees the keys up to i.
    pub causal: u32,
    /// What makes q . k a base-2 logarithm: the scale of the scores times log2(e); positive.
    pub factor: f32,
    /// Values of a row of all heads, of whose squares `squares` has the sums.
    pub width: f32,
    /// Added to their mean.
    pub eps: f32,
    /// 0.
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttendParams"][::std::mem::size_of::<AttendParams>() - 184usize];
    ["Alignment of AttendParams"][::std::mem::align_of::<AttendParams>() - 8usize];
    ["Offset of field: AttendParams::q"][::std::mem::offset_of!(AttendParams, q) - 0usize];
    ["Offset of field: AttendParams::k"][::std::mem::offset_of!(AttendParams, k) - 8usize];
    ["Offset of field: AttendParams::v"][::std::mem::offset_of!(AttendParams, v) - 16usize];
    ["Offset of field: AttendParams::lists"][::std::mem::offset_of!(AttendParams, lists) - 24usize];
    ["Offset of field: AttendParams::out"][::std::mem::offset_of!(AttendParams, out) - 32usize];
    ["Offset of field: AttendParams::lse"][::std::mem::offset_of!(AttendParams, lse) - 40usize];
    ["Offset of field: AttendParams::squares"][::std::mem::offset_of!(AttendParams, squares) - 48usize];
    ["Offset of field: AttendParams::out_values"][::std::mem::offset_of!(AttendParams, out_values) - 56usize];
    ["Offset of field: AttendParams::out_scales"][::std::mem::offset_of!(AttendParams, out_scales) - 64usize];
    ["Offset of field: AttendParams::parts"][::std::mem::offset_of!(AttendParams, parts) - 72usize];
    ["Offset of field: AttendParams::query_len"][::std::mem::offset_of!(AttendParams, query_len) - 80usize];
    ["Offset of field: AttendParams::key_len"][::std::mem::offset_of!(AttendParams, key_len) - 88usize];
    ["Offset of field: AttendParams::heads"][::std::mem::offset_of!(AttendParams, heads) - 96usize];
    ["Offset of field: AttendParams::query_sample"][::std::mem::offset_of!(AttendParams, query_sample) - 104usize];
    ["Offset of field: AttendParams::query_head"][::std::mem::offset_of!(AttendParams, query_head) - 112usize];
    ["Offset of field: AttendParams::query_row"][::std::mem::offset_of!(AttendParams, query_row) - 120usize];
    ["Offset of field: AttendParams::key_sample"][::std::mem::offset_of!(AttendParams, key_sample) - 128usize];
    ["Offset of field: AttendParams::key_head"][::std::mem::offset_of!(AttendParams, key_head) - 136usize];
    ["Offset of field: AttendParams::key_row"][::std::mem::offset_of!(AttendParams, key_row) - 144usize];
    ["Offset of field: AttendParams::block_q"][::std::mem::offset_of!(AttendParams, block_q) - 152usize];
    ["Offset of field: AttendParams::block_k"][::std::mem::offset_of!(AttendParams, block_k) - 156usize];
    ["Offset of field: AttendParams::kept"][::std::mem::offset_of!(AttendParams, kept) - 160usize];
    ["Offset of field: AttendParams::causal"][::std::mem::offset_of!(AttendParams, causal) - 164usize];
    ["Offset of field: AttendParams::factor"][::std::mem::offset_of!(AttendParams, factor) - 168usize];
    ["Offset of field: AttendParams::width"][::std::mem::offset_of!(AttendParams, width) - 172usize];
    ["Offset of field: AttendParams::eps"][::std::mem::offset_of!(AttendParams, eps) - 176usize];
    ["Offset of field: AttendParams::unused"][::std::mem::offset_of!(AttendParams, unused) - 180usize];
};
/// `attend_bwd_dq.cu`, then `attend_bwd_dkdv.cu`: gradients of the same, from the operands, the output and its logarithms.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttendBackwardParams {
    /// `query_len` rows a problem at the query strides, on 16 bytes.
    pub q: *const tw_bf16,
    /// `key_len` rows a problem at the key strides, on 16 bytes.
    pub k: *const tw_bf16,
    /// As `k`.
    pub v: *const tw_bf16,
    /// As `q`: what the forward pass gave.
    pub out: *const tw_bf16,
    /// As `q`.
    pub out_gradient: *const tw_bf16,
    /// `[problems, query_len]`: what the forward pass gave.
    pub lse: *const f32,
    /// `[problems, ceil(query_len / block_q), kept]`; null when dense.
    pub lists: *const u32,
    /// What `inverse_map.cu` made of the lists; null when dense.
    pub inverse: *const u32,
    /// `[problems, query_len]`, out . out_gradient: dq writes it, dkdv reads it.
    pub delta: *mut f32,
    /// At the query strides, on 8 bytes.
    pub dq: *mut f32,
    /// At the key strides, on 8 bytes.
    pub dk: *mut f32,
    /// As `dk`.
    pub dv: *mut f32,
    /// At least 1.
    pub query_len: i64,
    /// At least 1.
    pub key_len: i64,
    /// Of a sample.
    pub heads: i64,
    /// From one sample to the next.
    pub query_sample: i64,
    /// From one head to the next.
    pub query_head: i64,
    /// From one row to the next: a multiple of 8.
    pub query_row: i64,
    /// From one sample to the next.
    pub key_sample: i64,
    /// From one head to the next.
    pub key_head: i64,
    /// From one row to the next: a multiple of 8.
    pub key_row: i64,
    /// Query rows of a block of the map, a multiple of the kernel's tile; 0 when dense.
    pub block_q: u32,
    /// Key rows of a block of the map, a multiple of 64; 0 when dense.
    pub block_k: u32,
    /// Key blocks of a list, at least 1; 0 when dense.
    pub kept: u32,
    /// 1: query i sees the keys up to i.
    pub causal: u32,
    /// Of the scores; positive.
    pub scale: f32,
    /// The scale times log2(e).
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttendBackwardParams"][::std::mem::size_of::<AttendBackwardParams>() - 192usize];
    ["Alignment of AttendBackwardParams"][::std::mem::align_of::<AttendBackwardParams>() - 8usize];
    ["Offset of field: AttendBackwardParams::q"][::std::mem::offset_of!(AttendBackwardParams, q) - 0usize];
    ["Offset of field: AttendBackwardParams::k"][::std::mem::offset_of!(AttendBackwardParams, k) - 8usize];
    ["Offset of field: AttendBackwardParams::v"][::std::mem::offset_of!(AttendBackwardParams, v) - 16usize];
    ["Offset of field: AttendBackwardParams::out"][::std::mem::offset_of!(AttendBackwardParams, out) - 24usize];
    ["Offset of field: AttendBackwardParams::out_gradient"][::std::mem::offset_of!(AttendBackwardParams, out_gradient) - 32usize];
    ["Offset of field: AttendBackwardParams::lse"][::std::mem::offset_of!(AttendBackwardParams, lse) - 40usize];
    ["Offset of field: AttendBackwardParams::lists"][::std::mem::offset_of!(AttendBackwardParams, lists) - 48usize];
    ["Offset of field: AttendBackwardParams::inverse"][::std::mem::offset_of!(AttendBackwardParams, inverse) - 56usize];
    ["Offset of field: AttendBackwardParams::delta"][::std::mem::offset_of!(AttendBackwardParams, delta) - 64usize];
    ["Offset of field: AttendBackwardParams::dq"][::std::mem::offset_of!(AttendBackwardParams, dq) - 72usize];
    ["Offset of field: AttendBackwardParams::dk"][::std::mem::offset_of!(AttendBackwardParams, dk) - 80usize];
    ["Offset of field: AttendBackwardParams::dv"][::std::mem::offset_of!(AttendBackwardParams, dv) - 88usize];
    ["Offset of field: AttendBackwardParams::query_len"][::std::mem::offset_of!(AttendBackwardParams, query_len) - 96usize];
    ["Offset of field: AttendBackwardParams::key_len"][::std::mem::offset_of!(AttendBackwardParams, key_len) - 104usize];
    ["Offset of field: AttendBackwardParams::heads"][::std::mem::offset_of!(AttendBackwardParams, heads) - 112usize];
    ["Offset of field: AttendBackwardParams::query_sample"][::std::mem::offset_of!(AttendBackwardParams, query_sample) - 120usize];
    ["Offset of field: AttendBackwardParams::query_head"][::std::mem::offset_of!(AttendBackwardParams, query_head) - 128usize];
    ["Offset of field: AttendBackwardParams::query_row"][::std::mem::offset_of!(AttendBackwardParams, query_row) - 136usize];
    ["Offset of field: AttendBackwardParams::key_sample"][::std::mem::offset_of!(AttendBackwardParams, key_sample) - 144usize];
    ["Offset of field: AttendBackwardParams::key_head"][::std::mem::offset_of!(AttendBackwardParams, key_head) - 152usize];
    ["Offset of field: AttendBackwardParams::key_row"][::std::mem::offset_of!(AttendBackwardParams, key_row) - 160usize];
    ["Offset of field: AttendBackwardParams::block_q"][::std::mem::offset_of!(AttendBackwardParams, block_q) - 168usize];
    ["Offset of field: AttendBackwardParams::block_k"][::std::mem::offset_of!(AttendBackwardParams, block_k) - 172usize];
    ["Offset of field: AttendBackwardParams::kept"][::std::mem::offset_of!(AttendBackwardParams, kept) - 176usize];
    ["Offset of field: AttendBackwardParams::causal"][::std::mem::offset_of!(AttendBackwardParams, causal) - 180usize];
    ["Offset of field: AttendBackwardParams::scale"][::std::mem::offset_of!(AttendBackwardParams, scale) - 184usize];
    ["Offset of field: AttendBackwardParams::factor"][::std::mem::offset_of!(AttendBackwardParams, factor) - 188usize];
};
/// `inverse_map.cu`: for each key block the query blocks that keep it.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct InverseMapParams {
    /// `[problems, query_blocks, kept]` key blocks, each once in a list.
    pub lists: *const u32,
    /// `[problems, key_blocks, ceil(query_blocks / 32)]`: bit i of word w is query block 32 w + i.
    pub inverse: *mut u32,
    /// At least 1.
    pub query_blocks: i64,
    /// At least 1.
    pub key_blocks: i64,
    /// From 1 to `key_blocks`.
    pub kept: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of InverseMapParams"][::std::mem::size_of::<InverseMapParams>() - 40usize];
    ["Alignment of InverseMapParams"][::std::mem::align_of::<InverseMapParams>() - 8usize];
    ["Offset of field: InverseMapParams::lists"][::std::mem::offset_of!(InverseMapParams, lists) - 0usize];
    ["Offset of field: InverseMapParams::inverse"][::std::mem::offset_of!(InverseMapParams, inverse) - 8usize];
    ["Offset of field: InverseMapParams::query_blocks"][::std::mem::offset_of!(InverseMapParams, query_blocks) - 16usize];
    ["Offset of field: InverseMapParams::key_blocks"][::std::mem::offset_of!(InverseMapParams, key_blocks) - 24usize];
    ["Offset of field: InverseMapParams::kept"][::std::mem::offset_of!(InverseMapParams, kept) - 32usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for AttendParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("v", self.v as u64);
        visit("lists", self.lists as u64);
        visit("out", self.out as u64);
        visit("lse", self.lse as u64);
        visit("squares", self.squares as u64);
        visit("out_values", self.out_values as u64);
        visit("out_scales", self.out_scales as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for AttendBackwardParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("v", self.v as u64);
        visit("out", self.out as u64);
        visit("out_gradient", self.out_gradient as u64);
        visit("lse", self.lse as u64);
        visit("lists", self.lists as u64);
        visit("inverse", self.inverse as u64);
        visit("delta", self.delta as u64);
        visit("dq", self.dq as u64);
        visit("dk", self.dk as u64);
        visit("dv", self.dv as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for InverseMapParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("lists", self.lists as u64);
        visit("inverse", self.inverse as u64);
    }
}
