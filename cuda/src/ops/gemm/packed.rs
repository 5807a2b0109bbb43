//! A weight matrix laid out once for the product's inner loop.

use std::any::TypeId;
use std::ops::Range;

use half::bf16;

use super::interleave::interleave;
use super::panel::Panel;
use super::tile::TileShape;
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

    /// Packs the transpose of a row-major `[input, out]` matrix: the product with it is `x [rows, input] . matrix`.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`].
    pub fn pack_transposed(matrix: &[f32], input: usize, out: usize) -> Result<Self, Error> {
        Self::pack_transposed_for(Isa::detect(), matrix, input, out)
    }

    /// [`PackedMatrix::pack_transposed`] for a chosen instruction set.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack_for`].
    pub fn pack_transposed_for(isa: Isa, matrix: &[f32], input: usize, out: usize) -> Result<Self, Error> {
        isa.demand()?;
        for (what, found) in [("matrix rows", input), ("matrix columns", out)] {
            if found == 0 {
                return Err(Error::Size { what, must: "at least 1", found });
            }
        }
        Error::expect_len("matrix", matrix, input * out)?;
        Ok(Self { out, input, isa, panels: Panels::F32(pack_columns(matrix, input, out, TileShape::of(isa).cols)) })
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

    /// Whether the source was bf16.
    pub(super) fn is_bf16(&self) -> bool {
        matches!(self.panels, Panels::Bf16(_))
    }

    /// Rows `from .. from + depth` of the sum in panel `index`.
    pub(super) fn panel(&self, index: usize, from: usize, depth: usize) -> Panel<'_> {
        let cols = TileShape::of(self.isa).cols;
        match &self.panels {
            Panels::F32(panels) => {
                let start = (index * self.input + from) * cols;
                Panel::F32(&panels[start..start + depth * cols])
            }
            Panels::Bf16(panels) => {
                debug_assert!(from.is_multiple_of(2), "a word holds two rows");
                let start = (index * self.input.div_ceil(2) + from / 2) * cols;
                Panel::Bf16(&panels[start..start + depth.div_ceil(2) * cols])
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

/// Panels `[ceil(out / cols)][input, cols]` of a matrix `[input, out]`: pieces of its rows, as they lie.
fn pack_columns(matrix: &[f32], input: usize, out: usize, cols: usize) -> Aligned<f32> {
    let count = out.div_ceil(cols);
    let mut panels = Aligned::zeroed(count * input * cols);
    let shared = Shared::new(&mut panels);
    for_each_task(count, |panel| {
        // SAFETY: every task has its own panel.
        let to = unsafe { shared.part(panel * input * cols, input * cols) };
        let width = cols.min(out - panel * cols);
        for (to, row) in to.chunks_exact_mut(cols).zip(matrix.chunks_exact(out)) {
            to[..width].copy_from_slice(&row[panel * cols..][..width]);
        }
    });
    panels
}

/// Panels `[ceil(out / cols)][ceil(input / 2), cols]` of two bf16 a word. The source widens to values that bf16 holds.
fn pack_halves<E: Element>(weight: &[E], out: usize, input: usize, cols: usize) -> Aligned<u32> {
    let (count, words) = (out.div_ceil(cols), input.div_ceil(2) * cols);
    let mut panels = Aligned::zeroed(count * words);
    let shared = Shared::new(&mut panels);
    for_each_task(count, |panel| {
        // SAFETY: every task has its own panel.
        let to = unsafe { shared.part(panel * words, words) };
        let rows = panel * cols..out.min((panel + 1) * cols);
        let mut floats = Aligned::<f32>::zeroed(STRIP * cols);
        for from in (0..input).step_by(STRIP) {
            let depth = (input - from).min(STRIP);
            pack_strip(weight, input, rows.clone(), from..from + depth, &mut floats, cols);
            for (to, pair) in to[from / 2 * cols..].chunks_exact_mut(cols).zip(floats[..depth * cols].chunks(2 * cols)) {
                let (low, high) = pair.split_at(cols);
                for (index, (to, low)) in to.iter_mut().zip(low).enumerate() {
                    let high = high.get(index).map_or(0, |high| high.to_bits() & 0xffff_0000);
                    *to = low.to_bits() >> 16 | high;
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
