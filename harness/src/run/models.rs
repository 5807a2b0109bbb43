//! The networks of a request, opened when a stage needs them.

use std::path::Path;

use turbowan_rcm::Expert;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::checkpoint::{Checkpoint, Kind, TensorSource, TensorView};
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::{DitOptions, DitTraits, WanDit};
use turbowan_wan_model::text::PromptTokenizer;
use turbowan_wan_model::tiny::{self, Part, TinyTensors, vocabulary};

use crate::error::Error;
use crate::request::{FileRef, Mode, ModelFiles, Models};

/// Tensors from a file or from the seed of the embedded model.
#[derive(Debug)]
pub enum Source {
    /// Made from a seed.
    Tiny(TinyTensors),
    /// Read from a file.
    File(Checkpoint),
}

impl TensorSource for Source {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        match self {
            Self::Tiny(tensors) => tensors.get(name),
            Self::File(checkpoint) => checkpoint.get(name),
        }
    }
}

/// A transformer's tensors, before they are loaded.
#[derive(Debug)]
pub struct OpenDit {
    /// Its tensors.
    pub source: Source,
    /// Its widths and depths.
    pub config: DitConfig,
    /// What it carries.
    pub traits: DitTraits,
}

impl OpenDit {
    /// Opens a checkpoint and checks that it is a whole transformer.
    ///
    /// # Errors
    /// When the file is broken, is something else, or lacks tensors.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(path)?;
        let kind = checkpoint.kind(None)?;
        let Kind::Dit { config, traits, .. } = kind else {
            return Err(Error::broken(path, format!("expected a diffusion transformer, found {}", describe(&kind))));
        };
        checkpoint.check(&config.tensors(traits), |_| false)?;
        Ok(Self { source: Source::File(checkpoint), config, traits })
    }

    fn tiny(part: Part, seed: u64) -> Result<Self, Error> {
        let in_dim = if part == Part::TextToVideo { 16 } else { 36 };
        let source = Source::Tiny(TinyTensors::generate(part, seed)?);
        Ok(Self { source, config: tiny::dit_config(in_dim), traits: DitTraits { quantised: false, sla: true } })
    }

    /// Loads it.
    ///
    /// # Errors
    /// A tensor that the backend cannot take.
    pub fn load(&self, host: &Host, options: DitOptions) -> turbowan_wan_model::Result<WanDit<Host>> {
        WanDit::load(host, &self.source, &self.config, options)
    }
}

/// What a person calls a network that was found where another was expected.
fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Unknown => "tensors of no Wan network".to_owned(),
        known => format!("the {}", known.model()),
    }
}

impl Models {
    /// A transformer: the only one, or one of two experts.
    ///
    /// # Errors
    /// When its file cannot be used, or there is none for the expert.
    pub fn dit(&self, mode: Mode, expert: Expert) -> Result<OpenDit, Error> {
        match self {
            Self::Embedded { seed } => match (mode, expert) {
                (Mode::T2v, _) => OpenDit::tiny(Part::TextToVideo, *seed),
                (Mode::I2v, Expert::High) => OpenDit::tiny(Part::HighNoise, *seed),
                (Mode::I2v, Expert::Low) => OpenDit::tiny(Part::LowNoise, *seed),
            },
            Self::Files(files) => match (expert, &files.low_noise) {
                (Expert::Low, Some(low)) => OpenDit::open(&low.path),
                _ => OpenDit::open(&files.dit.path),
            },
        }
    }

    /// The autoencoder.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn vae(&self) -> Result<(Source, VaeConfig), Error> {
        match self {
            Self::Embedded { seed } => Ok((Source::Tiny(TinyTensors::generate(Part::Vae, *seed)?), tiny::vae_config())),
            Self::Files(files) => {
                let vae = &files.vae;
                let checkpoint = Checkpoint::open(&vae.path)?;
                match checkpoint.kind(None)? {
                    Kind::Vae(config) => {
                        checkpoint.check(&config.tensors(), |_| false)?;
                        Ok((Source::File(checkpoint), config))
                    }
                    other => Err(Error::broken(&vae.path, format!("expected the Wan 2.1 VAE, found {}", describe(&other)))),
                }
            }
        }
    }

    /// The text encoder.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn text(&self) -> Result<(Source, TextConfig), Error> {
        match self {
            Self::Embedded { seed } => Ok((Source::Tiny(TinyTensors::generate(Part::Text, *seed)?), tiny::text_config())),
            Self::Files(files) => {
                let text_encoder = &files.text_encoder;
                let checkpoint = Checkpoint::open(&text_encoder.path)?;
                match checkpoint.kind(None)? {
                    Kind::Text(config) => {
                        checkpoint.check(&config.tensors(), |_| false)?;
                        Ok((Source::File(checkpoint), config))
                    }
                    other => Err(Error::broken(&text_encoder.path, format!("expected a umT5 encoder, found {}", describe(&other)))),
                }
            }
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
            Self::Embedded { seed } => format!("embedded {seed}"),
            Self::Files(files) => format!("{} {}", files.text_encoder.hash, files.tokenizer.hash),
        }
    }

    /// Checks that every file still holds what it held when the request was made.
    ///
    /// # Errors
    /// Names the first file that does not.
    pub fn verify(&self) -> Result<(), Error> {
        let Self::Files(files) = self else { return Ok(()) };
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
