//! A weight in the order in which tiles read it.

use rayon::prelude::*;

use super::tile::TileShape;
use super::{ConvShape, Sampling};
use crate::Rounding;
use crate::host::{Aligned, Isa};

/// One product that a convolution consists of: all of it, or the output pixels of one parity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    /// Frames, lines and columns of the kernel.
    pub kernel: [usize; 3],
    /// Input line and column of the first tap of output pixel (0, 0).
    pub first: [isize; 2],
    /// Input pixels from one output pixel of the phase to the next.
    pub in_step: usize,
    /// Output pixels from one output pixel of the phase to the next.
    pub out_step: usize,
    /// Output line and column of the phase's first pixel.
    pub out_first: [usize; 2],
    /// Where its panels start: each `[frames, lines, columns * input, tile columns]`.
    pub start: usize,
    /// Values of one panel.
    pub panel: usize,
}

impl Phase {
    fn all(shape: &ConvShape) -> Vec<Self> {
        let [kt, kh, kw] = shape.kernel;
        let whole = Self {
            kernel: [kt, kh, kw],
            first: [-(kh as isize / 2), -(kw as isize / 2)],
            in_step: 1,
            out_step: 1,
            out_first: [0, 0],
            start: 0,
            panel: 0,
        };
        match shape.sampling {
            Sampling::Same => vec![whole],
            Sampling::Halve => vec![Self { first: [0, 0], in_step: 2, ..whole }],
            Sampling::Double => (0..4)
                .map(|parity| {
                    let [y, x] = [parity / 2, parity % 2];
                    Self { kernel: [kt, 2, 2], first: [y as isize - 1, x as isize - 1], out_step: 2, out_first: [y, x], ..whole }
                })
                .collect(),
        }
    }

    /// Taps `from..to` of a side of the whole kernel that fall on tap `tap` of this phase.
    ///
    /// Output `2 y + parity` of a doubled frame reads doubled lines `2 y + parity - 1 ..= 2 y + parity + 1`: for an even
    /// one the first tap falls on source line `y - 1` and two on `y`, for an odd one two on `y` and the last on `y + 1`.
    fn taps(&self, axis: usize, tap: usize) -> std::ops::Range<usize> {
        if self.out_step == 1 {
            return tap..tap + 1;
        }
        let cut = 1 + self.out_first[axis];
        if tap == 0 { 0..cut } else { cut..3 }
    }
}

/// Panels of every phase, one after the other.
pub(super) fn pack(isa: Isa, shape: &ConvShape, weight: &[f32], rounding: Rounding) -> (Vec<Phase>, Aligned<f32>) {
    let cols = TileShape::of(isa).cols;
    let panels = shape.output.div_ceil(cols);
    let mut phases = Phase::all(shape);
    let mut start = 0;
    for phase in &mut phases {
        phase.start = start;
        phase.panel = phase.kernel.iter().product::<usize>() * shape.input * cols;
        start += phase.panel * panels;
    }
    let mut packed = Aligned::zeroed(start);
    for phase in &phases {
        packed[phase.start..phase.start + phase.panel * panels].par_chunks_mut(phase.panel).enumerate().for_each(|(panel, to)| {
            pack_panel(shape, phase, weight, rounding, panel * cols, cols, to);
        });
    }
    (phases, packed)
}

fn pack_panel(shape: &ConvShape, phase: &Phase, weight: &[f32], rounding: Rounding, first: usize, cols: usize, to: &mut [f32]) {
    let [_, kh, kw] = shape.kernel;
    let taps = shape.kernel.iter().product::<usize>();
    let mut rows = to.chunks_exact_mut(cols);
    for i in 0..phase.kernel[0] {
        for j in 0..phase.kernel[1] {
            for k in 0..phase.kernel[2] {
                for (c, row) in (0..shape.input).zip(&mut rows) {
                    for (o, value) in (first..shape.output).zip(row) {
                        let kernel = &weight[(o * shape.input + c) * taps + i * kh * kw..][..kh * kw];
                        // one tap is copied as it is; several are rounded one by one and then summed
                        *value = phase
                            .taps(0, j)
                            .flat_map(|j| phase.taps(1, k).map(move |k| j * kw + k))
                            .map(|tap| rounding.apply(kernel[tap]))
                            .sum();
                    }
                }
            }
        }
    }
}
