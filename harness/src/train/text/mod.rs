//! The text stage: umT5 learns to tell what a caption says.
//!
//! ```text
//! caption -> ids -> encoder -> mean of the rows -> four linear heads -> shape, colour, background, motion
//! ```
//! The loss is the sum of four cross-entropies. The heads are thrown away at the end; what is left is an encoder whose states hold the four
//! attributes in a form that is easy to read.

mod heads;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_rcm::resume::SliceMut;
use turbowan_wan_model::backend::Backend;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::tape::{Gradients, Parameters, StoredParameters, Tape};
use turbowan_wan_model::checkpoint::{Checkpoint, Dtype};
use turbowan_wan_model::config::TextConfig;
use turbowan_wan_model::text::clean_prompt;
use turbowan_wan_model::text::tokenizer::PromptTokenizer;
use turbowan_wan_model::text::umt5::TextEncoder;
use turbowan_wan_model::tiny::{self, TinyTensors, vocabulary};
use turbowan_world::{Attributes, Split, World};

use super::optimisation::{Fall, MatrixMethod, Optimisation, OptimiserSettings, finite, learning, weights_mut};
use super::{Learner, Metrics, RunSettings, StageSettings};
use crate::error::Error;
use heads::{ATTRIBUTES, Heads};

/// Captions that a look reads are those of another world, whose seed is this much higher.
const UNSEEN: u64 = 1 << 32;

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSettings {
    /// Captions of a pass.
    pub batch: usize,
    /// Captions that a look reads.
    pub look_captions: usize,
    /// Weights to start from; drawn from the seed otherwise.
    pub start: Option<PathBuf>,
    /// The optimiser.
    pub optimiser: OptimiserSettings,
}

impl Default for TextSettings {
    fn default() -> Self {
        let optimiser = OptimiserSettings {
            matrices: MatrixMethod::Adamw,
            matrix_rate: 1.0,
            fall: Fall::Linear,
            ema: 0.98,
            ..OptimiserSettings::default()
        };
        Self { batch: 64, look_captions: 1000, start: None, optimiser }
    }
}

impl StageSettings for TextSettings {
    const STAGE: &'static str = "text";

    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error> {
        Ok(Box::new(TextLearner::new(self, run)?))
    }
}

/// The encoder with its heads.
struct TextLearner {
    settings: TextSettings,
    seed: u64,
    config: TextConfig,
    tokenizer: PromptTokenizer,
    /// Names and shapes, from which an encoder is loaded for every step: it holds no values of its own.
    source: StoredParameters,
    tape: Tape,
    heads: Heads,
    optimisation: Optimisation,
}

impl TextLearner {
    fn new(settings: &TextSettings, run: &RunSettings) -> Result<Self, Error> {
        if settings.batch == 0 {
            return Err(Error::flag("text.batch", "at least 1"));
        }
        let config = tiny::text_config();
        let mut parameters = match &settings.start {
            Some(path) => Parameters::read(&Checkpoint::open(path)?, &config.tensors())?,
            None => drawn(&config, run.seed)?,
        };
        let mut heads = Heads::new(config.dim);
        let mut both = learning(&mut parameters);
        both.extend(learning(heads.parameters_mut()));
        // A table's rows are no directions of a matrix.
        let optimisation = Optimisation::new(&settings.optimiser, run.steps, &both, |name| !name.contains("embedding"))?;
        drop(both);
        Ok(Self {
            settings: settings.clone(),
            seed: run.seed,
            tokenizer: PromptTokenizer::from_bytes(vocabulary::tokenizer().bytes(), Path::new("tokenizer.json"))?,
            source: parameters.stored(|_| Dtype::F32),
            config,
            tape: Tape::new(parameters),
            heads,
            optimisation,
        })
    }

