//! Settings that the stages of diffusion share.

use std::path::Path;

use serde::{Deserialize, Serialize};
use turbowan_cuda::Rounding;
use turbowan_rcm::train::TimeDistribution;
use turbowan_sla::Density;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, Grid, TrainDit};
use turbowan_wan_model::resolution::{LATENT_CHANNELS, LatentShape};

use super::models;
use crate::error::Error;

/// Sizes of a new transformer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Channels of a token.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Channels inside the feed-forward layers.
    pub ffn_dim: usize,
    /// Channels of the sinusoids of time.
    pub freq_dim: usize,
    /// Rows of text; prompts are cut or filled up to it.
    pub text_len: usize,
    /// Whether it reads a first frame: image to video.
    pub image: bool,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { dim: 128, layers: 6, heads: 2, ffn_dim: 384, freq_dim: 256, text_len: 24, image: false }
    }
}

/// Channels of the mask and of the image's latent.
const IMAGE_CHANNELS: usize = 20;

impl NetworkSettings {
    /// The transformer for text states of `text_dim` channels.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn config(&self, text_dim: usize) -> Result<DitConfig, Error> {
        let Self { dim, layers, heads, ffn_dim, freq_dim, text_len, image } = *self;
        let is_split = heads > 0 && dim.is_multiple_of(heads) && (dim / heads).is_multiple_of(2);
        if !is_split || [dim, layers, ffn_dim, text_len].contains(&0) || freq_dim < 2 || !freq_dim.is_multiple_of(2) {
            let reason = "dim splits into heads of an even number of channels, freq_dim is even, and nothing is 0";
            return Err(Error::flag("network", reason));
        }
        let in_dim = LATENT_CHANNELS + if image { IMAGE_CHANNELS } else { 0 };
        let out_dim = LATENT_CHANNELS;
        Ok(DitConfig { dim, ffn_dim, freq_dim, text_dim, text_len, in_dim, out_dim, heads, layers, eps: 1e-6, clip_dim: None })
    }
}

/// Dense attention where `sla_topk` is 0, else sparse-linear attention, in f32, that keeps this share of key blocks.
///
/// # Errors
/// A share outside of [0, 1].
pub fn attention(sla_topk: f64) -> Result<Attention, Error> {
    if sla_topk == 0.0 {
        return Ok(Attention::Original);
    }
    let density =
        Density::new(sla_topk).ok_or_else(|| Error::flag("sla_topk", format!("{sla_topk} is not a share in (0, 1], nor 0 for dense")))?;
    Ok(Attention::Sla(Sparsity { inner: Rounding::None, ..Sparsity::official(density) }))
}

/// A transformer that learns, from the weights in `start` or, without any, from new ones of `seed`.
///
/// # Errors
/// A file that cannot be read, or whose network has other sizes than `config` (but for the text's rows, an image's channels
/// and further blocks).
pub fn transformer(
    config: &DitConfig,
    attention: Attention,
    shape: LatentShape,
    start: Option<&Path>,
    seed: u64,
) -> Result<TrainDit, Error> {
    let sla = attention != Attention::Original;
    let parameters = match start {
        None => config.initial(sla, seed),
        Some(path) => {
            let (file, found) = models::transformer(path)?;
            let layers = config.layers.min(found.layers);
            let alike = DitConfig { text_len: config.text_len, in_dim: config.in_dim, layers, ..found.clone() };
            if alike != *config {
                return Err(Error::broken(
                    path,
                    format!("its network is {found:?}, the settings ask for {config:?}; set [network] to its sizes"),
                ));
            }
            config.started(sla, &file)?
        }
    };
    let options = DitOptions { attention, norms: NormRule::Standard, quantise: false };
    let grid = Grid { frames: shape.frames, height: shape.height, width: shape.width };
    Ok(TrainDit::from_parameters(parameters, config, options, grid)?)
}

/// Which of two experts learns, each on its side of the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpertName {
    /// One network for all times.
    Only,
    /// Noisy times, from the boundary up.
    High,
    /// Late times, up to the boundary.
    Low,
}

impl ExpertName {
    /// `times`, drawn into this expert's range.
    ///
    /// # Errors
    /// A boundary that is no flow time.
    pub fn clamped(self, times: TimeDistribution, boundary: f64) -> Result<TimeDistribution, Error> {
        Ok(match self {
            Self::Only => times,
            Self::High => times.clamped(boundary, 1.0)?,
            Self::Low => times.clamped(0.0, boundary)?,
        })
    }
}
