//! Operations on rows of channels on the host. What works in place is put back before each run; the clock sees the operation
//! alone.

use std::time::{Duration, Instant};

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::norm::{
    ChannelNormThen, LayerNorm, LayerNormRule, Modulation, RmsNorm, RmsRule, channel_norm, layer_norm_modulate, rms_norm,
};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule};
use turbowan_cuda::ops::rope::RopeTable;
use turbowan_reference as truth;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;

use crate::bench::case::{HeadGrid, Op, Rows};
use crate::bench::error::Error;
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// Added to variances and mean squares, as Wan has it.
pub const EPS: f32 = 1e-6;

/// Layer norm and modulation.
pub struct LayerNorms {
    shape: Rows,
    x: Vec<f32>,
    shift: Vec<f32>,
    scale: Vec<f32>,
    out: Vec<f32>,
}

impl LayerNorms {
    pub fn new(shape: &Rows) -> Self {
        let values = shape.rows * shape.width;
        let (shift, scale) = (normal(shape.width, 2), normal(shape.width, 3));
        Self { shape: *shape, x: normal(values, 1), shift, scale, out: vec![0.0; values] }
    }
}

impl Work for LayerNorms {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Rows { rows, width } = self.shape;
        let norm = LayerNorm { width, rule: LayerNormRule::Standard, eps: EPS, rounding: Rounding::None };
        let modulation = Modulation { shift: &self.shift, scale: &self.scale, rows_per_group: rows };
        layer_norm_modulate(&norm, &self.x, modulation, Rounding::None, &mut self.out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let Rows { rows: all, width } = self.shape;
        let rows = seeded_rows(all, rows);
        let x = gather(&self.x, width, &rows);
        let want = truth::norm::layer_norm_modulate(&x, width, false, EPS.into(), (&self.shift, &self.scale, all));
        Ok(Check::of(&gather(&self.out, width, &rows), &want, bound, "the f64 norm"))
    }
}

/// RMS norm, in place.
pub struct RmsNorms {
    shape: Rows,
    x: Vec<f32>,
    weight: Vec<f32>,
    out: Vec<f32>,
}

impl RmsNorms {
    pub fn new(shape: &Rows) -> Self {
        let x = normal(shape.rows * shape.width, 1);
        Self { shape: *shape, out: x.clone(), x, weight: normal(shape.width, 2) }
    }
}

impl Work for RmsNorms {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        self.out.copy_from_slice(&self.x);
        let norm = RmsNorm { width: self.shape.width, rule: RmsRule::Fast, eps: EPS, rounding: Rounding::None };
        let started = Instant::now();
        rms_norm(&norm, &mut self.out, &self.weight)?;
        Ok(Some(started.elapsed()))
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let Rows { rows: all, width } = self.shape;
        let rows = seeded_rows(all, rows);
        let want = truth::norm::rms_norm(&gather(&self.x, width, &rows), width, EPS.into(), &self.weight);
        Ok(Check::of(&gather(&self.out, width, &rows), &want, bound, "the f64 norm"))
    }
}

/// The autoencoder's norm and SiLU.
pub struct ChannelNorms {
    shape: Rows,
    x: Vec<f32>,
    gamma: Vec<f32>,
    out: Vec<f32>,
}

impl ChannelNorms {
    pub fn new(shape: &Rows) -> Self {
        let values = shape.rows * shape.width;
        Self { shape: *shape, x: normal(values, 1), gamma: normal(shape.width, 2), out: vec![0.0; values] }
    }
}

impl Work for ChannelNorms {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        channel_norm(&self.x, self.shape.width, &self.gamma, ChannelNormThen::Silu, Rounding::None, &mut self.out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let Rows { rows: all, width } = self.shape;
        let rows = seeded_rows(all, rows);
        let normed = truth::norm::channel_norm(&gather(&self.x, width, &rows), width, &self.gamma);
        let want: Vec<f64> = normed.into_iter().map(truth::norm::silu).collect();
        Ok(Check::of(&gather(&self.out, width, &rows), &want, bound, "the f64 norm and SiLU"))
    }
}

/// Rotary embedding, in place, after an RMS norm or without.
pub struct Turned {
    shape: HeadGrid,
    table: RopeTable,
    x: Vec<f32>,
    /// Of the norm, where there is one.
    weight: Option<Vec<f32>>,
    out: Vec<f32>,
}

