//! Backward simulation: a student makes latents from noise in some steps, as it will when sampled.

use super::{TimeDistribution, TrigNet, noised};
use crate::error::Error;
use crate::noise::Stream;
use crate::schedule::Schedule;
use crate::time::TrigTime;
use crate::trainable::{Condition, VelocityNet};

/// Where a simulation stands between its steps.
#[derive(Debug, Clone, PartialEq)]
pub enum Simulation {
    /// A draw for each sample, but never noisier than the step before.
    Drawn(TimeDistribution),
    /// The same times for every sample and every run.
    Fixed(Vec<TrigTime>),
}

/// The input of a simulation's last step, which makes the clean latents.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LastStep {
    pub noisy: Vec<f64>,
    pub times: Vec<TrigTime>,
}

impl Simulation {
    /// The sampler's mid times, 1.5, 1.4 and 1.0 (`dmd_fix_timesteps`; the 14B model's setting).
    pub fn official_fixed() -> Self {
        Self::Fixed(Schedule::MID_TIMES.map(TrigTime::trusted).to_vec())
    }

    /// Runs all but the last of `steps` steps, without gradients, from pure noise at `pi/2`.
    ///
    /// Draws: the first noise; then before each later step the times, if they are drawn, and noise.
    ///
    /// # Errors
    /// [`Error::Steps`] for no step, or for more than fixed times allow; the network's.
    pub(super) fn run<N: VelocityNet + ?Sized>(
        &self,
        student: &mut N,
        len: usize,
        steps: usize,
        condition: &N::Condition,
        noise: &mut Stream,
    ) -> Result<LastStep, N::Error> {
        let most = match self {
            Self::Drawn(_) => usize::MAX,
            Self::Fixed(times) => times.len() + 1,
        };
        if steps == 0 || steps > most {
            return Err(Error::Steps { steps, most }.into());
        }
        let samples = condition.samples();
        let mut times = vec![TrigTime::NOISE; samples];
        let mut noisy: Vec<f64> = noise.normals(samples * len).into_iter().map(f64::from).collect();
        for step in 1..steps {
            let clean = TrigNet(&mut *student).predict(&noisy, &times, condition)?.clean;
            match self {
                Self::Fixed(fixed) => times.fill(fixed[step - 1]),
                Self::Drawn(distribution) => {
                    let drawn = distribution.draw(samples, noise);
                    times.iter_mut().zip(drawn).for_each(|(time, drawn)| *time = time.min(drawn.trig()));
                }
            }
            noisy = noised(&clean, &noise.normals(samples * len), &times);
        }
        Ok(LastStep { noisy, times })
    }
}
