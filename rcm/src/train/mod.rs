//! One step of training by each method: draw, ask the networks, take the loss, run backward. The optimiser's step is apart.
//!
//! | method | what it makes |
//! |---|---|
//! | [`FlowMatching`] | a teacher: predicts the velocity `noise - x0` |
//! | [`Alignment`] | a student with other attention that answers as its teacher does |
//! | [`Distillation`] | a student of one to four steps: [`ContinuousConsistency`] or [`DiscreteConsistency`], and [`DistributionMatching`] |
//!
//! Each step draws from a [`Stream`](crate::noise::Stream) in an order that its documentation states, adds gradients to the networks'
//! parameters, and returns [`Metrics`]. Losses are means over samples.
//!
//! ```
//! use turbowan_rcm::optim::{AdamW, Group, Method, Optimiser, gradient};
//! use turbowan_rcm::train::{Batch, FlowMatching, TimeDistribution};
//! use turbowan_rcm::{Error, OwnedParameter, Parameter, Stream, Trainable, VelocityNet};
//!
//! /// `v = (x - a) / u`: it learns the one clean value that there is.
//! struct Net(OwnedParameter);
//! impl VelocityNet for Net {
//!     type Error = Error;
//!     type Condition = Vec<()>;
//!     fn forward(&mut self, x: &[f32], times: &[f64], _: &Vec<()>) -> Result<Vec<f32>, Error> {
//!         Ok(x.iter().zip(times).map(|(x, time)| (x - self.0.values[0]) / (time / 1000.0) as f32).collect())
//!     }
//! }
//! impl Trainable for Net {
//!     type Saved = Vec<f64>;
//!     fn forward_saved(&mut self, x: &[f32], times: &[f64], c: &Vec<()>) -> Result<(Vec<f32>, Vec<f64>), Error> {
//!         Ok((self.forward(x, times, c)?, times.to_vec()))
//!     }
//!     fn backward(&mut self, times: Vec<f64>, gradient: &[f32]) -> Result<(), Error> {
//!         self.0.gradient[0] -= gradient.iter().zip(times).map(|(g, time)| g / (time / 1000.0) as f32).sum::<f32>();
//!         Ok(())
//!     }
//!     fn parameters(&mut self) -> Vec<Parameter<'_>> {
//!         vec![self.0.view()]
//!     }
//! }
//!
//! let mut net = Net(OwnedParameter::new("a", [1], vec![0.0]));
//! let groups = vec![Group { method: Method::AdamW(AdamW::ALIGNMENT), rate: 1.0 }];
//! let mut optimiser = Optimiser::new(groups, &net.parameters(), |_, _| Some(0))?;
//! let method = FlowMatching::new(TimeDistribution::logit_normal_shift(0.0, 1.0, 3.0)?, 0.0)?;
//! let (labels, mut noise) = (vec![(); 4], Stream::new(1));
//! for step in 0..3000 {
//!     let batch = Batch { latents: &[3.0; 4], condition: &labels, negative: &labels };
//!     method.step(&mut net, batch, &mut noise)?;
//!     optimiser.step(&mut net.parameters(), 0.05 * (1.0 - f64::from(step) / 3000.0))?;
//!     gradient::zero(&mut net.parameters());
//! }
//! assert!((net.0.values[0] - 3.0).abs() < 0.05);
//! # Ok::<(), Error>(())
//! ```

mod alignment;
mod consistency;
mod discrete;
mod distillation;
mod distribution;
mod flow_matching;
mod matching;
mod phase;
mod simulation;
mod trig_net;

pub use alignment::Alignment;
pub use consistency::{ContinuousConsistency, Derivative};
pub use discrete::DiscreteConsistency;
pub use distillation::{Consistency, Distillation, Networks};
pub use distribution::TimeDistribution;
pub use flow_matching::FlowMatching;
pub use matching::DistributionMatching;
pub use phase::{Alternation, Phase};
pub use simulation::Simulation;
pub use trig_net::{Coefficients, Prediction, TrigNet};

use crate::error::Error;
use crate::loss::Loss;
use crate::trainable::Condition;

/// What a step learns from.
#[derive(Debug)]
pub struct Batch<'a, C> {
    /// Clean latents `[samples, len]`.
    pub latents: &'a [f32],
    /// One condition a sample.
    pub condition: &'a C,
    /// What guidance moves away from and dropped prompts become, one a sample.
    pub negative: &'a C,
}

impl<C> Clone for Batch<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Batch<'_, C> {}

impl<C: Condition> Batch<'_, C> {
    /// Samples and values of each.
    ///
    /// # Errors
    /// [`Error::BatchLength`] unless the latents are that many samples of one length above zero, [`Error::ConditionLength`] unless both
    /// conditions hold as many.
    pub fn size(&self) -> Result<(usize, usize), Error> {
        let (samples, values) = (self.condition.samples(), self.latents.len());
        if samples == 0 || values == 0 || !values.is_multiple_of(samples) {
            return Err(Error::BatchLength { values, samples });
        }
        let found = self.negative.samples();
        if found != samples {
            return Err(Error::ConditionLength { expected: samples, found });
        }
        Ok((samples, values / samples))
    }
}

/// Which loss a number belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Term {
    /// Velocity of the flow.
    FlowMatching,
    /// Distance to the teacher's answer.
    Alignment,
    /// sCM.
    ContinuousConsistency,
    /// dCM.
    DiscreteConsistency,
    /// DMD.
    DistributionMatching,
    /// The critic's own loss.
    Critic,
}

/// What a step has to tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// The loss.
    pub term: Term,
    /// Its mean over the batch, scaled as it was learnt from.
    pub loss: f64,
    /// Samples that were not finite and so not learnt from.
    pub masked: usize,
    /// Norm of the gradient with respect to the network's prediction.
    pub pull: f64,
}

impl Metrics {
    fn new(term: Term, loss: &Loss) -> Self {
        let pull = loss.gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        Self { term, loss: loss.mean(), masked: loss.masked, pull }
    }
}

/// `a x + b y` value by value, with one pair of weights a sample; `x` and `y` are `[samples, len]`.
fn mixed<X, Y>(weights: impl ExactSizeIterator<Item = (f64, f64)>, x: &[X], y: &[Y]) -> Vec<f64>
where
    X: Copy + Into<f64>,
    Y: Copy + Into<f64>,
{
    let len = x.len() / weights.len();
    let samples = weights.zip(x.chunks(len).zip(y.chunks(len)));
    samples.flat_map(|((a, b), (x, y))| x.iter().zip(y).map(move |(x, y)| a * (*x).into() + b * (*y).into())).collect()
}

/// Noisy latents `cos t x0 + sin t noise`.
fn noised<X: Copy + Into<f64>>(clean: &[X], noise: &[f32], times: &[crate::time::TrigTime]) -> Vec<f64> {
    let weights = times.iter().map(|time| time.radians().sin_cos()).map(|(sin, cos)| (cos, sin));
    mixed(weights.collect::<Vec<_>>().into_iter(), clean, noise)
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}
