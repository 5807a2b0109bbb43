//! Loading of parameters, and the embedding of time.

use turbowan_cuda::Rounding;

use crate::attention::SlaProjection;
use crate::backend::{Backend, LinearForm, LinearParameters, NormRule, Pointwise};
use crate::checkpoint::{TensorSource, TensorView};
use crate::{Error, Result};

/// Takes named tensors from a file into a backend.
pub(super) struct Loader<'a, B: Backend> {
    pub backend: &'a B,
    pub source: &'a dyn TensorSource,
    pub form: LinearForm,
}

impl<B: Backend> Loader<'_, B> {
    /// The linear layer `name`, int8 where the file has it so.
    pub fn linear(&self, name: &str) -> Result<B::Linear> {
        self.backend.load_linear(name, self.parameters(name)?, self.form)
    }

    /// Three layers that read the same rows.
    pub fn linears(&self, names: [&str; 3]) -> Result<[B::Linear; 3]> {
        let [a, b, c] = names.map(|name| self.parameters(name).map(|parameters| (name, parameters)));
        self.backend.load_linears([a?, b?, c?], self.form)
    }

    fn parameters(&self, name: &str) -> Result<LinearParameters<'_>> {
        let bias = self.find(&format!("{name}.bias"))?;
        Ok(match self.find(&format!("{name}.int8_weight"))? {
            Some(weight) => LinearParameters::Int8 { weight, scale: self.take(&format!("{name}.scale"))?, bias },
            None => LinearParameters::Float { weight: self.take(&format!("{name}.weight"))?, bias },
        })
    }

    /// The tensor `name` as rows of `width`, rounded as activations are.
    pub fn rows(&self, name: &str, width: usize) -> Result<B::Tensor> {
        self.backend.load_rows(name, self.take(name)?, width, self.backend.rounding())
    }

    /// Tables of `width` that a time is added to, one after the other.
    pub fn tables(&self, names: &[String], width: usize) -> Result<Vec<B::Tensor>> {
        let tables = names.iter().map(|name| Ok((&name[..], self.take(name)?))).collect::<Result<Vec<_>>>()?;
        self.backend.load_tables(&tables, width, self.backend.rounding())
    }

    /// A norm's `weight` or `bias`: the official fast norms keep theirs in f32 whatever the network uses.
    pub fn norm_rows(&self, name: &str, rule: NormRule, width: usize) -> Result<B::Tensor> {
        match rule {
            NormRule::Standard => self.rows(name, width),
            NormRule::Fast => self.backend.load_rows(name, self.take(name)?, width, Rounding::None),
        }
    }

    /// SLA's projection `name`.
    pub fn projection(&self, name: &str) -> Result<B::Projection> {
        let values = |part: &str| -> Result<Vec<f32>> { Ok(self.take(&format!("{name}.{part}"))?.to_f32()) };
        self.backend.load_projection(name, SlaProjection { weight: values("weight")?, bias: values("bias")? })
    }

    fn find(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        self.source.get(name).map(|tensor| finite(name, tensor)).transpose()
    }

    fn take(&self, name: &str) -> Result<TensorView<'_>> {
        finite(name, self.source.take(name)?)
    }
}

/// A tensor without NaN or infinity. Int8 rows have no NaN, so that a layer behind a quantiser would go on with zeros.
fn finite<'a>(name: &str, tensor: TensorView<'a>) -> Result<TensorView<'a>> {
    match tensor.first_not_finite() {
        None => Ok(tensor),
        Some(at) => Err(Error::NotFinite { place: name.to_owned(), fault: format!("value {at} is not a finite number") }),
    }
}

/// `sinusoid -> linear -> SiLU -> linear = e`, then `SiLU -> linear = e0`; everything in f32.
#[derive(Debug)]
pub(super) struct TimeEmbedding<B: Backend> {
    first: B::Linear,
    second: B::Linear,
    projection: B::Linear,
}

impl<B: Backend> TimeEmbedding<B> {
    /// Loads `time_embedding` and `time_projection`; `exact` must not round.
    pub fn load(exact: &Loader<'_, B>) -> Result<Self> {
        debug_assert_eq!(exact.form.rounding, Rounding::None);
        Ok(Self {
            first: exact.linear("time_embedding.0")?,
            second: exact.linear("time_embedding.2")?,
            projection: exact.linear("time_projection.1")?,
        })
    }

    /// `e [batch, dim]` and `e0 [batch, 6 * dim]` of the times' sinusoids `[batch, freq_dim]`.
    pub fn embed(&self, backend: &B, sinusoids: &B::Activation) -> Result<(B::Tensor, B::Tensor)> {
        let x = backend.activation(backend.linear(sinusoids, &self.first, Pointwise::Silu)?)?;
        let e = backend.linear(&x, &self.second, Pointwise::None)?;
        let silu = backend.activation(backend.silu(&e)?)?;
        let e0 = backend.linear(&silu, &self.projection, Pointwise::None)?;
        Ok((e, e0))
    }
}

/// `[cos(t w_i), sin(t w_i)]` with `w_i = 10000^(-i / half)`, worked out in f64.
pub fn sinusoid(t: f64, width: usize) -> Vec<f32> {
    let half = width / 2;
    let angle = |i: usize| t * 10_000f64.powf(-(i as f64) / half as f64);
    (0..half).map(|i| angle(i).cos() as f32).chain((0..half).map(|i| angle(i).sin() as f32)).collect()
}
