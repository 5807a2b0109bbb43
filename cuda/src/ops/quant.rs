//! The quantisers of the int8 linear layer.
//!
//! ```text
//! amax  = max(1e-8, max |x|)              over a block: some rows x 128 columns
//! q     = saturate(round_half_even(x * (levels / amax)))
//! scale = amax / levels
//! ```
//!
//! The official rule has 128 x 128 blocks, for weights and activations alike, and 128 levels: the largest positive value
//! saturates to 127, the largest negative one is exactly -128. [`Int8Rule::PerToken`] is ours for activations: one scale
//! for each row and 128 columns and 127 levels, so that an outlier costs only its own row and nothing saturates.
//!
//! A width need not divide: a ragged last block covers the columns that exist, as a ragged block of rows does. Memory on
//! the host, and a checkpoint, hold just those; a device's rows are padded with zeros to whole blocks ([`padded_rows`]),
//! which change neither a maximum nor a sum.
//!
//! Sources: `turbodiffusion/ops/quant/quant.hpp`. All of it is IEEE `f32`, so every instruction set gives the same
//! bytes; the official build divides approximately and may differ by one where a product lies on a tie.

pub mod device;

use std::borrow::Cow;

use crate::host::Isa;
use crate::host::par::{Shared, for_each_task};
use crate::host::vectorised::{self, Vectorised};
use crate::{Element, Error};

/// Columns of a block, and both sides of an official one.
pub const BLOCK: usize = 128;

/// The largest magnitude of a block is never taken to be smaller than this.
pub const AMAX_FLOOR: f32 = 1e-8;

/// Columns of a device's int8 rows of `width` values: whole blocks.
pub const fn padded(width: usize) -> usize {
    width.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// Int8 rows of `width` values as a device holds them: `[rows, padded(width)]`, zeros past the end of each.
pub fn padded_rows(values: &[i8], width: usize) -> Cow<'_, [i8]> {
    if width.is_multiple_of(BLOCK) {
        return Cow::Borrowed(values);
    }
    let mut rows = vec![0; values.len() / width * padded(width)];
    for (to, from) in rows.chunks_exact_mut(padded(width)).zip(values.chunks_exact(width)) {
        to[..width].copy_from_slice(from);
    }
    Cow::Owned(rows)
}

/// How floating-point rows become int8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Int8Rule {
    /// 128 x 128 blocks over the flattened rows, 128 levels: bit for bit the official arithmetic.
    #[default]
    Official,
    /// 1 x 128 blocks, 127 levels.
    PerToken,
}

impl Int8Rule {
    /// Rows that share a scale.
    pub const fn block_rows(self) -> usize {
        match self {
            Self::Official => BLOCK,
            Self::PerToken => 1,
        }
    }

    /// What the largest magnitude is mapped to before it saturates.
    pub const fn levels(self) -> f32 {
        match self {
            Self::Official => 128.0,
            Self::PerToken => 127.0,
        }
    }
}

