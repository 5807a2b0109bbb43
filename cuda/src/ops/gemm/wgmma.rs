//! What the products on wgmma share on the host: `kernels/gemm_wgmma.cuh`.

use crate::Error;
use crate::device::{Launch, Limits, Swizzle, TensorMap, Tiling, View};
use crate::host::aligned::Plain;

/// How a product asks the tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `mma.sync`, which every chip has: operands by `ldmatrix`, a tile for each block. The oracle of the other.
    Mma,
    /// `wgmma`, which 9.0 alone has: operands by tensor maps, blocks that stay and work off tile after tile.
    Wgmma,
}

impl Family {
    /// The faster one that a chip has.
    pub fn of(capability: (u32, u32)) -> Self {
        if capability == (9, 0) { Self::Wgmma } else { Self::Mma }
    }
}

/// Threads of a block: a producer and two consumers.
const THREADS: u32 = 384;

/// Dynamic shared memory of a block: four stages of 384 rows of 128 bytes, two parts of 64 rows that leave, and barriers.
const SHARED_BYTES: u32 = 4 * 384 * 128 + 2 * 64 * 272 + 3 * 4 * 8;

/// Bytes of a row in a stage.
const ROW_BYTES: usize = 128;

/// The launch for `rows x n` results in tiles: a block for each multiprocessor, or for each tile where they are fewer.
pub(crate) fn grid(rows: usize, n: usize, [tile_rows, tile_columns]: [usize; 2], multiprocessors: u32) -> Result<Launch, Error> {
    let tiles = rows.div_ceil(tile_rows).saturating_mul(n.div_ceil(tile_columns));
    // a tile's number and that of its next one are 32 bits wide
    let limit = Limits::GRID[0] as usize;
    if tiles > limit {
        return Err(Error::Size { what: "tiles of a product", must: "at most 2^31 - 1", found: tiles });
    }
    Ok(Launch::linear(tiles.min(multiprocessors.max(1) as usize), THREADS)?.with_shared_bytes(SHARED_BYTES))
}

/// An operand `[rows, width]` in tiles of `tile_rows` rows, 128 bytes deep.
pub(crate) fn operand_map<T: Plain>(values: View<'_, T>, rows: usize, width: usize, tile_rows: usize) -> Result<TensorMap, Error> {
    let tile = [tile_rows, ROW_BYTES / size_of::<T>()];
    TensorMap::new(values, &Tiling { shape: &[rows, width], strides: &[width], tile: &tile, swizzle: Swizzle::Bytes128 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hopper_has_wgmma() {
        for capability in [(8, 0), (8, 6), (8, 9), (10, 0), (12, 0)] {
            assert_eq!(Family::of(capability), Family::Mma, "{capability:?}");
        }
        assert_eq!(Family::of((9, 0)), Family::Wgmma);
        assert!(SHARED_BYTES <= Limits::of((9, 0)).shared_bytes);
    }

    #[test]
    fn blocks_are_as_many_as_multiprocessors_or_tiles() {
        for (rows, n, tile, blocks) in [
            (1, 1, [256, 128], 1),
            (256, 128, [256, 128], 1),
            (257, 128, [256, 128], 2),
            (512, 1536, [256, 128], 24),
            (75_600, 13_824, [256, 128], 132),
            (512, 1536, [128, 256], 24),
        ] {
            let launch = grid(rows, n, tile, 132).unwrap();
            assert_eq!((launch.blocks(), launch.threads(), launch.shared_bytes), (blocks, 384, 231_520), "{rows} x {n}");
        }
        assert_eq!(grid(1 << 20, 1 << 20, [256, 128], 132).unwrap().blocks(), 132);
        assert!(grid(1 << 24, 1 << 24, [256, 128], 132).is_err(), "2^33 tiles");
        assert!(grid(usize::MAX, usize::MAX, [256, 128], 132).is_err());
        assert!(grid(0, 128, [256, 128], 132).is_err());
    }
}
