//! The stage `teacher`: a transformer learns by flow matching.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_rcm::Stream;
use turbowan_rcm::resume::{Resumable, SliceMut};
use turbowan_rcm::train::{Batch, FlowMatching, TimeDistribution};
use turbowan_wan_model::backend::tape::StoredParameters;
use turbowan_wan_model::checkpoint::{Dtype, Statement};
use turbowan_wan_model::resolution::LatentShape;

use super::batches::Drawn;
use super::clips::Data;
use super::look::LookSettings;
use super::models::Models;
use super::network::DitNet;
use super::setting::Setting;
use super::settings::{ExpertName, NetworkSettings, attention, transformer};
use crate::error::Error;
use crate::train::optimisation::{Fall, Optimisation, OptimiserSettings, finite, learning, weights_mut};
use crate::train::{Learner, Metrics, RunSettings, StageSettings};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherSettings {
    /// The networks beside it.
    pub models: Models,
    /// What is learnt from.
    pub data: Data,
    /// Sizes.
    pub network: NetworkSettings,
    /// Share of key blocks of sparse-linear attention; 0 for dense attention.
    pub sla_topk: f64,
    /// Weights to begin from, of a network of these sizes; new ones without.
    pub start: Option<PathBuf>,
    /// Samples of a pass.
    pub batch: usize,
    /// Shift of the times towards noise.
    pub shift: f64,
    /// Mean of the times' logits before the shift.
    pub mean: f64,
    /// Deviation of the times' logits.
    pub deviation: f64,
    /// Share of prompts that become the empty one.
    pub dropout: f64,
    /// Weight in the loss of the first latent frame, which holds one picture where each other holds four: as a multiple of the others'.
    pub first_frame: f64,
    /// Which expert of two it becomes.
    pub expert: ExpertName,
    /// Flow time between the experts.
    pub boundary: f64,
    /// Whether blocks are run again on the way back: a third more work, one block's memory.
    pub recompute: bool,
    /// How its weights follow.
    pub optimiser: OptimiserSettings,
    /// How it is looked at.
    pub look: LookSettings,
}

impl Default for TeacherSettings {
    fn default() -> Self {
        let optimiser = OptimiserSettings {
            matrix_decay: 0.01,
            warm_up: 60,
            hold: 0.5,
            fall: Fall::Linear,
            ema: 0.997,
            ..OptimiserSettings::default()
        };
        Self {
            models: Models::default(),
            data: Data::default(),
            network: NetworkSettings::default(),
            sla_topk: 0.0,
            start: None,
            batch: 32,
            shift: 3.0,
            mean: 0.0,
            deviation: 1.0,
            dropout: 0.12,
            first_frame: 1.0,
            expert: ExpertName::Only,
            boundary: 0.9,
            recompute: false,
            optimiser,
            look: LookSettings::default(),
        }
    }
}

impl StageSettings for TeacherSettings {
    const STAGE: &'static str = "teacher";

    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error> {
        Ok(Box::new(Teacher::new(self, run)?))
    }
}

/// A transformer that learns by flow matching.
#[derive(Debug)]
pub struct Teacher {
    pub(super) net: DitNet,
    method: FlowMatching,
    optimisation: Optimisation,
    setting: Setting,
    sla_topk: f64,
    noise: Stream,
}

