//! Block maps on a device: which key blocks each query block attends to.

use half::bf16;
use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Buffer, Device, Stream};
use turbowan_sla::device::{BlockSelect, Pooled};

use crate::Result;
use crate::attention::Sparsity;

/// What chooses them.
#[derive(Debug)]
pub(super) struct BlockMaps {
    select: BlockSelect,
}

/// Key blocks of each query block.
pub(super) struct Lists {
    /// `[problems, query blocks, kept]`.
    pub lists: Buffer<u32>,
    /// Key blocks of a list.
    pub kept: usize,
}

impl BlockMaps {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self { select: BlockSelect::load(device)? })
    }

    /// Chooses by the means of blocks of queries and of smoothed keys, [`pooled_rows`].
    pub fn choose(&self, stream: &Stream, shape: &AttnShape, [q, k]: &[Buffer<bf16>; 2], sparsity: &Sparsity) -> Result<Lists> {
        let [query_blocks, key_blocks] = blocks(shape, sparsity);
        let kept = sparsity.density.blocks(key_blocks);
        let mut lists = stream.allocate(shape.problems() * query_blocks * kept)?;
        let pooled = Pooled { q: q.view(), k: k.view(), problems: shape.problems(), query_blocks, key_blocks, head_dim: shape.head_dim };
        self.select.run(stream, pooled, sparsity.density, lists.view_mut())?;
        Ok(Lists { lists, kept })
    }
}

/// Query blocks and key blocks of a head.
fn blocks(shape: &AttnShape, sparsity: &Sparsity) -> [usize; 2] {
    [shape.query_len.div_ceil(sparsity.block_q.max(1)), shape.key_len.div_ceil(sparsity.block_k.max(1))]
}

/// Room for the means of the blocks of queries and keys.
pub(super) fn pooled_rows(stream: &Stream, shape: &AttnShape, sparsity: &Sparsity) -> Result<[Buffer<bf16>; 2]> {
    let [query_blocks, key_blocks] = blocks(shape, sparsity).map(|count| shape.problems() * count * shape.head_dim);
    Ok([stream.allocate(query_blocks)?, stream.allocate(key_blocks)?])
}
