//! The block map on a device: `kernels/block_select.cu`.

pub mod linear;
pub mod linear_backward;
mod params;

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};

use crate::{Density, kernels};

pub use params::BlockSelectParams;

/// Channels of the widest head.
pub const HEAD_DIM_LIMIT: usize = 256;

/// Threads of a block.
const THREADS: u32 = 256;
/// Query blocks whose scores a thread block holds.
const ROWS: usize = 16;
/// Scores that a warp reads at once.
const SPAN: usize = 256;

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] = [OpKernel { op: "choose key blocks", choose: |_| (&kernels::BLOCK_SELECT, "block_select") }];

/// Pooled queries and keys of a number of heads, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Pooled<'a> {
    /// `[problems, query_blocks, head_dim]`.
    pub q: View<'a, bf16>,
    /// `[problems, key_blocks, head_dim]`, smoothed.
    pub k: View<'a, bf16>,
    /// Heads over the batch.
    pub problems: usize,
    /// Query blocks a head.
    pub query_blocks: usize,
    /// Key blocks a head.
    pub key_blocks: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// The choice of key blocks on a device.
#[derive(Debug)]
pub struct BlockSelect {
    kernel: Kernel<BlockSelectParams>,
}

impl BlockSelect {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues the choice of `density.blocks(key_blocks)` key blocks for each query block: `lists [problems, query_blocks,
    /// kept]`, ascending, those of [`crate::block_map()`] under bf16 rounding. No heads are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when an axis is zero or `head_dim` is no multiple of 16 or past [`HEAD_DIM_LIMIT`],
    /// [`Error::Length`] when an operand does not fit, and as [`Kernel::launch`], which names shared memory where there are
    /// more key blocks than a chip can hold scores of: 3072 on the smallest.
    pub fn run(&self, stream: &Stream, pooled: Pooled<'_>, density: Density, mut lists: ViewMut<'_, u32>) -> Result<(), Error> {
        let Pooled { q, k, problems, query_blocks, key_blocks, head_dim } = pooled;
        for (what, found) in [("query blocks", query_blocks), ("key blocks", key_blocks)] {
            if found == 0 || i32::try_from(found).is_err() {
                return Err(Error::Size { what, must: "from 1 to 2^31 - 1", found });
            }
        }
        if head_dim == 0 || head_dim > HEAD_DIM_LIMIT || !head_dim.is_multiple_of(16) {
            return Err(Error::Size { what: "head dim of pooled rows", must: "a multiple of 16, at most 256", found: head_dim });
        }
        let kept = density.blocks(key_blocks);
        let rows = problems.saturating_mul(query_blocks);
        for (what, found, expected) in [
            ("pooled queries", q.len(), rows.saturating_mul(head_dim)),
            ("pooled keys", k.len(), problems.saturating_mul(key_blocks).saturating_mul(head_dim)),
            ("block map", lists.len(), rows.saturating_mul(kept)),
        ] {
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        if problems == 0 {
            return Ok(());
        }
        let params = BlockSelectParams {
            q: q.address(),
            k: k.address(),
            lists: lists.address(),
            query_blocks: query_blocks as i64,
            key_blocks: key_blocks as i64,
            head_dim: head_dim as i64,
            kept: kept as i64,
        };
        let launch = Launch::linear(problems.saturating_mul(query_blocks.div_ceil(ROWS)), THREADS)?;
        let operands = [q.reads("q").aligned(16), k.reads("k").aligned(16), lists.writes("lists").aligned(4)];
        self.kernel.launch(stream, launch.with_shared_bytes(shared_bytes(key_blocks)), &params, &operands)
    }
}

/// Bytes of the scores that a thread block holds.
fn shared_bytes(key_blocks: usize) -> u32 {
    let bytes = (key_blocks.next_multiple_of(SPAN) + 8) * ROWS * size_of::<u16>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::device::Limits;

    #[test]
    fn the_scores_of_the_longest_videos_fit_the_smallest_chip() {
        for (key_blocks, fits) in [(1, true), (1182, true), (3072, true), (3073, false)] {
            assert_eq!(shared_bytes(key_blocks) <= Limits::of((8, 9)).shared_bytes, fits, "{key_blocks}");
        }
        assert!(shared_bytes(7168) <= Limits::of((9, 0)).shared_bytes);
        assert_eq!(shared_bytes(1 << 31), u32::MAX);
    }
}
