//! Operations on rows of channels on a device.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::HeadLayout;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::ops::conv3d::packing::{from_stored, to_stored};
use turbowan_cuda::ops::elementwise::device::ResidualGate;
use turbowan_cuda::ops::norm::channel::ChannelNorm;
use turbowan_cuda::ops::norm::device::{NormModQuant, NormedRows, Then};
use turbowan_cuda::ops::norm::{ChannelNormThen, LayerNormRule, RmsRule};
use turbowan_cuda::ops::quant::device::QuantBlock;
use turbowan_cuda::ops::quant::{Int8Rule, padded};
use turbowan_cuda::ops::rope::device::{HeadRows, RmsRope, RopeTurns};
use turbowan_reference as truth;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_reference::quant::BLOCK;

use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::{HeadGrid, Op, Rows};
use crate::bench::error::Error;
use crate::bench::host::{EPS, check_quantised, turned};
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// Rows to int8.
pub struct Quantised {
    shape: Rows,
    rule: Int8Rule,
    stream: Stream,
    kernel: QuantBlock,
    x: Vec<Buffer<bf16>>,
    values: Vec<Buffer<i8>>,
    scales: Vec<Buffer<f32>>,
    turn: Turn,
}

impl Quantised {
    pub fn new(op: &Op, shape: &Rows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let Rows { rows, width } = *shape;
        let rule = if matches!(op, Op::QuantisePerToken(_)) { Int8Rule::PerToken } else { Int8Rule::Official };
        Ok(Self {
            shape: *shape,
            rule,
            stream: stream.clone(),
            kernel: QuantBlock::load(stream.device())?,
            x: copies(stream, &to_bf16(&normal(rows * width, 1)), slots)?,
            values: room(stream, rows * padded(width), slots)?,
            scales: room(stream, rows.div_ceil(rule.block_rows()) * width.div_ceil(BLOCK), slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Quantised {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Rows { rows, width } = self.shape;
        let slot = self.turn.take(self.x.len());
        let (values, scales) = (self.values[slot].view_mut(), self.scales[slot].view_mut());
        self.kernel.run(&self.stream, self.rule, self.x[slot].view(), rows, width, values, scales)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let slot = self.turn.last;
        let (x, values, scales) = (to_f32(&self.x[slot].to_vec()?), self.values[slot].to_vec()?, self.scales[slot].to_vec()?);
        let Rows { rows: all, width } = self.shape;
        let values: Vec<i8> = (0..all).flat_map(|row| &values[row * padded(width)..][..width]).copied().collect();
        Ok(check_quantised(&x, self.shape, self.rule, &values, &scales, rows, bound))
    }
}

/// Layer norm, modulation, int8 rows.
pub struct LayerNorms {
    shape: Rows,
    stream: Stream,
    kernel: NormModQuant,
    x: Vec<Buffer<bf16>>,
    tables: [Vec<f32>; 2],
    shift: Buffer<f32>,
    scale: Buffer<f32>,
    values: Vec<Buffer<i8>>,
    scales: Vec<Buffer<f32>>,
    turn: Turn,
}

impl LayerNorms {
    pub fn new(shape: &Rows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let Rows { rows, width } = *shape;
        let tables = [normal(width, 2), normal(width, 3)];
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: NormModQuant::load(stream.device())?,
            x: copies(stream, &to_bf16(&normal(rows * width, 1)), slots)?,
            shift: stream.upload(&tables[0])?,
            scale: stream.upload(&tables[1])?,
            tables,
            values: room(stream, rows * padded(width), slots)?,
            scales: room(stream, rows * width.div_ceil(BLOCK), slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for LayerNorms {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Rows { rows, width } = self.shape;
        let slot = self.turn.take(self.x.len());
        let then = Then::Modulate { shift: self.shift.view(), scale: self.scale.view(), rows_per_group: rows };
        let out = NormedRows::Int8 { values: self.values[slot].view_mut(), scales: self.scales[slot].view_mut() };
        self.kernel.run(&self.stream, LayerNormRule::Standard, EPS, self.x[slot].view(), width, then, out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (Rows { rows: all, width }, slot) = (self.shape, self.turn.last);
        let rows = seeded_rows(all, rows);
        let x = gather(&to_f32(&self.x[slot].to_vec()?), width, &rows);
        let [shift, scale] = &self.tables;
        let want = truth::norm::layer_norm_modulate(&x, width, false, EPS.into(), (shift, scale, all));
        let (values, scales) = (self.values[slot].to_vec()?, self.scales[slot].to_vec()?);
        let (blocks, stored) = (width.div_ceil(BLOCK), padded(width));
        let got = rows.iter().flat_map(|row| (0..width).map(move |column| (row * stored + column, row * blocks + column / BLOCK)));
        let got: Vec<f32> = got.map(|(value, scale)| f32::from(values[value]) * scales[scale]).collect();
        Ok(Check::of(&got, &want, bound, "the f64 norm, beside int8 values times their scales"))
    }
}

/// RMS norm and rotary embedding, to `[heads, tokens, head_dim]`.
pub struct Turned {
    shape: HeadGrid,
    stream: Stream,
    kernel: RmsRope,
    turns: RopeTurns,
    x: Vec<Buffer<bf16>>,
    weight: Vec<f32>,
    weight_there: Buffer<f32>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Turned {
    pub fn new(shape: &HeadGrid, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let (tokens, width) = (shape.grid.iter().product::<usize>(), shape.heads * shape.head_dim);
        let weight = normal(width, 2);
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: RmsRope::load(stream.device())?,
            turns: RopeTurns::upload(stream, shape.grid, shape.head_dim)?,
            x: copies(stream, &to_bf16(&normal(tokens * width, 1)), slots)?,
            weight_there: stream.upload(&weight)?,
            weight,
            out: room(stream, tokens * width, slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Turned {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let HeadGrid { heads, head_dim, .. } = self.shape;
        let slot = self.turn.take(self.x.len());
        let x = HeadRows { values: self.x[slot].view(), tokens: self.turns.tokens(), heads, head_dim, stride: heads * head_dim };
        let (weight, turns, out) = (self.weight_there.view(), Some(&self.turns), self.out[slot].view_mut());
        self.kernel.run(&self.stream, RmsRule::Fast, EPS, x, weight, turns, HeadLayout::Bhld, out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (HeadGrid { heads, head_dim, .. }, tokens, slot) = (self.shape, self.turns.tokens(), self.turn.last);
        let rows = seeded_rows(tokens, rows);
        let x = gather(&to_f32(&self.x[slot].to_vec()?), heads * head_dim, &rows);
        let want = turned(&x, Some(&self.weight), &self.shape, &rows);
        let out = to_f32(&self.out[slot].to_vec()?);
        let head_rows: Vec<usize> = rows.iter().flat_map(|row| (0..heads).map(move |head| head * tokens + row)).collect();
        Ok(Check::of(&gather(&out, head_dim, &head_rows), &want, bound, "the f64 norm and rotation"))
    }
}

/// The autoencoder's norm and SiLU of pixels.
pub struct ChannelNorms {
    shape: Rows,
    stream: Stream,
    kernel: ChannelNorm,
    x: Vec<Buffer<bf16>>,
    gamma: Vec<f32>,
    gamma_there: Buffer<bf16>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl ChannelNorms {
    pub fn new(shape: &Rows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let Rows { rows, width } = *shape;
        let x = to_stored(&normal(rows * width, 1), width)?;
        let gamma = to_stored(&normal(width, 2), width)?;
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: ChannelNorm::load(stream.device())?,
            out: room(stream, x.len(), slots)?,
            x: copies(stream, &x, slots)?,
            gamma: from_stored(&gamma, width)?,
            gamma_there: stream.upload(&gamma)?,
            turn: Turn::default(),
        })
    }
}

impl Work for ChannelNorms {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.x.len());
        let (x, gamma, out) = (self.x[slot].view(), self.gamma_there.view(), self.out[slot].view_mut());
        self.kernel.run(&self.stream, x, self.shape.width, gamma, ChannelNormThen::Silu, out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (Rows { rows: all, width }, slot) = (self.shape, self.turn.last);
        let rows = seeded_rows(all, rows);
        let [x, out] = [self.x[slot].to_vec()?, self.out[slot].to_vec()?];
        let x = gather(&from_stored(&x, width)?, width, &rows);
        let want: Vec<f64> = truth::norm::channel_norm(&x, width, &self.gamma).into_iter().map(truth::norm::silu).collect();
        Ok(Check::of(&gather(&from_stored(&out, width)?, width, &rows), &want, bound, "the f64 norm and SiLU"))
    }
}

/// `x += gate * y`, in place: a run adds once more to its copy.
pub struct Gated {
    shape: Rows,
    stream: Stream,
    kernel: ResidualGate,
    /// What `x` was, before the first run.
    first: Vec<bf16>,
    x: Vec<Buffer<bf16>>,
    y: Vec<Buffer<bf16>>,
    gate: Vec<f32>,
    gate_there: Buffer<f32>,
    /// Runs that each copy has seen.
    runs: Vec<usize>,
    turn: Turn,
}

impl Gated {
    pub fn new(shape: &Rows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let Rows { rows, width } = *shape;
        let (first, gate) = (to_bf16(&normal(rows * width, 1)), normal(width, 3));
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: ResidualGate::load(stream.device())?,
            x: copies(stream, &first, slots)?,
            first,
            y: copies(stream, &to_bf16(&normal(rows * width, 2)), slots)?,
            gate_there: stream.upload(&gate)?,
            gate,
            runs: vec![0; slots],
            turn: Turn::default(),
        })
    }
}

impl Work for Gated {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Rows { rows, width } = self.shape;
        let slot = self.turn.take(self.x.len());
        self.runs[slot] += 1;
        let gate = Some((self.gate_there.view(), rows));
        self.kernel.run(&self.stream, self.x[slot].view_mut(), self.y[slot].view(), gate, width)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (Rows { rows: all, width }, slot) = (self.shape, self.turn.last);
        let rows = seeded_rows(all, rows);
        let (x, y) = (gather(&to_f32(&self.first), width, &rows), gather(&to_f32(&self.y[slot].to_vec()?), width, &rows));
        let times = self.runs[slot] as f64;
        let sum = |(at, (x, y)): (usize, (&f32, &f32))| f64::from(*x) + times * f64::from(self.gate[at % width]) * f64::from(*y);
        let want: Vec<f64> = x.iter().zip(&y).enumerate().map(sum).collect();
        let got = gather(&to_f32(&self.x[slot].to_vec()?), width, &rows);
        Ok(Check::of(&got, &want, bound, "the f64 sum, as often as it was added"))
    }
}
