//! The networks that a transformer learns beside: they are read once and stay as they are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_cuda::Rounding;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::checkpoint::{Checkpoint, Kind, TensorSource};
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::DitTraits;
use turbowan_wan_model::text::PromptTokenizer;
use turbowan_wan_model::vae::{LatentStatistics, Side, Vae};

use crate::error::Error;
use crate::request::{Mode, Models as RequestModels};
use crate::run::models::vae_of;

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

/// The model that is part of this program.
fn embedded() -> RequestModels {
    RequestModels::embedded(Mode::T2v)
}

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

    fn vae_tensors(&self) -> Result<(Checkpoint, VaeConfig), Error> {
        match &self.vae {
            None => embedded().vae(),
            Some(path) => vae_of(Checkpoint::open(path)?),
        }
    }

    /// A name of the autoencoder's contents: for a cache of what it makes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn vae_identity(&self) -> Result<String, Error> {
        Ok(self.vae_tensors()?.0.content_hash())
    }

    /// The text encoder's tensors and sizes.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub fn text(&self) -> Result<(Checkpoint, TextConfig), Error> {
        let Some(path) = &self.text else { return embedded().text() };
        let checkpoint = Checkpoint::open(path)?;
        let Kind::Text(config) = checkpoint.kind(None)? else {
            return Err(Error::broken(path, "expected a umT5 encoder, found something else"));
        };
        checkpoint.check(&config.tensors(), |_| false)?;
        Ok((checkpoint, config))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub fn tokenizer(&self) -> Result<PromptTokenizer, Error> {
        match &self.tokenizer {
            None => embedded().tokenizer(),
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
