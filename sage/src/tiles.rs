//! Keys and values as the tiles of shared memory that a wgmma reads: the host's side of `kernels/tile_layout.cuh`.

use crate::{Fp8Values, Quantised};

/// Keys of a tile.
pub const TILE_KEYS: usize = 64;
/// Tiles that one step of an attention kernel takes; a head has whole steps.
const STEP_TILES: usize = 2;
const CHUNK_BYTES: usize = 16;

/// Tiles of a head of `key_len` keys: an even number.
pub fn tiles_of_head(key_len: usize) -> usize {
    key_len.div_ceil(TILE_KEYS * STEP_TILES) * STEP_TILES
}

/// Bytes of the keys or the e4m3 values of `problems` heads in tiles.
pub fn tiled_len(problems: usize, key_len: usize, head_dim: usize) -> usize {
    problems.saturating_mul(tiles_of_head(key_len) * TILE_KEYS).saturating_mul(head_dim)
}

/// Where byte `byte` of row `row` lies in a tile of rows of `row_bytes` (64 or 128): its 16-byte chunk is moved by an
/// exclusive or with bits of the row.
fn swizzled(row_bytes: usize, row: usize, byte: usize) -> usize {
    let chunk = (byte / CHUNK_BYTES) ^ (row * row_bytes / 128 % (row_bytes / CHUNK_BYTES));
    row * row_bytes + chunk * CHUNK_BYTES + byte % CHUNK_BYTES
}

impl Quantised {
    /// The INT8 rows of keys in tiles, `[problems, tiles_of_head, 64, head_dim]` with the chunks of every row swizzled; rows
    /// past the last are zeros. `head_dim` is 64 or 128.
    pub fn tiled(&self, head_dim: usize) -> Vec<i8> {
        let head = self.len * head_dim;
        let tiled_head = tiled_len(1, self.len, head_dim);
        let mut tiles = vec![0; self.values.len() / head * tiled_head];
        for (values, tiles) in self.values.chunks_exact(head).zip(tiles.chunks_exact_mut(tiled_head)) {
            for (at, value) in values.iter().enumerate() {
                // two tiles behind one another are one of 128 rows
                tiles[swizzled(head_dim, at / head_dim, at % head_dim)] = *value;
            }
        }
        tiles
    }
}

impl Fp8Values {
    /// The patterns in tiles, `[problems, tiles_of_head, head_dim, 64]` with the tokens of every 16 in
    /// [`crate::TOKEN_ORDER`] and the chunks of every row swizzled. `head_dim` is 64 or 128, the padded length a multiple of
    /// 64 that holds `key_len` tokens.
    pub fn tiled(&self, head_dim: usize, key_len: usize) -> Vec<u8> {
        let tiled_head = tiled_len(1, key_len, head_dim);
        let mut tiles = vec![0; self.scales.len() / head_dim * tiled_head];
        for (row, codes) in self.permuted().chunks_exact(self.padded_len).enumerate() {
            let (problem, channel) = (row / head_dim, row % head_dim);
            for (token, code) in codes.iter().enumerate().take(tiles_of_head(key_len) * TILE_KEYS) {
                let tile = problem * tiled_head + token / TILE_KEYS * (TILE_KEYS * head_dim);
                tiles[tile + swizzled(TILE_KEYS, channel, token % TILE_KEYS)] = *code;
            }
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granularity, Tile};

    #[test]
    fn a_head_has_whole_steps_of_tiles() {
        assert_eq!([1, 64, 65, 128, 129, 32_760].map(tiles_of_head), [2, 2, 2, 2, 4, 512]);
        assert_eq!(tiled_len(12, 75_600, 128), 12 * 1182 * 64 * 128);
        assert_eq!(tiled_len(usize::MAX, 75_600, 128), usize::MAX);
    }

    #[test]
    fn chunks_move_inside_their_row_and_eight_rows_of_one_chunk_touch_all_banks() {
        for row_bytes in [64, 128] {
            for row in 0..16 {
                let mut places: Vec<_> = (0..row_bytes).map(|byte| swizzled(row_bytes, row, byte)).collect();
                places.sort_unstable();
                assert!(places.iter().enumerate().all(|(at, place)| *place == row * row_bytes + at));
            }
            let mut banks: Vec<_> = (0..8).map(|row| swizzled(row_bytes, row, 0) / CHUNK_BYTES % 8).collect();
            banks.sort_unstable();
            assert_eq!(banks, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
        assert_eq!((swizzled(128, 3, 0), swizzled(128, 9, 17), swizzled(64, 2, 5)), (3 * 128 + 48, 9 * 128 + 1, 128 + 16 + 5));
    }

    #[test]
    fn every_value_is_in_its_tile_once() {
        let (len, head_dim) = (130, 64);
        let values: Vec<i8> = (0..2 * len * head_dim).map(|n| (n % 251 % 127) as i8 + 1).collect();
        let groups = Granularity::PerBlock(Tile::SM80).key_groups();
        let keys = Quantised { values, scales: vec![1.0; 2 * groups.count(len)], groups, len };
        let tiles = keys.tiled(head_dim);
        assert_eq!(tiles.len(), 2 * 4 * 64 * 64);
        assert_eq!(tiles[4 * 64 * 64 + 2 * 64 * 64 + 64], keys.values[len * head_dim + 129 * head_dim]);
        assert_eq!(tiles.iter().filter(|value| **value != 0).count(), keys.values.len());

        let transposed: Vec<u8> = (0..2 * head_dim * 192).map(|n| if n % 192 < len { (n % 120) as u8 + 1 } else { 0 }).collect();
        let values = Fp8Values { transposed, scales: vec![1.0; 2 * head_dim], padded_len: 192 };
        let tiles = values.tiled(head_dim, len);
        assert_eq!(tiles.len(), 2 * 4 * 64 * 64);
        // token 9 stands at depth 3 of its 16
        assert_eq!(tiles[swizzled(64, 5, 3)], values.transposed[5 * 192 + 9]);
        assert_eq!(tiles.iter().filter(|code| **code != 0).count(), 2 * head_dim * len);
    }
}
