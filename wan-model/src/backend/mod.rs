//! The operations that a Wan network is written in.
//!
//! A method is a *fused* operation of the network, so that a device can do it in one pass. Activations are rows of
//! channels: a [`Backend::Tensor`] of shape `[rows, width]` holds `batch * tokens` rows. [`Backend::Activation`] is what a
//! linear layer reads: floating point, or int8 with scales; the type knows, the network does not.

mod attention;
pub mod device;
pub mod host;
pub mod tape;
pub mod text;
pub mod vae;

use std::fmt::Debug;

use turbowan_cuda::{AttnShape, HeadLayout, Rounding};

use crate::attention::SlaProjection;
use crate::checkpoint::TensorView;
use crate::error::Misfit;
use crate::{Error, Result};

pub use attention::{CrossAttention, Projections, See, SelfAttention};

/// What follows a linear layer, in the same pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// Nothing.
    None,
    /// GELU, tanh approximation.
    Gelu,
    /// GELU, exact.
    GeluErf,
    /// SiLU.
    Silu,
}

/// How a linear layer is kept and what it rounds its result to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearForm {
    /// Quantise the weight to int8 in 128 x 128 blocks (a weight that already is int8 stays so).
    pub quantised: bool,
    /// Rounding of the result: time embedding and head stay in `f32` even in a bf16 run.
    pub rounding: Rounding,
}

/// A linear layer's parameters as a checkpoint holds them.
#[derive(Debug, Clone, Copy)]
pub enum LinearParameters<'a> {
    /// `weight [out, input]` in a floating-point format, `bias [out]`.
    Float {
        /// Weight.
        weight: TensorView<'a>,
        /// Bias.
        bias: Option<TensorView<'a>>,
    },
    /// `int8_weight [out, input]`, `scale [ceil(out / 128), ceil(input / 128)]`, `bias [out]`.
    Int8 {
        /// Quantised weight.
        weight: TensorView<'a>,
        /// Scale of each 128 x 128 block.
        scale: TensorView<'a>,
        /// Bias.
        bias: Option<TensorView<'a>>,
    },
}

/// Layer norm's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormRule {
    /// The textbook formula (`--default_norm`).
    #[default]
    Standard,
    /// The official fast kernels: layer norm's variance also counts the padding of a row to a power of two,
    /// RMS norm rounds once at the end (SPEC of the official Triton kernels).
    Fast,
}

/// The fused operations of a Wan transformer.
///
/// Activations are rows of channels, `[batch * tokens, width]`. A table over samples (`shift`, `scale`, `gate`) is
/// `[batch, width]`; row `r` belongs to sample `r / (rows / batch)`.
pub trait Backend: Debug + Sized {
    /// Floating-point rows in the backend's memory.
    type Tensor: Debug;
    /// What a linear layer reads.
    type Activation: Debug;
    /// A linear layer, in the form the device wants.
    type Linear: Debug;
    /// SLA's projection of a layer's linear branch.
    type Projection: Debug;
    /// Rotary tables of one token grid.
    type Rope;

