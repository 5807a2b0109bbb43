//! White-box alignment: a student that attends otherwise learns to answer as its frozen teacher does.

use super::{Batch, Metrics, Term, TimeDistribution, mixed, to_f64};
use crate::error::Error;
use crate::loss::{LossScale, squared_error};
use crate::noise::Stream;
use crate::trainable::{Trainable, VelocityNet};

/// `loss = mean (student(x_u) - teacher(x_u))^2` with `x_u = (1 - u) x0 + u noise`: one input, one condition, no guidance.
///
/// (TurboDiffusion, `rcm/models/t2v_model_sla.py`: the student is dense Wan with sparse-linear attention put in, `proj_l` zero.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alignment {
    /// Noise levels.
    pub times: TimeDistribution,
    /// How values become a loss.
    pub scale: LossScale,
}

impl Default for Alignment {
    fn default() -> Self {
        Self { times: TimeDistribution::ALIGNMENT, scale: LossScale::Mean(1.0) }
    }
}

impl Alignment {
    /// One step. Draws: times, noise.
    ///
    /// # Errors
    /// [`Error::BatchLength`], [`Error::ConditionLength`], [`Error::OutputLength`], or a network's.
    pub fn step<S, T>(
        &self,
        student: &mut S,
        teacher: &mut T,
        batch: Batch<'_, S::Condition>,
        noise: &mut Stream,
    ) -> Result<Metrics, S::Error>
    where
        S: Trainable,
        T: VelocityNet<Error = S::Error, Condition = S::Condition>,
    {
        let (samples, len) = batch.size()?;
        let times = self.times.draw(samples, noise);
        let epsilon = noise.normals(samples * len);
        let shares = times.iter().map(|time| (1.0 - time.share(), time.share()));
        let noisy: Vec<f32> = mixed(shares, batch.latents, &epsilon).into_iter().map(|x| x as f32).collect();
        let network_times: Vec<f64> = times.iter().map(|time| time.timestep()).collect();
        let target = teacher.forward(&noisy, &network_times, batch.condition)?;
        let (output, saved) = student.forward_saved(&noisy, &network_times, batch.condition)?;
        for found in [target.len(), output.len()] {
            if found != noisy.len() {
                return Err(Error::OutputLength { expected: noisy.len(), found }.into());
            }
        }
        let loss = squared_error(&to_f64(&output), &to_f64(&target), &vec![1.0; samples], self.scale);
        let gradient: Vec<f32> = loss.gradient.iter().map(|g| *g as f32).collect();
        student.backward(saved, &gradient)?;
        Ok(Metrics::new(Term::Alignment, &loss))
    }
}
