//! Rows in device memory, and the same rows as a linear layer reads them.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream, View};
use turbowan_cuda::host::aligned::Plain;
use turbowan_cuda::ops::gemm_int8::device::DeviceRows;
use turbowan_cuda::ops::quant::{BLOCK, Int8Rule, padded};

use crate::{Error, Result};

/// `[rows, width]` values in device memory.
#[derive(Debug)]
pub struct DeviceTensor {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) values: Values,
}

/// In which format rows are.
#[derive(Debug)]
pub(super) enum Values {
    /// What the blocks work on.
    Bf16(Buffer<bf16>),
    /// Tables, the time, the head.
    F32(Part<f32>),
    /// What an int8 layer with an activation behind it leaves for the next int8 layer.
    Int8(Int8Values),
}

/// A part of a buffer that others may share.
#[derive(Debug)]
pub(super) struct Part<T> {
    memory: Arc<Buffer<T>>,
    range: Range<usize>,
}

/// Int8 rows with the scales of their blocks.
#[derive(Debug)]
pub(super) struct Int8Values {
    pub rule: Int8Rule,
    /// `[rows, padded(width)]`, zeros past the width.
    pub values: Buffer<i8>,
    /// `[ceil(rows / rule.block_rows()), ceil(width / 128)]`.
    pub scales: Buffer<f32>,
}

impl<T: Plain> Part<T> {
    /// A part of `memory` that lies inside it.
    pub fn of(memory: &Arc<Buffer<T>>, range: Range<usize>) -> Self {
        Self { memory: Arc::clone(memory), range }
    }

    pub fn view(&self) -> Result<View<'_, T>> {
        Ok(self.memory.view().slice(self.range.clone())?)
    }

    /// `len` values from `from` on.
    pub fn within(&self, from: usize, len: usize) -> Self {
        let start = self.range.start + from;
        Self { memory: Arc::clone(&self.memory), range: start..start + len }
    }

    /// All of `parts` as one, where each begins where the one before it ends.
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let Self { memory, mut range } = parts.next()?.clone();
        for part in parts {
            if !Arc::ptr_eq(&memory, &part.memory) || part.range.start != range.end {
                return None;
            }
            range.end = part.range.end;
        }
        Some(Self { memory, range })
    }
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), range: self.range.clone() }
    }
}

impl<T: Plain> From<Buffer<T>> for Part<T> {
    fn from(memory: Buffer<T>) -> Self {
        Self { range: 0..memory.len(), memory: Arc::new(memory) }
    }
}

impl Int8Values {
    /// Memory for rows.
    pub fn room(stream: &Stream, rule: Int8Rule, rows: usize, width: usize) -> Result<Self> {
        let scales = rows.div_ceil(rule.block_rows()) * width.div_ceil(BLOCK);
        Ok(Self { rule, values: stream.allocate(rows * padded(width))?, scales: stream.allocate(scales)? })
    }

    /// As an int8 product reads them.
    pub fn rows(&self, rows: usize, width: usize) -> Result<DeviceRows<'_>> {
        Ok(DeviceRows::new(self.rule, rows, width, self.values.view(), self.scales.view())?)
    }

    /// The numbers that they stand for.
    fn to_vec(&self, width: usize) -> Result<Vec<f32>> {
        let (values, scales) = (self.values.to_vec()?, self.scales.to_vec()?);
        let scale = |row: usize, column: usize| scales[row / self.rule.block_rows() * width.div_ceil(BLOCK) + column / BLOCK];
        let row = |(row, values): (usize, &[i8])| -> Vec<f32> {
            values[..width].iter().enumerate().map(|(column, value)| f32::from(*value) * scale(row, column)).collect()
        };
        Ok(values.chunks_exact(padded(width)).enumerate().flat_map(row).collect())
    }
}

impl DeviceTensor {
    pub(super) fn bf16(width: usize, values: Buffer<bf16>) -> Self {
        Self { rows: values.len() / width.max(1), width, values: Values::Bf16(values) }
    }

    pub(super) fn f32(width: usize, values: impl Into<Part<f32>>) -> Self {
        let values = values.into();
        Self { rows: values.range.len() / width.max(1), width, values: Values::F32(values) }
    }

    pub(super) fn int8(width: usize, values: Int8Values) -> Self {
        Self { rows: values.values.len() / padded(width).max(1), width, values: Values::Int8(values) }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Channels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its bf16 values; another format is a fault of the network's.
    pub(super) fn expect_bf16(&self) -> Result<&Buffer<bf16>> {
        match &self.values {
            Values::Bf16(values) => Ok(values),
            other => Err(wrong_format("bf16", other)),
        }
    }

    pub(super) fn expect_bf16_mut(&mut self) -> Result<&mut Buffer<bf16>> {
        match &mut self.values {
            Values::Bf16(values) => Ok(values),
            other => Err(wrong_format("bf16", other)),
        }
    }

    pub(super) fn expect_f32(&self) -> Result<View<'_, f32>> {
        self.f32_part()?.view()
    }

    pub(super) fn f32_part(&self) -> Result<&Part<f32>> {
        match &self.values {
            Values::F32(values) => Ok(values),
            other => Err(wrong_format("f32", other)),
        }
    }

    pub(super) fn to_vec(&self) -> Result<Vec<f32>> {
        match &self.values {
            Values::Bf16(values) => Ok(values.to_vec()?.into_iter().map(bf16::to_f32).collect()),
            Values::F32(values) => Ok(values.view()?.to_vec()?),
            Values::Int8(values) => values.to_vec(self.width),
        }
    }
}

fn wrong_format(must: &'static str, found: &Values) -> Error {
    let found = match found {
        Values::Bf16(_) => "bf16",
        Values::F32(_) => "f32",
        Values::Int8(_) => "int8",
    };
    Error::Setting { what: "rows on a device", found: found.into(), must: format!("this operation reads {must}") }
}

/// Rows that linear layers read. They are quantised at most once for each rule, by the first int8 layer that asks.
#[derive(Debug)]
pub struct DeviceActivation {
    pub(super) tensor: DeviceTensor,
    pub(super) per_token: OnceLock<Int8Values>,
    pub(super) official: OnceLock<Int8Values>,
}

impl DeviceActivation {
    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.tensor.rows
    }

    /// The place of the rows by a rule.
    pub(super) fn quantised(&self, rule: Int8Rule) -> &OnceLock<Int8Values> {
        match rule {
            Int8Rule::PerToken => &self.per_token,
            Int8Rule::Official => &self.official,
        }
    }
}

impl From<DeviceTensor> for DeviceActivation {
    fn from(tensor: DeviceTensor) -> Self {
        Self { tensor, per_token: OnceLock::new(), official: OnceLock::new() }
    }
}
