//! A whole denoising run, few-step or guided, that can be broken off after any step and taken up again.

use turbowan_rcm::teacher::TeacherState;
use turbowan_rcm::unipc::History;
use turbowan_rcm::{AtBoundary, FewStep, LatentRounding, Network, NoiseSource, State, Teacher, TimeRounding};

use crate::backend::Backend;
use crate::pipeline::WanNetwork;
use crate::{Error, Result};

/// What is run.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// A distilled model: one call a step.
    FewStep(FewStep),
    /// An undistilled model with guidance.
    Teacher(Teacher),
}

/// Arithmetic at the border between the sampler's f64 and the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Border {
    /// Rounding of the latent.
    pub latent: LatentRounding,
    /// Rounding of the network's time.
    pub time: TimeRounding,
}

impl Border {
    /// Nothing is rounded beyond f32.
    pub const EXACT: Self = Self { latent: LatentRounding::F32, time: TimeRounding::Exact };
    /// As the official scripts do: latent and time to bf16.
    pub const OFFICIAL: Self = Self { latent: LatentRounding::Bf16, time: TimeRounding::Bf16 };
}

/// A run between two steps, in plain vectors. With the request it determines the rest of the run to the last bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Steps done.
    pub step: usize,
    /// The latent after them, `[samples, 16, T, H, W]`.
    pub latent: Vec<f64>,
    /// What UniPC remembers.
    pub history: Option<History<Vec<f64>>>,
}

impl Sampling {
    /// Network calls, counting guidance's second ones as part of a step.
    pub fn steps(&self) -> usize {
        match self {
            Self::FewStep(run) => run.schedule().steps(),
            Self::Teacher(run) => run.steps(),
        }
    }

    /// Whether it asks under a negative prompt.
    pub fn is_guided(&self) -> bool {
        matches!(self, Self::Teacher(_))
    }

    /// The state before the first step, of `values` latent values.
    ///
    /// # Errors
    /// An empty latent, or noise that was recorded in another size.
    pub fn start(&self, values: usize, noise: &mut NoiseSource) -> Result<Snapshot> {
        let room = vec![0.0; values];
        Ok(match self {
            Self::FewStep(run) => {
                let State { step, latent } = run.start(room, noise)?;
                Snapshot { step, latent, history: None }
            }
            Self::Teacher(run) => {
                let TeacherState { step, latent, history } = run.start(room, noise)?;
                Snapshot { step, latent, history }
            }
        })
    }

    /// Runs all steps that are left. After each, the network's [`crate::pipeline::Watch`] is shown the snapshot.
    ///
    /// # Errors
    /// Whatever the model, the noise or the watch returns.
    pub fn finish<B: Backend>(
        &self,
        from: Snapshot,
        network: WanNetwork<'_, B>,
        border: Border,
        noise: &mut NoiseSource,
    ) -> Result<Snapshot> {
        self.finish_on(from, network, border, noise, |network, at| network.watch().stepped(at))
    }

    /// Runs all steps that are left on any network; `stepped` sees it and the snapshot after each.
    ///
    /// # Errors
    /// Whatever the network, the noise or `stepped` returns.
    pub fn finish_on<N: Network<Error = Error>>(
        &self,
        from: Snapshot,
        network: N,
        border: Border,
        noise: &mut NoiseSource,
        mut stepped: impl FnMut(&mut N, &Snapshot) -> Result<()>,
    ) -> Result<Snapshot> {
        let mut network = AtBoundary { network, latent: border.latent, time: border.time };
        let mut at = from;
        if at.step > self.steps() {
            let (found, must) = (at.step.to_string(), format!("must be at most {}", self.steps()));
            return Err(Error::Setting { what: "steps done", found, must });
        }
        while at.step < self.steps() {
            at = match self {
                Self::FewStep(run) => {
                    let State { step, latent } = run.step(State { step: at.step, latent: at.latent }, &mut network, noise)?;
                    Snapshot { step, latent, history: None }
                }
                Self::Teacher(run) => {
                    let state = TeacherState { step: at.step, latent: at.latent, history: at.history };
                    let TeacherState { step, latent, history } = run.step(state, &mut network)?;
                    Snapshot { step, latent, history }
                }
            };
            stepped(&mut network.network, &at)?;
        }
        Ok(at)
    }
}
