//! The stage `rcm`: a student of one to four steps is distilled from a teacher, in turns with a critic.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_rcm::Stream;
use turbowan_rcm::resume::{Resumable, SliceMut};
use turbowan_rcm::train::{Batch, Distillation, Metrics as Told, Networks, Phase, Term};
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
use super::terms::{ConsistencySettings, MatchingSettings};
use crate::error::Error;
use crate::train::optimisation::{Fall, MatrixMethod, Optimisation, OptimiserSettings, finite, learning, weights_mut};
use crate::train::{Learner, Metrics, RunSettings, StageSettings};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudentSettings {
    /// The networks beside it.
    pub models: Models,
    /// What is learnt from.
    pub data: Data,
    /// Sizes of all three networks.
    pub network: NetworkSettings,
    /// The teacher's weights, which are also the critic's first.
    pub teacher: Option<PathBuf>,
    /// Weights that the student begins from, such as those of the stage `sla`; the teacher's without.
    pub start: Option<PathBuf>,
    /// Share of key blocks of the student's sparse-linear attention; 0 for dense attention.
    pub sla_topk: f64,
    /// Samples of a pass.
    pub batch: usize,
    /// Guidance of the teacher.
    pub guidance: f64,
    /// Which expert of two it becomes.
    pub expert: ExpertName,
    /// Flow time between the experts.
    pub boundary: f64,
    /// Whether blocks are run again on the way back.
    pub recompute: bool,
    /// The consistency term.
    pub consistency: ConsistencySettings,
    /// The matching term and its turns.
    pub matching: MatchingSettings,
    /// How the student's weights follow.
    pub optimiser: OptimiserSettings,
    /// How the critic's weights follow.
    pub critic_optimiser: OptimiserSettings,
    /// How it is looked at.
    pub look: LookSettings,
}

impl Default for StudentSettings {
    fn default() -> Self {
        let optimiser = OptimiserSettings {
            matrices: MatrixMethod::Adamw,
            rate: 3e-4,
            matrix_rate: 1.0,
            betas: [0.5, 0.99],
            warm_up: 10,
            fall: Fall::None,
            ema: 0.98,
            ..OptimiserSettings::default()
        };
        Self {
            models: Models::default(),
            data: Data::default(),
            network: NetworkSettings::default(),
            teacher: None,
            start: None,
            sla_topk: 0.0,
            batch: 16,
            guidance: 3.0,
            expert: ExpertName::Only,
            boundary: 0.9,
            recompute: false,
            consistency: ConsistencySettings::default(),
            matching: MatchingSettings::default(),
            critic_optimiser: OptimiserSettings { rate: 6e-4, ema: 0.0, ..optimiser.clone() },
            optimiser,
            look: LookSettings { guided: Vec::new(), few: vec![4, 2, 1], ..LookSettings::default() },
        }
    }
}

impl StageSettings for StudentSettings {
    const STAGE: &'static str = "rcm";

    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error> {
        Ok(Box::new(Student::new(self, run)?))
    }
}

/// A student with its critic and its teacher.
#[derive(Debug)]
pub struct Student {
    pub(super) student: DitNet,
    pub(super) critic: DitNet,
    pub(super) teacher: DitNet,
    method: Distillation,
    optimisation: Optimisation,
    critic_optimisation: Optimisation,
    setting: Setting,
    sla_topk: f64,
    pub(super) noise: Stream,
}

