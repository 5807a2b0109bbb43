//! The Wan diffusion transformer: a noisy latent, a time and a prompt in, a velocity out.
//!
//! ```text
//! tokens = patches(latent) W + b                          one token for 1 x 2 x 2 latent positions
//! e      = silu-MLP(sinusoid(t)),  e0 = [6, dim] of it    time, always in f32
//! block  : x += g1 * SA(LN(x) (1+s1) + b1)                SA: q, k RMS-normed and rotated
//!          x += CA(LN3(x), text)
//!          x += g2 * FFN(LN(x) (1+s2) + b2)
//! out    = unpatches((LN(x) (1+s) + b) W + b)             f32
//! ```
//! Source: `rcm/networks/wan2pt1.py`, `wan2pt2.py` of the official code.

pub mod block;
pub mod embed;
pub mod grid;
mod init;
pub mod names;
pub mod pass;
pub mod text;
pub mod train;

pub use grid::Grid;
pub use names::DitTraits;
use pass::Around;
pub use pass::PassInputs;
pub use text::TextStates;
pub use train::TrainDit;

use turbowan_cuda::Rounding;

use crate::Result;
use crate::attention::Attention;
use crate::backend::{Backend, Heads, LinearForm, NormRule};
use crate::checkpoint::TensorSource;
use crate::config::DitConfig;
use block::Block;
use embed::{Loader, TimeEmbedding};
use text::TextEmbedding;

/// What is chosen when a transformer is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DitOptions {
    /// How it attends to itself.
    pub attention: Attention,
    /// Arithmetic of the norms inside the blocks.
    pub norms: NormRule,
    /// Quantise the blocks' linears to int8 while loading; those that are int8 already stay so.
    pub quantise: bool,
}

/// Where in the network an [`Observer`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// After the patch embedding.
    Patches,
    /// After a block.
    Block(usize),
    /// After the head, before tokens become a latent again.
    Head,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Patches => write!(f, "patch embedding"),
            Self::Block(index) => write!(f, "block {index}"),
            Self::Head => write!(f, "head"),
        }
    }
}

/// Sees the rows between the blocks: guards, progress, cancellation, comparison with recordings.
pub trait Observer<B: Backend> {
    /// Called with the rows at `place`.
    ///
    /// # Errors
    /// An error ends the pass.
    fn see(&mut self, backend: &B, place: Place, rows: &B::Tensor) -> Result<()>;

    /// Whether [`Observer::see_attention`] is to be called for a block: on a device it costs copies, and fused kernels.
    fn wants_attention(&mut self, _block: usize) -> bool {
        false
    }

    /// Called before a block attends to itself, with its queries, keys and values, where [`Observer::wants_attention`] says so.
    ///
    /// # Errors
    /// An error ends the pass.
    fn see_attention(&mut self, _backend: &B, _block: usize, _qkv: [&B::Tensor; 3], _heads: Heads) -> Result<()> {
        Ok(())
    }
}

/// Sees nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl<B: Backend> Observer<B> for Unobserved {
    fn see(&mut self, _: &B, _: Place, _: &B::Tensor) -> Result<()> {
        Ok(())
    }
}

/// A loaded transformer.
#[derive(Debug)]
pub struct WanDit<B: Backend> {
    config: DitConfig,
    options: DitOptions,
    patches: B::Linear,
    time: TimeEmbedding<B>,
    text: TextEmbedding<B>,
    blocks: Vec<Block<B>>,
    /// Tables of the blocks' modulations, `[6, dim]` each.
    modulations: Vec<B::Tensor>,
    head: B::Linear,
    head_modulation: B::Tensor,
}

impl<B: Backend> WanDit<B> {
    /// Loads a transformer whose tensors have been checked against [`DitConfig::tensors`].
    ///
    /// # Errors
    /// A tensor that is missing or cannot be taken by the backend.
    pub fn load(backend: &B, source: &dyn TensorSource, config: &DitConfig, options: DitOptions) -> Result<Self> {
        let rounding = backend.rounding();
        let plain = Loader { backend, source, form: LinearForm { quantised: false, rounding } };
        let exact = Loader { form: LinearForm { quantised: false, rounding: Rounding::None }, ..plain };
        let inner = Loader { form: LinearForm { quantised: options.quantise, rounding }, ..plain };
        let blocks = (0..config.layers).map(|layer| Block::load(&inner, layer, config, options)).collect::<Result<_>>()?;
        let modulations: Vec<_> = (0..config.layers).map(|layer| format!("blocks.{layer}.modulation")).collect();
        Ok(Self {
            modulations: plain.tables(&modulations, config.dim)?,
            patches: plain.linear("patch_embedding")?,
            time: TimeEmbedding::load(&exact)?,
            text: TextEmbedding::load(&plain, config)?,
            blocks,
            head: exact.linear("head.head")?,
            head_modulation: plain.rows("head.modulation", config.dim)?,
            config: config.clone(),
            options,
        })
    }

    /// Its widths and depths.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// What was chosen when it was loaded.
    pub fn options(&self) -> DitOptions {
        self.options
    }

    /// Prepares prompts for cross-attention, once per prompt: `states [batch, text_len, text_dim]`, zero past each
    /// prompt's end, and for Wan 2.1 image to video the CLIP states `[batch, rows, clip_dim]`.
    ///
    /// # Errors
    /// States of another size than the network's.
    pub fn read_text(&self, backend: &B, states: &[f32], clip: Option<&[f32]>) -> Result<TextStates<B>> {
        let context = self.text.embed(backend, &self.config, states, clip)?;
        let batch = context.batch;
        let blocks = self.blocks.iter().map(|block| block.read_text(backend, &context)).collect::<Result<_>>()?;
        Ok(TextStates { batch, blocks })
    }

    /// The velocity of latents `x [batch, in_dim, T, H, W]` at network times `t [batch]` (1000 times the flow time):
    /// `[batch, out_dim, T, H, W]`.
    ///
    /// # Errors
    /// Sizes that do not fit, or whatever the observer returns.
    pub fn forward(
        &self,
        backend: &B,
        x: &[f32],
        t: &[f32],
        text: &TextStates<B>,
        grid: Grid,
        observer: &mut impl Observer<B>,
    ) -> Result<Vec<f32>> {
        let t: Vec<f64> = t.iter().map(|t| f64::from(*t)).collect();
        let inputs = self.inputs(backend, x, &t, text.batch, grid)?;
        let rows = self.pass(backend, &inputs, text, observer)?;
        self.velocity(backend, &inputs, &rows)
    }
}
