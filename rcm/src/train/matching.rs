//! The steps of distribution matching (DMD): one of the student, one of the critic that keeps up with it.
//!
//! The critic is not told how many steps made a latent, so it is the mixture over step counts that comes to match the data: latents of one
//! step may be off to one side, of two steps to the other. A consistency term beside it, or simulations of one count, leave no such room.

use super::{Batch, Metrics, Simulation, Term, TimeDistribution, TrigNet, noised};
use crate::loss::{LossScale, distribution_matching, squared_error};
use crate::noise::Stream;
use crate::time::TrigTime;
use crate::trainable::{Trainable, VelocityNet};

/// The distribution-matching term and its critic. `Default` is the official setting of the 1.3B model.
#[derive(Debug, Clone, PartialEq)]
pub struct DistributionMatching {
    /// Noise levels at which critic and teacher are compared, and at which the critic learns.
    pub times: TimeDistribution,
    /// How latents are made.
    pub simulation: Simulation,
    /// How the student's values become a loss.
    pub scale: LossScale,
    /// How the critic's values become a loss.
    pub critic_scale: LossScale,
}

impl Default for DistributionMatching {
    fn default() -> Self {
        Self {
            times: TimeDistribution::MATCHING,
            simulation: Simulation::Drawn(TimeDistribution::MATCHING),
            scale: LossScale::Sum(1.0),
            critic_scale: LossScale::Sum(1.0),
        }
    }
}

impl DistributionMatching {
    /// One step of the student, by a simulation of `steps` steps whose last has the gradient; the teacher is guided by `guidance`. Only the
    /// number and length of the batch's latents matter.
    ///
    /// Draws: those of the simulation, times, noise.
    ///
    /// # Errors
    /// [`Error::Steps`](crate::Error::Steps), [`Error::BatchLength`](crate::Error::BatchLength),
    /// [`Error::ConditionLength`](crate::Error::ConditionLength), [`Error::OutputLength`](crate::Error::OutputLength), or a network's.
    pub fn student_step<S, K, T>(
        &self,
        (student, critic, teacher): (&mut S, &mut K, &mut T),
        batch: Batch<'_, S::Condition>,
        guidance: f64,
        steps: usize,
        noise: &mut Stream,
    ) -> Result<Metrics, S::Error>
    where
        S: Trainable,
        K: VelocityNet<Error = S::Error, Condition = S::Condition>,
        T: VelocityNet<Error = S::Error, Condition = S::Condition>,
    {
        let (samples, len) = batch.size()?;
        let last = self.simulation.run(student, len, steps, batch.condition, noise)?;
        let mut student = TrigNet(student);
        let (generated, saved) = student.predict_saved(&last.noisy, &last.times, batch.condition)?;
        let (noisy, times) = self.renoised(&generated.clean, samples, noise);
        let likely = TrigNet(critic).predict(&noisy, &times, batch.condition)?.clean;
        let wanted = TrigNet(teacher).predict_guided(&noisy, &times, [batch.condition, batch.negative], guidance)?.clean;
        let loss = distribution_matching(&generated.clean, &likely, &wanted, samples, self.scale);
        student.backward_clean(saved, &last.times, &loss.gradient)?;
        Ok(Metrics::new(Term::DistributionMatching, &loss))
    }

    /// One step of the critic: it denoises what the student makes in `steps` steps.
    ///
    /// ```text
    /// loss = scale * sum (x0_generated - x0_critic)^2 / sin^2 t
    /// ```
    ///
    /// Draws: as [`DistributionMatching::student_step`].
    ///
    /// # Errors
    /// As [`DistributionMatching::student_step`].
    pub fn critic_step<S, K>(
        &self,
        (student, critic): (&mut S, &mut K),
        batch: Batch<'_, K::Condition>,
        steps: usize,
        noise: &mut Stream,
    ) -> Result<Metrics, K::Error>
    where
        S: VelocityNet<Error = K::Error, Condition = K::Condition>,
        K: Trainable,
    {
        let (samples, len) = batch.size()?;
        let last = self.simulation.run(student, len, steps, batch.condition, noise)?;
        let generated = TrigNet(student).predict(&last.noisy, &last.times, batch.condition)?.clean;
        let (noisy, times) = self.renoised(&generated, samples, noise);
        let mut critic = TrigNet(critic);
        let (own, saved) = critic.predict_saved(&noisy, &times, batch.condition)?;
        let weights: Vec<f64> = times.iter().map(|time| time.radians().sin().powi(-2)).collect();
        let loss = squared_error(&own.clean, &generated, &weights, self.critic_scale);
        critic.backward_clean(saved, &times, &loss.gradient)?;
        Ok(Metrics::new(Term::Critic, &loss))
    }

    /// Times, and `clean` noised to them.
    fn renoised(&self, clean: &[f64], samples: usize, noise: &mut Stream) -> (Vec<f64>, Vec<TrigTime>) {
        let times: Vec<TrigTime> = self.times.draw(samples, noise).into_iter().map(|time| time.trig()).collect();
        let epsilon = noise.normals(clean.len());
        (noised(clean, &epsilon, &times), times)
    }
}
