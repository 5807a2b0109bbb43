//! The flags of `t2v` and `i2v`: TurboDiffusion's, letter for letter, with kebab-case aliases, and a few of our own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use turbowan_wan_model::checkpoint::AttentionName;

use crate::error::Error;
use crate::run::processor::Processor;

/// `turbowan t2v`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct TextToVideo {
    /// The diffusion transformer (.safetensors, .pth, a folder, or a model name in the Hugging Face cache); without one the
    /// embedded model runs.
    #[arg(long = "dit_path", alias = "dit-path", value_name = "FILE")]
    pub dit_path: Option<PathBuf>,
    /// Noise level of the first step.
    #[arg(long = "sigma_max", alias = "sigma-max", default_value_t = 80.0)]
    pub sigma_max: f64,
    /// Flags that both commands take.
    #[command(flatten)]
    pub shared: Shared,
}

/// `turbowan i2v`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct ImageToVideo {
    /// The first frame: JPG, PNG or WebP.
    #[arg(long = "image_path", alias = "image-path", value_name = "FILE")]
    pub image_path: Option<PathBuf>,
    /// The CLIP states of the first frame, for a Wan 2.1 image-to-video transformer: .safetensors with one f32 tensor
    /// [257, 1280].
    #[arg(long = "clip_embedding", alias = "clip-embedding", value_name = "FILE")]
    pub clip_embedding: Option<PathBuf>,
    /// Keep the preset's area and take the image's aspect ratio, sides rounded to 16 pixels.
    #[arg(long = "adaptive_resolution", alias = "adaptive-resolution")]
    pub adaptive_resolution: bool,
    /// Noise level of the first step.
    #[arg(long = "sigma_max", alias = "sigma-max", default_value_t = 200.0)]
    pub sigma_max: f64,
    /// Flags that both commands take.
    #[command(flatten)]
    pub shared: Shared,
}

/// Where a model's files are.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelPaths {
    /// The expert for noisy times of a model with two.
    #[arg(long = "high_noise_model_path", alias = "high-noise-model-path", value_name = "FILE")]
    pub high_noise_model_path: Option<PathBuf>,
    /// The expert for times below the boundary.
    #[arg(long = "low_noise_model_path", alias = "low-noise-model-path", value_name = "FILE")]
    pub low_noise_model_path: Option<PathBuf>,
    /// The video autoencoder.
    #[arg(long = "vae_path", alias = "vae-path", value_name = "FILE")]
    pub vae_path: Option<PathBuf>,
    /// The umT5 text encoder.
    #[arg(long = "text_encoder_path", alias = "text-encoder-path", value_name = "FILE")]
    pub text_encoder_path: Option<PathBuf>,
    /// The tokenizer: tokenizer.json or its folder; looked for beside the text encoder otherwise.
    #[arg(long = "tokenizer_path", alias = "tokenizer-path", value_name = "FILE")]
    pub tokenizer_path: Option<PathBuf>,
    /// A folder (or a name in the Hugging Face cache) that holds every part: flat official files, diffusers, or Comfy.
    #[arg(long = "model_dir", alias = "model-dir", value_name = "DIR")]
    pub model_dir: Option<PathBuf>,
}

/// How an undistilled model is guided.
#[derive(Debug, Clone, Args)]
pub struct Guided {
    /// Classifier-free guidance of euler and unipc.
    #[arg(long, default_value_t = 5.0)]
    pub guidance: f64,
    /// Timestep shift of euler and unipc.
    #[arg(long, default_value_t = 5.0)]
    pub shift: f64,
    /// What guidance steers away from.
    #[arg(long = "negative_prompt", alias = "negative-prompt", default_value = "")]
    pub negative_prompt: String,
}

/// How many threads work.
#[derive(Debug, Clone, Args)]
pub struct Threads {
    /// CPU threads. [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
}

