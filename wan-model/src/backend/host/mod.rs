//! The host backend: plain `f32` rows, our SIMD twins, rayon.
//!
//! Activations are `f32` in memory in either arithmetic; in bf16 every stored result is rounded, where the official
//! code would store one.

mod attention;
mod linear;
mod tensor;
mod text;
pub mod vae;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::norm::{self, LayerNorm, LayerNormRule, Modulation, RmsNorm, RmsRule};
use turbowan_cuda::ops::rope::RopeTable;

pub use attention::block_map;
pub use linear::HostLinear;
pub use tensor::{HostActivation, HostTensor};

use super::{Backend, CrossAttention, Heads, LinearForm, LinearParameters, Norm, NormRule, Pointwise, See, SelfAttention};
use crate::Result;
use crate::attention::{Attention, SlaProjection};

/// The CPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host {
    /// Rounding of activations: none for the f32 arithmetic, bf16 for the official one.
    pub rounding: Rounding,
}

impl Host {
    /// Self-attention of queries, keys and values, in the way that `how` names; `projection` is SLA's `proj_l`.
    ///
    /// # Errors
    /// Rows that do not divide into samples and heads.
    pub fn self_attention(
        &self,
        qkv: [&HostTensor; 3],
        heads: Heads,
        how: &Attention,
        projection: Option<&SlaProjection>,
    ) -> Result<HostActivation> {
        Ok(attention::to_itself(self.rounding, qkv, heads, how, projection)?.into())
    }

    fn layer_norm(&self, x: &HostTensor, norm: Norm) -> LayerNorm {
        let rule = match norm.rule {
            NormRule::Standard => LayerNormRule::Standard,
            NormRule::Fast => LayerNormRule::Padded,
        };
        LayerNorm { width: x.width, rule, eps: norm.eps, rounding: self.rounding }
    }
}

/// The first value that is not finite, as its index.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    // A sum stays finite unless a value is not (or the sum overflows, which the search below then clears).
    let finite = values.chunks(4096).all(|chunk| chunk.iter().map(|v| v * 0.0).sum::<f32>() == 0.0);
    if finite { None } else { values.iter().position(|v| !v.is_finite()) }
}

impl Backend for Host {
    type Tensor = HostTensor;
    type Activation = HostActivation;
    type Linear = HostLinear;
    type Projection = SlaProjection;
    type Rope = RopeTable;

    fn rounding(&self) -> Rounding {
        self.rounding
    }

    fn upload(&self, mut values: Vec<f32>, width: usize) -> Result<HostTensor> {
        self.rounding.apply_row(&mut values);
        self.upload_exact(values, width)
    }

    fn upload_exact(&self, values: Vec<f32>, width: usize) -> Result<HostTensor> {
        let rows = values.len().checked_div(width).unwrap_or(0);
        turbowan_cuda::Error::expect_len("rows", &values, rows.max(1) * width)?;
        Ok(HostTensor { width, values })
    }

    fn download(&self, x: &HostTensor) -> Result<Vec<f32>> {
        Ok(x.values.clone())
    }

    fn first_not_finite(&self, x: &HostTensor) -> Result<Option<usize>> {
        Ok(first_not_finite(&x.values))
    }

    fn load_linear(&self, _name: &str, parameters: LinearParameters<'_>, form: LinearForm) -> Result<HostLinear> {
        HostLinear::load(parameters, form, self.rounding)
    }

    fn load_projection(&self, _name: &str, projection: SlaProjection) -> Result<SlaProjection> {
        Ok(projection)
    }

    fn load_rope(&self, grid: [usize; 3], head_dim: usize) -> Result<RopeTable> {
        Ok(RopeTable::wan(grid, head_dim)?)
    }

    fn activation(&self, x: HostTensor) -> Result<HostActivation> {
        Ok(x.into())
    }

    fn linear(&self, x: &HostActivation, layer: &HostLinear, then: Pointwise) -> Result<HostTensor> {
        let mut out = HostTensor::zeros(x.rows.rows(), layer.out());
        layer.run(x, linear::after(then), &mut out.values)?;
        Ok(out)
    }

    fn project(&self, x: &HostActivation, layer: &HostLinear, residual: &mut HostTensor) -> Result<()> {
        layer.run(x, turbowan_cuda::ops::gemm::Then::Add, &mut residual.values)
    }

