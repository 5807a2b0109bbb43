//! Linear layers on a device: bf16 on tensor cores, int8, and in f32 where the rows are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Device, Stream, View};
use turbowan_cuda::ops::activation::{Activate, Function};
use turbowan_cuda::ops::elementwise::device::ResidualGate;
use turbowan_cuda::ops::gemm::device::{DeviceMatrix, GemmBf16};
use turbowan_cuda::ops::gemm_int8::device::{DeviceRows, DeviceWeight, GemmInt8};
use turbowan_cuda::ops::linear_f32::{LinearF32, ProductShape};
use turbowan_cuda::ops::quant::device::QuantBlock;
use turbowan_cuda::ops::quant::{BLOCK, Int8Rule, padded, padded_rows};

use super::tensor::{DeviceActivation, DeviceTensor, Int8Values, Values};
use crate::Result;
use crate::backend::{LinearForm, LinearParameters, Pointwise, not_int8, weight_sides};

/// Weight and bias in device memory.
#[derive(Debug)]
pub struct DeviceLinear {
    out: usize,
    input: usize,
    weight: Weight,
    bias: Option<Buffer<bf16>>,
    /// What gates a sum that has no gate, `[out]`.
    ones: Arc<Buffer<f32>>,
    rounding: Rounding,
}

#[derive(Debug)]
enum Weight {
    Bf16(Buffer<bf16>),
    Int8(Int8Weight),
}

/// `values [out, padded(input)]` with `scales [ceil(out / 128), ceil(input / 128)]`; rows for it are quantised by `rule`.
#[derive(Debug)]
struct Int8Weight {
    values: Buffer<i8>,
    scales: Buffer<f32>,
    rule: Int8Rule,
}

/// The products of a device, and what goes before and behind them.
#[derive(Debug)]
pub(super) struct Products {
    bf16: GemmBf16,
    int8: GemmInt8,
    f32: LinearF32,
    quantise: QuantBlock,
    activate: Activate,
    residual: ResidualGate,
    /// Ones by their number: layers of a width share theirs.
    ones: Mutex<HashMap<usize, Arc<Buffer<f32>>>>,
}

impl DeviceLinear {
    /// Whether it reads int8 rows of 1 x 128 blocks, which norms can write.
    pub(super) fn reads_per_token(&self) -> bool {
        matches!(self.weight, Weight::Int8(Int8Weight { rule: Int8Rule::PerToken, .. }))
    }

    fn bias(&self) -> Option<View<'_, bf16>> {
        self.bias.as_ref().map(Buffer::view)
    }
}