/// Int8 rows with the scales of their blocks: what the int8 product takes as its activation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Int8Rows {
    rows: usize,
    width: usize,
    rule: Int8Rule,
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl Int8Rows {
    /// Quantises `x [rows, width]`. A ragged last block covers the rows, or the columns, that exist.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is zero, [`Error::Length`] when `x` does not fit.
    pub fn quantise<E: Element>(rule: Int8Rule, x: &[E], rows: usize, width: usize) -> Result<Self, Error> {
        let mut result = Self { rule, ..Self::default() };
        result.fill(x, rows, width)?;
        Ok(result)
    }

    /// [`Int8Rows::quantise`] into the memory of earlier rows, by their rule.
    ///
    /// # Errors
    /// As [`Int8Rows::quantise`]; the earlier rows are then still there.
    pub fn fill<E: Element>(&mut self, x: &[E], rows: usize, width: usize) -> Result<(), Error> {
        self.fill_on(Isa::detect(), x, rows, width)
    }

    /// [`Int8Rows::fill`] with a chosen instruction set.
    ///
    /// # Errors
    /// Also [`Error::MissingIsa`] when this machine lacks it.
    pub fn fill_on<E: Element>(&mut self, isa: Isa, x: &[E], rows: usize, width: usize) -> Result<(), Error> {
        isa.demand()?;
        check_width(width)?;
        Error::expect_len("input rows", x, rows * width)?;
        let (block_rows, blocks) = (self.rule.block_rows(), width.div_ceil(BLOCK));
        (self.rows, self.width) = (rows, width);
        self.values.resize(rows * width, 0);
        self.scales.resize(rows.div_ceil(block_rows) * blocks, 0.0);
        let (values, scales) = (Shared::new(&mut self.values), Shared::new(&mut self.scales));
        // a task has the rows of one official block under either rule
        for_each_task(rows.div_ceil(BLOCK), |task| {
            let first = task * BLOCK;
            let count = (rows - first).min(BLOCK);
            let scale_rows = first / block_rows..(first + count).div_ceil(block_rows);
            // SAFETY: every task has its own rows and the scales of their blocks.
            let (values, scales) =
                unsafe { (values.part(first * width, count * width), scales.part(scale_rows.start * blocks, scale_rows.len() * blocks)) };
            let x = &x[first * width..(first + count) * width];
            vectorised::run(isa, Blocks { x, width, rule: self.rule, values, scales });
        });
        Ok(())
    }

    /// Int8 values and scales that were made elsewhere.
    ///
    /// # Errors
    /// As [`Int8Rows::quantise`], and [`Error::Length`] when the scales do not fit.
    pub fn from_parts(rule: Int8Rule, rows: usize, width: usize, values: Vec<i8>, scales: Vec<f32>) -> Result<Self, Error> {
        check_width(width)?;
        Error::expect_len("int8 rows", &values, rows * width)?;
        Error::expect_len("scales of the rows", &scales, rows.div_ceil(rule.block_rows()) * width.div_ceil(BLOCK))?;
        Ok(Self { rows, width, rule, values, scales })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rule they were quantised by.
    pub fn rule(&self) -> Int8Rule {
        self.rule
    }

    /// `[rows, width]`.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// `[ceil(rows / rule.block_rows()), ceil(width / 128)]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Scales of one row, `[ceil(width / 128)]`.
    pub fn scales_of(&self, row: usize) -> &[f32] {
        let blocks = self.width.div_ceil(BLOCK);
        let start = row / self.rule.block_rows() * blocks;
        &self.scales[start..start + blocks]
    }
}

/// A weight `[out, input]` in int8 with one scale for each 128 x 128 block, as `-quant` checkpoints hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeight {
    out: usize,
    input: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl QuantizedWeight {
    /// Quantises a floating-point weight by the official rule.
    ///
    /// # Errors
    /// [`Error::Size`] when `out` or `input` is zero, [`Error::Length`] when `weight` does not fit.
    pub fn quantise<E: Element>(weight: &[E], out: usize, input: usize) -> Result<Self, Error> {
        check_out(out)?;
        let Int8Rows { values, scales, .. } = Int8Rows::quantise(Int8Rule::Official, weight, out, input)?;
        Ok(Self { out, input, values, scales })
    }

    /// The tensors `int8_weight [out, input]` and `scale [ceil(out / 128), ceil(input / 128)]` of a checkpoint.
    ///
    /// # Errors
    /// As [`QuantizedWeight::quantise`], and [`Error::Length`] when the scales do not fit.
    pub fn from_parts(out: usize, input: usize, values: Vec<i8>, scales: Vec<f32>) -> Result<Self, Error> {
        check_out(out)?;
        check_width(input)?;
        Error::expect_len("int8 weight", &values, out * input)?;
        Error::expect_len("scales of the weight", &scales, out.div_ceil(BLOCK) * input.div_ceil(BLOCK))?;
        Ok(Self { out, input, values, scales })
    }

    /// Output features.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Input features.
    pub fn input(&self) -> usize {
        self.input
    }

    /// `[out, input]`.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// `[ceil(out / 128), ceil(input / 128)]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }
}

pub(crate) fn check_width(width: usize) -> Result<(), Error> {
    if width == 0 {
        return Err(Error::Size { what: "columns of an int8 operand", must: "at least 1", found: width });
    }
    Ok(())
}

pub(crate) fn check_out(out: usize) -> Result<(), Error> {
    if out == 0 {
        return Err(Error::Size { what: "rows of an int8 weight", must: "at least 1", found: out });
    }
    Ok(())
}

/// At most 128 rows to be quantised; they start at the first row of an official block.
struct Blocks<'a, E> {
    x: &'a [E],
    width: usize,
    rule: Int8Rule,
    values: &'a mut [i8],
    scales: &'a mut [f32],
}

impl<E: Element> Vectorised for Blocks<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (width, block_rows, levels) = (self.width, self.rule.block_rows(), self.rule.levels());
        let block_values = block_rows * width;
        let blocks = self.x.chunks(block_values).zip(self.values.chunks_mut(block_values));
        for ((x, values), scales) in blocks.zip(self.scales.chunks_mut(width.div_ceil(BLOCK))) {
            for (block, scale) in scales.iter_mut().enumerate() {
                let columns = block * BLOCK..width.min((block + 1) * BLOCK);
                let mut amax = [AMAX_FLOOR; LANES];
                for row in x.chunks_exact(width) {
                    gather_amax(&widened(&row[columns.clone()]), &mut amax);
                }
                let amax = amax.iter().fold(AMAX_FLOOR, |amax, lane| amax.max(*lane));
                *scale = amax / levels;
                for (row, values) in x.chunks_exact(width).zip(values.chunks_exact_mut(width)) {
                    quantise_row(&widened(&row[columns.clone()]), levels / amax, &mut values[columns.clone()]);
                }
            }
        }
    }
}

/// Independent maxima, so that finding one is vector code.
const LANES: usize = 16;

/// A row of a block, zeros past a ragged end.
#[inline(always)]
fn widened<E: Element>(row: &[E]) -> [f32; BLOCK] {
    let mut wide = [0.0; BLOCK];
    // whole blocks are told apart so that their length is a constant to the compiler
    match <&[E; BLOCK]>::try_from(row) {
        Ok(row) => E::widen_row(row, &mut wide),
        Err(_) => E::widen_row(row, &mut wide[..row.len()]),
    }
    wide
}

#[inline(always)]
fn gather_amax(row: &[f32; BLOCK], amax: &mut [f32; LANES]) {
    for chunk in row.as_chunks::<LANES>().0 {
        for (amax, value) in amax.iter_mut().zip(chunk) {
            let size = value.abs();
            *amax = if size > *amax { size } else { *amax };
        }
    }
}

#[inline(always)]
fn quantise_row(row: &[f32; BLOCK], factor: f32, values: &mut [i8]) {
    /// 1.5 * 2^23: the sum with it is rounded half to even to a whole number, which then stands in its low bits.
    const ROUND: f32 = 12_582_912.0;
    let mut block = [0; BLOCK];
    for (value, x) in block.iter_mut().zip(row) {
        *value = ((x * factor).clamp(-128.0, 127.0) + ROUND).to_bits() as i8;
    }
    match <&mut [i8; BLOCK]>::try_from(&mut *values) {
        Ok(values) => *values = block,
        Err(_) => values.copy_from_slice(&block[..values.len()]),
    }
}
