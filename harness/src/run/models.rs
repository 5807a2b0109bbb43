//! The networks of a request, opened when a stage needs them.

use std::path::Path;

use turbowan_rcm::Expert;
use turbowan_wan_model::backend::Backend;
use turbowan_wan_model::checkpoint::{Checkpoint, Kind};
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::{DitOptions, DitTraits, WanDit};
use turbowan_wan_model::text::PromptTokenizer;
use turbowan_wan_model::tiny::{Part, Set, Weights, vocabulary};

use crate::error::Error;
use crate::request::{FileRef, Mode, ModelFiles, Models};

/// Share of key blocks of the official checkpoints.
pub const TOPK: f64 = 0.1;

/// A transformer's tensors, before they are loaded.
#[derive(Debug)]
pub struct OpenDit {
    /// Its tensors.
    pub source: Checkpoint,
    /// Its widths and depths.
    pub config: DitConfig,
    /// What it carries.
    pub traits: DitTraits,
}

impl OpenDit {
    /// Opens a file and checks that it is a whole transformer.
    ///
    /// # Errors
    /// When it is broken, is something else, or lacks tensors.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::of(Checkpoint::open(path)?)
    }

    /// Checks that a checkpoint is a whole transformer.
    ///
    /// # Errors
    /// When it is something else or lacks tensors.
    pub fn of(checkpoint: Checkpoint) -> Result<Self, Error> {
        let kind = checkpoint.kind(None)?;
        let Kind::Dit { config, traits, .. } = kind else {
            let reason = format!("expected a diffusion transformer, found {}", describe(&kind));
            return Err(Error::broken(checkpoint.path(), reason));
        };
        checkpoint.check(&config.tensors(traits), |_| false)?;
        Ok(Self { source: checkpoint, config, traits })
    }

    /// The share of key blocks that its sparse-linear attention keeps where none is asked for: the one that its file states, or the
    /// official one.
    ///
    /// # Errors
    /// A file that states no share.
    pub fn topk(&self) -> Result<f64, Error> {
        let share = self.source.statement()?.sla_topk.unwrap_or(TOPK);
        if share > 0.0 && share <= 1.0 {
            return Ok(share);
        }
        Err(Error::broken(self.source.path(), format!("its sla_topk of {share} is not a share in (0, 1]")))
    }

    /// Loads it.
    ///
    /// # Errors
    /// A tensor that the backend cannot take.
    pub fn load<B: Backend>(&self, backend: &B, options: DitOptions) -> turbowan_wan_model::Result<WanDit<B>> {
        WanDit::load(backend, &self.source, &self.config, options)
    }
}

/// Checks that a checkpoint is a whole autoencoder.
///
/// # Errors
/// When it is something else or lacks tensors.
pub fn vae_of(checkpoint: Checkpoint) -> Result<(Checkpoint, VaeConfig), Error> {
    match checkpoint.kind(None)? {
        Kind::Vae(config) => {
            checkpoint.check(&config.tensors(), |_| false)?;
            Ok((checkpoint, config))
        }
        other => Err(Error::broken(checkpoint.path(), format!("expected the Wan 2.1 VAE, found {}", describe(&other)))),
    }
}

/// A request of a program with another embedded model.
fn other_embedded(part: Part, asked: &str) -> Error {
    let reason = format!("its {} part is another than the request's (BLAKE3 {asked}); use the program that made the request", part.name());
    Error::broken(Path::new("embedded model"), reason)
}

/// What a person calls a network that was found where another was expected.
fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Unknown => "tensors of no Wan network".to_owned(),
        known => format!("the {}", known.model()),
    }
}

impl Models {
    /// The model that is part of this program, as far as `mode` needs it.
    pub fn embedded(mode: Mode) -> Self {
        let set = Set::embedded();
        let hash = |part: Part| match set.weights(part) {
            Weights::Trained { hash } => Some((part.name().to_owned(), hash)),
            Weights::Random { .. } => None,
        };
        let transformers: &[Part] = match mode {
            Mode::T2v => &[Part::TextToVideo],
            Mode::I2v => &[Part::HighNoise, Part::LowNoise],
        };
        let trained = [Part::Vae, Part::Text].iter().chain(transformers).filter_map(|part| hash(*part)).collect();
        Self::Embedded { seed: set.seed(), trained }
    }

    /// The part of the small model that an expert is.
    pub fn part(mode: Mode, expert: Expert) -> Part {
        match (mode, expert) {
            (Mode::T2v, _) => Part::TextToVideo,
            (Mode::I2v, Expert::High) => Part::HighNoise,
            (Mode::I2v, Expert::Low) => Part::LowNoise,
        }
    }

    /// The checkpoint of the network that `part` is in the small model, and `of_files` names among the files.
    fn open(&self, part: Part, of_files: impl FnOnce(&ModelFiles) -> &FileRef) -> Result<Checkpoint, Error> {
        match self {
            Self::Embedded { seed, trained } => match trained.get(part.name()) {
                None => Ok(Set::random(*seed).open(part)?),
                Some(asked) => {
                    let set = Set::embedded();
                    match set.weights(part) {
                        Weights::Trained { hash } if hash == *asked => Ok(set.open(part)?),
                        _ => Err(other_embedded(part, asked)),
                    }
                }
            },
            Self::Files(files) => Ok(Checkpoint::open(&of_files(files).path)?),
        }
    }

