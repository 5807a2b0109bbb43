//! A weight matrix laid out once for the product's inner loop.

use std::any::TypeId;
use std::ops::Range;

use half::bf16;

use super::interleave::interleave;
use super::tile::{Panel, TileShape};
use crate::host::par::{Shared, for_each_task};
use crate::host::{Aligned, Isa};
use crate::{Element, Error};

/// A weight `[out, input]` packed for one instruction set: panels of a few output columns, each `[input, columns]`.
///
/// A bf16 source stays bf16 (half the memory) and is widened in the inner loop; any other source is kept as `f32`.
/// A column past `out` is zero.
pub struct PackedMatrix {
    out: usize,
    input: usize,
    isa: Isa,
    panels: Panels,
}

enum Panels {
    F32(Aligned<f32>),
    Bf16(Aligned<u32>),
}

impl PackedMatrix {
    /// Packs a row-major `[out, input]` weight for this machine.
    ///
    /// # Errors
    /// [`Error::Length`] when `weight` does not hold `out * input` values, [`Error::Size`] when either is zero.
    pub fn pack<E: Element>(weight: &[E], out: usize, input: usize) -> Result<Self, Error> {
        Self::pack_for(Isa::detect(), weight, out, input)
    }

    /// [`PackedMatrix::pack`] for a chosen instruction set.
    ///
    /// # Errors
    /// Also [`Error::MissingIsa`] when this machine lacks it.
    pub fn pack_for<E: Element>(isa: Isa, weight: &[E], out: usize, input: usize) -> Result<Self, Error> {
        isa.demand()?;
        for (what, found) in [("weight rows", out), ("weight columns", input)] {
            if found == 0 {
                return Err(Error::Size { what, must: "at least 1", found });
            }
        }
        Error::expect_len("weight", weight, out * input)?;
        let cols = TileShape::of(isa).cols;
        let panels = if TypeId::of::<E>() == TypeId::of::<bf16>() {
            Panels::Bf16(pack_halves(weight, out, input, cols))
        } else {
            Panels::F32(pack_floats(weight, out, input, cols))
        };
        Ok(Self { out, input, isa, panels })
    }

    /// Output features: columns of the product.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Input features: the length of the sums.
    pub fn input(&self) -> usize {
        self.input
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => panels.bytes(),
            Panels::Bf16(panels) => panels.bytes(),
        }
    }

    /// The instruction set it was packed for, which this machine has.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Rows `from .. from + depth` of the sum in panel `index`.
    pub(super) fn panel(&self, index: usize, from: usize, depth: usize) -> Panel<'_> {
        let start = index * self.input + from;
        match &self.panels {
            Panels::F32(panels) => {
                let cols = TileShape::of(self.isa).cols;
                Panel::F32(&panels[start * cols..(start + depth) * cols])
            }
            Panels::Bf16(panels) => {
                let words = TileShape::of(self.isa).cols / 2;
                Panel::Bf16(&panels[start * words..(start + depth) * words])
            }
        }
    }
}

/// Rows of the sum that are packed at a time.
const STRIP: usize = 256;

/// Panels `[ceil(out / cols)][input, cols]`.
fn pack_floats<E: Element>(weight: &[E], out: usize, input: usize, cols: usize) -> Aligned<f32> {
    let count = out.div_ceil(cols);
    let mut panels = Aligned::zeroed(count * input * cols);
    let shared = Shared::new(&mut panels);
    for_each_task(count, |panel| {
        // SAFETY: every task has its own panel.
        let to = unsafe { shared.part(panel * input * cols, input * cols) };
        let rows = panel * cols..out.min((panel + 1) * cols);
        for from in (0..input).step_by(STRIP) {
            let depth = (input - from).min(STRIP);
            pack_strip(weight, input, rows.clone(), from..from + depth, &mut to[from * cols..], cols);
        }
    });
    panels
}

/// Panels `[ceil(out / cols)][input, cols / 2]` of two bf16 a word. The source widens to values that bf16 holds.
fn pack_halves<E: Element>(weight: &[E], out: usize, input: usize, cols: usize) -> Aligned<u32> {
    let (count, words) = (out.div_ceil(cols), cols / 2);
    let mut panels = Aligned::zeroed(count * input * words);
    let shared = Shared::new(&mut panels);
    for_each_task(count, |panel| {
        // SAFETY: every task has its own panel.
        let to = unsafe { shared.part(panel * input * words, input * words) };
        let rows = panel * cols..out.min((panel + 1) * cols);
        let mut floats = Aligned::<f32>::zeroed(STRIP * cols);
        for from in (0..input).step_by(STRIP) {
            let depth = (input - from).min(STRIP);
            pack_strip(weight, input, rows.clone(), from..from + depth, &mut floats, cols);
            for (to, floats) in to[from * words..].chunks_exact_mut(words).zip(floats.chunks_exact(cols)).take(depth) {
                let (low, high) = floats.split_at(words);
                for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
                    *to = low.to_bits() >> 16 | high.to_bits() & 0xffff_0000;
                }
            }
        }
    });
    panels
}

/// Interleaves weight rows `rows` (at most `cols`), columns `depths` (at most [`STRIP`]), into `to[depth, cols]`.
fn pack_strip<E: Element>(weight: &[E], input: usize, rows: Range<usize>, depths: Range<usize>, to: &mut [f32], cols: usize) {
    let mut strip = [0.0f32; 4 * STRIP];
    for group in rows.clone().step_by(4) {
        let count = (rows.end - group).min(4);
        for (row, strip) in strip.chunks_mut(STRIP).take(count).enumerate() {
            let from = (group + row) * input;
            E::widen_row(&weight[from + depths.start..from + depths.end], &mut strip[..depths.len()]);
        }
        interleave(&strip, STRIP, count, depths.len(), &mut to[group - rows.start..], cols);
    }
}
