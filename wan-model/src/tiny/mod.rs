//! A small model with the whole Wan architecture, part of the program: it runs wherever no checkpoint is at hand.
//!
//! Sizes are small; names, files and code paths are the real ones. A part whose trained file lies in `tiny/trained` holds
//! that file ([`Set::embedded`]); any other is made from a seed ([`TinyTensors`]), and shows texture instead of pictures.
//! `turbowan init-tiny` writes the same set in the official layout.

mod random;
mod set;
pub mod vocabulary;

pub use random::TinyTensors;
pub use set::{Set, Weights};

use crate::config::{DitConfig, TensorSpec, TextConfig, VaeConfig};
use crate::dit::DitTraits;

/// Seed of the parts that are not trained, when no checkpoint is named.
pub const DEFAULT_SEED: u64 = 1;

/// Side of the frames that it makes where no size is asked for, in pixels.
pub const SIDE: usize = 128;
/// Frames that it makes where no number is asked for.
pub const FRAMES: usize = 33;

/// The networks of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The text-to-video transformer.
    TextToVideo,
    /// The image-to-video expert for noisy times.
    HighNoise,
    /// The image-to-video expert for late times.
    LowNoise,
    /// The video autoencoder.
    Vae,
    /// The text encoder.
    Text,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::TextToVideo, Self::HighNoise, Self::LowNoise, Self::Vae, Self::Text];

    /// File name in the official layout.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::TextToVideo => "TurboWan2.1-T2V-tiny.safetensors",
            Self::HighNoise => "TurboWan2.2-I2V-tiny-high.safetensors",
            Self::LowNoise => "TurboWan2.2-I2V-tiny-low.safetensors",
            Self::Vae => "Wan2.1_VAE.safetensors",
            Self::Text => "models_t5_umt5-xxl-enc-bf16.safetensors",
        }
    }

    /// Its name in a request and on a screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextToVideo => "t2v",
            Self::HighNoise => "i2v-high",
            Self::LowNoise => "i2v-low",
            Self::Vae => "vae",
            Self::Text => "text",
        }
    }

    /// What its random weights are tensors of: names and shapes.
    pub fn tensors(self) -> Vec<TensorSpec> {
        let traits = DitTraits { quantised: false, sla: true };
        match self {
            Self::TextToVideo => dit_config(16).tensors(traits),
            Self::HighNoise | Self::LowNoise => dit_config(36).tensors(traits),
            Self::Vae => vae_config().tensors(),
            Self::Text => text_config().tensors(),
        }
    }
}

/// Shape of the small transformer that reads `in_dim` latent channels.
pub fn dit_config(in_dim: usize) -> DitConfig {
    DitConfig {
        dim: 128,
        ffn_dim: 384,
        freq_dim: 256,
        text_dim: 128,
        // A caption has some ten tokens: among 512 rows its own would drown in zeros.
        text_len: 32,
        in_dim,
        out_dim: 16,
        heads: 2,
        layers: 6,
        eps: 1e-6,
        clip_dim: None,
    }
}

/// Shape of the small autoencoder.
pub fn vae_config() -> VaeConfig {
    VaeConfig::of_width(8)
}

/// Shape of the small text encoder.
pub fn text_config() -> TextConfig {
    TextConfig {
        vocab: vocabulary::tokenizer().vocab(),
        dim: 128,
        dim_attn: 128,
        dim_ffn: 256,
        heads: 4,
        layers: 2,
        buckets: 32,
        max_distance: 128,
    }
}
