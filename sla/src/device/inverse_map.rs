//! A block map turned round, on a device: `kernels/inverse_map.cu`.

use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Kernel, Launch, OpKernel, Stream, ViewMut};

use super::operands::{Map, expect};
use super::params::InverseMapParams;
use crate::{Error, kernels};

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] = [OpKernel { op: "turn a block map round", choose: |_| (&kernels::INVERSE_MAP, "inverse_map") }];

/// Threads of a block.
const THREADS: u32 = 256;

/// Query blocks in a word.
const BITS: usize = u32::BITS as usize;

/// Turns block maps round.
#[derive(Debug)]
pub struct InverseMap {
    kernel: Kernel<InverseMapParams>,
}

impl InverseMap {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Words of the turned map of `block_q` query rows by `block_k` key rows: `[problems, key blocks, ceil(query blocks /
    /// 32)]`.
    pub fn words(shape: &AttnShape, (block_q, block_k): (usize, usize)) -> usize {
        shape.problems() * shape.key_len.div_ceil(block_k) * shape.query_len.div_ceil(block_q).div_ceil(BITS)
    }

    /// Queues it: bit `i` of word `w` of a key block in `inverse` says whether query block `32 w + i` keeps it.
    ///
    /// # Errors
    /// [`turbowan_cuda::Error::Size`] or [`turbowan_cuda::Error::Length`] when the map or `inverse` does not fit, and as
    /// [`Kernel::launch`].
    pub fn run(&self, stream: &Stream, shape: &AttnShape, map: &Map<'_>, mut inverse: ViewMut<'_, u32>) -> Result<(), Error> {
        map.blocks(shape)?;
        expect("turned block map", inverse.len(), Self::words(shape, (map.block_q, map.block_k)))?;
        let (query_blocks, key_blocks) = (shape.query_len.div_ceil(map.block_q), shape.key_len.div_ceil(map.block_k));
        let params = InverseMapParams {
            lists: map.lists.address(),
            inverse: inverse.address(),
            query_blocks: query_blocks as i64,
            key_blocks: key_blocks as i64,
            kept: map.kept as i64,
        };
        let launch = Launch::linear(shape.problems().saturating_mul(query_blocks.div_ceil(BITS)), THREADS)?;
        let operands = [map.lists.reads("block map").aligned(4), inverse.writes("turned block map").aligned(4)];
        Ok(self.kernel.launch(stream, launch, &params, &operands)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_map_has_a_bit_for_every_pair_of_blocks() {
        let words = |len| InverseMap::words(&AttnShape::new(1, 40, len, 128).unwrap(), (128, 64));
        assert_eq!((words(64), words(75_600)), (40, 40 * 1182 * 19));
        // 2^31 words and more
        assert_eq!(words(1 << 23), 40 * (1 << 17) * (1 << 11));
    }
}
