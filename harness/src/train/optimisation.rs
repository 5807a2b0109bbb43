//! How parameters follow their gradients, alike in every stage: matrices by Muon or AdamW, everything else by AdamW, one learning rate over
//! the run, clipping, an average.

use serde::{Deserialize, Serialize};
use turbowan_cuda::ops::gemm::matmul;
use turbowan_rcm::optim::{
    AdamW, Decay, Ema, EmaRate, Group, LearningRate, MatrixProduct, Method, Muon, Optimiser, PlainProduct, gradient,
};
use turbowan_rcm::resume::{Resumable, SliceMut, ValuesMut};
use turbowan_rcm::trainable::Parameter;
use turbowan_wan_model::backend::tape::Parameters;

use super::Metrics;
use crate::error::Error;

/// Settings of an optimiser: a table of a stage's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimiserSettings {
    /// What matrices follow.
    pub matrices: MatrixMethod,
    /// Highest learning rate.
    pub rate: f64,
    /// Matrices' learning rate, as a multiple of `rate`.
    pub matrix_rate: f64,
    /// AdamW's memory of the first and the second moment, each in `[0, 1)`.
    pub betas: [f64; 2],
    /// Memory of Muon's momentum, in `[0, 1)`.
    pub momentum: f64,
    /// Share of a value that a step at rate 1 takes away, of what is no matrix.
    pub decay: f64,
    /// The same of matrices.
    pub matrix_decay: f64,
    /// Steps in which the rate rises.
    pub warm_up: u64,
    /// Share of the run's steps after which the rate falls.
    pub hold: f64,
    /// How it falls, to the run's end.
    pub fall: Fall,
    /// Share of the highest rate that is left at the end.
    pub floor: f64,
    /// Longest gradient, all parameters as one vector; 0 for any.
    pub clip: f64,
    /// Share of the average that a step keeps, in `[0, 1)`; early steps keep less, so that the start is soon forgotten.
    pub ema: f64,
    /// Passes whose gradients are averaged for a step.
    pub accumulate: u64,
}

impl Default for OptimiserSettings {
    fn default() -> Self {
        Self {
            matrices: MatrixMethod::Muon,
            rate: 2e-3,
            matrix_rate: 2.0,
            betas: [0.9, 0.99],
            momentum: 0.95,
            decay: 0.0,
            matrix_decay: 0.0,
            warm_up: 30,
            hold: 0.0,
            fall: Fall::Cosine,
            floor: 0.0,
            clip: 1.0,
            ema: 0.995,
            accumulate: 1,
        }
    }
}

/// What matrices follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatrixMethod {
    /// Orthogonalised momentum.
    Muon,
    /// As everything else.
    Adamw,
}

/// How a learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fall {
    /// Not at all.
    None,
    /// In a straight line.
    Linear,
    /// By half a cosine.
    Cosine,
}

/// AdamW's epsilon.
const EPSILON: f64 = 1e-8;

/// Groups by their place.
const REST: usize = 0;
const MATRICES: usize = 1;

impl OptimiserSettings {
    /// The learning rates of a run of `steps` steps.
    pub fn learning_rate(&self, steps: u64) -> LearningRate {
        let decay = match self.fall {
            Fall::None => Decay::Constant,
            Fall::Linear => Decay::Linear,
            Fall::Cosine => Decay::Cosine,
        };
        let hold = (self.hold * steps as f64) as u64;
        LearningRate { peak: self.rate, warm_up: self.warm_up, hold, end: steps, floor: self.floor, decay }
    }

    fn groups(&self) -> Vec<Group> {
        let adamw = |decay| Method::AdamW(AdamW { betas: self.betas.into(), epsilon: EPSILON, decay });
        let matrices = match self.matrices {
            MatrixMethod::Muon => Method::Muon(Muon { momentum: self.momentum, decay: self.matrix_decay, ..Muon::default() }),
            MatrixMethod::Adamw => adamw(self.matrix_decay),
        };
        vec![Group { method: adamw(self.decay), rate: 1.0 }, Group { method: matrices, rate: self.matrix_rate }]
    }

    fn check(&self) -> Result<(), Error> {
        let memories = [self.betas[0], self.betas[1], self.momentum, self.ema];
        let refuse = |reason: &str| Err(Error::flag("optimiser", reason));
        if memories.iter().any(|memory| !(0.0..1.0).contains(memory)) {
            return refuse("betas, momentum and ema are at least 0 and below 1");
        }
        if ![self.hold, self.floor].iter().all(|share| (0.0..=1.0).contains(share)) {
            return refuse("hold and floor are shares, from 0 to 1");
        }
        let sizes = [self.rate, self.matrix_rate, self.decay, self.matrix_decay, self.clip];
        if sizes.iter().any(|size| !size.is_finite() || *size < 0.0) {
            return refuse("rates, decays and clip are not negative");
        }
        if self.accumulate == 0 { refuse("accumulate is at least 1") } else { Ok(()) }
    }
}