    fn project_gated(&self, x: &HostActivation, layer: &HostLinear, gate: &HostTensor, residual: &mut HostTensor) -> Result<()> {
        let mut gates = gate.values.clone();
        self.rounding.apply_row(&mut gates);
        let then = turbowan_cuda::ops::gemm::Then::AddGated { gate: &gates, rows_per_group: residual.rows() / gate.rows() };
        layer.run(x, then, &mut residual.values)
    }

    fn silu(&self, x: &HostTensor) -> Result<HostTensor> {
        Ok(HostTensor { width: x.width, values: x.values.iter().map(|v| v / (1.0 + (-v).exp())).collect() })
    }

    fn add(&self, a: &mut HostTensor, b: &HostTensor) -> Result<()> {
        turbowan_cuda::Error::expect_len("summand", &b.values, a.values.len())?;
        for (a, b) in a.values.iter_mut().zip(&b.values) {
            *a = self.rounding.apply(*a + b);
        }
        Ok(())
    }

    fn modulation(&self, table: &HostTensor, e: &HostTensor) -> Result<Vec<HostTensor>> {
        let (width, chunks) = (table.width, table.rows());
        let shared = e.width == width;
        turbowan_cuda::Error::expect_len("modulation", &e.values, e.rows() * if shared { width } else { chunks * width })?;
        let chunk = |index: usize| {
            let row = &table.values[index * width..(index + 1) * width];
            let start = if shared { 0 } else { index * width };
            let values = e.values.chunks_exact(e.width).flat_map(|e| e[start..start + width].iter().zip(row).map(|(e, m)| m + e));
            HostTensor { width, values: values.collect() }
        };
        Ok((0..chunks).map(chunk).collect())
    }

    fn norm_modulate(
        &self,
        x: &HostTensor,
        norm: Norm,
        shift: &HostTensor,
        scale: &HostTensor,
        rounding: Rounding,
        _: &[&HostLinear],
    ) -> Result<HostActivation> {
        let modulation = Modulation { shift: &shift.values, scale: &scale.values, rows_per_group: x.rows() / shift.rows() };
        let mut out = HostTensor::zeros(x.rows(), x.width);
        norm::layer_norm_modulate(&self.layer_norm(x, norm), &x.values, modulation, rounding, &mut out.values)?;
        Ok(out.into())
    }

    fn norm_affine(&self, x: &HostTensor, norm: Norm, weight: &HostTensor, bias: &HostTensor, _: &[&HostLinear]) -> Result<HostActivation> {
        let mut out = HostTensor::zeros(x.rows(), x.width);
        norm::layer_norm_affine(&self.layer_norm(x, norm), &x.values, &weight.values, &bias.values, &mut out.values)?;
        Ok(out.into())
    }

    fn rms_norm_rope(&self, x: &mut HostTensor, norm: Norm, weight: &HostTensor, heads: usize, rope: Option<&RopeTable>) -> Result<()> {
        let rule = match norm.rule {
            NormRule::Standard => RmsRule::Standard,
            NormRule::Fast => RmsRule::Fast,
        };
        let norm = RmsNorm { width: x.width, rule, eps: norm.eps, rounding: self.rounding };
        norm::rms_norm(&norm, &mut x.values, &weight.values)?;
        if let Some(rope) = rope {
            rope.apply(&mut x.values, heads, self.rounding)?;
        }
        Ok(())
    }

    fn attend_to_itself(
        &self,
        x: &HostActivation,
        attention: &SelfAttention<'_, Self>,
        see: Option<See<'_, Self>>,
    ) -> Result<HostActivation> {
        let qkv = attention.queries_keys_values(self, x)?;
        if let Some(see) = see {
            see(qkv.each_ref())?;
        }
        self.self_attention(qkv.each_ref(), attention.heads, attention.how, attention.linear_branch)
    }

    fn attend_to_text(&self, x: &HostActivation, attention: &CrossAttention<'_, Self>) -> Result<HostActivation> {
        let q = attention.queries(self, x)?;
        let attend = |[k, v]: &[HostTensor; 2]| attention::to_text(self.rounding, [&q, k, v], attention.heads, attention.text_batch);
        Ok(attention.attended(self, attend)?.into())
    }
}
