//! Feature maps of the linear branch.

use turbowan_cuda::Rounding;

use crate::lanes::{Kernel, Lanes};

/// What queries and keys pass through in the linear branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeatureMap {
    /// Softmax over the channels of a head.
    #[default]
    Softmax,
    /// `elu(x) + 1`.
    Elu,
    /// `max(x, 0)`.
    Relu,
}

/// What a tile's lanes past the head's channels hold: every feature map takes it to zero.
pub(crate) const PADDING: f32 = f32::NEG_INFINITY;

/// Replaces the rows of `tile [rows, lanes]` by their features.
pub(crate) struct Features<'a> {
    pub tile: &'a mut [f32],
    /// A multiple of every register's width; lanes past the channels hold [`PADDING`].
    pub lanes: usize,
    pub map: FeatureMap,
    pub rounding: Rounding,
}

impl Kernel for Features<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for row in self.tile.chunks_exact_mut(self.lanes) {
            // SAFETY: a row holds whole registers; the caller has the instruction set.
            unsafe {
                match self.map {
                    FeatureMap::Softmax => softmax_row::<L>(row, self.rounding),
                    FeatureMap::Elu => elu_row::<L>(row, self.rounding),
                    FeatureMap::Relu => relu_row::<L>(row),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn softmax_row<L: Lanes>(row: &mut [f32], rounding: Rounding) {
    // SAFETY: a row holds whole registers; the caller has the instruction set.
    unsafe {
        let mut largest = L::splat(f32::NEG_INFINITY);
        for group in row.chunks_exact(L::WIDTH) {
            largest = largest.max(L::load(group.as_ptr()));
        }
        let largest = L::splat(largest.largest());
        let mut sum = L::splat(0.0);
        for group in row.chunks_exact_mut(L::WIDTH) {
            let share = L::load(group.as_ptr()).sub(largest).exp();
            sum = sum.add(share);
            share.store(group.as_mut_ptr());
        }
        let sum = L::splat(sum.sum());
        for group in row.chunks_exact_mut(L::WIDTH) {
            let share = L::load(group.as_ptr()).div(sum);
            let share = if rounding == Rounding::Bf16 { share.round_to_bf16() } else { share };
            share.store(group.as_mut_ptr());
        }
    }
}

#[inline(always)]
unsafe fn elu_row<L: Lanes>(row: &mut [f32], rounding: Rounding) {
    // SAFETY: a row holds whole registers; the caller has the instruction set.
    unsafe {
        let one = L::splat(1.0);
        for group in row.chunks_exact_mut(L::WIDTH) {
            let x = L::load(group.as_ptr());
            let y = match rounding {
                Rounding::None => x.where_positive(x.add(one), x.exp()),
                // the official code stores elu(x) and then adds one
                Rounding::Bf16 => x.where_positive(x, x.exp().sub(one).round_to_bf16()).add(one).round_to_bf16(),
            };
            y.store(group.as_mut_ptr());
        }
    }
}

#[inline(always)]
unsafe fn relu_row<L: Lanes>(row: &mut [f32]) {
    // SAFETY: a row holds whole registers; the caller has the instruction set.
    unsafe {
        for group in row.chunks_exact_mut(L::WIDTH) {
            L::splat(0.0).max(L::load(group.as_ptr())).store(group.as_mut_ptr());
        }
    }
}

/// Replaces gradients of features by gradients of what the features were made of, row by row.
pub(crate) struct PullBack<'a> {
    /// `φ(x) [rows, lanes]`.
    pub features: &'a [f32],
    /// `[rows, lanes]`.
    pub gradient: &'a mut [f32],
    pub lanes: usize,
    pub map: FeatureMap,
}

impl Kernel for PullBack<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (features, gradient) in self.features.chunks_exact(self.lanes).zip(self.gradient.chunks_exact_mut(self.lanes)) {
            // SAFETY: rows hold whole registers; the caller has the instruction set.
            unsafe {
                let mut mean = L::splat(0.0);
                if self.map == FeatureMap::Softmax {
                    for (c, g) in features.chunks_exact(L::WIDTH).zip(gradient.chunks_exact(L::WIDTH)) {
                        mean = L::load(c.as_ptr()).mul_add(L::load(g.as_ptr()), mean);
                    }
                    mean = L::splat(mean.sum());
                }
                for (c, g) in features.chunks_exact(L::WIDTH).zip(gradient.chunks_exact_mut(L::WIDTH)) {
                    let (features, gradient) = (L::load(c.as_ptr()), L::load(g.as_ptr()));
                    let pulled = match self.map {
                        FeatureMap::Softmax => features.mul(gradient.sub(mean)),
                        // the feature is e^x below x = 0, where it is the derivative too, and at least 1 above
                        FeatureMap::Elu => features.sub(L::splat(1.0)).where_positive(gradient, features.mul(gradient)),
                        FeatureMap::Relu => features.where_positive(gradient, L::splat(0.0)),
                    };
                    pulled.store(g.as_mut_ptr());
                }
            }
        }
    }
}
