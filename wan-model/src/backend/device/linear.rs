//! Linear layers on a device: bf16 on tensor cores, int8, and in f32 where the rows are.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Device, Stream, View};
use turbowan_cuda::ops::activation::{Activate, Function};
use turbowan_cuda::ops::elementwise::device::ResidualGate;
use turbowan_cuda::ops::gemm::device::{DeviceMatrix, GemmBf16};
use turbowan_cuda::ops::gemm_int8::device::{DeviceRows, GemmInt8};
use turbowan_cuda::ops::linear_f32::{LinearF32, ProductShape};
use turbowan_cuda::ops::quant::device::QuantBlock;
use turbowan_cuda::ops::quant::{BLOCK, Int8Rule};

use super::layer::{DeviceLinear, Weight};
use super::tensor::{DeviceActivation, DeviceTensor, Int8Values, Part, Values};
use crate::Result;
use crate::backend::Pointwise;

/// The products of a device, and what goes before and behind them.
#[derive(Debug)]
pub(super) struct Products {
    bf16: GemmBf16,
    int8: GemmInt8,
    f32: LinearF32,
    quantise: QuantBlock,
    activate: Activate,
    residual: ResidualGate,
}

/// Queries, keys and values of one activation as products leave them, bf16 rows of one width.
#[derive(Debug)]
pub(super) struct ProjectedRows {
    /// Each from the first value of its first row to the last of its last.
    pub rows: [Part<bf16>; 3],
    /// Values from a row to the next.
    pub stride: usize,
    /// Sums of squares over every 128 columns of queries and keys, from the first row's first to the last row's last.
    pub squares: [Part<f32>; 2],
    /// Sums from a row's first to the next row's.
    pub squares_stride: usize,
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
        })
    }

    pub fn activate(&self) -> &Activate {
        &self.activate
    }

    pub fn residual(&self) -> &ResidualGate {
        &self.residual
    }

    /// `then(x W^T + b)`.
    pub fn linear(&self, stream: &Stream, x: &DeviceActivation, layer: &DeviceLinear, then: Pointwise) -> Result<DeviceTensor> {
        let rows = x.tensor.rows;
        let count = rows * layer.out;
        match &layer.weight {
            Weight::Bf16(weight) if matches!(x.tensor.values, Values::F32(_)) => {
                let mut out = stream.allocate(count)?;
                let shape = ProductShape { rows, columns: layer.out, depth: layer.input };
                self.f32.run(stream, shape, x.tensor.expect_f32()?, weight.view()?, layer.bias()?, out.view_mut())?;
                self.finish_f32(stream, layer, then, out)
            }
            Weight::Bf16(weight) => {
                let [x, weight] = matrices(x, layer, weight)?;
                if layer.rounding == Rounding::None {
                    let mut out = stream.allocate(count)?;
                    self.bf16.store_f32(stream, x, weight, layer.bias()?, out.view_mut())?;
                    return self.finish_f32(stream, layer, then, out);
                }
                let mut out = stream.allocate(count)?;
                self.bf16.store(stream, x, weight, layer.bias()?, out.view_mut(), None)?;
                self.finish(stream, layer, then, out)
            }
            Weight::Int8(int8) => {
                let (x, weight) = (self.int8_rows(stream, x, int8.rule)?, int8.operand(layer)?);
                if layer.rounding == Rounding::None {
                    let mut out = stream.allocate(count)?;
                    self.int8.store_f32(stream, x, weight, layer.bias()?, out.view_mut())?;
                    return self.finish_f32(stream, layer, then, out);
                }
                if then == Pointwise::Gelu && int8.rule == Int8Rule::PerToken {
                    let mut out = Int8Values::room(stream, int8.rule, rows, layer.out)?;
                    self.int8.gelu_quantise(stream, x, weight, layer.bias()?, out.values.view_mut(), out.scales.view_mut())?;
                    return Ok(DeviceTensor::int8(layer.out, out));
                }
                let mut out = stream.allocate(count)?;
                self.int8.store(stream, x, weight, layer.bias()?, out.view_mut(), None)?;
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

    /// Queries, keys and values of `x`: by one product where the layers lie together, otherwise by three.
    pub fn queries_keys_values(&self, stream: &Stream, x: &DeviceActivation, layers: [&DeviceLinear; 3]) -> Result<ProjectedRows> {
        let (rows, width, parts) = (x.rows(), layers[0].out, layers[0].out.div_ceil(BLOCK));
        if let Some(all) = DeviceLinear::joined(layers) {
            let (out, squares) = self.with_squares(stream, x, &all)?;
            let (out, squares) = (Part::from(out), Part::from(squares));
            let before_last = rows.saturating_sub(1);
            return Ok(ProjectedRows {
                rows: [0, 1, 2].map(|at| out.within(at * width, before_last * all.out + width)),
                stride: all.out,
                squares: [0, 1].map(|at| squares.within(at * parts, before_last * 3 * parts + parts)),
                squares_stride: 3 * parts,
            });
        }
        let [q, k, v] = layers;
        let ((q, q_squares), (k, k_squares)) = (self.with_squares(stream, x, q)?, self.with_squares(stream, x, k)?);
        let (v, _) = self.with_squares(stream, x, v)?;
        Ok(ProjectedRows {
            rows: [q.into(), k.into(), v.into()],
            stride: width,
            squares: [q_squares.into(), k_squares.into()],
            squares_stride: parts,
        })
    }

    /// A product, and the sums of squares over every 128 columns of its rows.
    pub fn with_squares(&self, stream: &Stream, x: &DeviceActivation, layer: &DeviceLinear) -> Result<(Buffer<bf16>, Buffer<f32>)> {
        let rows = x.rows();
        let (mut out, mut squares) = (stream.allocate(rows * layer.out)?, stream.allocate(rows * layer.out.div_ceil(BLOCK))?);
        let (to, sums) = (out.view_mut(), Some(squares.view_mut()));
        match &layer.weight {
            Weight::Bf16(weight) => {
                let [x, weight] = matrices(x, layer, weight)?;
                self.bf16.store(stream, x, weight, layer.bias()?, to, sums)?;
            }
            Weight::Int8(int8) => {
                let (x, weight) = (self.int8_rows(stream, x, int8.rule)?, int8.operand(layer)?);
                self.int8.store(stream, x, weight, layer.bias()?, to, sums)?;
            }
        }
        Ok((out, squares))
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
                self.bf16.add_gated(stream, x, weight, layer.bias()?, gate, rows_per_gate, onto)?;
            }
            Weight::Int8(int8) => {
                let (x, weight) = (self.int8_rows(stream, x, int8.rule)?, int8.operand(layer)?);
                self.int8.add_gated(stream, x, weight, layer.bias()?, gate, rows_per_gate, onto)?;
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

/// Rows and weight of a bf16 product.
fn matrices<'a>(x: &'a DeviceActivation, layer: &DeviceLinear, weight: &'a Part<bf16>) -> Result<[DeviceMatrix<'a>; 2]> {
    let rows = DeviceMatrix::new(x.tensor.rows, x.tensor.width, x.tensor.expect_bf16()?.view())?;
    Ok([rows, DeviceMatrix::new(layer.out, layer.input, weight.view()?)?])
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
