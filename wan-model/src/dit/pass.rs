//! One pass in three parts: inputs that go to the backend, work that stays there, and a velocity that is read back.
//!
//! The middle part copies nothing to the host or from it and waits for nothing unless its observer does, so that a device can
//! take its memory from an arena and record it as a graph.

use std::sync::Arc;

use turbowan_cuda::Rounding;

use super::block::{GATES, Surroundings};
use super::embed::sinusoid;
use super::{Grid, Observer, Place, TextStates, WanDit};
use crate::Result;
use crate::backend::{Backend, Heads, Norm, NormRule, Pointwise};

/// What a pass reads beside its text, in the backend's memory.
pub struct PassInputs<B: Backend> {
    /// `[batch * tokens, in_dim * 4]`.
    patches: B::Activation,
    /// Sinusoids of the times, `[batch, freq_dim]`.
    times: B::Activation,
    rope: Arc<B::Rope>,
    heads: Heads,
    grid: Grid,
}

/// What all blocks of one pass share.
pub(super) struct Around<B: Backend> {
    /// The embedded times, `[batch, dim]`.
    e: B::Tensor,
    /// Each block's modulation by them, in chunks of `[batch, dim]`.
    modulations: Vec<Vec<B::Tensor>>,
    rope: Arc<B::Rope>,
    heads: Heads,
}

impl<B: Backend> WanDit<B> {
    /// Takes latents `x [batch, in_dim, T, H, W]` and network times `t [batch]` to the backend, for prompts of `text_batch`
    /// samples (1 or `batch`).
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn inputs(&self, backend: &B, x: &[f32], t: &[f64], text_batch: usize, grid: Grid) -> Result<PassInputs<B>> {
        let (config, batch) = (&self.config, t.len());
        grid.check(x, batch, config, text_batch)?;
        let sinusoids = t.iter().flat_map(|t| sinusoid(*t, config.freq_dim)).collect();
        Ok(PassInputs {
            patches: backend.activation(backend.upload(grid.patches(x, batch, config.in_dim), config.patch_in())?)?,
            times: backend.activation(backend.upload_exact(sinusoids, config.freq_dim)?)?,
            rope: Arc::new(backend.load_rope(grid.tokens_thw(), config.head_dim())?),
            heads: Heads { batch, heads: config.heads, head_dim: config.head_dim() },
            grid,
        })
    }

    /// The head's rows, `[batch * tokens, out_dim * 4]`: the velocity patch by patch, as [`WanDit::velocity`] reads it.
    ///
    /// # Errors
    /// What an operation refuses, or whatever the observer returns.
    pub fn pass(&self, backend: &B, inputs: &PassInputs<B>, text: &TextStates<B>, observer: &mut impl Observer<B>) -> Result<B::Tensor> {
        let (mut rows, around) = self.begin(backend, inputs)?;
        observer.see(backend, Place::Patches, &rows)?;
        for index in 0..self.blocks.len() {
            self.block(backend, index, &mut rows, &around, text, observer)?;
            observer.see(backend, Place::Block(index), &rows)?;
        }
        let rows = self.leave(backend, &rows, &around)?;
        observer.see(backend, Place::Head, &rows)?;
        Ok(rows)
    }

    /// The velocity `[batch, out_dim, T, H, W]` that the rows of a pass stand for.
    ///
    /// # Errors
    /// Whatever reading them back meets.
    pub fn velocity(&self, backend: &B, inputs: &PassInputs<B>, rows: &B::Tensor) -> Result<Vec<f32>> {
        Ok(inputs.grid.unpatches(&backend.download(rows)?, inputs.heads.batch, self.config.out_dim))
    }

    /// What comes before the first block, from the host's latents on.
    pub(super) fn enter(&self, backend: &B, x: &[f32], t: &[f64], text_batch: usize, grid: Grid) -> Result<(B::Tensor, Around<B>)> {
        self.begin(backend, &self.inputs(backend, x, t, text_batch, grid)?)
    }

    /// The rows of the patches, and what all blocks share.
    fn begin(&self, backend: &B, inputs: &PassInputs<B>) -> Result<(B::Tensor, Around<B>)> {
        let (e, e0) = self.time.embed(backend, &inputs.times)?;
        let modulations = backend.modulations(&self.modulations, &e0, &GATES)?;
        let rows = backend.linear(&inputs.patches, &self.patches, Pointwise::None)?;
        Ok((rows, Around { e, modulations, rope: Arc::clone(&inputs.rope), heads: inputs.heads }))
    }

    /// Takes the rows through one block.
    pub(super) fn block(
        &self,
        backend: &B,
        index: usize,
        rows: &mut B::Tensor,
        around: &Around<B>,
        text: &TextStates<B>,
        observer: &mut impl Observer<B>,
    ) -> Result<()> {
        let Around { modulations, rope, heads, .. } = around;
        let modulation = &modulations[index];
        let surroundings = Surroundings { modulation, text: &text.blocks[index], text_batch: text.batch, rope, heads: *heads };
        let is_wanted = observer.wants_attention(index);
        let mut see = |qkv: [&B::Tensor; 3]| observer.see_attention(backend, index, qkv, *heads);
        self.blocks[index].forward(backend, rows, &surroundings, if is_wanted { Some(&mut see) } else { None })
    }

    /// What comes after the last block: the head's rows.
    pub(super) fn leave(&self, backend: &B, rows: &B::Tensor, around: &Around<B>) -> Result<B::Tensor> {
        let table = backend.modulation(&self.head_modulation, &around.e)?;
        let norm = Norm { rule: NormRule::Standard, eps: self.config.eps };
        let rows = backend.norm_modulate(rows, norm, &table[0], &table[1], Rounding::None, &[&self.head])?;
        backend.linear(&rows, &self.head, Pointwise::None)
    }
}
