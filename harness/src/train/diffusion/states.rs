//! Text states of every prompt of a run, worked out once.

use std::collections::HashMap;

use turbowan_cuda::Rounding;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::text::{TextEncoder, clean_prompt};

use super::models::Models;
use crate::error::Error;
use crate::run::watch::check_stop;

/// Index of the empty prompt, which guidance steers away from and dropped prompts become.
pub const NEGATIVE: u32 = 0;

/// Text states by index: rows without padding, one prompt after another.
#[derive(Debug, Clone, PartialEq)]
pub struct States {
    text_len: usize,
    dim: usize,
    prompts: Vec<Vec<f32>>,
    by_text: HashMap<String, u32>,
}

impl States {
    /// States of the empty prompt and of `captions`, each text once, of at most `text_len` tokens.
    ///
    /// # Errors
    /// A text encoder that cannot be read, or a stop.
    pub fn of<'a>(models: &Models, text_len: usize, captions: impl Iterator<Item = &'a str>) -> Result<Self, Error> {
        let (source, config) = models.text()?;
        let (tokenizer, host) = (models.tokenizer()?, Host { rounding: Rounding::None });
        let encoder = TextEncoder::load(&host, &source, &config)?;
        let mut states = Self { text_len, dim: config.dim, prompts: Vec::new(), by_text: HashMap::new() };
        for caption in std::iter::once("").chain(captions) {
            if states.by_text.contains_key(caption) {
                continue;
            }
            let tokens = tokenizer.encode(&clean_prompt(caption), text_len)?;
            let encoded = encoder.encode(&host, &tokens.ids, &mut |_, _| check_stop())?;
            states.by_text.insert(caption.to_owned(), states.prompts.len() as u32);
            states.prompts.push(encoded.values);
        }
        Ok(states)
    }

    /// Channels of a state.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The index of a text that it was made with; [`NEGATIVE`] of any other.
    pub fn index(&self, caption: &str) -> u32 {
        self.by_text.get(caption).copied().unwrap_or(NEGATIVE)
    }

    /// Padded states of some prompts, `[prompts, text_len, dim]`, as the transformer reads them.
    pub fn padded(&self, prompts: impl Iterator<Item = u32>) -> Vec<f32> {
        let mut values = Vec::new();
        for (count, prompt) in prompts.enumerate() {
            values.extend_from_slice(self.prompts.get(prompt as usize).map_or(&[], Vec::as_slice));
            values.resize((count + 1) * self.text_len * self.dim, 0.0);
        }
        values
    }
}