impl Turned {
    pub fn new(shape: &HeadGrid, is_normed: bool) -> Result<Self, Error> {
        let width = shape.heads * shape.head_dim;
        let x = normal(shape.grid.iter().product::<usize>() * width, 1);
        let table = RopeTable::wan(shape.grid, shape.head_dim)?;
        Ok(Self { shape: *shape, table, out: x.clone(), x, weight: is_normed.then(|| normal(width, 2)) })
    }
}

impl Work for Turned {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let width = self.shape.heads * self.shape.head_dim;
        self.out.copy_from_slice(&self.x);
        let started = Instant::now();
        if let Some(weight) = &self.weight {
            let norm = RmsNorm { width, rule: RmsRule::Fast, eps: EPS, rounding: Rounding::None };
            rms_norm(&norm, &mut self.out, weight)?;
        }
        self.table.apply(&mut self.out, self.shape.heads, Rounding::None)?;
        Ok(Some(started.elapsed()))
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let HeadGrid { grid, heads, head_dim } = self.shape;
        let rows = seeded_rows(grid.iter().product(), rows);
        let x = gather(&self.x, heads * head_dim, &rows);
        let want = turned(&x, self.weight.as_deref(), &self.shape, &rows);
        Ok(Check::of(&gather(&self.out, heads * head_dim, &rows), &want, bound, "the f64 rotation"))
    }
}

/// `x`, rows `rows` of the grid, normed where there is a weight, and turned, in f64.
pub fn turned(x: &[f32], weight: Option<&[f32]>, shape: &HeadGrid, rows: &[usize]) -> Vec<f64> {
    let (HeadGrid { grid, heads, head_dim }, width) = (*shape, shape.heads * shape.head_dim);
    let angles = gather(&truth::rope::angles(grid, head_dim), head_dim / 2, rows);
    // the oracle of the rotation takes f32: the norm before it is rounded once
    match weight {
        None => truth::rope::rotate(x, heads, head_dim, &angles),
        Some(weight) => {
            let normed: Vec<f32> = truth::norm::rms_norm(x, width, EPS.into(), weight).into_iter().map(|value| value as f32).collect();
            truth::rope::rotate(&normed, heads, head_dim, &angles)
        }
    }
}

/// Rows to int8.
pub struct Quantised {
    shape: Rows,
    rule: Int8Rule,
    x: Vec<f32>,
    rows: Int8Rows,
}

impl Quantised {
    pub fn new(op: &Op, shape: &Rows) -> Result<Self, Error> {
        let rule = if matches!(op, Op::QuantisePerToken(_)) { Int8Rule::PerToken } else { Int8Rule::Official };
        let x = normal(shape.rows * shape.width, 1);
        let rows = Int8Rows::quantise(rule, &x, shape.rows, shape.width)?;
        Ok(Self { shape: *shape, rule, x, rows })
    }
}

impl Work for Quantised {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        self.rows.fill(&self.x, self.shape.rows, self.shape.width)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        Ok(check_quantised(&self.x, self.shape, self.rule, self.rows.values(), self.rows.scales(), rows, bound))
    }
}

/// The first and the last whole row of blocks of int8 rows and their scales against the rule.
pub fn check_quantised(x: &[f32], shape: Rows, rule: Int8Rule, values: &[i8], scales: &[f32], rows: usize, bound: Bound) -> Check {
    let Rows { rows: all, width } = shape;
    let block = rule.block_rows();
    let bands = seeded_rows(all.div_ceil(block), rows.div_ceil(block));
    let how = match rule {
        Int8Rule::Official => truth::quant::Rule::OFFICIAL,
        Int8Rule::PerToken => truth::quant::Rule::PER_TOKEN,
    };
    let (mut got, mut want) = (Vec::new(), Vec::new());
    for band in bands {
        let part = band * block * width..all.min((band + 1) * block) * width;
        let (true_values, true_scales) = truth::quant::quantise(&x[part.clone()], width, how);
        got.extend(values[part].iter().map(|value| f32::from(*value)));
        want.extend(true_values.into_iter().map(f32::from));
        got.extend(&scales[band * width.div_ceil(truth::quant::BLOCK)..][..true_scales.len()]);
        want.extend(true_scales);
    }
    Check::of(&got, &want, bound, "the rule, value by value")
}
