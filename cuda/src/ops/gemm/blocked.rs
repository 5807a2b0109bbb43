//! The loops around the register tile, shared by the products in `f32` and in int8.
//!
//! The output is cut into blocks of rows times blocks of column panels; a block is one task. Inside it the sum runs in
//! depth blocks of fixed length: pack the rows of that depth block (they stay in the L2 cache), then for each panel (it
//! stays in L1) multiply every tile of rows. How the output is cut depends on the number of threads; the order of
//! every sum does not, so the bytes of the result do not either.

use std::cell::RefCell;

use super::epilogue::{Finish, TilePlace};
use super::tile::TileShape;
use crate::host::Aligned;
use crate::host::par::for_each_task;

/// A product that the loops can drive.
pub(crate) trait Product: Sync {
    /// Rows and columns of the register tile.
    fn shape(&self) -> TileShape;
    /// How many pieces the sum is cut into.
    fn depth_blocks(&self) -> usize;
    /// Words that a row takes when packed for depth block `block`.
    fn row_words(&self, block: usize) -> usize;
    /// Packs `rows` rows from `first` for one tile.
    fn pack_rows(&self, first: usize, rows: usize, block: usize, words: &mut [u32]);
    /// Adds depth block `block` of a tile to `acc` = `[rows, tile columns]`, overwriting it when `block` is 0.
    fn multiply(&self, rows: usize, block: usize, words: &[u32], panel: usize, acc: &mut [f32]);
}

/// Row tiles of a task at most: their packed rows fill a quarter of an L2 cache.
const ROW_TILES: usize = 20;
/// Columns of a task at most: packing the rows is then a small share of the work.
const COLUMNS: usize = 768;
/// Tasks that each thread should find at least, so that an uneven pace evens out.
const TASKS_PER_THREAD: usize = 6;

#[derive(Default)]
struct Scratch {
    words: Aligned<u32>,
    acc: Aligned<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes the whole product, `[rows, cols]`, tile by tile, and hands every tile to `finish`.
pub(crate) fn run(product: &impl Product, rows: usize, cols: usize, finish: &Finish<'_>) {
    let shape = product.shape();
    let (row_tiles, panels) = (rows.div_ceil(shape.rows), cols.div_ceil(shape.cols));
    let row_blocks = row_tiles.div_ceil(ROW_TILES);
    let wanted = (rayon::current_num_threads() * TASKS_PER_THREAD).div_ceil(row_blocks.max(1));
    let col_blocks = panels.div_ceil(COLUMNS / shape.cols).max(wanted).min(panels);
    for_each_task(row_blocks * col_blocks, |task| {
        let (col_block, row_block) = (task / row_blocks, task % row_blocks);
        let tiles = row_block * row_tiles / row_blocks..(row_block + 1) * row_tiles / row_blocks;
        let panels = col_block * panels / col_blocks..(col_block + 1) * panels / col_blocks;
        SCRATCH.with_borrow_mut(|scratch| {
            let tile_values = shape.rows * shape.cols;
            let acc = scratch.acc.at_least(tiles.len() * panels.len() * tile_values);
            let last = product.depth_blocks() - 1;
            for block in 0..=last {
                let tile_words = shape.rows * product.row_words(block);
                let words = scratch.words.at_least(tiles.len() * tile_words);
                for (tile, words) in tiles.clone().zip(words.chunks_exact_mut(tile_words)) {
                    let first = tile * shape.rows;
                    product.pack_rows(first, shape.rows.min(rows - first), block, words);
                }
                let mut accs = acc.chunks_exact_mut(tile_values);
                for panel in panels.clone() {
                    let col = panel * shape.cols;
                    for (tile, (words, acc)) in tiles.clone().zip(words.chunks_exact(tile_words).zip(&mut accs)) {
                        let row = tile * shape.rows;
                        let place = TilePlace { row, rows: shape.rows.min(rows - row), col, cols: shape.cols.min(cols - col) };
                        product.multiply(place.rows, block, words, panel, acc);
                        if block == last {
                            // SAFETY: tiles of the output are apart, each belongs to one task and is finished once.
                            unsafe { finish.tile(acc, place) };
                        }
                    }
                }
            }
        });
    });
}
