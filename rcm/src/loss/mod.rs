//! Losses in closed form: the value of each sample and the gradient with respect to a network's output, in f64.
//!
//! | loss | value of a sample | gradient |
//! |---|---|---|
//! | [`squared_error`](squared_error()) | `sum w (y - y*)^2` | `2 w (y - y*)` |
//! | [`consistency`](consistency()) (sCM) | `sum (F - sg(F) - g)^2 = sum g^2` | `-2 g` |
//! | [`distribution_matching`](distribution_matching()) (DMD) | `sum (x0 - sg(x0 - d))^2 = sum d^2` | `2 d` |
//!
//! `sg` stops the gradient, so what is written there is a constant. A batch's loss is the mean over its samples (the official
//! trainer sums them, with one or few a device). A sample that is not finite
//! is masked: its value and gradient are zero, it still counts in the mean, and [`Loss::masked`] says how many there were.

mod consistency;
mod distribution_matching;
mod squared_error;

use rayon::prelude::*;

pub use consistency::{ConsistencyTerms, consistency};
pub use distribution_matching::distribution_matching;
pub use squared_error::squared_error;

/// A loss over a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// The loss of each sample; 0 where masked.
    pub samples: Vec<f64>,
    /// Gradient of [`Loss::mean`] with respect to the output, `[samples, len]`.
    pub gradient: Vec<f64>,
    /// Samples that were not finite.
    pub masked: usize,
}

impl Loss {
    /// The batch's loss: the mean over all samples, masked ones included.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }
}

/// How the values of a sample become its loss.
///
/// The official losses are sums. A sum over more values pulls harder, except that of sCM, whose tangent is normalised: so between latents of
/// different sizes the balance of the terms must be set anew, or means taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossScale {
    /// A sum times this factor.
    Sum(f64),
    /// A mean times this factor.
    Mean(f64),
}

impl LossScale {
    /// What one value's share is multiplied by, in a sample of `len` values.
    pub fn factor(self, len: usize) -> f64 {
        match self {
            Self::Sum(factor) => factor,
            Self::Mean(factor) => factor / len as f64,
        }
    }
}

/// Values that one thread works out at least.
const SERIAL: usize = 1 << 14;

/// Works out each sample's value and gradient by `body(sample, gradient)`, masks what is not finite, and turns to the mean over samples.
pub(crate) fn each_sample(samples: usize, len: usize, body: impl Fn(usize, &mut [f64]) -> f64 + Sync) -> Loss {
    let mut gradient = vec![0.0; samples * len];
    let share = 1.0 / samples as f64;
    let one = |(sample, gradient): (usize, &mut [f64])| {
        let value = body(sample, gradient);
        let is_finite = value.is_finite() && gradient.iter().all(|g| g.is_finite());
        gradient.iter_mut().for_each(|g| *g = if is_finite { *g * share } else { 0.0 });
        is_finite.then_some(value)
    };
    // Few values are not worth waking threads for.
    let values: Vec<Option<f64>> = gradient.par_chunks_mut(len).enumerate().with_min_len(SERIAL / len + 1).map(one).collect();
    let masked = values.iter().filter(|value| value.is_none()).count();
    Loss { samples: values.into_iter().map(|value| value.unwrap_or(0.0)).collect(), gradient, masked }
}
