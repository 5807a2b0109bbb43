//! Text (and CLIP image) states as cross-attention reads them.

use crate::backend::{Backend, Norm, NormRule, Pointwise};
use crate::config::DitConfig;
use crate::dit::embed::Loader;
use crate::{Error, Result};

/// Epsilon of the CLIP embedding's layer norms.
const CLIP_EPS: f32 = 1e-5;

/// Keys and values of one block.
#[derive(Debug)]
pub struct TextKv<B: Backend> {
    /// Of the text rows.
    pub text: [B::Tensor; 2],
    /// Of the CLIP rows.
    pub image: Option<[B::Tensor; 2]>,
}

/// Keys and values of every block for one prompt (or one a sample).
#[derive(Debug)]
pub struct TextStates<B: Backend> {
    /// Prompts: 1 when all samples share one.
    pub batch: usize,
    /// One a block.
    pub blocks: Vec<TextKv<B>>,
}

/// Embedded rows, before any block's keys and values.
pub(super) struct Context<B: Backend> {
    pub batch: usize,
    pub text: B::Activation,
    pub image: Option<B::Activation>,
}

/// `text_embedding`, and `img_emb` where the network has one.
#[derive(Debug)]
pub(super) struct TextEmbedding<B: Backend> {
    first: B::Linear,
    second: B::Linear,
    image: Option<ImageEmbedding<B>>,
}

#[derive(Debug)]
struct ImageEmbedding<B: Backend> {
    norm_in: [B::Tensor; 2],
    first: B::Linear,
    second: B::Linear,
    norm_out: [B::Tensor; 2],
}

impl<B: Backend> TextEmbedding<B> {
    pub fn load(loader: &Loader<'_, B>, config: &DitConfig) -> Result<Self> {
        let image = match config.clip_dim {
            None => None,
            Some(clip) => {
                let norm = |name: &str, width| -> Result<[B::Tensor; 2]> {
                    Ok([loader.rows(&format!("{name}.weight"), width)?, loader.rows(&format!("{name}.bias"), width)?])
                };
                Some(ImageEmbedding {
                    norm_in: norm("img_emb.proj.0", clip)?,
                    first: loader.linear("img_emb.proj.1")?,
                    second: loader.linear("img_emb.proj.3")?,
                    norm_out: norm("img_emb.proj.4", config.dim)?,
                })
            }
        };
        Ok(Self { first: loader.linear("text_embedding.0")?, second: loader.linear("text_embedding.2")?, image })
    }

    pub fn embed(&self, backend: &B, config: &DitConfig, states: &[f32], clip: Option<&[f32]>) -> Result<Context<B>> {
        let sample = config.text_len * config.text_dim;
        if states.is_empty() || !states.len().is_multiple_of(sample) {
            let must = format!("must be a multiple of {} rows of {}", config.text_len, config.text_dim);
            return Err(Error::Setting { what: "text states", found: format!("{} values", states.len()), must });
        }
        let x = backend.activation(backend.upload(states.to_vec(), config.text_dim)?)?;
        let x = backend.activation(backend.linear(&x, &self.first, Pointwise::Gelu)?)?;
        let text = backend.activation(backend.linear(&x, &self.second, Pointwise::None)?)?;
        let image = match (&self.image, clip) {
            (None, None) => None,
            (Some(image), Some(clip)) => Some(image.embed(backend, config, clip)?),
            (Some(_), None) => {
                let must = "this network needs the image embedding of its CLIP encoder".into();
                return Err(Error::Setting { what: "CLIP states", found: "none".into(), must });
            }
            (None, Some(_)) => {
                let must = "this network has no image embedding; leave them out".into();
                return Err(Error::Setting { what: "CLIP states", found: "given".into(), must });
            }
        };
        Ok(Context { batch: states.len() / sample, text, image })
    }
}

impl<B: Backend> ImageEmbedding<B> {
    fn embed(&self, backend: &B, config: &DitConfig, clip: &[f32]) -> Result<B::Activation> {
        let width = config.clip_dim.unwrap_or(clip.len());
        let norm = Norm { rule: NormRule::Standard, eps: CLIP_EPS };
        let x = backend.norm_affine(&backend.upload(clip.to_vec(), width)?, norm, &self.norm_in[0], &self.norm_in[1], &[&self.first])?;
        let x = backend.activation(backend.linear(&x, &self.first, Pointwise::GeluErf)?)?;
        let x = backend.linear(&x, &self.second, Pointwise::None)?;
        backend.norm_affine(&x, norm, &self.norm_out[0], &self.norm_out[1], &[])
    }
}
