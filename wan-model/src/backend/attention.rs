//! Attention from the rows that project to it: what a backend is given, and the way there in single operations.

use turbowan_cuda::AttnShape;

use super::{Backend, Heads, Norm, Pointwise};
use crate::Result;
use crate::attention::Attention;

/// What projects rows to queries, keys and values, and norms the first two.
#[derive(Debug)]
pub struct Projections<B: Backend> {
    /// Queries.
    pub q: B::Linear,
    /// Keys.
    pub k: B::Linear,
    /// Values.
    pub v: B::Linear,
    /// Weight of the queries' norm, `[1, width]`.
    pub norm_q: B::Tensor,
    /// Weight of the keys' norm, `[1, width]`.
    pub norm_k: B::Tensor,
}

/// How rows attend to themselves.
#[derive(Debug)]
pub struct SelfAttention<'a, B: Backend> {
    /// Where queries, keys and values come from.
    pub projections: &'a Projections<B>,
    /// The norm of queries and keys.
    pub norm: Norm,
    /// Turns them.
    pub rope: &'a B::Rope,
    /// Samples and heads.
    pub heads: Heads,
    /// In which way.
    pub how: &'a Attention,
    /// SLA's `proj_l`.
    pub linear_branch: Option<&'a B::Projection>,
    /// The only layer that reads the result.
    pub reader: &'a B::Linear,
}

/// How rows attend to a prompt.
#[derive(Debug)]
pub struct CrossAttention<'a, B: Backend> {
    /// Where queries come from.
    pub q: &'a B::Linear,
    /// Weight of their norm, `[1, width]`.
    pub norm_q: &'a B::Tensor,
    /// That norm.
    pub norm: Norm,
    /// Samples and heads.
    pub heads: Heads,
    /// Keys, of [`Backend::text_keys`], and values of the prompt.
    pub text: &'a [B::Tensor; 2],
    /// Keys and values of its image, attended to apart and added.
    pub image: Option<&'a [B::Tensor; 2]>,
    /// Prompts: 1 when all samples share theirs.
    pub text_batch: usize,
    /// The only layer that reads the result.
    pub reader: &'a B::Linear,
}

impl<B: Backend> CrossAttention<'_, B> {
    /// Normed queries of `x`, one operation after the other.
    pub(super) fn queries(&self, backend: &B, x: &B::Activation) -> Result<B::Tensor> {
        let mut q = backend.linear(x, self.q, Pointwise::None)?;
        backend.rms_norm_rope(&mut q, self.norm, self.norm_q, self.heads.heads, None)?;
        Ok(q)
    }

    /// What `attend` gives for the text's keys and values, and for the image's added to it.
    pub(super) fn attended(&self, backend: &B, attend: impl Fn(&[B::Tensor; 2]) -> Result<B::Tensor>) -> Result<B::Tensor> {
        let mut out = attend(self.text)?;
        if let Some(image) = self.image {
            backend.add(&mut out, &attend(image)?)?;
        }
        Ok(out)
    }
}

/// Is shown queries, keys and values as attention reads them.
pub type See<'a, B> = &'a mut dyn FnMut([&<B as Backend>::Tensor; 3]) -> Result<()>;

impl<B: Backend> SelfAttention<'_, B> {
    /// Queries, keys and values of `x`, one operation after the other.
    pub(super) fn queries_keys_values(&self, backend: &B, x: &B::Activation) -> Result<[B::Tensor; 3]> {
        let Projections { q, k, v, norm_q, norm_k } = self.projections;
        let (mut q, mut k) = (backend.linear(x, q, Pointwise::None)?, backend.linear(x, k, Pointwise::None)?);
        let v = backend.linear(x, v, Pointwise::None)?;
        backend.rms_norm_rope(&mut q, self.norm, norm_q, self.heads.heads, Some(self.rope))?;
        backend.rms_norm_rope(&mut k, self.norm, norm_k, self.heads.heads, Some(self.rope))?;
        Ok([q, k, v])
    }

    /// The shape of attention over `rows` rows of all samples.
    pub(super) fn shape(&self, rows: usize) -> Result<AttnShape> {
        self.heads.self_shape(rows)
    }
}
