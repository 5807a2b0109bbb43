//! From a prompt (and an image) to frames, stage by stage: text, image, denoising, decoding.
//!
//! Each stage loads what it needs and drops it before the next, so that the largest stage sets the peak. Everything a
//! person may want to see or stop goes through [`Watch`]; files, screens and clocks are the caller's.

pub mod denoise;
pub mod sampling;

pub use denoise::{Conditions, OpenExpert, WanNetwork};
pub use sampling::{Sampling, Snapshot};

use turbowan_rcm::Expert;

use crate::Result;

/// Something that happened inside a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An expert is being loaded.
    Loading(Expert),
    /// A transformer block is done.
    Block {
        /// Network call, from 0.
        step: usize,
        /// Block, from 0.
        block: usize,
        /// Blocks of the network.
        of: usize,
    },
    /// Latent frames were encoded or decoded.
    Frames {
        /// So far.
        done: usize,
        /// Of how many.
        of: usize,
    },
}

/// Follows a run, and may stop it by returning [`crate::Error::Cancelled`].
pub trait Watch {
    /// Something happened.
    ///
    /// # Errors
    /// An error stops the run.
    fn event(&mut self, event: Event) -> Result<()>;

    /// A step is done; `snapshot` is all that is needed to go on from here.
    ///
    /// # Errors
    /// An error stops the run.
    fn stepped(&mut self, snapshot: &Snapshot) -> Result<()>;
}

/// Follows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn event(&mut self, _: Event) -> Result<()> {
        Ok(())
    }

    fn stepped(&mut self, _: &Snapshot) -> Result<()> {
        Ok(())
    }
}
