//! The parameter struct of `kernels/block_select_params.h`.

pub(super) mod linear;

use std::mem::{offset_of, size_of};

use half::bf16;
use turbowan_cuda::device::Params;

/// `block_select.cu`: the key blocks of the largest scores.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BlockSelectParams {
    /// `[problems, query_blocks, head_dim]`, on 16 bytes.
    pub q: *const bf16,
    /// `[problems, key_blocks, head_dim]`, on 16 bytes.
    pub k: *const bf16,
    /// `[problems, query_blocks, kept]`.
    pub lists: *mut u32,
    /// At least 1.
    pub query_blocks: i64,
    /// At least 1.
    pub key_blocks: i64,
    /// A multiple of 16, at most 256.
    pub head_dim: i64,
    /// From 1 to `key_blocks`.
    pub kept: i64,
}

const _: () = assert!(size_of::<BlockSelectParams>() == 56 && offset_of!(BlockSelectParams, kept) == 48);

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for BlockSelectParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("lists", self.lists as u64);
    }
}
