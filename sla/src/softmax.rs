//! Softmax on a tile of scores whose lanes are independent rows of the attention matrix.

use turbowan_cuda::Rounding;

use crate::lanes::{Kernel, Lanes};

/// One step of the online softmax. `scores [rows, lanes]` holds raw products; row `r`, lane `i` is key `r` of query `i`.
///
/// ```text
/// m'          = max(m, factor * max_r scores)
/// correction  = 2^(m - m')                           what earlier sums and outputs are multiplied by
/// P           = 2^(factor * scores - m')             replaces the scores, rounded as `rounding` says
/// l'          = correction * l + Σ_r P               from the unrounded P
/// ```
pub(crate) struct OnlineSoftmax<'a> {
    pub scores: &'a mut [f32],
    pub rows: usize,
    pub lanes: usize,
    /// Scale of the scores times `log2 e`; positive.
    pub factor: f32,
    pub rounding: Rounding,
    /// `m`, `[lanes]`; minus infinity before the first step.
    pub max: &'a mut [f32],
    /// `l`, `[lanes]`; zero before the first step.
    pub sum: &'a mut [f32],
    /// `[lanes]`, written.
    pub correction: &'a mut [f32],
}

impl Kernel for OnlineSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        assert!(self.scores.len() >= self.rows * self.lanes);
        assert!(self.max.len() >= self.lanes && self.sum.len() >= self.lanes && self.correction.len() >= self.lanes);
        let mut lane = 0;
        while lane < self.lanes {
            // SAFETY: columns end at `lanes`, a multiple of every register width; lengths were just checked.
            unsafe {
                if (self.lanes - lane) / L::WIDTH >= 4 {
                    softmax_column::<L, 4>(&mut self, lane);
                    lane += 4 * L::WIDTH;
                } else {
                    softmax_column::<L, 1>(&mut self, lane);
                    lane += L::WIDTH;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn softmax_column<L: Lanes, const REGS: usize>(step: &mut OnlineSoftmax<'_>, lane: usize) {
    // SAFETY: the caller checked that columns lie inside the tile.
    unsafe {
        let scores = step.scores.as_mut_ptr().add(lane);
        let factor = L::splat(step.factor);
        let mut largest = [L::splat(f32::NEG_INFINITY); REGS];
        for row in 0..step.rows {
            for (v, largest) in largest.iter_mut().enumerate() {
                *largest = largest.max(L::load(scores.add(row * step.lanes + v * L::WIDTH)));
            }
        }
        let mut correction = [factor; REGS];
        for v in 0..REGS {
            let at = lane + v * L::WIDTH;
            let before = L::load(step.max.as_ptr().add(at));
            largest[v] = before.max(largest[v].mul(factor));
            largest[v].store(step.max.as_mut_ptr().add(at));
            correction[v] = before.sub(largest[v]).exp2();
            correction[v].store(step.correction.as_mut_ptr().add(at));
        }
        let mut sums = [L::splat(0.0); REGS];
        let zero = L::splat(0.0);
        for row in 0..step.rows {
            for v in 0..REGS {
                let at = scores.add(row * step.lanes + v * L::WIDTH);
                let share = L::load(at).mul_add(factor, zero.sub(largest[v])).exp2();
                sums[v] = sums[v].add(share);
                match step.rounding {
                    Rounding::None => share.store(at),
                    Rounding::Bf16 => share.round_to_bf16().store(at),
                }
            }
        }
        for v in 0..REGS {
            let at = lane + v * L::WIDTH;
            let before = L::load(step.sum.as_ptr().add(at));
            before.mul_add(correction[v], sums[v]).store(step.sum.as_mut_ptr().add(at));
        }
    }
}

/// A value for each lane or for each row of a tile.
#[derive(Clone, Copy)]
pub(crate) enum Along<'a> {
    /// `[lanes]`.
    Lanes(&'a [f32]),
    /// `[rows]`.
    Rows(&'a [f32]),
}

/// The backward step on a tile, from the saved base-2 logarithms of the denominators.
///
/// ```text
/// P   = 2^(factor * scores - lse)      replaces the scores
/// dS  = P * (dP - delta)               replaces dP
/// ```
pub(crate) struct ScoreGradient<'a> {
    /// `[rows, lanes]`.
    pub scores: &'a mut [f32],
    /// `dP`, `[rows, lanes]`.
    pub gradient: &'a mut [f32],
    pub rows: usize,
    pub lanes: usize,
    /// Scale of the scores times `log2 e`.
    pub factor: f32,
    /// Logarithm of each query's denominator.
    pub lse: Along<'a>,
    /// `o · do` of each query; along the same axis.
    pub delta: Along<'a>,
}

impl Kernel for ScoreGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        assert!(self.scores.len() >= self.rows * self.lanes && self.gradient.len() >= self.rows * self.lanes);
        for along in [self.lse, self.delta] {
            match along {
                Along::Lanes(values) => assert!(values.len() >= self.lanes),
                Along::Rows(values) => assert!(values.len() >= self.rows),
            }
        }
        // SAFETY: lengths were just checked; lanes are a multiple of every register width.
        unsafe {
            let (factor, zero) = (L::splat(self.factor), L::splat(0.0));
            for row in 0..self.rows {
                let mut lane = 0;
                while lane < self.lanes {
                    let at = row * self.lanes + lane;
                    let lse = take::<L>(self.lse, row, lane);
                    let delta = take::<L>(self.delta, row, lane);
                    let share = L::load(self.scores.as_ptr().add(at)).mul_add(factor, zero.sub(lse)).exp2();
                    let gradient = L::load(self.gradient.as_ptr().add(at)).sub(delta).mul(share);
                    share.store(self.scores.as_mut_ptr().add(at));
                    gradient.store(self.gradient.as_mut_ptr().add(at));
                    lane += L::WIDTH;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn take<L: Lanes>(along: Along<'_>, row: usize, lane: usize) -> L {
    // SAFETY: the caller checked the lengths.
    unsafe {
        match along {
            Along::Lanes(values) => L::load(values.as_ptr().add(lane)),
            Along::Rows(values) => L::splat(*values.get_unchecked(row)),
        }
    }
}
