//! One transformer block, norm to residual, in reading order.

use crate::Result;
use crate::attention::Attention;
use crate::backend::{Backend, Heads, Norm, NormRule, Pointwise};
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
    self_attn: Attend<B>,
    sla: Option<B::Projection>,
    norm3: [B::Tensor; 2],
    cross_attn: Attend<B>,
    image: Option<ImageKeys<B>>,
    ffn_up: B::Linear,
    ffn_down: B::Linear,
}

#[derive(Debug)]
struct Attend<B: Backend> {
    q: B::Linear,
    k: B::Linear,
    v: B::Linear,
    o: B::Linear,
    norm_q: B::Tensor,
    norm_k: B::Tensor,
}

/// Keys and values of CLIP states (Wan 2.1 image to video).
#[derive(Debug)]
struct ImageKeys<B: Backend> {
    k: B::Linear,
    v: B::Linear,
    norm_k: B::Tensor,
}

impl<B: Backend> Attend<B> {
    fn load(loader: &Loader<'_, B>, name: &str, rule: NormRule, dim: usize) -> Result<Self> {
        Ok(Self {
            q: loader.linear(&format!("{name}.q"))?,
            k: loader.linear(&format!("{name}.k"))?,
            v: loader.linear(&format!("{name}.v"))?,
            o: loader.linear(&format!("{name}.o"))?,
            norm_q: loader.norm_rows(&format!("{name}.norm_q.weight"), rule, dim)?,
            norm_k: loader.norm_rows(&format!("{name}.norm_k.weight"), rule, dim)?,
        })
    }
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
        Ok(Self {
            attention: options.attention,
            norm: Norm { rule, eps: config.eps },
            self_attn: Attend::load(loader, &format!("{name}.self_attn"), rule, dim)?,
            sla,
            norm3: [
                loader.norm_rows(&format!("{name}.norm3.weight"), rule, dim)?,
                loader.norm_rows(&format!("{name}.norm3.bias"), rule, dim)?,
            ],
            cross_attn: Attend::load(loader, &format!("{name}.cross_attn"), rule, dim)?,
            image,
            ffn_up: loader.linear(&format!("{name}.ffn.0"))?,
            ffn_down: loader.linear(&format!("{name}.ffn.2"))?,
        })
    }

    /// Keys and values of a prompt.
    pub(super) fn read_text(&self, backend: &B, context: &Context<B>) -> Result<TextKv<B>> {
        let kv = |x: &B::Activation, k: &B::Linear, v: &B::Linear, norm_k: &B::Tensor| -> Result<[B::Tensor; 2]> {
            let mut keys = backend.linear(x, k, Pointwise::None)?;
            backend.rms_norm_rope(&mut keys, self.norm, norm_k, 1, None)?;
            Ok([keys, backend.linear(x, v, Pointwise::None)?])
        };
        let cross = &self.cross_attn;
        let image = match (&self.image, &context.image) {
            (Some(keys), Some(x)) => Some(kv(x, &keys.k, &keys.v, &keys.norm_k)?),
            _ => None,
        };
        Ok(TextKv { text: kv(&context.text, &cross.k, &cross.v, &cross.norm_k)?, image })
    }

    /// Takes `rows` through the block; `see_attention` is shown queries, keys and values.
    pub(super) fn forward(
        &self,
        backend: &B,
        rows: &mut B::Tensor,
        around: &Surroundings<'_, B>,
        see_attention: impl FnOnce([&B::Tensor; 3]) -> Result<()>,
    ) -> Result<()> {
        let [shift_sa, scale_sa, gate_sa, shift_ffn, scale_ffn, gate_ffn] = around.modulation else {
            return Err(turbowan_cuda::Error::Length { what: "modulation chunks", expected: 6, found: around.modulation.len() }.into());
        };
        let rounding = backend.rounding();

        let Attend { q, k, v, .. } = &self.self_attn;
        let x = backend.norm_modulate(rows, self.norm, shift_sa, scale_sa, rounding, &[q, k, v])?;
        let [q, k, v] = self.queries_keys_values(backend, &x, around)?;
        see_attention([&q, &k, &v])?;
        let o = backend.self_attention([&q, &k, &v], around.heads, &self.attention, self.sla.as_ref())?;
        backend.project_gated(&o, &self.self_attn.o, gate_sa, rows)?;

        let x = backend.norm_affine(rows, self.norm, &self.norm3[0], &self.norm3[1], &[&self.cross_attn.q])?;
        let o = self.attend_to_text(backend, &x, around)?;
        backend.project(&o, &self.cross_attn.o, rows)?;

        let x = backend.norm_modulate(rows, self.norm, shift_ffn, scale_ffn, rounding, &[&self.ffn_up])?;
        let x = backend.activation(backend.linear(&x, &self.ffn_up, Pointwise::Gelu)?)?;
        backend.project_gated(&x, &self.ffn_down, gate_ffn, rows)
    }

    fn queries_keys_values(&self, backend: &B, x: &B::Activation, around: &Surroundings<'_, B>) -> Result<[B::Tensor; 3]> {
        let weights = &self.self_attn;
        let mut q = backend.linear(x, &weights.q, Pointwise::None)?;
        let mut k = backend.linear(x, &weights.k, Pointwise::None)?;
        let v = backend.linear(x, &weights.v, Pointwise::None)?;
        backend.rms_norm_rope(&mut q, self.norm, &weights.norm_q, around.heads.heads, Some(around.rope))?;
        backend.rms_norm_rope(&mut k, self.norm, &weights.norm_k, around.heads.heads, Some(around.rope))?;
        Ok([q, k, v])
    }

    fn attend_to_text(&self, backend: &B, x: &B::Activation, around: &Surroundings<'_, B>) -> Result<B::Activation> {
        let (heads, text) = (around.heads, around.text);
        let mut q = backend.linear(x, &self.cross_attn.q, Pointwise::None)?;
        backend.rms_norm_rope(&mut q, self.norm, &self.cross_attn.norm_q, heads.heads, None)?;
        let mut out = backend.cross_attention(&q, &text.text[0], &text.text[1], heads, around.text_batch)?;
        if let Some([k, v]) = &text.image {
            let image = backend.cross_attention(&q, k, v, heads, around.text_batch)?;
            backend.add(&mut out, &image)?;
        }
        backend.activation(out)
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
