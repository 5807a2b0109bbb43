//! Everything that decides an evaluation's numbers: the head of its record, and what `--resume` goes on from.

use serde::{Deserialize, Serialize};
use turbowan_wan_model::resolution::{FrameCount, FrameSize};

use crate::error::Error;
use crate::eval::row::{Configuration, Row, Steps};
use crate::request::{FileRef, Mode, Models, Request, SamplerChoice};

/// What is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Videos from prompts.
    T2v,
    /// Videos from real first frames and their captions.
    I2v,
    /// Real clips through the autoencoder and back.
    Recon,
}

impl Task {
    /// The kind of request that it makes.
    pub fn mode(self) -> Mode {
        match self {
            Self::T2v | Self::Recon => Mode::T2v,
            Self::I2v => Mode::I2v,
        }
    }
}

/// What the model is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Captions of the world.
    World {
        /// So many.
        captions: usize,
        /// Of combinations that training never sees.
        held_out: usize,
    },
    /// The lines of a file.
    Prompts(FileRef),
    /// Each prompt with the noise of each seed.
    Seeds {
        /// Prompts.
        prompts: Vec<String>,
        /// Seeds.
        seeds: Vec<u64>,
    },
}

/// Everything that decides an evaluation's numbers on one kind of processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What is evaluated.
    pub task: Task,
    /// What the model is asked for.
    pub source: Source,
    /// Seed of the captions; clip `n` has the noise of seed `seed + n`, in every row.
    pub seed: u64,
    /// The networks.
    pub models: Models,
    /// The undistilled transformer, or its two experts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub teacher: Vec<FileRef>,
    /// An autoencoder by itself, for reconstructions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vae: Option<FileRef>,
    /// Weights of LPIPS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lpips: Option<FileRef>,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Frames.
    pub num_frames: usize,
    /// Noise level of the first step, of rows that have none of their own.
    pub sigma_max: f64,
    /// Few steps without new noise between them, of rows that do not say it.
    pub ode: bool,
    /// Guidance of guided steps.
    pub guidance: f64,
    /// Timestep shift of guided steps.
    pub shift: f64,
    /// What guidance steers away from.
    pub negative_prompt: String,
    /// Flow time below which the low-noise expert takes over.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boundary: Option<f64>,
    /// What is measured, a row each.
    pub rows: Vec<Row>,
}

impl Settings {
    /// The size of a frame.
    ///
    /// # Errors
    /// Sides that are no multiples of 16.
    pub fn size(&self) -> Result<FrameSize, Error> {
        Ok(FrameSize::new(self.width, self.height)?)
    }

    /// The number of frames.
    ///
    /// # Errors
    /// One that is not `4 n + 1`.
    pub fn frames(&self) -> Result<FrameCount, Error> {
        Ok(FrameCount::new(self.num_frames)?)
    }

    /// The request that a video of a row is made by, from the noise of `seed`.
    pub fn request(&self, configuration: &Configuration, seed: u64, prompt: &str) -> Request {
        let (sampler, num_steps) = match configuration.steps {
            Steps::Few(steps) => (SamplerChoice::Rcm { ode: configuration.ode.unwrap_or(self.ode) }, steps),
            Steps::Guided(steps) => (SamplerChoice::Euler { guidance: self.guidance, shift: self.shift }, steps),
        };
        Request {
            mode: self.task.mode(),
            prompt: prompt.to_owned(),
            negative_prompt: self.negative_prompt.clone(),
            image: None,
            clip: None,
            models: self.models.clone(),
            width: self.width,
            height: self.height,
            num_frames: self.num_frames,
            fps: 16,
            num_samples: 1,
            grid: false,
            seed,
            rng: "native".to_owned(),
            num_steps,
            sigma_max: configuration.sigma_max.unwrap_or(self.sigma_max),
            boundary: self.boundary,
            sampler,
            attention: configuration.attention,
            precision: configuration.precision,
            quant_linear: configuration.quant_linear,
            default_norm: false,
        }
    }

    /// Checks that every file still holds what it held when the evaluation was begun.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn verify(&self) -> Result<(), Error> {
        self.models.verify()?;
        let prompts = match &self.source {
            Source::Prompts(file) => Some(file),
            Source::World { .. } | Source::Seeds { .. } => None,
        };
        self.teacher.iter().chain(&self.vae).chain(&self.lpips).chain(prompts).try_for_each(FileRef::verify)
    }
}
