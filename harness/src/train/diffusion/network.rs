//! A transformer as the methods of distillation see it: latents, times and indices of what each sample is told.

use std::sync::Arc;

use turbowan_rcm::{Parameter, Trainable, VelocityNet};
use turbowan_wan_model::backend::tape::Parameters;
use turbowan_wan_model::dit::TrainDit;
use turbowan_wan_model::dit::train::SavedPass;
use turbowan_wan_model::{Error, Result};

use super::states::{NEGATIVE, States};
use crate::train::optimisation::learning;

/// What one sample is conditioned on, as indices into [`Tables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The prompt.
    pub prompt: u32,
    /// The first frame, for image to video.
    pub image: Option<u32>,
}

impl Told {
    /// The same with the empty prompt; an image stays, as in guided sampling.
    pub fn negative(self) -> Self {
        Self { prompt: NEGATIVE, ..self }
    }
}

/// Everything that any sample of a run is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// Prompts.
    pub states: States,
    /// First frames, `[20, T, H, W]` each: the mask and the image's latent.
    pub images: Vec<Vec<f32>>,
}

/// A transformer with the tables that its conditions point into.
#[derive(Debug)]
pub struct DitNet {
    /// The transformer.
    pub dit: TrainDit,
    tables: Arc<Tables>,
}

impl DitNet {
    /// The transformer `dit` under conditions that are indices into `tables`.
    pub fn new(dit: TrainDit, tables: Arc<Tables>) -> Self {
        Self { dit, tables }
    }

    /// Its parameters, to be changed between passes.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        self.dit.parameters_mut()
    }

    /// The input `[samples, in_dim, T, H, W]` and the prompts' states `[samples, text_len, text_dim]`.
    fn inputs(&self, x: &[f32], condition: &[Told]) -> Result<(Vec<f32>, Vec<f32>)> {
        let text = self.tables.states.padded(condition.iter().map(|told| told.prompt));
        let channels = self.dit.network().config().in_dim * self.dit.grid().positions();
        let (sample, samples) = (x.len() / condition.len().max(1), condition.len());
        if sample == channels {
            return Ok((x.to_vec(), text));
        }
        let mut input = Vec::with_capacity(samples * channels);
        for (latent, told) in x.chunks_exact(sample.max(1)).zip(condition) {
            let image = told.image.and_then(|image| self.tables.images.get(image as usize)).ok_or_else(|| {
                let must = "a first frame beside every latent, for this network reads one".to_owned();
                Error::Setting { what: "condition", found: "no image".to_owned(), must }
            })?;
            input.extend(latent.iter().chain(image));
        }
        Ok((input, text))
    }
}

impl VelocityNet for DitNet {
    type Error = Error;
    type Condition = Vec<Told>;

    fn forward(&mut self, x: &[f32], times: &[f64], condition: &Vec<Told>) -> Result<Vec<f32>> {
        let (input, text) = self.inputs(x, condition)?;
        self.dit.forward(&input, times, &text, None)
    }
}

impl Trainable for DitNet {
    type Saved = SavedPass;

    fn forward_saved(&mut self, x: &[f32], times: &[f64], condition: &Vec<Told>) -> Result<(Vec<f32>, SavedPass)> {
        let (input, text) = self.inputs(x, condition)?;
        self.dit.forward_saved(&input, times, &text, None)
    }

    fn backward(&mut self, saved: SavedPass, output_gradient: &[f32]) -> Result<()> {
        self.dit.backward(saved, output_gradient)
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        learning(self.dit.parameters_mut())
    }
}
