//! A moving average of the parameters: what is sampled and shipped.
//!
//! `average <- beta * average + (1 - beta) * value`, each operation rounded to f32.

use rayon::prelude::*;

use super::{CHUNK, check};
use crate::error::{Error, in_range, positive};
use crate::resume::{Resumable, Slice, SliceMut, Values, ValuesMut};
use crate::trainable::Parameter;

/// How much of the average an update keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmaRate {
    /// The same share at every update.
    Constant(f64),
    /// `(1 - 1/(iteration + 1))^(exponent + 1)`, 0 before iteration 1: an average whose memory is a share of the run (Karras et al., 2024).
    PowerLaw {
        /// `gamma`.
        exponent: f64,
    },
}

impl EmaRate {
    /// rCM's relative width of the power law.
    pub const OFFICIAL_WIDTH: f64 = 0.1;

    /// A share in `[0, 1]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn constant(beta: f64) -> Result<Self, Error> {
        in_range("EMA beta", beta, 0.0, 1.0, "in [0, 1]").map(Self::Constant)
    }

    /// The power law whose average has the standard deviation `width` of the run's length, as a share: `gamma` is the largest real root of
    /// `x^3 + 7 x^2 + (16 - width^-2) x + (12 - width^-2)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `width` is above 0 and below 0.28, where `gamma` is positive.
    pub fn power_law(width: f64) -> Result<Self, Error> {
        positive("EMA width", width)?;
        // At width 12^(-1/2) the root is 0.
        in_range("EMA width", width, 0.0, 0.28, "above 0 and at most 0.28")?;
        let inverse = width.powi(-2);
        let cubic = |x: f64| ((x + 7.0) * x + 16.0 - inverse) * x + 12.0 - inverse;
        let slope = |x: f64| (3.0 * x + 14.0) * x + 16.0 - inverse;
        // From above the largest root the cubic is convex and rising, so Newton's steps fall onto it.
        let mut root = 1.0 / width + 1.0;
        for _ in 0..100 {
            let next = root - cubic(root) / slope(root);
            if next >= root {
                break;
            }
            root = next;
        }
        Ok(Self::PowerLaw { exponent: root })
    }

    /// The share kept at the update of student iteration `iteration`.
    pub fn beta(self, iteration: u64) -> f64 {
        match self {
            Self::Constant(beta) => beta,
            Self::PowerLaw { .. } if iteration < 1 => 0.0,
            Self::PowerLaw { exponent } => (1.0 - 1.0 / (iteration as f64 + 1.0)).powf(exponent + 1.0),
        }
    }
}

/// Averages of all parameters, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Ema {
    /// How much an update keeps.
    pub rate: EmaRate,
    averages: Vec<(String, Vec<f32>)>,
}

impl Ema {
    /// Averages that begin at the parameters' values.
    pub fn new(rate: EmaRate, parameters: &[Parameter<'_>]) -> Self {
        Self { rate, averages: parameters.iter().map(|parameter| (parameter.name.to_owned(), parameter.values.to_vec())).collect() }
    }

    /// Takes in the parameters as they are after student iteration `iteration`.
    ///
    /// # Errors
    /// [`Error::ForeignParameter`] unless `parameters` are those that the average began with.
    pub fn update(&mut self, parameters: &[Parameter<'_>], iteration: u64) -> Result<(), Error> {
        check(self.averages.iter().map(|(name, values)| (name.as_str(), values.len())), parameters)?;
        let beta = self.rate.beta(iteration);
        let (keep, new) = (beta as f32, (1.0 - beta) as f32);
        self.averages.par_iter_mut().zip(parameters).for_each(|((_, averages), parameter)| {
            let parts = averages.par_chunks_mut(CHUNK).zip(parameter.values.par_chunks(CHUNK));
            parts.for_each(|(averages, values)| averages.iter_mut().zip(values).for_each(|(a, v)| *a = *a * keep + new * v));
        });
        Ok(())
    }

    /// Exchanges averages and parameters: to sample from the averages, and, called again, to go on training.
    ///
    /// # Errors
    /// As [`Ema::update`].
    pub fn swap(&mut self, parameters: &mut [Parameter<'_>]) -> Result<(), Error> {
        check(self.averages.iter().map(|(name, values)| (name.as_str(), values.len())), parameters)?;
        self.averages.iter_mut().zip(parameters).for_each(|((_, averages), parameter)| averages.swap_with_slice(parameter.values));
        Ok(())
    }

    /// Names and averages, in the parameters' order.
    pub fn averages(&self) -> impl ExactSizeIterator<Item = (&str, &[f32])> {
        self.averages.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

impl Resumable for Ema {
    fn state(&self) -> Vec<Slice<'_>> {
        self.averages.iter().map(|(name, values)| Slice { name: format!("ema.{name}"), values: Values::F32(values) }).collect()
    }

    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        self.averages.iter_mut().map(|(name, values)| SliceMut { name: format!("ema.{name}"), values: ValuesMut::F32(values) }).collect()
    }
}