/// An optimiser and an average under one schedule.
#[derive(Debug, Clone)]
pub struct Optimisation {
    optimiser: Optimiser<Blocked>,
    ema: Ema,
    /// Share of the average that a late step keeps.
    keeps: f64,
    rate: LearningRate,
    clip: f64,
    passes: u64,
}

impl Optimisation {
    /// Before the first of `steps` steps of `parameters`. A matrix is what has at least two rows, more than one value in each, and a name
    /// that `is_matrix` says yes to.
    ///
    /// # Errors
    /// Settings that cannot be.
    pub fn new(
        settings: &OptimiserSettings,
        steps: u64,
        parameters: &[Parameter<'_>],
        is_matrix: impl Fn(&str) -> bool,
    ) -> Result<Self, Error> {
        settings.check()?;
        let group = |name: &str, shape: &[usize]| {
            let rows = shape.first().copied().unwrap_or(1);
            let columns: usize = shape.iter().skip(1).product();
            Some(if rows > 1 && columns > 1 && is_matrix(name) { MATRICES } else { REST })
        };
        Ok(Self {
            optimiser: Optimiser::with_product(settings.groups(), parameters, group, Blocked)?,
            ema: Ema::new(EmaRate::constant(settings.ema)?, parameters),
            keeps: settings.ema,
            rate: settings.learning_rate(steps),
            clip: settings.clip,
            passes: settings.accumulate,
        })
    }

    /// Passes that add to the gradients before a step.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Step `step`, counted from 0, after [`Self::passes`] passes: the gradients' mean, clipping, the update, the average. Tells the
    /// gradient's norm before clipping and the learning rate.
    ///
    /// # Errors
    /// A gradient that is not finite, before anything is changed; parameters that it was not made for.
    pub fn step(&mut self, parameters: &mut [Parameter<'_>], step: u64) -> Result<Metrics, Error> {
        if self.passes > 1 {
            gradient::scale(parameters, 1.0 / self.passes as f64);
        }
        let most = if self.clip > 0.0 { self.clip } else { f64::INFINITY };
        let norm = gradient::clip(parameters, most)?;
        let rate = self.rate.at(step);
        self.optimiser.step(parameters, rate)?;
        let steps = self.optimiser.steps();
        self.ema.rate = EmaRate::Constant(kept(self.keeps, steps));
        self.ema.update(parameters, steps)?;
        Ok(vec![("gradient_norm".to_owned(), norm), ("rate".to_owned(), rate)])
    }

    /// Exchanges the averages and the values of `parameters`: to look, and, called again, to go on.
    ///
    /// # Errors
    /// Parameters that it was not made for.
    pub fn swap(&mut self, parameters: &mut [Parameter<'_>]) -> Result<(), Error> {
        Ok(self.ema.swap(parameters)?)
    }

    /// `parameters` with the averages in place of the values that learn.
    pub fn averaged<'a>(&self, parameters: impl Iterator<Item = &'a turbowan_wan_model::backend::tape::Parameter>) -> Parameters {
        let averages: std::collections::HashMap<&str, &[f32]> = self.ema.averages().collect();
        let mut averaged = Parameters::default();
        for parameter in parameters {
            let values = averages.get(parameter.name()).copied().unwrap_or(parameter.values());
            averaged.push(parameter.name().to_owned(), parameter.shape().to_vec(), values.to_vec());
        }
        averaged
    }

    /// Moments, counters and averages, each name behind `prefix`.
    pub fn state_mut(&mut self, prefix: &str) -> Vec<SliceMut<'_>> {
        let parts = self.optimiser.state_mut().into_iter().chain(self.ema.state_mut());
        parts.map(|slice| SliceMut { name: format!("{prefix}{}", slice.name), values: slice.values }).collect()
    }
}

/// Share of the average that step `steps`, counted from 1, keeps: an average over a tenth of the run so far, until `most` is more.
fn kept(most: f64, steps: u64) -> f64 {
    most.min((1 + steps) as f64 / (10 + steps) as f64)
}

/// Those that learn, as an optimiser takes them.
pub fn learning(parameters: &mut Parameters) -> Vec<Parameter<'_>> {
    parameters.learning_mut().map(|(name, shape, values, gradient)| Parameter { name, shape, values, gradient }).collect()
}

