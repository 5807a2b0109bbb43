//! The parameter structs of `kernels/block_select_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;
use turbowan_cuda::device::Params;

/// `block_select.cu`: the key blocks of the largest scores.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BlockSelectParams {
    /// `[problems, query_blocks, head_dim]`, on 16 bytes.
    pub q: *const tw_bf16,
    /// `[problems, key_blocks, head_dim]`, on 16 bytes.
    pub k: *const tw_bf16,
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
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BlockSelectParams"][::std::mem::size_of::<BlockSelectParams>() - 56usize];
    ["Alignment of BlockSelectParams"][::std::mem::align_of::<BlockSelectParams>() - 8usize];
    ["Offset of field: BlockSelectParams::q"][::std::mem::offset_of!(BlockSelectParams, q) - 0usize];
    ["Offset of field: BlockSelectParams::k"][::std::mem::offset_of!(BlockSelectParams, k) - 8usize];
    ["Offset of field: BlockSelectParams::lists"][::std::mem::offset_of!(BlockSelectParams, lists) - 16usize];
    ["Offset of field: BlockSelectParams::query_blocks"][::std::mem::offset_of!(BlockSelectParams, query_blocks) - 24usize];
    ["Offset of field: BlockSelectParams::key_blocks"][::std::mem::offset_of!(BlockSelectParams, key_blocks) - 32usize];
    ["Offset of field: BlockSelectParams::head_dim"][::std::mem::offset_of!(BlockSelectParams, head_dim) - 40usize];
    ["Offset of field: BlockSelectParams::kept"][::std::mem::offset_of!(BlockSelectParams, kept) - 48usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for BlockSelectParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("lists", self.lists as u64);
    }
}
