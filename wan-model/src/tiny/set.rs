//! The parts of a small model, each trained or random, as the bytes of checkpoints.

use std::borrow::Cow;
use std::path::Path;

use super::{DEFAULT_SEED, Part, TinyTensors, dit_config, text_config, vae_config};
use crate::checkpoint::{Checkpoint, Statement, write_safetensors};
use crate::{Error, Result};

/// Name and bytes of every file in `trained`.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/trained.rs"));

/// Where a part's weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// A trained file that is part of the program.
    Trained {
        /// BLAKE3 of its bytes, in hex.
        hash: String,
    },
    /// Random ones.
    Random {
        /// Their seed.
        seed: u64,
    },
}

/// A small model: every part is a checkpoint, trained where there is a file of it and random elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    seed: u64,
    trained: Vec<(Part, &'static [u8])>,
}

impl Set {
    /// What this program holds: the trained parts, and [`DEFAULT_SEED`] for the others.
    pub fn embedded() -> Self {
        let bytes = |part: Part| FILES.iter().find(|(name, _)| *name == part.file_name()).map(|(_, bytes)| (part, *bytes));
        Self { seed: DEFAULT_SEED, trained: Part::ALL.into_iter().filter_map(bytes).collect() }
    }

    /// All parts random.
    pub fn random(seed: u64) -> Self {
        Self { seed, trained: Vec::new() }
    }

    /// With the bytes of a checkpoint for one part.
    #[must_use]
    pub fn with(mut self, part: Part, bytes: &'static [u8]) -> Self {
        self.trained.retain(|(other, _)| *other != part);
        self.trained.push((part, bytes));
        self
    }

    /// Seed of its random parts.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where a part's weights come from.
    pub fn weights(&self, part: Part) -> Weights {
        match self.file(part) {
            Some(bytes) => Weights::Trained { hash: blake3::hash(bytes).to_hex().to_string() },
            None => Weights::Random { seed: self.seed },
        }
    }

    /// The bytes of a part's checkpoint, safetensors in the official layout: the trained file as it is, or the random
    /// weights with what shapes do not show in their metadata.
    ///
    /// # Errors
    /// None in practice: the generator has no end, and memory takes what is written to it.
    pub fn bytes(&self, part: Part) -> Result<Cow<'static, [u8]>> {
        match self.file(part) {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => random_bytes(part, self.seed).map(Cow::Owned),
        }
    }

    /// A part's checkpoint.
    ///
    /// # Errors
    /// [`Error::Format`] when a trained file is broken.
    pub fn open(&self, part: Part) -> Result<Checkpoint> {
        let name = place(part);
        match self.bytes(part)? {
            Cow::Borrowed(bytes) => Checkpoint::from_bytes(name, bytes),
            Cow::Owned(bytes) => Checkpoint::from_vec(name, bytes),
        }
    }

    fn file(&self, part: Part) -> Option<&'static [u8]> {
        self.trained.iter().find(|(held, _)| *held == part).map(|(_, bytes)| *bytes)
    }
}

/// What stands for the path of a part in messages.
fn place(part: Part) -> String {
    format!("embedded model, {}", part.name())
}

fn random_bytes(part: Part, seed: u64) -> Result<Vec<u8>> {
    let broken = |reason: &dyn std::fmt::Display| Error::Format { path: Path::new(&place(part)).to_owned(), reason: reason.to_string() };
    let config = match part {
        Part::TextToVideo => serde_json::to_value(dit_config(16)),
        Part::HighNoise | Part::LowNoise => serde_json::to_value(dit_config(36)),
        Part::Vae => serde_json::to_value(vae_config()),
        Part::Text => serde_json::to_value(text_config()),
    };
    let config = config.map_err(|error| broken(&error))?.as_object().cloned().unwrap_or_default();
    let statement = Statement { config: Some(config), recipe: Some(format!("random, seed {seed}")), ..Statement::default() };
    let tensors = TinyTensors::generate(part, seed)?;
    let mut bytes = Vec::new();
    write_safetensors(&mut bytes, &tensors.iter().collect::<Vec<_>>(), &statement.metadata()).map_err(|error| broken(&error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Kind, TensorSource};

    /// All trained files together, in bytes.
    const MOST_BYTES: usize = 12 << 20;

    #[test]
    fn a_part_with_a_file_is_that_file_and_the_others_stay_random() {
        let file: &'static [u8] = Box::leak(random_bytes(Part::Vae, 7).unwrap().into_boxed_slice());
        let set = Set::random(3).with(Part::Vae, file);
        assert_eq!(set.weights(Part::Vae), Weights::Trained { hash: blake3::hash(file).to_hex().to_string() });
        assert_eq!(set.weights(Part::Text), Weights::Random { seed: 3 });
        assert_eq!(set.bytes(Part::Vae).unwrap(), file);
        let values = |checkpoint: &Checkpoint, name: &str| checkpoint.take(name).unwrap().to_f32();
        let trained = TinyTensors::generate(Part::Vae, 7).unwrap();
        assert_eq!(values(&set.open(Part::Vae).unwrap(), "conv2.weight"), trained.take("conv2.weight").unwrap().to_f32());
        let random = TinyTensors::generate(Part::Text, 3).unwrap();
        assert_eq!(values(&set.open(Part::Text).unwrap(), "norm.weight"), random.take("norm.weight").unwrap().to_f32());
    }

    #[test]
    fn random_parts_say_what_shapes_do_not_show() {
        let checkpoint = Set::random(1).open(Part::HighNoise).unwrap();
        let Kind::Dit { config, .. } = checkpoint.kind(None).unwrap() else { panic!("no transformer") };
        assert_eq!((config.text_len, config), (32, dit_config(36)));
        assert_eq!(checkpoint.statement().unwrap().recipe.as_deref(), Some("random, seed 1"));
    }

    #[test]
    fn the_embedded_parts_are_whole_small_and_fit_one_another() {
        let known: Vec<_> = Part::ALL.map(Part::file_name).to_vec();
        assert!(FILES.iter().all(|(name, _)| known.contains(name)), "a file in tiny/trained that is no part: {known:?}");
        assert!(FILES.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= MOST_BYTES);
        let set = Set::embedded();
        let open = |part: Part| {
            let checkpoint = set.open(part).unwrap();
            let kind = checkpoint.kind(None).unwrap();
            let specs = match &kind {
                Kind::Dit { config, traits, .. } => config.tensors(*traits),
                Kind::Vae(config) => config.tensors(),
                Kind::Text(config) => config.tensors(),
                Kind::Unknown => panic!("{part:?} is no network"),
            };
            checkpoint.check(&specs, |_| false).unwrap();
            if let Weights::Trained { .. } = set.weights(part) {
                let statement = checkpoint.statement().unwrap();
                assert!(statement.recipe.is_some() && !statement.gates.is_empty(), "{part:?}: no recipe or no gates");
            }
            kind
        };
        let (Kind::Text(text), Kind::Vae(vae)) = (open(Part::Text), open(Part::Vae)) else { panic!("parts are mixed up") };
        assert_eq!(text.vocab, super::super::vocabulary::tokenizer().vocab(), "the encoder and the tokenizer are of one vocabulary");
        for (part, in_dim) in [(Part::TextToVideo, 16), (Part::HighNoise, 36), (Part::LowNoise, 36)] {
            let Kind::Dit { config, .. } = open(part) else { panic!("{part:?} is no transformer") };
            assert_eq!((config.in_dim, config.out_dim, config.text_dim), (in_dim, vae.z_dim, text.dim), "{part:?}");
        }
    }
}
