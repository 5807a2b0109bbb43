//! The networks that a transformer learns beside: they are read once and stay as they are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_cuda::Rounding;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::checkpoint::{Checkpoint, Kind, TensorSource};
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::DitTraits;
use turbowan_wan_model::text::PromptTokenizer;
use turbowan_wan_model::tiny::DEFAULT_SEED;
use turbowan_wan_model::vae::{LatentStatistics, Side, Vae};

use crate::error::Error;
use crate::request::Models as RequestModels;
use crate::run::models::Source;

/// The autoencoder and the text encoder; one that is not named is the embedded model's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// The autoencoder's file.
    pub vae: Option<PathBuf>,
    /// The text encoder's file.
    pub text: Option<PathBuf>,
    /// The tokenizer's file, or its folder.
    pub tokenizer: Option<PathBuf>,
}

const EMBEDDED: RequestModels = RequestModels::Embedded { seed: DEFAULT_SEED };

impl Models {
    /// Sides of the autoencoder, in f32.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub fn vae(&self, sides: &[Side]) -> Result<Vae<HostFrames>, Error> {
        let (source, config) = self.vae_tensors()?;
        let statistics = LatentStatistics::of_channels(config.z_dim);
        Ok(Vae::load(HostFrames::new(Rounding::None), &source, &config, statistics, sides)?)
    }

    fn vae_tensors(&self) -> Result<(Source, VaeConfig), Error> {
        let Some(path) = &self.vae else { return EMBEDDED.vae() };
        let checkpoint = Checkpoint::open(path)?;
        let Kind::Vae(config) = checkpoint.kind(None)? else {
            return Err(Error::broken(path, "expected the Wan 2.1 VAE, found something else"));
        };
        checkpoint.check(&config.tensors(), |_| false)?;
        Ok((Source::File(checkpoint), config))
    }

    /// A name of the autoencoder's contents: for a cache of what it makes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn vae_identity(&self) -> Result<String, Error> {
        match &self.vae {
            None => Ok(format!("embedded {DEFAULT_SEED}")),
            Some(path) => Ok(Checkpoint::open(path)?.content_hash()),
        }
    }

    /// The text encoder's tensors and sizes.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub fn text(&self) -> Result<(Source, TextConfig), Error> {
        let Some(path) = &self.text else { return EMBEDDED.text() };
        let checkpoint = Checkpoint::open(path)?;
        let Kind::Text(config) = checkpoint.kind(None)? else {
            return Err(Error::broken(path, "expected a umT5 encoder, found something else"));
        };
        checkpoint.check(&config.tensors(), |_| false)?;
        Ok((Source::File(checkpoint), config))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub fn tokenizer(&self) -> Result<PromptTokenizer, Error> {
        match &self.tokenizer {
            None => EMBEDDED.tokenizer(),
            Some(path) => Ok(PromptTokenizer::open(path)?),
        }
    }
}

/// A transformer's file, float and whole: its tensors and sizes.
///
/// # Errors
/// A file that cannot be read, is something else, or is quantised.
pub fn transformer(path: &Path) -> Result<(Checkpoint, DitConfig), Error> {
    let checkpoint = Checkpoint::open(path)?;
    let Kind::Dit { config, traits, .. } = checkpoint.kind(None)? else {
        return Err(Error::broken(path, "expected a diffusion transformer, found something else"));
    };
    if traits.quantised {
        return Err(Error::broken(path, "its linears are int8 and cannot learn; take the float weights that it was made from"));
    }
    checkpoint.check(&config.tensors(DitTraits { quantised: false, ..traits }), |_| false)?;
    debug_assert!(checkpoint.get("head.head.weight").is_some());
    Ok((checkpoint, config))
}