    /// A transformer: the only one, or one of two experts.
    ///
    /// # Errors
    /// When its file cannot be used, or there is none for the expert.
    pub fn dit(&self, mode: Mode, expert: Expert) -> Result<OpenDit, Error> {
        OpenDit::of(self.open(Self::part(mode, expert), |files| match (expert, &files.low_noise) {
            (Expert::Low, Some(low)) => low,
            _ => &files.dit,
        })?)
    }

    /// What a person calls the transformer for noisy times: where it is, and its hash or seed.
    pub fn transformer_name(&self, mode: Mode) -> String {
        match self {
            Self::Embedded { seed, trained } => match trained.get(Self::part(mode, Expert::High).name()) {
                Some(hash) => format!("embedded ({hash})"),
                None => format!("embedded, seed {seed}"),
            },
            Self::Files(files) => format!("{} ({})", files.dit.path.display(), files.dit.hash),
        }
    }

    /// The autoencoder.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn vae(&self) -> Result<(Checkpoint, VaeConfig), Error> {
        vae_of(self.open(Part::Vae, |files| &files.vae)?)
    }

    /// The text encoder.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn text(&self) -> Result<(Checkpoint, TextConfig), Error> {
        let checkpoint = self.open(Part::Text, |files| &files.text_encoder)?;
        match checkpoint.kind(None)? {
            Kind::Text(config) => {
                checkpoint.check(&config.tensors(), |_| false)?;
                Ok((checkpoint, config))
            }
            other => Err(Error::broken(checkpoint.path(), format!("expected a umT5 encoder, found {}", describe(&other)))),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn tokenizer(&self) -> Result<PromptTokenizer, Error> {
        match self {
            Self::Embedded { .. } => Ok(PromptTokenizer::from_bytes(vocabulary::tokenizer().bytes(), Path::new("embedded tokenizer"))?),
            Self::Files(files) => Ok(PromptTokenizer::open(&files.tokenizer.path)?),
        }
    }

    /// A name for what makes text states: for their cache.
    pub fn text_identity(&self) -> String {
        match self {
            Self::Embedded { seed, trained } => match trained.get(Part::Text.name()) {
                Some(hash) => format!("embedded {hash}"),
                None => format!("embedded {seed}"),
            },
            Self::Files(files) => format!("{} {}", files.text_encoder.hash, files.tokenizer.hash),
        }
    }

    /// Checks that every file still holds what it held when the request was made, and the program the same trained parts.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn verify(&self) -> Result<(), Error> {
        let files = match self {
            Self::Embedded { trained, .. } => {
                let set = Set::embedded();
                let differs = |part: &Part| {
                    trained.get(part.name()).filter(|asked| set.weights(*part) != Weights::Trained { hash: (*asked).clone() })
                };
                return match Part::ALL.into_iter().find_map(|part| Some((part, differs(&part)?))) {
                    Some((part, asked)) => Err(other_embedded(part, asked)),
                    None => Ok(()),
                };
            }
            Self::Files(files) => files,
        };
        let ModelFiles { dit, low_noise, vae, text_encoder, tokenizer } = &**files;
        [Some(dit), low_noise.as_ref(), Some(vae), Some(text_encoder), Some(tokenizer)].into_iter().flatten().try_for_each(FileRef::verify)
    }
}

impl FileRef {
    /// A file or folder as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let hash = if is_checkpoint(path) {
            Checkpoint::open(path)?.content_hash()
        } else {
            let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
            blake3::hash(&bytes).to_hex().to_string()
        };
        Ok(Self { path: path.to_owned(), hash })
    }

    /// Checks that the file still holds what it held.
    ///
    /// # Errors
    /// When it cannot be read or has changed.
    pub fn verify(&self) -> Result<(), Error> {
        let now = Self::of(&self.path)?;
        if now.hash == self.hash {
            return Ok(());
        }
        let reason = format!("its contents have changed since the request was made (BLAKE3 {} then, {} now)", self.hash, now.hash);
        Err(Error::broken(&self.path, reason))
    }
}

fn is_checkpoint(path: &Path) -> bool {
    let suffix = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    path.is_dir() || ["safetensors", "pth", "pt", "bin"].contains(&suffix.as_str()) || path.to_string_lossy().ends_with(".index.json")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_embedded_part_that_the_program_does_not_hold_is_refused_by_name() {
        let trained = BTreeMap::from([("vae".to_owned(), "00".repeat(32))]);
        let models = Models::Embedded { seed: 1, trained };
        for error in [models.verify().unwrap_err(), models.vae().unwrap_err()] {
            assert!(error.to_string().contains("vae part is another"), "{error}");
        }
        assert!(models.text().is_ok(), "the random parts are there all the same");
    }

    #[test]
    fn a_request_of_this_program_is_its_own() {
        for mode in [Mode::T2v, Mode::I2v] {
            let models = Models::embedded(mode);
            models.verify().unwrap();
            assert!(models.dit(mode, Expert::Low).is_ok() && models.vae().is_ok());
        }
    }
}