    fn ids(&self, caption: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer.encode(&clean_prompt(caption), TEXT_LEN)?.ids)
    }

    /// Forward and backward over captions `first..` of the training world; the mean loss of a caption.
    fn pass(&mut self, first: u64) -> Result<f64, Error> {
        let world = World::new(self.seed, Split::Seen);
        let encoder = TextEncoder::load(&self.tape, &self.source, &self.config)?;
        let share = 1.0 / self.settings.batch as f64;
        let mut loss = 0.0;
        for index in (first..).take(self.settings.batch) {
            let ids = self.ids(&world.caption(index, 0))?;
            let (states, recording) = self.tape.recorded(|| encoder.encode_rows(&self.tape, &ids, ids.len(), &mut |_, _| Ok(())))?;
            let pooled = mean_row(&self.tape.download(&states)?, self.config.dim);
            let (of_caption, gradient) = self.heads.loss(&pooled, indices(&world.clip(index).attributes), share);
            loss += finite("the loss", of_caption)?;
            let row = gradient.iter().map(|value| value / ids.len() as f32);
            let mut gradients = Gradients::default();
            gradients.seed(&self.tape, &states, row.collect::<Vec<_>>().repeat(ids.len()))?;
            self.tape.backward(recording, &mut gradients)?;
        }
        Ok(loss)
    }

    /// Averaged encoder and heads.
    fn averaged(&self) -> (Parameters, Parameters) {
        (self.optimisation.averaged(self.tape.parameters().iter()), self.optimisation.averaged(self.heads.parameters().iter()))
    }
}

impl Learner for TextLearner {
    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = weights_mut(self.tape.parameters_mut(), "weight.");
        state.extend(weights_mut(self.heads.parameters_mut(), "weight."));
        state.extend(self.optimisation.state_mut("optimiser."));
        state
    }

    fn step(&mut self, step: u64) -> Result<Metrics, Error> {
        self.tape.parameters_mut().zero_gradients();
        self.heads.parameters_mut().zero_gradients();
        let passes = self.optimisation.passes();
        let mut loss = 0.0;
        for pass in step * passes..(step + 1) * passes {
            loss += self.pass(pass * self.settings.batch as u64)? / passes as f64;
        }
        let mut parameters = learning(self.tape.parameters_mut());
        parameters.extend(learning(self.heads.parameters_mut()));
        let mut told = vec![("loss".to_owned(), loss)];
        told.extend(self.optimisation.step(&mut parameters, step)?);
        Ok(told)
    }

    /// The share of unseen captions, held-out combinations among them, whose attributes the heads tell right.
    fn look(&mut self, _: &Path, _: u64) -> Result<Metrics, Error> {
        let (encoder, heads) = self.averaged();
        let (stored, heads) = (encoder.stored(|_| Dtype::F32), Heads::with(heads, self.config.dim));
        let host = Host::default();
        let encoder = TextEncoder::load(&host, &stored, &self.config)?;
        let world = World::new(self.seed.wrapping_add(UNSEEN), Split::All);
        let mut right = [0usize; ATTRIBUTES.len()];
        for index in 0..self.settings.look_captions as u64 {
            let states = encoder.encode(&host, &self.ids(&world.caption(index, 0))?, &mut |_, _| Ok(()))?;
            let told = heads.read(&mean_row(&states.values, self.config.dim));
            let asked = indices(&world.clip(index).attributes);
            right.iter_mut().zip(told.iter().zip(&asked)).for_each(|(right, (told, asked))| *right += usize::from(told == asked));
        }
        let share = |right: usize| right as f64 / self.settings.look_captions.max(1) as f64;
        Ok(ATTRIBUTES.iter().zip(right).map(|((name, _), right)| ((*name).to_owned(), share(right))).collect())
    }

    fn weights(&self) -> Result<StoredParameters, Error> {
        Ok(self.averaged().0.stored(|_| Dtype::F32))
    }
}

/// Context of the small transformer.
const TEXT_LEN: usize = 512;

/// Weights to start from. Scores have no scale in this network, so its queries begin smaller by that of other ones.
fn drawn(config: &TextConfig, seed: u64) -> Result<Parameters, Error> {
    let tensors = TinyTensors::draw(config.tensors(), |_| true, seed)?;
    let mut parameters = Parameters::read(&tensors, &config.tensors())?;
    let scale = ((config.dim_attn / config.heads) as f32).powf(-0.5);
    for parameter in parameters.iter_mut().filter(|parameter| parameter.name().ends_with("attn.q.weight")) {
        parameter.values_mut().iter_mut().for_each(|value| *value *= scale);
    }
    Ok(parameters)
}

fn mean_row(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
    }
    let count = (rows.len() / width).max(1) as f32;
    mean.iter_mut().for_each(|mean| *mean /= count);
    mean
}

/// Places of the values, in the order of [`ATTRIBUTES`].
fn indices(attributes: &Attributes) -> [usize; ATTRIBUTES.len()] {
    [attributes.shape.index(), attributes.colour.index(), attributes.background.index(), attributes.motion.index()]
}

#[cfg(test)]
mod tests;
