//! What a generation takes, said before anything is loaded.
//!
//! [`launches`] runs the very code of the transformer on a device that executes nothing and lists what one step asks of a GPU;
//! [`stages`] does so with every network of a run, [`host`] counts what the host would take, and [`fit`] says which settings a
//! card holds. Times are predictions from a data sheet or from measured ceilings, and marked so wherever they are shown.

pub mod fit;
mod frames;
pub mod generation;
pub mod gpu;
pub mod host;
pub mod launches;
pub mod model;
mod operations;
pub mod page;
mod price;
pub mod stages;
mod zeros;

use turbowan_cuda::Rounding;
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::dit::{DitOptions, Grid};
use turbowan_wan_model::resolution::{FrameCount, FrameSize};

use crate::error::Error;
use crate::request::AttentionChoice;
use model::Model;

/// A generation, as far as its cost depends on it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The networks.
    pub model: Model,
    /// Pixels of a frame.
    pub size: FrameSize,
    /// Frames.
    pub frames: FrameCount,
    /// How the transformer attends to itself.
    pub attention: AttentionChoice,
    /// Whether its linears are int8.
    pub quant_linear: bool,
}

impl Setting {
    /// The latent's grid.
    pub fn grid(&self) -> Grid {
        let latent = self.size.latent(self.frames);
        Grid { frames: latent.frames, height: latent.height, width: latent.width }
    }

    /// What the transformer is loaded with, in the official arithmetic.
    ///
    /// # Errors
    /// A share of key blocks that is none.
    pub fn dit_options(&self) -> Result<DitOptions, Error> {
        let attention = self.attention.with(Rounding::Bf16)?;
        Ok(DitOptions { attention, norms: NormRule::Fast, quantise: self.quant_linear })
    }
}
