//! Training: a frame that every stage runs in, and the stages.
//!
//! A stage is its settings, a table of the configuration with [`StageSettings`], and what they make, a [`Learner`]. The [`frame`]
//! steps it, keeps the files of the run's folder, tells how it goes, and skips a step whose numbers are none. A run that was stopped goes
//! on to the bits of one that was not.

mod checkpoint;
mod config;
pub mod diffusion;
pub mod frame;
mod journal;
mod learner;
pub mod optimisation;
pub mod sheet;
pub mod text;
pub mod vae;

use std::path::Path;

use clap::ValueEnum;

pub use config::{Config, RunSettings, StageSettings};
pub use frame::Plan;
pub use learner::{Learner, Metrics};

use crate::error::Error;
use crate::progress::Progress;

/// What can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The video autoencoder, on crops of clips.
    Vae,
    /// The text encoder, on the attributes of captions.
    Text,
    /// The transformer, by flow matching.
    Teacher,
    /// The transformer with sparse-linear attention, by the answers of the dense one.
    Sla,
    /// The transformer of few steps, distilled from that of many.
    Rcm,
}

impl Stage {
    /// Trains it under the configuration in the file `config`, in `folder`.
    ///
    /// # Errors
    /// As [`Config::read`] and [`frame::train`].
    pub fn train(self, config: &Path, folder: &Path, plan: Plan, progress: &Progress) -> Result<(), Error> {
        match self {
            Self::Vae => frame::train(&Config::<vae::VaeSettings>::read(config)?, folder, plan, progress),
            Self::Text => frame::train(&Config::<text::TextSettings>::read(config)?, folder, plan, progress),
            Self::Teacher => frame::train(&Config::<diffusion::TeacherSettings>::read(config)?, folder, plan, progress),
            Self::Sla => frame::train(&Config::<diffusion::AlignmentSettings>::read(config)?, folder, plan, progress),
            Self::Rcm => frame::train(&Config::<diffusion::StudentSettings>::read(config)?, folder, plan, progress),
        }
    }
}
