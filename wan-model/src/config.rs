//! Widths and depths of the networks. Nothing else holds a magic number of them.

use serde::{Deserialize, Serialize};

/// A tensor that a network needs: its official name and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Official name, e.g. `blocks.0.self_attn.q.weight`.
    pub name: String,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor called `name` of shape `shape`.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec() }
    }
}

/// Shape of a Wan diffusion transformer (`rcm/networks/wan2pt1.py`, `wan2pt2.py`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DitConfig {
    /// Channels of a token.
    pub dim: usize,
    /// Channels inside the feed-forward layer.
    pub ffn_dim: usize,
    /// Channels of the sinusoidal time embedding; even.
    pub freq_dim: usize,
    /// Channels of a text state.
    pub text_dim: usize,
    /// Rows of text that cross attention sees; prompts are zero-padded to it.
    pub text_len: usize,
    /// Latent channels read: 16 for text to video, 36 for image to video (latent, mask, image latent).
    pub in_dim: usize,
    /// Latent channels written.
    pub out_dim: usize,
    /// Attention heads; `dim / heads` channels each.
    pub heads: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Added to variances in norms.
    pub eps: f32,
    /// Channels of a CLIP image state, for Wan 2.1 image to video.
    pub clip_dim: Option<usize>,
}

impl DitConfig {
    /// Wan 2.1 T2V 1.3B.
    pub const WAN_1_3B: Self = Self::official(16, 1536, 8960, 12, 30);
    /// Wan 2.1 T2V 14B.
    pub const WAN_14B: Self = Self::official(16, 5120, 13824, 40, 40);
    /// One expert of Wan 2.2 I2V A14B.
    pub const WAN_A14B_I2V: Self = Self::official(36, 5120, 13824, 40, 40);
    /// Time, height and width of a patch: one token.
    pub const PATCH: [usize; 3] = [1, 2, 2];

    const fn official(in_dim: usize, dim: usize, ffn_dim: usize, heads: usize, layers: usize) -> Self {
        Self { dim, ffn_dim, freq_dim: 256, text_dim: 4096, text_len: 512, in_dim, out_dim: 16, heads, layers, eps: 1e-6, clip_dim: None }
    }

    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }
}

/// Shape of the Wan 2.1 video autoencoder (`rcm/tokenizers/wan2pt1.py`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of the first stage.
    pub dim: usize,
    /// Latent channels.
    pub z_dim: usize,
    /// Width of each stage over `dim`.
    pub dim_mult: Vec<usize>,
    /// Residual blocks a stage (the decoder has one more).
    pub num_res_blocks: usize,
    /// Which downsamplings also halve time.
    pub temporal_downsample: Vec<bool>,
}

impl VaeConfig {
    /// The autoencoder of Wan 2.1, at another width for small models.
    pub fn of_width(dim: usize) -> Self {
        Self { dim, z_dim: 16, dim_mult: vec![1, 2, 4, 4], num_res_blocks: 2, temporal_downsample: vec![false, true, true] }
    }

    /// The released Wan 2.1 autoencoder.
    pub fn wan_2_1() -> Self {
        Self::of_width(96)
    }
}

/// Shape of a umT5 encoder (`rcm/utils/umt5.py`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Channels of a state.
    pub dim: usize,
    /// Channels of queries, keys and values over all heads.
    pub dim_attn: usize,
    /// Channels inside the gated feed-forward layer.
    pub dim_ffn: usize,
    /// Attention heads.
    pub heads: usize,
    /// Encoder blocks.
    pub layers: usize,
    /// Buckets of relative positions.
    pub buckets: usize,
    /// Distance from which all positions share a bucket.
    pub max_distance: usize,
}

impl TextConfig {
    /// The released umT5-XXL encoder.
    pub const UMT5_XXL: Self =
        Self { vocab: 256_384, dim: 4096, dim_attn: 4096, dim_ffn: 10_240, heads: 64, layers: 24, buckets: 32, max_distance: 128 };
}
