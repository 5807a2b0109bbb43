//! The product of bf16 rows with a bf16 weight, on machines that multiply pairs of bf16 (AVX-512 BF16).
//!
//! The products are exact in `f32` and so are the operands, so it differs from the `f32` product only in how the sum is
//! rounded: two k at a time, with denormals taken as zero. It is used where the result is rounded to bf16 anyway.

use std::sync::atomic::{AtomicBool, Ordering};

use super::DEPTH;
use super::blocked::Product;
use super::interleave::interleave;
use super::packed::PackedMatrix;
use super::panel::Panel;
use super::tile::TileShape;
use crate::host::Isa;
use crate::host::par::for_each_task;
use crate::{Element, Rounding};

/// Whether the product of pairs serves: the machine has it, the weight is bf16, the result is rounded to bf16, and every
/// value of `x` is one that bf16 holds.
pub(super) fn serves<E: Element>(x: &[E], weight: &PackedMatrix, rounding: Rounding) -> bool {
    has_product(weight.isa()) && weight.is_bf16() && rounding == Rounding::Bf16 && holds_halves(x)
}

#[cfg(target_arch = "x86_64")]
fn has_product(isa: Isa) -> bool {
    isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_product(_: Isa) -> bool {
    false
}

/// Whether every value is one that bf16 holds.
fn holds_halves<E: Element>(x: &[E]) -> bool {
    /// Values that a task looks at, and that it widens at a time.
    const TASK: usize = 1 << 16;
    const STRIP: usize = 256;
    let holds = AtomicBool::new(true);
    for_each_task(x.len().div_ceil(TASK), |task| {
        let mut strip = [0.0f32; STRIP];
        for from in x[task * TASK..x.len().min((task + 1) * TASK)].chunks(STRIP) {
            if !holds.load(Ordering::Relaxed) {
                return;
            }
            let strip = &mut strip[..from.len()];
            E::widen_row(from, strip);
            if strip.iter().fold(0, |bits, value| bits | value.to_bits()) & 0xffff != 0 {
                holds.store(false, Ordering::Relaxed);
            }
        }
    });
    holds.into_inner()
}

/// Rows that bf16 holds and a bf16 weight.
pub(super) struct Halves<'a, E> {
    pub x: &'a [E],
    pub weight: &'a PackedMatrix,
}

impl<E: Element> Halves<'_, E> {
    fn depth(&self, block: usize) -> usize {
        (self.weight.input() - block * DEPTH).min(DEPTH)
    }
}

impl<E: Element> Product for Halves<'_, E> {
    fn shape(&self) -> TileShape {
        TileShape::of(self.weight.isa())
    }

    fn depth_blocks(&self) -> usize {
        self.weight.input().div_ceil(DEPTH)
    }

    fn row_words(&self, block: usize) -> usize {
        self.depth(block).div_ceil(2)
    }

    /// Words of two k, the first in the low half; zero past the last.
    fn pack_rows(&self, first: usize, rows: usize, block: usize, words: &mut [u32]) {
        const STRIP: usize = DEPTH / 2;
        let (input, depth) = (self.weight.input(), self.depth(block));
        let mut floats = [0.0f32; DEPTH];
        let mut strip = [0u32; 4 * STRIP];
        for group in (0..rows).step_by(4) {
            let count = (rows - group).min(4);
            for (row, strip) in strip.chunks_mut(STRIP).take(count).enumerate() {
                let from = (first + group + row) * input + block * DEPTH;
                E::widen_row(&self.x[from..from + depth], &mut floats[..depth]);
                for (word, pair) in strip.iter_mut().zip(floats[..depth.next_multiple_of(2)].as_chunks::<2>().0) {
                    *word = pair[0].to_bits() >> 16 | pair[1].to_bits() & 0xffff_0000;
                }
            }
            interleave(&strip, STRIP, count, depth.div_ceil(2), &mut words[group..], rows);
        }
    }

    fn multiply(&self, rows: usize, block: usize, words: &[u32], panel: usize, acc: &mut [f32]) {
        let (shape, depth) = (self.shape(), self.depth(block));
        let pairs = depth.div_ceil(2);
        let Panel::Bf16(columns) = self.weight.panel(panel, block * DEPTH, depth) else {
            unreachable!("only a bf16 weight comes here");
        };
        assert!(rows >= 1 && rows <= shape.rows && words.len() >= rows * pairs);
        assert!(columns.len() >= pairs * shape.cols && acc.len() >= rows * shape.cols);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `serves` found the instructions; the lengths are checked above.
        unsafe {
            super::x86::multiply_halves(rows, pairs, words.as_ptr(), columns.as_ptr(), acc.as_mut_ptr(), block == 0);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no such machine has the instructions");
    }
}