impl Threads {
    /// Has the process work with them from here on. A pool that exists already (a second run in one process) stays as it is.
    ///
    /// # Errors
    /// No threads at all.
    pub fn apply(&self) -> Result<(), Error> {
        match self.threads {
            Some(0) => Err(Error::flag("--threads", "at least 1, or leave it out for all")),
            Some(threads) => {
                let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Flags that both commands take.
#[derive(Debug, Clone, Args)]
pub struct Shared {
    /// What the video shows.
    #[arg(long, required_unless_present_any = ["resume", "serve"])]
    pub prompt: Option<String>,
    /// Where the model's files are.
    #[command(flatten)]
    pub models: ModelPaths,
    /// Flow time below which the low-noise expert takes over. [default: 0.9 for i2v, 0.875 for t2v]
    #[arg(long)]
    pub boundary: Option<f64>,
    /// The model: checked against what the files hold (Wan2.1-1.3B, Wan2.1-14B, Wan2.2-A14B).
    #[arg(long)]
    pub model: Option<String>,
    /// Videos to make, each with noise of its own.
    #[arg(long = "num_samples", alias = "num-samples", default_value_t = 1)]
    pub num_samples: usize,
    /// Steps: 1 to 4 with rcm; with euler and unipc any number. [default: 4; euler and unipc: 50]
    #[arg(long = "num_steps", alias = "num-steps")]
    pub num_steps: Option<usize>,
    /// Frames: 4n + 1; another number is rounded down to one and said. [default: 81; the embedded model: 33]
    #[arg(long = "num_frames", alias = "num-frames")]
    pub num_frames: Option<usize>,
    /// Size preset (480p, 720p, or WIDTHxHEIGHT in steps of 16). [default: 480p for t2v, 720p for i2v; the embedded model: 128x128]
    #[arg(long)]
    pub resolution: Option<String>,
    /// Shape of a preset: 16:9, 9:16, 4:3, 3:4 or 1:1.
    #[arg(long = "aspect_ratio", alias = "aspect-ratio", default_value = "16:9")]
    pub aspect_ratio: String,
    /// Seed of the noise; -1 draws one, prints it and records it.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub seed: i64,
    /// Where the video goes; .mp4, .webp, .gif or .png (numbered frames).
    #[arg(long = "save_path", alias = "save-path", short = 'o', default_value = "output/generated_video.mp4")]
    pub save_path: PathBuf,
    /// How the network attends to itself; follows the checkpoint when not given.
    #[arg(long = "attention_type", alias = "attention-type", value_enum)]
    pub attention_type: Option<AttentionFlag>,
    /// Share of key blocks that sparse attention keeps; that of the checkpoint's training when not given, 0.1 where it states none.
    #[arg(long = "sla_topk", alias = "sla-topk")]
    pub sla_topk: Option<f64>,
    /// Quantise the transformer's linears to int8 (W8A8); a -quant checkpoint is int8 already.
    #[arg(long = "quant_linear", alias = "quant-linear")]
    pub quant_linear: bool,
    /// Textbook norms instead of the official fast kernels' arithmetic.
    #[arg(long = "default_norm", alias = "default-norm")]
    pub default_norm: bool,
    /// Interactive serving (not in this command).
    #[arg(long, hide = true)]
    pub serve: bool,
    /// Probability-flow steps without new noise.
    #[arg(long)]
    pub ode: bool,
    /// Arithmetic: the official bf16 (with its rounding of time), or f32 throughout.
    #[arg(long, value_enum, default_value_t = PrecisionFlag::Bf16)]
    pub precision: PrecisionFlag,
    /// Noise generator: native, torch-cpu, torch-cuda:GPU (h100, a100, rtx4090, rtx5090), or a .safetensors FILE of recorded noise.
    #[arg(long, default_value = "native")]
    pub rng: String,
    /// Sampler: rcm (1 to 4 steps), or euler / unipc with guidance for an undistilled model.
    #[arg(long, value_enum, default_value_t = SamplerFlag::Rcm)]
    pub sampler: SamplerFlag,
    /// How an undistilled model is guided.
    #[command(flatten)]
    pub guided: Guided,
    /// Frames a second of the file.
    #[arg(long, default_value_t = 16)]
    pub fps: u32,
    /// One tiled video instead of one file a sample.
    #[arg(long)]
    pub grid: bool,
    /// Continue a run that was stopped: the state file that it named.
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Where the networks work.
    #[command(flatten)]
    pub place: ProcessorFlags,
    /// CPU threads.
    #[command(flatten)]
    pub threads: Threads,
    /// Folder where prompt embeddings are kept between runs.
    #[arg(long = "cache_dir", alias = "cache-dir", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Keep the queries, keys and values that chosen blocks attend with, a .safetensors file each, in this folder.
    #[arg(long, value_name = "DIR")]
    pub capture: Option<PathBuf>,
    /// Blocks that are captured: numbers from 0, first, middle, last, or all.
    #[arg(
        long = "capture_blocks",
        alias = "capture-blocks",
        value_name = "LIST",
        default_value = "first,middle,last",
        requires = "capture"
    )]
    pub capture_blocks: String,
    /// Steps that are captured: numbers from 0, first, middle, last, or all.
    #[arg(long = "capture_steps", alias = "capture-steps", value_name = "LIST", default_value = "first,last", requires = "capture")]
    pub capture_steps: String,
    /// Events and the result as JSON lines on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `--attention_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttentionFlag {
    /// Dense, floating point.
    Original,
    /// Dense, INT8.
    Sage,
    /// Sparse-linear, floating point.
    Sla,
    /// Sparse-linear, INT8.
    Sagesla,
}

impl AttentionFlag {
    /// The way of attention that it names.
    pub fn name(self) -> AttentionName {
        match self {
            Self::Original => AttentionName::Original,
            Self::Sage => AttentionName::Sage,
            Self::Sla => AttentionName::Sla,
            Self::Sagesla => AttentionName::SageSla,
        }
    }
}

/// Where the networks work.
#[derive(Debug, Clone, Copy, Args)]
pub struct ProcessorFlags {
    /// Where the networks work: this processor, a GPU, or the emulator that runs a GPU's kernels here, slowly.
    #[arg(long, value_enum, default_value_t = DeviceFlag::Host)]
    pub device: DeviceFlag,
    /// Which GPU, by the driver's number.
    #[arg(long, default_value_t = 0)]
    pub gpu: usize,
}

impl ProcessorFlags {
    /// Opens it.
    ///
    /// # Errors
    /// A GPU or an emulator that is not there.
    pub fn open(&self) -> Result<Processor, Error> {
        match self.device {
            DeviceFlag::Host => Ok(Processor::Host),
            DeviceFlag::Cuda => Processor::cuda(self.gpu),
            DeviceFlag::Emulator => Processor::emulator(),
        }
    }
}

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceFlag {
    /// The host's instructions.
    Host,
    /// The kernels on a GPU.
    Cuda,
    /// The kernels on the emulator.
    Emulator,
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionFlag {
    /// The official arithmetic.
    Bf16,
    /// f32 throughout.
    F32,
}

/// `--sampler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SamplerFlag {
    /// Distilled, 1 to 4 steps, no guidance.
    Rcm,
    /// Euler with guidance.
    Euler,
    /// UniPC (order 2) with guidance.
    Unipc,
}
