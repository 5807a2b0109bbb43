//! Shapes of operations, in the words of the files of cases.

use serde::{Deserialize, Serialize};
use turbowan_sla::Density;

/// Query rows and key rows of a block of the map, in every case.
pub const BLOCKS: (usize, usize) = (128, 64);

/// A product with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Rows: tokens.
    pub rows: usize,
    /// Columns of the result.
    pub out: usize,
    /// Columns of the rows.
    pub input: usize,
}

/// Attention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Samples.
    #[serde(default = "one")]
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Query rows.
    pub len: usize,
    /// Key rows, where they are not as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<usize>,
    /// Channels of a head.
    pub head_dim: usize,
    /// Share of key blocks that each query block sees; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk: Option<f64>,
}

/// Rows of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Rows: tokens, or pixels.
    pub rows: usize,
    /// Channels.
    pub width: usize,
}

/// Heads over a grid of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadGrid {
    /// Tokens in time, height and width.
    pub grid: [usize; 3],
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// Rows of every head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadRows {
    /// Samples.
    #[serde(default = "one")]
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Rows of a head.
    pub len: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// Tokens of a text that attend to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRows {
    /// Rows, padding included.
    pub rows: usize,
    /// Rows from the first on that are seen: the text.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// A causal convolution over frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convolution {
    /// Frames that are made.
    pub frames: usize,
    /// Height and width of a frame.
    pub size: [usize; 2],
    /// Channels read.
    pub input: usize,
    /// Channels written.
    pub output: usize,
    /// Taps in time, height and width.
    pub kernel: [usize; 3],
}

/// One transformer block on a latent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// `1.3b`, `14b` or `tiny`.
    pub model: Model,
    /// Frames, height and width of the latent; four of its pixels are a token.
    pub latent: [usize; 3],
}

/// The width of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// The embedded one.
    Tiny,
    /// 1536 channels.
    #[serde(rename = "1.3b")]
    Wan13B,
    /// 5120 channels.
    #[serde(rename = "14b")]
    Wan14B,
}

/// A latent that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// Channels of the first stage; 96 are released.
    pub width: usize,
    /// Frames, height and width of the latent.
    pub latent: [usize; 3],
}

/// A text that is encoded by the embedded model's encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Tokens.
    pub tokens: usize,
}

/// A whole generation with the embedded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Frames.
    pub frames: usize,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Network calls.
    pub steps: usize,
}

/// Latents of a step of training of the small transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latents {
    /// Samples.
    pub batch: usize,
    /// Frames, height and width of a latent; four of its pixels are a token.
    pub latent: [usize; 3],
}

/// Crops of a step of training of an autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crops {
    /// Channels of the first stage.
    pub width: usize,
    /// Crops.
    pub batch: usize,
    /// Frames of a crop.
    pub frames: usize,
    /// Lines and columns of a frame.
    pub side: usize,
}

impl Attention {
    /// Heads over the batch.
    pub fn problems(&self) -> usize {
        self.batch * self.heads
    }

    /// Key rows.
    pub fn key_len(&self) -> usize {
        self.keys.unwrap_or(self.len)
    }

    /// Query and key blocks of a head.
    pub fn blocks(&self) -> (usize, usize) {
        (self.len.div_ceil(BLOCKS.0), self.key_len().div_ceil(BLOCKS.1))
    }

    /// Share of key blocks kept.
    pub fn density(&self) -> Density {
        self.topk.and_then(Density::new).unwrap_or(Density::DENSE)
    }

    /// Key blocks that a query block sees.
    pub fn kept_blocks(&self) -> usize {
        self.density().blocks(self.blocks().1)
    }
}

const fn one() -> usize {
    1
}