impl Products {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self {
            bf16: GemmBf16::load(device)?,
            int8: GemmInt8::load(device)?,
            f32: LinearF32::load(device)?,
            quantise: QuantBlock::load(device)?,
            activate: Activate::load(device)?,
            residual: ResidualGate::load(device)?,
            ones: Mutex::default(),
        })
    }

    pub fn activate(&self) -> &Activate {
        &self.activate
    }

    pub fn residual(&self) -> &ResidualGate {
        &self.residual
    }

    /// Uploads a layer, and quantises its weight there where it is to be int8.
    pub fn load_linear(&self, stream: &Stream, parameters: LinearParameters<'_>, form: LinearForm) -> Result<DeviceLinear> {
        let (LinearParameters::Float { weight, bias } | LinearParameters::Int8 { weight, bias, .. }) = parameters;
        let [out, input] = weight_sides(&weight)?;
        let weight = match parameters {
            LinearParameters::Float { weight, .. } => {
                let values = stream.upload_made(weight.len(), || weight.to_bf16())?;
                if form.quantised { self.quantised(stream, &values, out, input)? } else { Weight::Bf16(values) }
            }
            LinearParameters::Int8 { weight, scale, .. } => {
                let values = weight.to_i8().ok_or_else(|| not_int8(&weight))?;
                // a checkpoint that is int8 was tuned with rows in official blocks
                let (values, scales) = (stream.upload(&padded_rows(&values, input))?, stream.upload(&scale.to_f32())?);
                Weight::Int8(Int8Weight { values, scales, rule: Int8Rule::Official })
            }
        };
        let bias = bias.map(|bias| stream.upload(&bias.to_bf16())).transpose()?;
        let layer = DeviceLinear { out, input, weight, bias, ones: self.ones(stream, out)?, rounding: form.rounding };
        if let Weight::Int8(weight) = &layer.weight {
            weight.operand(&layer)?;
        }
        Ok(layer)
    }

    fn ones(&self, stream: &Stream, count: usize) -> Result<Arc<Buffer<f32>>> {
        let mut ones = self.ones.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match ones.entry(count) {
            Entry::Occupied(there) => Arc::clone(there.get()),
            Entry::Vacant(place) => Arc::clone(place.insert(Arc::new(stream.upload(&vec![1.0; count])?))),
        })
    }

    fn quantised(&self, stream: &Stream, weight: &Buffer<bf16>, out: usize, input: usize) -> Result<Weight> {
        let (mut values, mut scales) =
            (stream.allocate(out * padded(input))?, stream.allocate(out.div_ceil(BLOCK) * input.div_ceil(BLOCK))?);
        self.quantise.run(stream, Int8Rule::Official, weight.view(), out, input, values.view_mut(), scales.view_mut())?;
        Ok(Weight::Int8(Int8Weight { values, scales, rule: Int8Rule::PerToken }))
    }

    /// `then(x W^T + b)`.
    pub fn linear(&self, stream: &Stream, x: &DeviceActivation, layer: &DeviceLinear, then: Pointwise) -> Result<DeviceTensor> {
        let rows = x.tensor.rows;
        let count = rows * layer.out;
        match &layer.weight {
            Weight::Bf16(weight) if matches!(x.tensor.values, Values::F32(_)) => {
                let mut out = stream.allocate(count)?;
                let shape = ProductShape { rows, columns: layer.out, depth: layer.input };
                self.f32.run(stream, shape, x.tensor.expect_f32()?, weight.view(), layer.bias(), out.view_mut())?;
                self.finish_f32(stream, layer, then, out)
            }
            Weight::Bf16(weight) => {
                let [x, weight] = matrices(x, layer, weight)?;
                if layer.rounding == Rounding::None {
                    let mut out = stream.allocate(count)?;
                    self.bf16.store_f32(stream, x, weight, layer.bias(), out.view_mut())?;
                    return self.finish_f32(stream, layer, then, out);
                }
                let mut out = stream.allocate(count)?;
                self.bf16.store(stream, x, weight, layer.bias(), out.view_mut(), None)?;
                self.finish(stream, layer, then, out)
            }
            Weight::Int8(int8) => {
                let (x, weight) = (self.int8_rows(stream, x, int8.rule)?, int8.operand(layer)?);
                if layer.rounding == Rounding::None {
                    let mut out = stream.allocate(count)?;
                    self.int8.store_f32(stream, x, weight, layer.bias(), out.view_mut())?;
                    return self.finish_f32(stream, layer, then, out);
                }
                if then == Pointwise::Gelu && int8.rule == Int8Rule::PerToken {
                    let mut out = Int8Values::room(stream, int8.rule, rows, layer.out)?;
                    self.int8.gelu_quantise(stream, x, weight, layer.bias(), out.values.view_mut(), out.scales.view_mut())?;
                    return Ok(DeviceTensor::int8(layer.out, out));
                }
                let mut out = stream.allocate(count)?;
                self.int8.store(stream, x, weight, layer.bias(), out.view_mut(), None)?;
                self.finish(stream, layer, then, out)
            }
        }
    }

    fn finish(&self, stream: &Stream, layer: &DeviceLinear, then: Pointwise, mut out: Buffer<bf16>) -> Result<DeviceTensor> {
        if let Some(function) = function(then) {
            self.activate.in_place(stream, function, out.view_mut())?;
        }
        Ok(DeviceTensor::bf16(layer.out, out))
    }

    fn finish_f32(&self, stream: &Stream, layer: &DeviceLinear, then: Pointwise, mut out: Buffer<f32>) -> Result<DeviceTensor> {
        if let Some(function) = function(then) {
            self.activate.in_place_f32(stream, function, out.view_mut())?;
        }
        Ok(DeviceTensor::f32(layer.out, out))
    }

    /// `residual += x W^T + b`: one times a bf16 sum is that sum.
    pub fn project(&self, stream: &Stream, x: &DeviceActivation, layer: &DeviceLinear, residual: &mut DeviceTensor) -> Result<()> {
        self.add_gated(stream, x, layer, layer.ones.view(), residual.rows, residual)
    }

    /// `residual += gate * (x W^T + b)`, with a gate that is rounded already.
    pub fn project_gated(
        &self,
        stream: &Stream,
        x: &DeviceActivation,
        layer: &DeviceLinear,
        gate: &DeviceTensor,
        residual: &mut DeviceTensor,
    ) -> Result<()> {
        self.add_gated(stream, x, layer, gate.expect_f32()?, residual.rows / gate.rows.max(1), residual)
    }

    fn add_gated(
        &self,
        stream: &Stream,
        x: &DeviceActivation,
        layer: &DeviceLinear,
        gate: View<'_, f32>,
        rows_per_gate: usize,
        residual: &mut DeviceTensor,
    ) -> Result<()> {
        let onto = residual.expect_bf16_mut()?.view_mut();
        match &layer.weight {
            Weight::Bf16(weight) => {
                let [x, weight] = matrices(x, layer, weight)?;
                self.bf16.add_gated(stream, x, weight, layer.bias(), gate, rows_per_gate, onto)?;
            }
            Weight::Int8(int8) => {
                let (x, weight) = (self.int8_rows(stream, x, int8.rule)?, int8.operand(layer)?);
                self.int8.add_gated(stream, x, weight, layer.bias(), gate, rows_per_gate, onto)?;
            }
        }
        Ok(())
    }

    /// The rows of an activation in int8; quantised now if nobody has before.
    fn int8_rows<'a>(&self, stream: &Stream, x: &'a DeviceActivation, rule: Int8Rule) -> Result<DeviceRows<'a>> {
        let DeviceTensor { rows, width, ref values } = x.tensor;
        if let Values::Int8(int8) = values {
            return int8.rows(rows, width);
        }
        let place = x.quantised(rule);
        if let Some(int8) = place.get() {
            return int8.rows(rows, width);
        }
        let mut int8 = Int8Values::room(stream, rule, rows, width)?;
        let bf16 = x.tensor.expect_bf16()?.view();
        self.quantise.run(stream, rule, bf16, rows, width, int8.values.view_mut(), int8.scales.view_mut())?;
        place.get_or_init(|| int8).rows(rows, width)
    }
}

impl Int8Weight {
    fn operand(&self, layer: &DeviceLinear) -> Result<DeviceWeight<'_>> {
        Ok(DeviceWeight::new(layer.out, layer.input, self.values.view(), self.scales.view())?)
    }
}

/// Rows and weight of a bf16 product.
fn matrices<'a>(x: &'a DeviceActivation, layer: &DeviceLinear, weight: &'a Buffer<bf16>) -> Result<[DeviceMatrix<'a>; 2]> {
    let rows = DeviceMatrix::new(x.tensor.rows, x.tensor.width, x.tensor.expect_bf16()?.view())?;
    Ok([rows, DeviceMatrix::new(layer.out, layer.input, weight.view())?])
}

/// The function behind a product.
fn function(then: Pointwise) -> Option<Function> {
    match then {
        Pointwise::None => None,
        Pointwise::Gelu => Some(Function::Gelu),
        Pointwise::GeluErf => Some(Function::GeluErf),
        Pointwise::Silu => Some(Function::Silu),
    }
}
