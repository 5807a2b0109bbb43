//! The dense product of a linear layer, with its end fused in.
//!
//! ```text
//! out[r, j] = end( sum_k x[r, k] * w[j, k] + bias[j] )        x [rows, k], w [n, k], out [rows, n]
//! ```
//!
//! The sum is in `f32`, in the order of k: chains of 256 fused multiply-adds (on a machine without FMA: products and
//! sums), added up in order. It is the same for every tile, every number of rows and every number of threads. `end` is
//! an [`Epilogue`]. Where weight and rows are bf16, the result is rounded to bf16, and the machine multiplies pairs of
//! bf16, it does so: twice as fast, the same sums but for the rounding of the last bits of `f32`.
//!
//! The weight is packed once ([`PackedMatrix`]); rows are packed as they are read. [`matmul`] multiplies two operands
//! that are not packed, on one thread, for callers that tile a larger problem themselves.
//!
//! ```
//! use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, gemm};
//!
//! let weight = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
//! let packed = PackedMatrix::pack(&weight, 2, 3)?;
//! let mut out = [0.0; 2];
//! gemm(&[1.0f32, 0.0, -1.0], 1, &packed, &Epilogue { bias: Some(&[0.5, 0.5]), ..Epilogue::PLAIN }, &mut out)?;
//! assert_eq!(out, [-1.5, -1.5]);
//! # Ok::<(), turbowan_cuda::Error>(())
//! ```

pub(crate) mod blocked;
pub mod device;
pub(crate) mod epilogue;
pub mod gradient;
mod halves;
pub(crate) mod interleave;
mod matmul;
mod packed;
pub(crate) mod panel;
pub(crate) mod tile;
pub(crate) mod wgmma;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use epilogue::{Epilogue, Then};
pub use matmul::{matmul, matmul_on};
pub use packed::PackedMatrix;
pub use wgmma::Family;

use blocked::Product;
use epilogue::Finish;
use halves::Halves;
use interleave::interleave;
use tile::TileShape;

use crate::host::par::Shared;
use crate::{Element, Error};

/// Length of one chain of additions.
const DEPTH: usize = 256;

/// `out[rows, n] = epilogue(x[rows, k] . w[n, k]^T)`; `out` is read only by [`Then::Add`] and [`Then::AddGated`].
///
/// # Errors
/// [`Error::Length`] when an operand does not fit, [`Error::Size`] when a gate is shared by no row.
pub fn gemm<E: Element>(x: &[E], rows: usize, w: &PackedMatrix, epilogue: &Epilogue<'_>, out: &mut [f32]) -> Result<(), Error> {
    Error::expect_len("input rows", x, rows * w.input())?;
    Error::expect_len("output", out, rows * w.out())?;
    epilogue.check(rows, w.out())?;
    let finish = Finish { isa: w.isa(), epilogue, rounds_before_bias: false, width: w.out(), out: Shared::new(out) };
    if halves::serves(x, w, epilogue.rounding) {
        blocked::run(&Halves { x, weight: w }, rows, w.out(), &finish);
    } else {
        blocked::run(&Floats { x, weight: w }, rows, w.out(), &finish);
    }
    Ok(())
}

struct Floats<'a, E> {
    x: &'a [E],
    weight: &'a PackedMatrix,
}

impl<E: Element> Floats<'_, E> {
    fn depth(&self, block: usize) -> usize {
        (self.weight.input() - block * DEPTH).min(DEPTH)
    }
}

impl<E: Element> Product for Floats<'_, E> {
    fn shape(&self) -> TileShape {
        TileShape::of(self.weight.isa())
    }

    fn depth_blocks(&self) -> usize {
        self.weight.input().div_ceil(DEPTH)
    }

    fn row_words(&self, block: usize) -> usize {
        self.depth(block)
    }

    fn pack_rows(&self, first: usize, rows: usize, block: usize, words: &mut [u32]) {
        let (input, depth) = (self.weight.input(), self.depth(block));
        let mut strip = [0.0f32; 4 * DEPTH];
        let words = floats_mut(words);
        for group in (0..rows).step_by(4) {
            let count = (rows - group).min(4);
            for (row, strip) in strip.chunks_mut(DEPTH).take(count).enumerate() {
                let from = (first + group + row) * input + block * DEPTH;
                E::widen_row(&self.x[from..from + depth], &mut strip[..depth]);
            }
            interleave(&strip, DEPTH, count, depth, &mut words[group..], rows);
        }
    }

    fn multiply(&self, rows: usize, block: usize, words: &[u32], panel: usize, acc: &mut [f32]) {
        let depth = self.depth(block);
        let panel = self.weight.panel(panel, block * DEPTH, depth);
        tile::multiply(self.weight.isa(), rows, depth, floats(words), panel, acc, block == 0);
    }
}

/// Words as the floats they hold.
pub(crate) fn floats(words: &[u32]) -> &[f32] {
    // SAFETY: `f32` has the size and alignment of `u32` and takes every bit pattern.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// Words as the floats they hold, to be written.
pub(crate) fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: as in `floats`, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}
