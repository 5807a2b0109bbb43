//! One transformer block, norm to residual, in reading order.

use crate::Result;
use crate::attention::Attention;
use crate::backend::{Backend, CrossAttention, Heads, Norm, NormRule, Pointwise, Projections, See, SelfAttention};
use crate::config::DitConfig;
use crate::dit::DitOptions;
use crate::dit::embed::Loader;
use crate::dit::text::{Context, TextKv};

/// Which chunks of a block's modulation are gates.
pub(super) const GATES: [usize; 2] = [2, 5];

/// A block's parameters.
#[derive(Debug)]
pub struct Block<B: Backend> {
    attention: Attention,
    norm: Norm,
    self_attn: Projections<B>,
    self_out: B::Linear,
    sla: Option<B::Projection>,
    norm3: [B::Tensor; 2],
    cross_attn: Projections<B>,
    cross_out: B::Linear,
    image: Option<ImageKeys<B>>,
    ffn_up: B::Linear,
    ffn_down: B::Linear,
}

/// Keys and values of CLIP states (Wan 2.1 image to video).
#[derive(Debug)]
struct ImageKeys<B: Backend> {
    k: B::Linear,
    v: B::Linear,
    norm_k: B::Tensor,
}

/// The norms of queries and keys.
fn norms<B: Backend>(loader: &Loader<'_, B>, name: &str, rule: NormRule, dim: usize) -> Result<[B::Tensor; 2]> {
    let norm = |side: &str| loader.norm_rows(&format!("{name}.norm_{side}.weight"), rule, dim);
    Ok([norm("q")?, norm("k")?])
}

impl<B: Backend> Block<B> {
    pub(super) fn load(loader: &Loader<'_, B>, layer: usize, config: &DitConfig, options: DitOptions) -> Result<Self> {
        let (name, dim, rule) = (format!("blocks.{layer}"), config.dim, options.norms);
        let sla = match options.attention {
            Attention::Original | Attention::Sage => None,
            Attention::Sla(_) | Attention::SageSla(_) => Some(loader.projection(&format!("{name}.self_attn.attn_op.local_attn.proj_l"))?),
        };
        let image = match config.clip_dim {
            None => None,
            Some(_) => Some(ImageKeys {
                k: loader.linear(&format!("{name}.cross_attn.k_img"))?,
                v: loader.linear(&format!("{name}.cross_attn.v_img"))?,
                norm_k: loader.norm_rows(&format!("{name}.cross_attn.norm_k_img.weight"), rule, dim)?,
            }),
        };
        let layer = |part: &str| format!("{name}.{part}");
        let [q, k, v] = loader.linears([&layer("self_attn.q"), &layer("self_attn.k"), &layer("self_attn.v")])?;
        let [norm_q, norm_k] = norms(loader, &layer("self_attn"), rule, dim)?;
        let self_attn = Projections { q, k, v, norm_q, norm_k };
        let [q, k, v] = ["q", "k", "v"].map(|part| loader.linear(&layer(&format!("cross_attn.{part}"))));
        let [norm_q, norm_k] = norms(loader, &layer("cross_attn"), rule, dim)?;
        Ok(Self {
            attention: options.attention,
            norm: Norm { rule, eps: config.eps },
            self_attn,
            self_out: loader.linear(&layer("self_attn.o"))?,
            sla,
            norm3: [
                loader.norm_rows(&format!("{name}.norm3.weight"), rule, dim)?,
                loader.norm_rows(&format!("{name}.norm3.bias"), rule, dim)?,
            ],
            cross_attn: Projections { q: q?, k: k?, v: v?, norm_q, norm_k },
            cross_out: loader.linear(&layer("cross_attn.o"))?,
            image,
            ffn_up: loader.linear(&format!("{name}.ffn.0"))?,
            ffn_down: loader.linear(&format!("{name}.ffn.2"))?,
        })
    }

    /// Keys and values of a prompt.
    pub(super) fn read_text(&self, backend: &B, context: &Context<B>) -> Result<TextKv<B>> {
        let cross = &self.cross_attn;
        let kv = |x: &B::Activation, k: &B::Linear, v: &B::Linear, norm_k: &B::Tensor| -> Result<[B::Tensor; 2]> {
            let keys = backend.linear(x, k, Pointwise::None)?;
            let keys = backend.text_keys(keys, self.norm, norm_k, &cross.norm_q)?;
            Ok([keys, backend.linear(x, v, Pointwise::None)?])
        };
        let image = match (&self.image, &context.image) {
            (Some(keys), Some(x)) => Some(kv(x, &keys.k, &keys.v, &keys.norm_k)?),
            _ => None,
        };
        Ok(TextKv { text: kv(&context.text, &cross.k, &cross.v, &cross.norm_k)?, image })
    }

    /// Takes `rows` through the block; `see` is shown the queries, keys and values of its self-attention.
    pub(super) fn forward(&self, backend: &B, rows: &mut B::Tensor, around: &Surroundings<'_, B>, see: Option<See<'_, B>>) -> Result<()> {
        let [shift_sa, scale_sa, gate_sa, shift_ffn, scale_ffn, gate_ffn] = around.modulation else {
            return Err(turbowan_cuda::Error::Length { what: "modulation chunks", expected: 6, found: around.modulation.len() }.into());
        };
        let rounding = backend.rounding();

        let Projections { q, k, v, .. } = &self.self_attn;
        let x = backend.norm_modulate(rows, self.norm, shift_sa, scale_sa, rounding, &[q, k, v])?;
        let attention = SelfAttention {
            projections: &self.self_attn,
            norm: self.norm,
            rope: around.rope,
            heads: around.heads,
            how: &self.attention,
            linear_branch: self.sla.as_ref(),
            reader: &self.self_out,
        };
        let o = backend.attend_to_itself(&x, &attention, see)?;
        backend.project_gated(&o, &self.self_out, gate_sa, rows)?;

        let x = backend.norm_affine(rows, self.norm, &self.norm3[0], &self.norm3[1], &[&self.cross_attn.q])?;
        let attention = CrossAttention {
            q: &self.cross_attn.q,
            norm_q: &self.cross_attn.norm_q,
            norm: self.norm,
            heads: around.heads,
            text: &around.text.text,
            image: around.text.image.as_ref(),
            text_batch: around.text_batch,
            reader: &self.cross_out,
        };
        let o = backend.attend_to_text(&x, &attention)?;
        backend.project(&o, &self.cross_out, rows)?;

        let x = backend.norm_modulate(rows, self.norm, shift_ffn, scale_ffn, rounding, &[&self.ffn_up])?;
        let x = backend.activation(backend.linear(&x, &self.ffn_up, Pointwise::Gelu)?)?;
        backend.project_gated(&x, &self.ffn_down, gate_ffn, rows)
    }
}

/// What a block reads beside its rows.
pub(super) struct Surroundings<'a, B: Backend> {
    /// This block's modulation by the time: six chunks of `[batch, dim]`, of which [`GATES`] are gates.
    pub modulation: &'a [B::Tensor],
    /// This block's keys and values of the prompt.
    pub text: &'a TextKv<B>,
    /// Prompts: 1 when all samples share one.
    pub text_batch: usize,
    /// Rotary tables.
    pub rope: &'a B::Rope,
    /// Samples and heads.
    pub heads: Heads,
}
