//! The parameter structs of `kernels/attend_params.h`, as bindgen reads them.

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
    /// As `q`.
    pub out: *mut tw_bf16,
    /// `[problems, query_len]`, base-2 logarithm of the softmax denominator; may be null.
    pub lse: *mut f32,
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
    /// 0.
    pub unused: u32,
}
const _: () = assert!(size_of::<AttendParams>() == 144);

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
const _: () = assert!(size_of::<AttendBackwardParams>() == 192);

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
const _: () = assert!(size_of::<InverseMapParams>() == 40);

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for AttendParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("v", self.v as u64);
        visit("lists", self.lists as u64);
        visit("out", self.out as u64);
        visit("lse", self.lse as u64);
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
