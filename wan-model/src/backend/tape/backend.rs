//! [`Backend`] for [`Tape`]: each operation stands in the room of its kind.

use std::sync::Arc;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::rope::RopeTable;

use super::record::Source;
use super::rows::copied;
use super::{Tape, TapeLinear, TapeProjection, TapeRope, TapeTensor};
use crate::attention::SlaProjection;
use crate::backend::host::first_not_finite;
use crate::backend::{Backend, CrossAttention, LinearForm, LinearParameters, Norm, Pointwise, See, SelfAttention};
use crate::checkpoint::TensorView;
use crate::{Error, Result};

impl Backend for Tape {
    type Tensor = TapeTensor;
    type Activation = TapeTensor;
    type Linear = TapeLinear;
    type Projection = TapeProjection;
    type Rope = TapeRope;

    fn rounding(&self) -> Rounding {
        Rounding::None
    }

    /// Rows that no gradient is taken of; see [`Tape::variable`] for others.
    fn upload(&self, values: Vec<f32>, width: usize) -> Result<TapeTensor> {
        self.upload_exact(values, width)
    }

    fn upload_exact(&self, values: Vec<f32>, width: usize) -> Result<TapeTensor> {
        let rows = values.len().checked_div(width).unwrap_or(0);
        turbowan_cuda::Error::expect_len("rows", &values, rows.max(1) * width)?;
        Ok(self.constant(values, width))
    }

    fn download(&self, x: &TapeTensor) -> Result<Vec<f32>> {
        Ok(copied(x, self))
    }

    fn first_not_finite(&self, x: &TapeTensor) -> Result<Option<usize>> {
        Ok(first_not_finite(&self.values(x)))
    }

    /// The layer whose parameters are called `name.weight` and `name.bias`; what the file holds is not read.
    fn load_linear(&self, name: &str, parameters: LinearParameters<'_>, form: LinearForm) -> Result<TapeLinear> {
        let bias = match parameters {
            LinearParameters::Float { bias, .. } if !form.quantised => bias,
            _ => {
                let must = "floating point: rounded weights do not learn".to_owned();
                return Err(Error::Setting { what: "linear layer of a network that learns", found: format!("{name} in int8"), must });
            }
        };
        let weight = self.find(&format!("{name}.weight"))?;
        let (out, values) = {
            let parameters = self.parameters();
            let weight = parameters.at(weight);
            (weight.shape().first().copied().unwrap_or(0), weight.values().len())
        };
        if out == 0 || values == 0 {
            return Err(turbowan_cuda::Error::Size { what: "rows of a linear weight", must: "at least 1", found: out }.into());
        }
        let bias = bias.map(|_| self.find(&format!("{name}.bias"))).transpose()?;
        Ok(TapeLinear { weight, bias, out, input: values / out })
    }

    fn load_rows(&self, name: &str, _tensor: TensorView<'_>, width: usize, _rounding: Rounding) -> Result<TapeTensor> {
        let index = self.find(name)?;
        let values = self.parameters().values_of(index).len();
        let rows = values.checked_div(width).unwrap_or(0);
        if rows * width != values || rows == 0 {
            return Err(turbowan_cuda::Error::Length { what: "rows", expected: rows.max(1) * width, found: values }.into());
        }
        Ok(TapeTensor { width, source: Source::Parameter(index) })
    }

    fn load_projection(&self, name: &str, _projection: SlaProjection) -> Result<TapeProjection> {
        Ok(TapeProjection { weight: self.find(&format!("{name}.weight"))?, bias: self.find(&format!("{name}.bias"))? })
    }

    fn load_rope(&self, grid: [usize; 3], head_dim: usize) -> Result<TapeRope> {
        let table = RopeTable::wan(grid, head_dim)?;
        Ok(TapeRope { opposite: Arc::new(table.opposite()), table: Arc::new(table) })
    }

    fn activation(&self, x: TapeTensor) -> Result<TapeTensor> {
        Ok(x)
    }

    fn linear(&self, x: &TapeTensor, layer: &TapeLinear, then: Pointwise) -> Result<TapeTensor> {
        self.linear_of(x, layer, then)
    }

    fn project(&self, x: &TapeTensor, layer: &TapeLinear, residual: &mut TapeTensor) -> Result<()> {
        self.project_onto(x, layer, residual)
    }

    fn project_gated(&self, x: &TapeTensor, layer: &TapeLinear, gate: &TapeTensor, residual: &mut TapeTensor) -> Result<()> {
        self.project_gated_onto(x, layer, gate, residual)
    }

    fn silu(&self, x: &TapeTensor) -> Result<TapeTensor> {
        Ok(self.silu_of(x))
    }

    fn add(&self, a: &mut TapeTensor, b: &TapeTensor) -> Result<()> {
        self.add_onto(a, b)
    }

    fn modulation(&self, table: &TapeTensor, e: &TapeTensor) -> Result<Vec<TapeTensor>> {
        self.modulation_of(table, e)
    }

    fn norm_modulate(
        &self,
        x: &TapeTensor,
        norm: Norm,
        shift: &TapeTensor,
        scale: &TapeTensor,
        _: Rounding,
        _: &[&TapeLinear],
    ) -> Result<TapeTensor> {
        self.modulated(x, norm, shift, scale)
    }

    fn norm_affine(&self, x: &TapeTensor, norm: Norm, weight: &TapeTensor, bias: &TapeTensor, _: &[&TapeLinear]) -> Result<TapeTensor> {
        self.affine(x, norm, weight, bias)
    }

    fn rms_norm_rope(&self, x: &mut TapeTensor, norm: Norm, weight: &TapeTensor, heads: usize, rope: Option<&TapeRope>) -> Result<()> {
        self.rms_rotated(x, norm, weight, heads, rope)
    }

    fn attend_to_itself(&self, x: &TapeTensor, attention: &SelfAttention<'_, Self>, see: Option<See<'_, Self>>) -> Result<TapeTensor> {
        let qkv = attention.queries_keys_values(self, x)?;
        if let Some(see) = see {
            see(qkv.each_ref())?;
        }
        self.self_attention(qkv.each_ref(), attention.heads, attention.how, attention.linear_branch)
    }

    fn attend_to_text(&self, x: &TapeTensor, attention: &CrossAttention<'_, Self>) -> Result<TapeTensor> {
        let q = attention.queries(self, x)?;
        attention.attended(self, |[k, v]| self.cross_attention([&q, k, v], attention.heads, attention.text_batch))
    }
}