    /// Rounding of activations.
    fn rounding(&self) -> Rounding;
    /// Copies `[rows, width]` values in, rounded as activations are.
    fn upload(&self, values: Vec<f32>, width: usize) -> Result<Self::Tensor>;
    /// Copies `[rows, width]` values in as they are.
    fn upload_exact(&self, values: Vec<f32>, width: usize) -> Result<Self::Tensor>;
    /// Copies values out.
    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>>;
    /// The first value that is not finite, as its index.
    fn first_not_finite(&self, x: &Self::Tensor) -> Result<Option<usize>>;
    /// Prepares the linear layer `name`, whose tensors are `name.weight` and `name.bias`.
    fn load_linear(&self, name: &str, parameters: LinearParameters<'_>, form: LinearForm) -> Result<Self::Linear>;
    /// Prepares layers that read the same rows, queries, keys and values, so that a backend may work them out together.
    fn load_linears(&self, layers: [(&str, LinearParameters<'_>); 3], form: LinearForm) -> Result<[Self::Linear; 3]> {
        let [a, b, c] = layers.map(|(name, parameters)| self.load_linear(name, parameters, form));
        Ok([a?, b?, c?])
    }
    /// Takes the tensor `name` in as rows of `width`, stored as `rounding` says. The name is for a backend that keeps
    /// parameters apart from other rows.
    fn load_rows(&self, _name: &str, tensor: TensorView<'_>, width: usize, rounding: Rounding) -> Result<Self::Tensor> {
        let mut values = tensor.to_f32();
        rounding.apply_row(&mut values);
        self.upload_exact(values, width)
    }
    /// Takes tables of one width in as [`Backend::load_rows`] does, for [`Backend::modulations`] to add to all at once.
    fn load_tables(&self, tables: &[(&str, TensorView<'_>)], width: usize, rounding: Rounding) -> Result<Vec<Self::Tensor>> {
        tables.iter().map(|(name, table)| self.load_rows(name, *table, width, rounding)).collect()
    }
    /// Prepares the projection `name`, whose tensors are `name.weight` and `name.bias`.
    fn load_projection(&self, name: &str, projection: SlaProjection) -> Result<Self::Projection>;
    /// Prepares rotary tables of heads of `head_dim` channels for a `[time, height, width]` grid of tokens.
    fn load_rope(&self, grid: [usize; 3], head_dim: usize) -> Result<Self::Rope>;

    /// Makes rows readable by a linear layer.
    fn activation(&self, x: Self::Tensor) -> Result<Self::Activation>;
    /// `then(x W^T + b)`.
    fn linear(&self, x: &Self::Activation, layer: &Self::Linear, then: Pointwise) -> Result<Self::Tensor>;
    /// `residual += x W^T + b`.
    fn project(&self, x: &Self::Activation, layer: &Self::Linear, residual: &mut Self::Tensor) -> Result<()>;
    /// `residual += gate * (x W^T + b)`, the gate rounded as activations are: one of the `gates` of [`Backend::modulations`].
    fn project_gated(&self, x: &Self::Activation, layer: &Self::Linear, gate: &Self::Tensor, residual: &mut Self::Tensor) -> Result<()>;
    /// `x / (1 + exp(-x))`, in `f32`.
    fn silu(&self, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// `a += b`.
    fn add(&self, a: &mut Self::Tensor, b: &Self::Tensor) -> Result<()>;

    /// `table + e`, cut into chunks of the table's width, always in `f32`: `table [chunks, width]`; `e` is
    /// `[batch, chunks * width]`, or `[batch, width]` to be added to every chunk.
    fn modulation(&self, table: &Self::Tensor, e: &Self::Tensor) -> Result<Vec<Self::Tensor>>;
    /// [`Backend::modulation`] of each of several tables. The chunks that `gates` numbers are for
    /// [`Backend::project_gated`] alone, and a backend may round them here.
    fn modulations(&self, tables: &[Self::Tensor], e: &Self::Tensor, _gates: &[usize]) -> Result<Vec<Vec<Self::Tensor>>> {
        tables.iter().map(|table| self.modulation(table, e)).collect()
    }
    /// `LN(x) * (1 + scale) + shift`, stored as `rounding` says. `readers` are all the layers that read it, so that a
    /// backend may store it in their form alone; none where they are not known.
    fn norm_modulate(
        &self,
        x: &Self::Tensor,
        norm: Norm,
        shift: &Self::Tensor,
        scale: &Self::Tensor,
        rounding: Rounding,
        readers: &[&Self::Linear],
    ) -> Result<Self::Activation>;
    /// `LN(x) * weight + bias`, for `readers` as [`Backend::norm_modulate`] has them.
    fn norm_affine(
        &self,
        x: &Self::Tensor,
        norm: Norm,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        readers: &[&Self::Linear],
    ) -> Result<Self::Activation>;
    /// `RMS(x) * weight` over the whole width, then rotary embedding of `heads` heads where `rope` is given; in place.
    fn rms_norm_rope(&self, x: &mut Self::Tensor, norm: Norm, weight: &Self::Tensor, heads: usize, rope: Option<&Self::Rope>)
    -> Result<()>;

    /// Self-attention of rows `x`, from their projections on: queries and keys are normed over the whole width and turned.
    /// `see` is shown what attention reads; that changes no bit of the result.
    fn attend_to_itself(
        &self,
        x: &Self::Activation,
        attention: &SelfAttention<'_, Self>,
        see: Option<See<'_, Self>>,
    ) -> Result<Self::Activation>;
    /// `RMS(keys) * norm_k`: the keys of a prompt, for [`Backend::attend_to_text`] with queries whose norm has the weight
    /// `norm_q`. A backend may multiply the keys by that weight instead.
    fn text_keys(&self, keys: Self::Tensor, norm: Norm, norm_k: &Self::Tensor, _norm_q: &Self::Tensor) -> Result<Self::Tensor> {
        let mut keys = keys;
        self.rms_norm_rope(&mut keys, norm, norm_k, 1, None)?;
        Ok(keys)
    }
    /// Dense attention of rows `x` to a prompt, from the projection of their queries on, which are normed over the whole width.
    fn attend_to_text(&self, x: &Self::Activation, attention: &CrossAttention<'_, Self>) -> Result<Self::Activation>;
}

/// A norm's arithmetic and what it adds to the variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Textbook or official fast kernels.
    pub rule: NormRule,
    /// Added to the variance.
    pub eps: f32,
}

/// How rows divide into samples and widths into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Samples.
    pub batch: usize,
    /// Heads a sample.
    pub heads: usize,
    /// Channels a head.
    pub head_dim: usize,
}

impl Heads {
    /// The shape of self-attention over `rows` rows of all samples.
    ///
    /// # Errors
    /// When a size is zero.
    pub fn self_shape(&self, rows: usize) -> Result<AttnShape> {
        Ok(AttnShape::new(self.batch, self.heads, rows / self.batch.max(1), self.head_dim)?.with_layout(HeadLayout::Blhd))
    }
}

/// Rows and columns of a linear layer's weight.
fn weight_sides(weight: &TensorView<'_>) -> Result<[usize; 2]> {
    // A convolution with a patch-sized kernel is a linear layer over patches: [out, in, 1, 2, 2] is [out, in * 4].
    match weight.shape {
        [out, rest @ ..] if !rest.is_empty() => Ok([*out, rest.iter().product()]),
        _ => Err(turbowan_cuda::Error::Size { what: "axes of a linear weight", must: "at least 2", found: weight.shape.len() }.into()),
    }
}

/// What is said of a weight that should be int8 and is not.
fn not_int8(weight: &TensorView<'_>) -> Error {
    let misfit = Misfit::Dtype { name: "int8_weight".into(), expected: "i8", found: weight.dtype.name() };
    Error::Misfits { path: "checkpoint".into(), misfits: vec![misfit] }
}