impl Teacher {
    /// Before its first step.
    ///
    /// # Errors
    /// Settings that cannot be; files that cannot be read.
    pub fn new(settings: &TeacherSettings, run: &RunSettings) -> Result<Self, Error> {
        let times = TimeDistribution::logit_normal_shift(settings.mean, settings.deviation, settings.shift)?;
        let times = settings.expert.clamped(times, settings.boundary)?;
        let attention = attention(settings.sla_topk)?;
        let mut setting = Setting::new(&settings.models, &settings.data, &settings.network, &settings.look, settings.batch)?;
        let mut method = FlowMatching::new(times, settings.dropout)?;
        if settings.first_frame != 1.0 {
            method = method.weighted(&frame_weights(setting.shape, settings.first_frame)?)?;
        }
        setting.load_other(&settings.look, attention, settings.expert, settings.boundary)?;
        let dit = transformer(&setting.config, attention, setting.shape, settings.start.as_deref(), run.seed)?;
        let mut net = DitNet::new(dit, setting.tables());
        net.dit.set_recomputes(settings.recompute);
        let optimisation = Optimisation::new(&settings.optimiser, run.steps, &learning(net.parameters_mut()), in_block)?;
        Ok(Self { net, method, optimisation, setting, sla_topk: settings.sla_topk, noise: Stream::new(run.seed) })
    }

    /// Forward and backward of a step; the mean loss.
    pub(super) fn passes(&mut self) -> Result<f64, Error> {
        let mut loss = 0.0;
        for _ in 0..self.optimisation.passes() {
            let Drawn { latents, told, negative } = self.setting.batches.draw(&mut self.noise);
            let batch = Batch { latents: &latents, condition: &told, negative: &negative };
            loss += self.method.step(&mut self.net, batch, &mut self.noise)?.loss;
        }
        finite("the loss", loss / self.optimisation.passes() as f64)
    }
}

/// The weight of each value of a latent, their mean 1, where its first frame weighs `first` times as much as any other.
fn frame_weights(shape: LatentShape, first: f64) -> Result<Vec<f64>, Error> {
    if !(first > 0.0 && first.is_finite()) {
        return Err(Error::flag("teacher.first_frame", "a finite number above 0"));
    }
    let unit = shape.frames as f64 / (first + shape.frames as f64 - 1.0);
    let weight = |value: usize| if (value / (shape.height * shape.width)).is_multiple_of(shape.frames) { first * unit } else { unit };
    Ok((0..shape.values()).map(weight).collect())
}

/// Whether a matrix belongs to a block: those of embeddings and head are no Muon's.
pub(super) fn in_block(name: &str) -> bool {
    name.starts_with("blocks.")
}

impl Learner for Teacher {
    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = weights_mut(self.net.parameters_mut(), "");
        state.extend(self.optimisation.state_mut("optimiser."));
        state.extend(self.noise.state_mut());
        state
    }

    fn step(&mut self, step: u64) -> Result<Metrics, Error> {
        let loss = self.passes();
        let told = loss.and_then(|loss| {
            let mut metrics = vec![("loss".to_owned(), loss)];
            metrics.extend(self.optimisation.step(&mut learning(self.net.parameters_mut()), step)?);
            Ok(metrics)
        });
        // Also of a step that is skipped.
        self.net.parameters_mut().zero_gradients();
        told
    }

    fn look(&mut self, folder: &Path, step: u64) -> Result<Metrics, Error> {
        self.setting.look(&mut self.net, &mut self.optimisation, folder, step)
    }

    fn weights(&self) -> Result<StoredParameters, Error> {
        Ok(self.optimisation.averaged(self.net.dit.parameters().iter()).stored(|_| Dtype::F32))
    }

    fn statement(&self) -> Result<Statement, Error> {
        self.setting.statement(self.sla_topk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_weighs_as_asked_and_the_mean_stays() {
        let shape = LatentShape { frames: 5, height: 2, width: 3 };
        let weights = frame_weights(shape, 3.0).unwrap();
        assert_eq!(weights.len(), shape.values());
        assert!((weights.iter().sum::<f64>() / weights.len() as f64 - 1.0).abs() < 1e-12);
        // Channel 1: its first frame, then the next.
        assert!((weights[30] / weights[36] - 3.0).abs() < 1e-12 && weights[30] == weights[35] && weights[36] == weights[59]);
        assert!([0.0, -1.0, f64::NAN].iter().all(|first| frame_weights(shape, *first).is_err()));
    }
}
