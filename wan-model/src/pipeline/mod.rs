//! From a prompt (and an image) to frames, stage by stage: text, image, denoising, decoding.
//!
//! Each stage loads what it needs and drops it before the next, so that the largest stage sets the peak. Everything a
//! person may want to see or stop goes through [`Watch`]; files, screens and clocks are the caller's.

pub mod denoise;
pub mod sampling;

pub use denoise::{Conditions, OpenExpert, WanNetwork};
pub use sampling::{Sampling, Snapshot};

use turbowan_rcm::{Branch, Expert};

use crate::Result;
use crate::backend::Heads;

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

/// A block that is about to attend to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionPlace {
    /// Network call, from 0.
    pub step: usize,
    /// Prompt or negative prompt.
    pub branch: Branch,
    /// Block, from 0.
    pub block: usize,
    /// Blocks of the network.
    pub of: usize,
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

    /// Whether [`Watch::attention`] is to be told of this block. Nothing is copied for a block that nobody wants.
    fn wants_attention(&self, _place: AttentionPlace) -> bool {
        false
    }

    /// Queries, keys and values of a block, `[batch * tokens, heads * head_dim]` each, normed and turned: what its
    /// self-attention is about to read.
    ///
    /// # Errors
    /// An error stops the run.
    fn attention(&mut self, _place: AttentionPlace, _qkv: [Vec<f32>; 3], _heads: Heads) -> Result<()> {
        Ok(())
    }
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
