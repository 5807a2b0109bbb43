//! Flow matching: a network learns the velocity from clean latents to noise.

use super::{Batch, Metrics, Term, TimeDistribution, mixed, to_f64};
use crate::error::{Error, in_range};
use crate::loss::{LossScale, squared_error};
use crate::noise::Stream;
use crate::trainable::{Condition, Trainable};

/// `loss = mean (net((1 - u) x0 + u noise, 1000 u) - (noise - x0))^2`, with some prompts dropped so that guidance has a negative to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMatching {
    times: TimeDistribution,
    dropout: f64,
    scale: LossScale,
    /// Roots of the weights of a latent's values; none where all weigh 1.
    roots: Vec<f64>,
}

impl FlowMatching {
    /// Times, and the share of prompts that become the negative condition.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `dropout` is in `[0, 1]`.
    pub fn new(times: TimeDistribution, dropout: f64) -> Result<Self, Error> {
        in_range("dropout", dropout, 0.0, 1.0, "in [0, 1]")?;
        Ok(Self { times, dropout, scale: LossScale::Mean(1.0), roots: Vec::new() })
    }

    /// With a weight in the loss for each value of a latent; the loss stays the mean over all values.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a weight that is negative or not finite.
    pub fn weighted(mut self, weights: &[f64]) -> Result<Self, Error> {
        let root = |weight: &f64| in_range("weight", *weight, 0.0, f64::MAX, "finite and not negative").map(f64::sqrt);
        self.roots = weights.iter().map(root).collect::<Result<_, Error>>()?;
        Ok(self)
    }

    /// `values`, `[samples, len]`, each times its root.
    fn rooted(&self, mut values: Vec<f64>) -> Vec<f64> {
        if !self.roots.is_empty() {
            values.iter_mut().zip(self.roots.iter().cycle()).for_each(|(value, root)| *value *= root);
        }
        values
    }

    /// One step. Draws: times, noise, dropout.
    ///
    /// # Errors
    /// [`Error::BatchLength`], [`Error::WeightsLength`], [`Error::ConditionLength`], [`Error::OutputLength`], or the network's.
    pub fn step<M: Trainable>(&self, model: &mut M, batch: Batch<'_, M::Condition>, noise: &mut Stream) -> Result<Metrics, M::Error> {
        let (samples, len) = batch.size()?;
        if !self.roots.is_empty() && self.roots.len() != len {
            return Err(Error::WeightsLength { expected: len, found: self.roots.len() }.into());
        }
        let times = self.times.draw(samples, noise);
        let epsilon = noise.normals(samples * len);
        let dropped: Vec<bool> = noise.uniforms(samples).into_iter().map(|u| u < self.dropout).collect();
        let condition = batch.condition.replaced(batch.negative, &dropped);
        let shares = || times.iter().map(|time| time.share());
        let noisy: Vec<f32> = mixed(shares().map(|u| (1.0 - u, u)), batch.latents, &epsilon).into_iter().map(|x| x as f32).collect();
        let velocity = mixed(shares().map(|_| (-1.0, 1.0)), batch.latents, &epsilon);
        let network_times: Vec<f64> = times.iter().map(|time| time.timestep()).collect();
        let (output, saved) = model.forward_saved(&noisy, &network_times, &condition)?;
        if output.len() != noisy.len() {
            return Err(Error::OutputLength { expected: noisy.len(), found: output.len() }.into());
        }
        let (output, velocity) = (self.rooted(to_f64(&output)), self.rooted(velocity));
        let mut loss = squared_error(&output, &velocity, &vec![1.0; samples], self.scale);
        loss.gradient = self.rooted(loss.gradient);
        let gradient: Vec<f32> = loss.gradient.iter().map(|g| *g as f32).collect();
        model.backward(saved, &gradient)?;
        Ok(Metrics::new(Term::FlowMatching, &loss))
    }
}