/// The values of those that learn, each name behind `prefix`: what a checkpoint holds of them.
pub fn weights_mut<'a>(parameters: &'a mut Parameters, prefix: &str) -> Vec<SliceMut<'a>> {
    let slice = |(name, _, values, _): (&str, &[usize], &'a mut [f32], &mut [f32])| SliceMut {
        name: format!("{prefix}{name}"),
        values: ValuesMut::F32(values),
    };
    parameters.learning_mut().map(slice).collect()
}

/// `value`, which may be no number.
///
/// # Errors
/// [`Error::NotFinite`], called `what`.
pub fn finite(what: &str, value: f64) -> Result<f64, Error> {
    if value.is_finite() { Ok(value) } else { Err(Error::NotFinite { what: what.to_owned() }) }
}

/// The host's blocked product, a matrix a thread.
#[derive(Debug, Clone, Copy)]
struct Blocked;

impl MatrixProduct for Blocked {
    fn product(&self, size: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
        let [rows, inner, columns] = size;
        if matmul(a, inner, b, columns, false, rows, columns, inner, 1.0, 0.0, out, columns).is_err() {
            // It refuses what is empty.
            PlainProduct.product(size, a, b, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use turbowan_rcm::Stream;

    use super::*;

    fn parameters() -> Parameters {
        let mut parameters = Parameters::default();
        let mut noise = Stream::new(2);
        for (name, shape) in [("kernel", vec![6, 2, 3]), ("gamma", vec![6, 1, 1]), ("bias", vec![6])] {
            let values = noise.normals(shape.iter().product());
            parameters.push(name.to_owned(), shape, values);
        }
        parameters
    }

    #[test]
    fn the_blocked_product_is_that_of_the_definition() {
        let mut noise = Stream::new(1);
        for [rows, inner, columns] in [[1, 1, 1], [5, 7, 9], [67, 300, 20]] {
            let (a, b) = (noise.normals(rows * inner), noise.normals(inner * columns));
            let (mut got, mut want) = (vec![f32::NAN; rows * columns], vec![0.0; rows * columns]);
            Blocked.product([rows, inner, columns], &a, &b, &mut got);
            PlainProduct.product([rows, inner, columns], &a, &b, &mut want);
            // 300 products of normals in another order.
            let worst = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{rows}x{inner}x{columns}: {worst}");
        }
    }

    #[test]
    fn a_loss_falls_and_the_average_follows() {
        for matrices in [MatrixMethod::Muon, MatrixMethod::Adamw] {
            let settings = OptimiserSettings { matrices, rate: 0.1, ema: 0.9, ..OptimiserSettings::default() };
            let mut own = parameters();
            let mut optimisation = Optimisation::new(&settings, 200, &learning(&mut own), |_| true).unwrap();
            let loss = |own: &Parameters| own.iter().flat_map(|p| p.values()).map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let before = loss(&own);
            for step in 0..200 {
                for parameter in learning(&mut own) {
                    parameter.gradient.iter_mut().zip(parameter.values.iter()).for_each(|(g, v)| *g = 2.0 * v);
                }
                let told = optimisation.step(&mut learning(&mut own), step).unwrap();
                assert_eq!(told.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["gradient_norm", "rate"]);
            }
            let averaged = optimisation.averaged(own.iter());
            assert!(loss(&own) < 0.05 * before && loss(&averaged) < 0.05 * before, "{matrices:?}: {before} to {}", loss(&own));
            assert_ne!(loss(&own), loss(&averaged));
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_changes_nothing() {
        let mut own = parameters();
        let mut optimisation = Optimisation::new(&OptimiserSettings::default(), 10, &learning(&mut own), |_| true).unwrap();
        own.get_mut("bias").unwrap().gradient_mut()[1] = f32::NAN;
        let error = optimisation.step(&mut learning(&mut own), 0).unwrap_err();
        assert!(error.is_not_finite(), "{error}");
        assert!(own.iter().zip(parameters().iter()).all(|(a, b)| a.values() == b.values()));
        assert!(finite("loss", f64::NAN).unwrap_err().is_not_finite());
    }

    #[test]
    fn the_average_soon_forgets_the_start() {
        assert!(kept(0.995, 1) < 0.2 && kept(0.995, 100) > 0.9);
        assert_eq!(kept(0.995, 10_000), 0.995);
        let left: f64 = (1..=100).map(|steps| kept(0.995, steps)).product();
        assert!(left < 1e-6, "{left} of the start is left after 100 steps");
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let default = OptimiserSettings::default;
        for settings in [
            OptimiserSettings { ema: 1.0, ..default() },
            OptimiserSettings { hold: 1.5, ..default() },
            OptimiserSettings { rate: -1.0, ..default() },
            OptimiserSettings { accumulate: 0, ..default() },
        ] {
            assert!(Optimisation::new(&settings, 10, &learning(&mut parameters()), |_| true).is_err(), "{settings:?}");
        }
    }
}
