//! Products with a weight on a device.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::ops::gemm::device::{DeviceMatrix, GemmBf16};
use turbowan_cuda::ops::gemm_int8::device::{DeviceRows, DeviceWeight, GemmInt8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight, padded_rows};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_reference::quant::BLOCK;

use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::Linear;
use crate::bench::error::Error;
use crate::bench::host;
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// bf16 rows and weight, stored in bf16.
pub struct Bf16 {
    shape: Linear,
    stream: Stream,
    kernel: GemmBf16,
    x: Vec<Buffer<bf16>>,
    w: Vec<Buffer<bf16>>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Bf16 {
    pub fn new(shape: &Linear, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let (x, w) = (to_bf16(&normal(shape.rows * shape.input, 1)), to_bf16(&normal(shape.out * shape.input, 2)));
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: GemmBf16::load(stream.device())?,
            x: copies(stream, &x, slots)?,
            w: copies(stream, &w, slots)?,
            out: room(stream, shape.rows * shape.out, slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Bf16 {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Linear { rows, out, input } = self.shape;
        let slot = self.turn.take(self.out.len());
        let (x, w) = (DeviceMatrix::new(rows, input, self.x[slot].view())?, DeviceMatrix::new(out, input, self.w[slot].view())?);
        self.kernel.store(&self.stream, x, w, None, self.out[slot].view_mut(), None)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let Linear { rows: all, out, input } = self.shape;
        let (slot, rows) = (self.turn.last, seeded_rows(all, rows));
        let (x, w) = (to_f32(&self.x[slot].to_vec()?), to_f32(&self.w[slot].to_vec()?));
        let want = turbowan_reference::gemm::linear(&gather(&x, input, &rows), &w, None, input);
        let got = gather(&to_f32(&self.out[slot].to_vec()?), out, &rows);
        Ok(Check::of(&got, &want, bound, "the f64 product of the same bf16 operands"))
    }
}

/// Int8 rows and weight by the official rule, stored in bf16.
pub struct Int8 {
    shape: Linear,
    stream: Stream,
    kernel: GemmInt8,
    host: (Int8Rows, QuantizedWeight),
    a: Vec<(Buffer<i8>, Buffer<f32>)>,
    w: Vec<(Buffer<i8>, Buffer<f32>)>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Int8 {
    pub fn new(shape: &Linear, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let Linear { rows, out, input } = *shape;
        let a = Int8Rows::quantise(Int8Rule::Official, &normal(rows * input, 1), rows, input)?;
        let w = QuantizedWeight::quantise(&normal(out * input, 2), out, input)?;
        let both = |values: &[i8], scales: &[f32]| -> Result<Vec<_>, Error> {
            Ok(copies(stream, &padded_rows(values, input), slots)?.into_iter().zip(copies(stream, scales, slots)?).collect())
        };
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: GemmInt8::load(stream.device())?,
            a: both(a.values(), a.scales())?,
            w: both(w.values(), w.scales())?,
            host: (a, w),
            out: room(stream, rows * out, slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Int8 {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Linear { rows, out, input } = self.shape;
        let slot = self.turn.take(self.out.len());
        let ((a, a_scales), (w, w_scales)) = (&self.a[slot], &self.w[slot]);
        let a = DeviceRows::new(Int8Rule::Official, rows, input, a.view(), a_scales.view())?;
        let w = DeviceWeight::new(out, input, w.view(), w_scales.view())?;
        self.kernel.store(&self.stream, a, w, None, self.out[slot].view_mut(), None)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (a, w) = &self.host;
        let want = host::int8_rows(self.shape, a.values(), a.scales(), BLOCK, w, rows);
        let got = gather(&to_f32(&self.out[self.turn.last].to_vec()?), self.shape.out, &seeded_rows(self.shape.rows, rows));
        Ok(Check::of(&got, &want, bound, "the f64 product of the same int8 operands"))
    }
}
