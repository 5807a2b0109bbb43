//! A request with every default resolved: what is written beside a video, inside it, and read back by `rerun`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use turbowan_cuda::Rounding;

/// Text or image to video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// From a prompt alone.
    T2v,
    /// From a first frame and a prompt.
    I2v,
}

/// A file that a run reads, and what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Where it was.
    pub path: PathBuf,
    /// BLAKE3 of its bytes, in hex.
    pub hash: String,
}

/// Where the networks come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Models {
    /// The small model that is part of the program.
    Embedded {
        /// Seed of its random parts.
        seed: u64,
        /// BLAKE3 of its trained parts, by their names.
        #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
        trained: BTreeMap<String, String>,
    },
    /// Checkpoints on disk.
    Files(Box<ModelFiles>),
}

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// The transformer, or the expert for noisy times.
    pub dit: FileRef,
    /// The expert for times below the boundary.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub low_noise: Option<FileRef>,
    /// The autoencoder.
    pub vae: FileRef,
    /// The text encoder.
    pub text_encoder: FileRef,
    /// tokenizer.json.
    pub tokenizer: FileRef,
}

/// How self-attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionChoice {
    /// Dense, floating point.
    Original,
    /// Dense, INT8.
    Sage,
    /// Sparse-linear with this share of key blocks.
    Sla(f64),
    /// Sparse-linear, INT8, with this share of key blocks.
    SageSla(f64),
}

/// Which numbers activations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The official arithmetic.
    Bf16,
    /// f32 throughout.
    F32,
}

impl Precision {
    /// As `--precision` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// How the networks round what they store.
    pub fn rounding(self) -> Rounding {
        match self {
            Self::Bf16 => Rounding::Bf16,
            Self::F32 => Rounding::None,
        }
    }
}

/// How the latent goes from noise to video.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplerChoice {
    /// Distilled: few steps, no guidance.
    Rcm {
        /// Without new noise between steps.
        ode: bool,
    },
    /// Euler with guidance.
    Euler {
        /// Strength.
        guidance: f64,
        /// Timestep shift.
        shift: f64,
    },
    /// UniPC with guidance.
    Unipc {
        /// Strength.
        guidance: f64,
        /// Timestep shift.
        shift: f64,
    },
}

/// Everything that decides a video's bytes on one kind of processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Text or image to video.
    pub mode: Mode,
    /// The prompt as it was typed.
    pub prompt: String,
    /// What guidance steers away from.
    pub negative_prompt: String,
    /// The first frame.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<FileRef>,
    /// The CLIP states of the first frame, for Wan 2.1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clip: Option<FileRef>,
    /// The networks.
    pub models: Models,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Frames.
    pub num_frames: usize,
    /// Frames a second.
    pub fps: u32,
    /// Videos.
    pub num_samples: usize,
    /// One tiled video instead of one file a sample.
    pub grid: bool,
    /// Seed of the noise.
    pub seed: u64,
    /// Noise generator, as `--rng` takes it.
    pub rng: String,
    /// Network calls.
    pub num_steps: usize,
    /// Noise level of the first step.
    pub sigma_max: f64,
    /// Flow time below which the low-noise expert takes over.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boundary: Option<f64>,
    /// How steps are made.
    pub sampler: SamplerChoice,
    /// How the network attends to itself.
    pub attention: AttentionChoice,
    /// Arithmetic.
    pub precision: Precision,
    /// int8 linears.
    pub quant_linear: bool,
    /// Textbook norms.
    pub default_norm: bool,
}
