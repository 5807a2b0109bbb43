//! The autoencoder's stage: clips of the world are given back, through a latent close to a normal distribution.
//!
//! ```text
//! crops -> encoder -> mean, logarithm of the variance -> latent -> decoder -> crops
//! ```
//! At first many small crops, at the end few large ones. With a frozen encoder the decoder learns alone, from latents with noise on them.

mod crops;
mod reconstruction;
mod statistics;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_rcm::Stream;
use turbowan_rcm::resume::{Resumable, SliceMut};
use turbowan_wan_model::backend::tape::{Parameters, StoredParameters};
use turbowan_wan_model::checkpoint::{Checkpoint, Dtype};
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::tiny::TinyTensors;
use turbowan_wan_model::vae::{LatentStatistics, TrainVae, VaeObjective, fold_statistics};
use turbowan_world::{Size, Split, World};

use super::optimisation::{Optimisation, OptimiserSettings, finite, learning, weights_mut};
use super::{Learner, Metrics, RunSettings, StageSettings};
use crate::error::Error;
pub use crops::CropSettings;
use crops::Source;

/// Clips that a look gives back are those of another world, whose seed is this much higher.
const UNSEEN: u64 = 1 << 32;

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeSettings {
    /// Channels of the first convolution; the official autoencoder has 96.
    pub width: usize,
    /// Weights to start from; drawn from the seed otherwise.
    pub start: Option<PathBuf>,
    /// Side and frames of the clips that crops are taken from, one size as likely as another.
    pub clips: Vec<[usize; 2]>,
    /// Share of crops that are centred on a shape's outline.
    pub focused: f64,
    /// Share of the run's steps, at its end, whose crops are the late ones.
    pub late_share: f64,
    /// Weight of the mean absolute error.
    pub l1: f64,
    /// Weight of the mean absolute error of differences between neighbours.
    pub edges: f64,
    /// Weight of the divergence of latents from a normal distribution.
    pub kl: f64,
    /// Whether the decoder learns alone.
    pub freeze_encoder: bool,
    /// Deviation of the noise on a frozen encoder's latents.
    pub latent_noise: f32,
    /// Clips that the mean and deviation of latents are taken from.
    pub statistics_clips: usize,
    /// Clips that a look gives back, their side and their frames.
    pub look_clips: usize,
    /// See `look_clips`.
    pub look_side: usize,
    /// See `look_clips`.
    pub look_frames: usize,
    /// Crops at first.
    pub early: CropSettings,
    /// Crops at the end.
    pub late: CropSettings,
    /// The optimiser.
    pub optimiser: OptimiserSettings,
}

impl Default for VaeSettings {
    fn default() -> Self {
        Self {
            width: 8,
            start: None,
            clips: vec![[64, 17], [128, 33]],
            focused: 0.7,
            late_share: 0.25,
            l1: 1.0,
            edges: 0.5,
            kl: 1e-4,
            freeze_encoder: false,
            latent_noise: 0.0,
            statistics_clips: 32,
            look_clips: 48,
            look_side: 128,
            look_frames: 33,
            early: CropSettings { frames: 9, side: 32, batch: 8 },
            late: CropSettings { frames: 9, side: 64, batch: 2 },
            optimiser: OptimiserSettings::default(),
        }
    }
}

impl StageSettings for VaeSettings {
    const STAGE: &'static str = "vae";

    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error> {
        Ok(Box::new(VaeLearner::new(self, run)?))
    }
}

/// The autoencoder with its crops.
struct VaeLearner {
    settings: VaeSettings,
    run: RunSettings,
    config: VaeConfig,
    source: Source,
    look_size: Size,
    vae: TrainVae,
    /// All parameters as they were at the start: names, shapes, and the values of those that do not learn.
    start: Parameters,
    optimisation: Optimisation,
    noise: Stream,
}

