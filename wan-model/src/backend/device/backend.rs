//! The transformer's operations on a device.

use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Device, Stream};
use turbowan_cuda::ops::activation::Function;
use turbowan_cuda::ops::bias_attention::device::BiasAttention;
use turbowan_cuda::ops::elementwise::device::GeluGate;
use turbowan_cuda::ops::finite::{self, FirstNotFinite};
use turbowan_cuda::ops::modulation::Tables;
use turbowan_cuda::ops::norm::device::Then;
use turbowan_cuda::ops::rope::device::RopeTurns;

use super::attention::{Attentions, DeviceProjection};
use super::int8_attention::Int8Attention;
use super::layer::{DeviceLinear, Layers};
use super::linear::Products;
use super::norm::Norms;
use super::tensor::{DeviceActivation, DeviceTensor, Part, Values};
use crate::Result;
use crate::attention::{Attention, SlaProjection};
use crate::backend::host::first_not_finite;
use crate::backend::{Backend, CrossAttention, LinearForm, LinearParameters, Norm, Pointwise, See, SelfAttention};
use crate::checkpoint::TensorView;

/// A device with the kernels of the transformer and of the text encoder, and the stream that their work is queued on.
#[derive(Debug)]
pub struct DeviceBackend {
    pub(super) stream: Stream,
    layers: Layers,
    pub(super) products: Products,
    pub(super) norms: Norms,
    attentions: Attentions,
    int8_attention: Int8Attention,
    finite: FirstNotFinite,
    pub(super) gate: GeluGate,
    pub(super) text_attention: BiasAttention,
    /// The rotary tables that were asked for last: those of every pass over one grid.
    turns: Mutex<Option<Arc<RopeTurns>>>,
}

impl DeviceBackend {
    /// Loads the kernels and opens a stream.
    ///
    /// # Errors
    /// When the device lacks the kernels, or what the driver says.
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self {
            stream: device.stream()?,
            layers: Layers::load(device)?,
            products: Products::load(device)?,
            norms: Norms::load(device)?,
            attentions: Attentions::load(device)?,
            int8_attention: Int8Attention::load(device)?,
            finite: FirstNotFinite::load(device)?,
            gate: GeluGate::load(device)?,
            text_attention: BiasAttention::load(device)?,
            turns: Mutex::new(None),
        })
    }

    /// The stream that the work is queued on: it can be traced, run in an arena or recorded.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Rows that share a row of a table.
    fn tables<'a>(x: &DeviceTensor, shift: &'a DeviceTensor, scale: &'a DeviceTensor) -> Result<Tables<'a>> {
        Ok(Tables { shift: shift.expect_f32()?, scale: scale.expect_f32()?, rows_per_group: x.rows / shift.rows.max(1) })
    }
}

impl Backend for DeviceBackend {
    type Tensor = DeviceTensor;
    type Activation = DeviceActivation;
    type Linear = DeviceLinear;
    type Projection = DeviceProjection;
    type Rope = Arc<RopeTurns>;

    fn rounding(&self) -> Rounding {
        Rounding::Bf16
    }

    fn upload(&self, values: Vec<f32>, width: usize) -> Result<DeviceTensor> {
        check_rows(&values, width)?;
        let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
        Ok(DeviceTensor::bf16(width, self.stream.upload(&values)?))
    }

    fn upload_exact(&self, values: Vec<f32>, width: usize) -> Result<DeviceTensor> {
        check_rows(&values, width)?;
        Ok(DeviceTensor::f32(width, self.stream.upload(&values)?))
    }

    fn download(&self, x: &DeviceTensor) -> Result<Vec<f32>> {
        x.to_vec()
    }

    fn first_not_finite(&self, x: &DeviceTensor) -> Result<Option<usize>> {
        let values = match &x.values {
            Values::Bf16(values) => finite::Values::Bf16(values.view()),
            Values::F32(values) => finite::Values::F32(values.view()?),
            Values::Int8(_) => return Ok(first_not_finite(&x.to_vec()?)),
        };
        Ok(self.finite.find(&self.stream, values)?)
    }

