//! The int8 product of a linear layer: weight and activation in int8 with block scales (W8A8).
//!
//! ```text
//! y[r, j]   = sum_b a_scale[r, b] * w_scale[j, b] * ( sum_{k in b} a[r, k] * w[j, k] )      b: 128 consecutive k, or the last fewer
//! out[r, j] = end( round(y[r, j]) + bias[j] )
//! ```
//!
//! The inner sum is an exact 32-bit integer; it is converted to `f32` and added by a fused multiply-add, block after
//! block, so a result has the same bits on every machine and for every number of threads. `round` is the epilogue's
//! rounding: the official code stores the product in bf16 and adds the bias in a second step.
//!
//! Sources: `turbodiffusion/ops/gemm/kernel.hpp`, `turbodiffusion/ops/core.py` (`Int8Linear`).

pub mod device;
mod kernel;
mod packed;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernel::Int8Kernel;
pub use packed::PackedInt8;

use kernel::multiply;
use tile::TileRows;

use super::gemm::blocked::{self, Product};
use super::gemm::epilogue::Finish;
use super::gemm::interleave::interleave;
use super::gemm::tile::TileShape;
use super::gemm::{Epilogue, floats, floats_mut};
use super::quant::{BLOCK, Int8Rows};
use crate::Error;
use crate::host::par::Shared;

/// Blocks of the sum that are packed at a time.
const DEPTH_BLOCKS: usize = 4;

/// `out[rows, n] = epilogue(a[rows, k] . w[n, k]^T)`, with the epilogue's rounding once more before the bias.
///
/// # Errors
/// [`Error::Size`] when the rows have another width than the weight, [`Error::Length`] when an operand does not fit.
pub fn gemm_int8(a: &Int8Rows, w: &PackedInt8, epilogue: &Epilogue<'_>, out: &mut [f32]) -> Result<(), Error> {
    if a.width() != w.input() {
        return Err(Error::Size { what: "columns of the int8 rows", must: "as many as the weight's input", found: a.width() });
    }
    Error::expect_len("output", out, a.rows() * w.out())?;
    epilogue.check(a.rows(), w.out())?;
    let finish = Finish { isa: w.kernel().isa(), epilogue, rounds_before_bias: true, width: w.out(), out: Shared::new(out) };
    blocked::run(&Int8 { rows: a, weight: w }, a.rows(), w.out(), &finish);
    Ok(())
}

struct Int8<'a> {
    rows: &'a Int8Rows,
    weight: &'a PackedInt8,
}

impl Int8<'_> {
    /// Blocks of the sum in depth block `block`.
    fn blocks(&self, block: usize) -> usize {
        (self.weight.blocks() - block * DEPTH_BLOCKS).min(DEPTH_BLOCKS)
    }

    /// Values of a row as the kernel's words. Past the row's end a word may hold anything, for the weight is zero there.
    fn words(&self, from: &[i8], to: &mut [u32]) {
        if self.weight.kernel().is_vnni() {
            each_group(from, to, |quad: [i8; 4]| u32::from_le_bytes(quad.map(i8::cast_unsigned)) ^ 0x8080_8080);
        } else {
            each_group(from, to, |pair: [i8; 2]| {
                let [low, high] = pair.map(|value| u32::from(i16::from(value).cast_unsigned()));
                low | high << 16
            });
        }
    }
}

/// `to` of every group of `from`, a last shorter one filled up with zeros.
#[inline(always)]
fn each_group<const GROUP: usize>(from: &[i8], to: &mut [u32], word: impl Fn([i8; GROUP]) -> u32) {
    let (groups, rest) = from.as_chunks::<GROUP>();
    for (to, group) in to.iter_mut().zip(groups) {
        *to = word(*group);
    }
    if !rest.is_empty() {
        let mut last = [0; GROUP];
        last[..rest.len()].copy_from_slice(rest);
        to[groups.len()] = word(last);
    }
}

impl Product for Int8<'_> {
    fn shape(&self) -> TileShape {
        self.weight.kernel().shape()
    }

    fn depth_blocks(&self) -> usize {
        self.weight.blocks().div_ceil(DEPTH_BLOCKS)
    }

    fn row_words(&self, block: usize) -> usize {
        self.blocks(block) * (self.weight.kernel().block_words() + 1)
    }

    /// Words `[blocks, block_words, rows]`, then the bits of the scales, `[blocks, rows]`.
    fn pack_rows(&self, first: usize, rows: usize, block: usize, words: &mut [u32]) {
        /// Words of the widest group of rows: pairs.
        const STRIP: usize = DEPTH_BLOCKS * BLOCK / 2;
        let (blocks, depth) = (self.blocks(block), self.blocks(block) * self.weight.kernel().block_words());
        let (width, start) = (self.rows.width(), block * DEPTH_BLOCKS * BLOCK);
        let columns = start..width.min(start + blocks * BLOCK);
        let mut strip = [0u32; 4 * STRIP];
        for group in (0..rows).step_by(4) {
            let count = (rows - group).min(4);
            for (row, strip) in strip.chunks_mut(STRIP).take(count).enumerate() {
                let values = &self.rows.values()[(first + group + row) * width..][..width];
                self.words(&values[columns.clone()], strip);
            }
            interleave(&strip, STRIP, count, depth, &mut words[group..], rows);
        }
        let scales = &mut floats_mut(words)[depth * rows..];
        for row in 0..rows {
            let from = &self.rows.scales_of(first + row)[block * DEPTH_BLOCKS..];
            for (to, scale) in scales[row..].iter_mut().step_by(rows).zip(&from[..blocks]) {
                *to = *scale;
            }
        }
    }

    fn multiply(&self, rows: usize, block: usize, words: &[u32], panel: usize, acc: &mut [f32]) {
        let (kernel, blocks) = (self.weight.kernel(), self.blocks(block));
        let depth = blocks * kernel.block_words();
        let rows = TileRows { count: rows, words, scales: &floats(words)[depth * rows..] };
        multiply(kernel, rows, self.weight.columns(panel, block * DEPTH_BLOCKS, blocks), acc, block == 0);
    }
}