impl Student {
    /// Before its first step.
    ///
    /// # Errors
    /// Settings that cannot be; files that cannot be read.
    pub fn new(settings: &StudentSettings, run: &RunSettings) -> Result<Self, Error> {
        let Some(path) = settings.teacher.as_deref() else {
            return Err(Error::flag("rcm.teacher", "name the teacher's weights"));
        };
        let method = Distillation {
            guidance: settings.guidance,
            consistency: settings.consistency.term(settings.expert, settings.boundary)?,
            matching: settings.matching.term(settings.expert, settings.boundary)?,
            alternation: settings.matching.alternation()?,
        };
        if method.consistency.is_none() && (method.matching.is_none() || settings.matching.warm_up > 0) {
            let reason = "without a consistency term there is nothing to learn where matching is off or has not begun";
            return Err(Error::flag("rcm.consistency.kind", reason));
        }
        let own = attention(settings.sla_topk)?;
        let mut setting = Setting::new(&settings.models, &settings.data, &settings.network, &settings.look, settings.batch)?;
        setting.load_other(&settings.look, own, settings.expert, settings.boundary)?;
        let load = |attention, path| -> Result<DitNet, Error> {
            let mut dit = transformer(&setting.config, attention, setting.shape, Some(path), run.seed)?;
            dit.set_recomputes(settings.recompute);
            Ok(DitNet::new(dit, setting.tables()))
        };
        let mut student = load(own, settings.start.as_deref().unwrap_or(path))?;
        let (mut critic, mut teacher) = (load(Attention::Original, path)?, load(Attention::Original, path)?);
        teacher.parameters_mut().learn_only(|_| false);
        if method.matching.is_none() {
            critic.parameters_mut().learn_only(|_| false);
        }
        let optimisation = Optimisation::new(&settings.optimiser, run.steps, &learning(student.parameters_mut()), in_block)?;
        let critic_optimisation = Optimisation::new(&settings.critic_optimiser, run.steps, &learning(critic.parameters_mut()), in_block)?;
        Ok(Self {
            student,
            critic,
            teacher,
            method,
            optimisation,
            critic_optimisation,
            setting,
            sla_topk: settings.sla_topk,
            noise: Stream::new(run.seed),
        })
    }

    /// Forward and backward of iteration `step`; what its terms tell, averaged over the passes.
    pub(super) fn passes(&mut self, step: u64) -> Result<Metrics, Error> {
        let passes = match self.method.phase(step)? {
            Phase::Student { .. } => self.optimisation.passes(),
            Phase::Critic { .. } => self.critic_optimisation.passes(),
        };
        let mut metrics = Metrics::new();
        for _ in 0..passes {
            let Drawn { latents, told, negative } = self.setting.batches.draw(&mut self.noise);
            let batch = Batch { latents: &latents, condition: &told, negative: &negative };
            let networks = Networks { student: &mut self.student, critic: &mut self.critic, teacher: &mut self.teacher };
            for Told { term, loss, masked, .. } in self.method.step(networks, batch, step, &mut self.noise)? {
                let name = name(term);
                for (what, value) in [(name.to_owned(), finite(name, loss)?), (format!("{name}.masked"), masked as f64)] {
                    let share = value / passes as f64;
                    match metrics.iter_mut().find(|(known, _)| *known == what) {
                        Some((_, sum)) => *sum += share,
                        None => metrics.push((what, share)),
                    }
                }
            }
        }
        Ok(metrics)
    }

    fn update(&mut self, step: u64) -> Result<Metrics, Error> {
        let (whose, network, optimisation) = match self.method.phase(step)? {
            Phase::Student { .. } => ("student", &mut self.student, &mut self.optimisation),
            Phase::Critic { .. } => ("critic", &mut self.critic, &mut self.critic_optimisation),
        };
        let told = optimisation.step(&mut learning(network.parameters_mut()), step)?;
        Ok(told.into_iter().map(|(what, value)| (format!("{whose}.{what}"), value)).collect())
    }
}

fn name(term: Term) -> &'static str {
    match term {
        Term::FlowMatching => "flow_matching",
        Term::Alignment => "alignment",
        Term::ContinuousConsistency | Term::DiscreteConsistency => "consistency",
        Term::DistributionMatching => "matching",
        Term::Critic => "critic",
    }
}

impl Learner for Student {
    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = weights_mut(self.student.parameters_mut(), "student.");
        state.extend(weights_mut(self.critic.parameters_mut(), "critic."));
        state.extend(self.optimisation.state_mut("student.optimiser."));
        state.extend(self.critic_optimisation.state_mut("critic.optimiser."));
        state.extend(self.noise.state_mut());
        state
    }

    fn step(&mut self, step: u64) -> Result<Metrics, Error> {
        let told = self.passes(step).and_then(|mut metrics| {
            metrics.extend(self.update(step)?);
            Ok(metrics)
        });
        // Also of a step that is skipped.
        self.student.parameters_mut().zero_gradients();
        self.critic.parameters_mut().zero_gradients();
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
