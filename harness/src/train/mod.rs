//! Training: a frame that every stage runs in, and the stages.
//!
//! A stage is its settings, a table of the configuration with [`StageSettings`], and what they make, a [`Learner`]. The frame steps
//! it, keeps the files of the run's folder, tells how it goes, and skips a step whose numbers are none. A run that was stopped goes
//! on to the bits of one that was not.

mod config;
mod learner;

pub use config::{Config, RunSettings, StageSettings};
pub use learner::{Learner, Metrics};