    fn load_linear(&self, _name: &str, parameters: LinearParameters<'_>, form: LinearForm) -> Result<DeviceLinear> {
        self.layers.one(&self.stream, parameters, form)
    }

    fn load_linears(&self, layers: [(&str, LinearParameters<'_>); 3], form: LinearForm) -> Result<[DeviceLinear; 3]> {
        self.layers.three(&self.stream, layers.map(|(_, parameters)| parameters), form)
    }

    fn load_tables(&self, tables: &[(&str, TensorView<'_>)], width: usize, rounding: Rounding) -> Result<Vec<DeviceTensor>> {
        let mut values = Vec::new();
        let mut ranges = Vec::with_capacity(tables.len());
        for (_, table) in tables {
            let from = values.len();
            values.extend(table.to_f32());
            ranges.push(from..values.len());
        }
        check_rows(&values, width)?;
        rounding.apply_row(&mut values);
        let memory = Arc::new(self.stream.upload(&values)?);
        Ok(ranges.into_iter().map(|range| DeviceTensor::f32(width, Part::of(&memory, range))).collect())
    }

    fn load_projection(&self, _name: &str, projection: SlaProjection) -> Result<DeviceProjection> {
        DeviceProjection::upload(&self.stream, &projection)
    }

    fn load_rope(&self, grid: [usize; 3], head_dim: usize) -> Result<Arc<RopeTurns>> {
        let mut last = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = last.as_ref().filter(|turns| turns.grid() == grid && turns.head_dim() == head_dim) {
            return Ok(Arc::clone(turns));
        }
        let turns = Arc::new(RopeTurns::upload(&self.stream, grid, head_dim)?);
        *last = Some(Arc::clone(&turns));
        Ok(turns)
    }

    fn activation(&self, x: DeviceTensor) -> Result<DeviceActivation> {
        Ok(x.into())
    }

    fn linear(&self, x: &DeviceActivation, layer: &DeviceLinear, then: Pointwise) -> Result<DeviceTensor> {
        self.products.linear(&self.stream, x, layer, then)
    }

    fn project(&self, x: &DeviceActivation, layer: &DeviceLinear, residual: &mut DeviceTensor) -> Result<()> {
        self.products.project(&self.stream, x, layer, residual)
    }

    fn project_gated(&self, x: &DeviceActivation, layer: &DeviceLinear, gate: &DeviceTensor, residual: &mut DeviceTensor) -> Result<()> {
        self.products.project_gated(&self.stream, x, layer, gate, residual)
    }

    fn silu(&self, x: &DeviceTensor) -> Result<DeviceTensor> {
        let mut out = self.stream.allocate(x.rows * x.width)?;
        self.products.activate().run_f32(&self.stream, Function::Silu, x.expect_f32()?, out.view_mut())?;
        Ok(DeviceTensor::f32(x.width, out))
    }

    fn add(&self, a: &mut DeviceTensor, b: &DeviceTensor) -> Result<()> {
        let width = a.width;
        Ok(self.products.residual().run(&self.stream, a.expect_bf16_mut()?.view_mut(), b.expect_bf16()?.view(), None, width)?)
    }

    fn modulation(&self, table: &DeviceTensor, e: &DeviceTensor) -> Result<Vec<DeviceTensor>> {
        self.norms.modulation(&self.stream, table.expect_f32()?, table.width, e, &[])
    }

    fn modulations(&self, tables: &[DeviceTensor], e: &DeviceTensor, gates: &[usize]) -> Result<Vec<Vec<DeviceTensor>>> {
        let parts = tables.iter().map(DeviceTensor::f32_part).collect::<Result<Vec<_>>>()?;
        let (Some(first), Some(joined)) = (tables.first(), Part::joined(parts)) else {
            return tables.iter().map(|table| self.norms.modulation(&self.stream, table.expect_f32()?, table.width, e, gates)).collect();
        };
        let mut chunks = self.norms.modulation(&self.stream, joined.view()?, first.width, e, gates)?.into_iter();
        Ok(tables.iter().map(|table| chunks.by_ref().take(table.rows).collect()).collect())
    }

    fn norm_modulate(
        &self,
        x: &DeviceTensor,
        norm: Norm,
        shift: &DeviceTensor,
        scale: &DeviceTensor,
        rounding: Rounding,
        readers: &[&DeviceLinear],
    ) -> Result<DeviceActivation> {
        let tables = Self::tables(x, shift, scale)?;
        if rounding == Rounding::None {
            return self.norms.layer_f32(&self.stream, x, norm, tables);
        }
        let Tables { shift, scale, rows_per_group } = tables;
        self.norms.layer(&self.stream, x, norm, Then::Modulate { shift, scale, rows_per_group }, readers)
    }

    fn norm_affine(
        &self,
        x: &DeviceTensor,
        norm: Norm,
        weight: &DeviceTensor,
        bias: &DeviceTensor,
        readers: &[&DeviceLinear],
    ) -> Result<DeviceActivation> {
        let then = Then::Affine { weight: weight.expect_f32()?, bias: bias.expect_f32()? };
        self.norms.layer(&self.stream, x, norm, then, readers)
    }

    fn rms_norm_rope(
        &self,
        x: &mut DeviceTensor,
        norm: Norm,
        weight: &DeviceTensor,
        heads: usize,
        rope: Option<&Arc<RopeTurns>>,
    ) -> Result<()> {
        *x = self.norms.rms(&self.stream, x, norm, weight, heads, rope.map(AsRef::as_ref))?;
        Ok(())
    }

    fn attend_to_itself(
        &self,
        x: &DeviceActivation,
        attention: &SelfAttention<'_, Self>,
        see: Option<See<'_, Self>>,
    ) -> Result<DeviceActivation> {
        if let Attention::Sage | Attention::SageSla(_) = attention.how {
            return self.int8_attention.run(&self.stream, &self.products, x, attention, see);
        }
        let qkv = attention.queries_keys_values(self, x)?;
        let qkv = qkv.each_ref();
        if let Some(see) = see {
            see(qkv)?;
        }
        let out = match attention.how {
            Attention::Sla(sparsity) => self.attentions.sparsely(&self.stream, qkv, attention.heads, sparsity, attention.linear_branch)?,
            _ => self.attentions.to_itself(&self.stream, qkv, attention.heads)?,
        };
        Ok(out.into())
    }

    fn text_keys(&self, keys: DeviceTensor, norm: Norm, norm_k: &DeviceTensor, norm_q: &DeviceTensor) -> Result<DeviceTensor> {
        // a row of each, and once a prompt
        let weight = norm_k.to_vec()?.iter().zip(norm_q.to_vec()?).map(|(k, q)| k * q).collect();
        self.norms.rms(&self.stream, &keys, norm, &self.upload_exact(weight, norm_k.width)?, 1, None)
    }

    fn attend_to_text(&self, x: &DeviceActivation, attention: &CrossAttention<'_, Self>) -> Result<DeviceActivation> {
        let (q, squares) = self.products.with_squares(&self.stream, x, attention.q)?;
        let q = DeviceTensor::bf16(attention.norm_q.width, q);
        let attend = |[k, v]: &[DeviceTensor; 2]| self.attentions.to_text(&self.stream, [&q, k, v], &squares, attention);
        Ok(attention.attended(self, attend)?.into())
    }
}

fn check_rows(values: &[f32], width: usize) -> Result<()> {
    let rows = values.len().checked_div(width).unwrap_or(0);
    Ok(turbowan_cuda::Error::expect_len("rows", values, rows.max(1) * width)?)
}