impl VaeLearner {
    fn new(settings: &VaeSettings, run: &RunSettings) -> Result<Self, Error> {
        let config = VaeConfig::of_width(settings.width);
        let start = match &settings.start {
            Some(path) => Parameters::read(&Checkpoint::open(path)?, &config.tensors())?,
            None => drawn(&config, run.seed)?,
        };
        let sizes = settings.clips.iter().map(|[side, frames]| Size::new(*side, *frames)).collect::<Result<_, _>>()?;
        let source = Source { world: World::new(run.seed, Split::Seen), sizes, focused: settings.focused };
        [settings.early, settings.late].into_iter().try_for_each(|crops| source.check(crops))?;
        if settings.statistics_clips == 0 {
            return Err(Error::flag("vae", "statistics_clips is at least 1"));
        }
        if ![settings.focused, settings.late_share].iter().all(|share| (0.0..=1.0).contains(share)) {
            return Err(Error::flag("vae", "focused and late_share are shares, from 0 to 1"));
        }
        let mut vae = TrainVae::load(&start.stored(|_| Dtype::F32), &config)?;
        if settings.freeze_encoder {
            vae.parameters_mut().learn_only(|name| name.starts_with("decoder.") || name.starts_with("conv2."));
        }
        let optimisation = Optimisation::new(&settings.optimiser, run.steps, &learning(vae.parameters_mut()), |_| true)?;
        let look_size = Size::new(settings.look_side, settings.look_frames)?;
        let (settings, run, noise) = (settings.clone(), run.clone(), Stream::new(run.seed));
        Ok(Self { settings, run, config, source, look_size, vae, start, optimisation, noise })
    }

    /// The crops of step `step`.
    fn crops(&self, step: u64) -> CropSettings {
        let late = (self.settings.late_share * self.run.steps as f64) as u64;
        if step < self.run.steps.saturating_sub(late) { self.settings.early } else { self.settings.late }
    }
}

impl Learner for VaeLearner {
    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = weights_mut(self.vae.parameters_mut(), "weight.");
        state.extend(self.optimisation.state_mut("optimiser."));
        state.extend(self.noise.state_mut());
        state
    }

    fn step(&mut self, step: u64) -> Result<Metrics, Error> {
        let settings = &self.settings;
        let VaeSettings { l1, edges, kl, freeze_encoder, latent_noise, .. } = *settings;
        let objective = VaeObjective { l1, edges, kl, freezes_encoder: freeze_encoder, latent_noise };
        let (crops, passes) = (self.crops(step), self.optimisation.passes());
        let share = 1.0 / passes as f64;
        let mut told = ["loss", "l1", "edges", "kl"].map(|name| (name.to_owned(), 0.0));
        self.vae.parameters_mut().zero_gradients();
        for pass in step * passes..(step + 1) * passes {
            // Past the largest batch, so that no clip is seen in two steps.
            let first = pass * settings.early.batch.max(settings.late.batch) as u64;
            let batch = self.source.draw(crops, first, &mut self.noise)?;
            let losses = self.vae.step(&batch, &objective, &mut |count| self.noise.normals(count))?;
            let loss = finite("the loss", l1 * losses.l1 + edges * losses.edges + kl * losses.kl)?;
            told.iter_mut().zip([loss, losses.l1, losses.edges, losses.kl]).for_each(|((_, sum), value)| *sum += share * value);
        }
        let mut told = told.to_vec();
        told.extend(self.optimisation.step(&mut learning(self.vae.parameters_mut()), step)?);
        Ok(told)
    }

    fn look(&mut self, folder: &Path, step: u64) -> Result<Metrics, Error> {
        let world = World::new(self.run.seed.wrapping_add(UNSEEN), Split::All);
        let path = folder.join(format!("step-{step:06}.png"));
        reconstruction::look(&self.weights()?, &self.config, world, self.look_size, self.settings.look_clips, &path)
    }

    /// Their latents have the mean and deviation that Wan's pipelines take off again.
    fn weights(&self) -> Result<StoredParameters, Error> {
        let mut averaged = self.optimisation.averaged(self.start.iter());
        let found = statistics::of_latents(&averaged.stored(|_| Dtype::F32), &self.config, &self.source, self.settings.statistics_clips)?;
        fold_statistics(&mut averaged, &found, &LatentStatistics::of_channels(self.config.z_dim))?;
        Ok(averaged.stored(|_| Dtype::F32))
    }
}

/// Weights to start from. Latents begin with little noise on them, or the decoder would hear nothing else: the half of `conv1` that gives the
/// logarithm of the variance is small and around -4.
fn drawn(config: &VaeConfig, seed: u64) -> Result<Parameters, Error> {
    let tensors = TinyTensors::draw(config.tensors(), |_| true, seed)?;
    let mut parameters = Parameters::read(&tensors, &config.tensors())?;
    let mut change = |name: &str, change: &dyn Fn(f32) -> f32| {
        if let Some(parameter) = parameters.get_mut(name) {
            let half = parameter.values().len() / 2;
            parameter.values_mut()[half..].iter_mut().for_each(|value| *value = change(*value));
        }
    };
    change("conv1.weight", &|value| 0.1 * value);
    change("conv1.bias", &|_| -4.0);
    Ok(parameters)
}

#[cfg(test)]
mod tests;
