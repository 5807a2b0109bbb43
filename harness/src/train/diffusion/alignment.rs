//! The stage `sla`: a transformer with sparse-linear attention learns to answer as the dense one that it was.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_rcm::Stream;
use turbowan_rcm::resume::{Resumable, SliceMut};
use turbowan_rcm::train::{Batch, TimeDistribution};
use turbowan_wan_model::attention::Attention;
use turbowan_wan_model::backend::tape::StoredParameters;
use turbowan_wan_model::checkpoint::{Dtype, Statement};

use super::batches::Drawn;
use super::clips::Data;
use super::look::LookSettings;
use super::models::Models;
use super::network::DitNet;
use super::setting::Setting;
use super::settings::{ExpertName, NetworkSettings, attention, transformer};
use super::teacher::in_block;
use super::terms::TimesSettings;
use crate::error::Error;
use crate::train::optimisation::{Fall, MatrixMethod, Optimisation, OptimiserSettings, finite, learning, weights_mut};
use crate::train::{Learner, Metrics, RunSettings, StageSettings};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlignmentSettings {
    /// The networks beside it.
    pub models: Models,
    /// What is learnt from.
    pub data: Data,
    /// Sizes of the teacher.
    pub network: NetworkSettings,
    /// The dense transformer's weights, which are also those that the sparse one begins from.
    pub teacher: Option<PathBuf>,
    /// Share of key blocks that are kept.
    pub sla_topk: f64,
    /// Samples of a pass.
    pub batch: usize,
    /// Noise levels.
    pub times: TimesSettings,
    /// Which expert of two it becomes.
    pub expert: ExpertName,
    /// Flow time between the experts.
    pub boundary: f64,
    /// Whether blocks are run again on the way back.
    pub recompute: bool,
    /// How its weights follow.
    pub optimiser: OptimiserSettings,
    /// How it is looked at.
    pub look: LookSettings,
}

impl Default for AlignmentSettings {
    fn default() -> Self {
        let optimiser = OptimiserSettings {
            matrices: MatrixMethod::Adamw,
            rate: 1e-4,
            matrix_rate: 1.0,
            betas: [0.9, 0.999],
            decay: 0.01,
            matrix_decay: 0.01,
            warm_up: 20,
            hold: 0.5,
            fall: Fall::Linear,
            ema: 0.98,
            ..OptimiserSettings::default()
        };
        Self {
            models: Models::default(),
            data: Data::default(),
            network: NetworkSettings::default(),
            teacher: None,
            sla_topk: 0.1,
            batch: 16,
            // That of the official alignment.
            times: TimesSettings::LogNormal { mean: 1.5, deviation: 1.6 },
            expert: ExpertName::Only,
            boundary: 0.9,
            recompute: false,
            optimiser,
            look: LookSettings::default(),
        }
    }
}

impl StageSettings for AlignmentSettings {
    const STAGE: &'static str = "sla";

    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error> {
        Ok(Box::new(Alignment::new(self, run)?))
    }
}

/// A sparse transformer and the dense one that it answers as.
#[derive(Debug)]
pub struct Alignment {
    pub(super) student: DitNet,
    pub(super) teacher: DitNet,
    method: turbowan_rcm::train::Alignment,
    optimisation: Optimisation,
    setting: Setting,
    sla_topk: f64,
    pub(super) noise: Stream,
}

impl Alignment {
    /// Before its first step.
    ///
    /// # Errors
    /// Settings that cannot be; files that cannot be read.
    pub fn new(settings: &AlignmentSettings, run: &RunSettings) -> Result<Self, Error> {
        let Some(path) = settings.teacher.as_deref() else {
            return Err(Error::flag("sla.teacher", "name the weights of the dense transformer"));
        };
        if settings.sla_topk == 0.0 {
            return Err(Error::flag("sla.sla_topk", "0 is dense attention, which has nothing to learn here"));
        }
        let sparse = attention(settings.sla_topk)?;
        let times: TimeDistribution = settings.times.distribution()?;
        let times = settings.expert.clamped(times, settings.boundary)?;
        let method = turbowan_rcm::train::Alignment { times, ..Default::default() };
        let mut setting = Setting::new(&settings.models, &settings.data, &settings.network, &settings.look, settings.batch)?;
        setting.load_other(&settings.look, sparse, settings.expert, settings.boundary)?;
        let load = |attention| transformer(&setting.config, attention, setting.shape, Some(path), run.seed);
        let mut student = DitNet::new(load(sparse)?, setting.tables());
        student.dit.set_recomputes(settings.recompute);
        let mut teacher = DitNet::new(load(Attention::Original)?, setting.tables());
        teacher.parameters_mut().learn_only(|_| false);
        let optimisation = Optimisation::new(&settings.optimiser, run.steps, &learning(student.parameters_mut()), in_block)?;
        Ok(Self { student, teacher, method, optimisation, setting, sla_topk: settings.sla_topk, noise: Stream::new(run.seed) })
    }

    /// Forward and backward of a step; the mean loss.
    pub(super) fn passes(&mut self) -> Result<f64, Error> {
        let mut loss = 0.0;
        for _ in 0..self.optimisation.passes() {
            let Drawn { latents, told, negative } = self.setting.batches.draw(&mut self.noise);
            let batch = Batch { latents: &latents, condition: &told, negative: &negative };
            loss += self.method.step(&mut self.student, &mut self.teacher, batch, &mut self.noise)?.loss;
        }
        finite("the loss", loss / self.optimisation.passes() as f64)
    }
}

impl Learner for Alignment {
    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = weights_mut(self.student.parameters_mut(), "");
        state.extend(self.optimisation.state_mut("optimiser."));
        state.extend(self.noise.state_mut());
        state
    }

    fn step(&mut self, step: u64) -> Result<Metrics, Error> {
        let told = self.passes().and_then(|loss| {
            let mut metrics = vec![("loss".to_owned(), loss)];
            metrics.extend(self.optimisation.step(&mut learning(self.student.parameters_mut()), step)?);
            Ok(metrics)
        });
        // Also of a step that is skipped.
        self.student.parameters_mut().zero_gradients();
        told
    }

    fn look(&mut self, folder: &Path, step: u64) -> Result<Metrics, Error> {
        self.setting.look(&mut self.student, &mut self.optimisation, folder, step)
    }

    fn weights(&self) -> Result<StoredParameters, Error> {
        Ok(self.optimisation.averaged(self.student.dit.parameters().iter()).stored(|_| Dtype::F32))
    }

    fn statement(&self) -> Result<Statement, Error> {
        self.setting.statement(self.sla_topk)
    }
}
