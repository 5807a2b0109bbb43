//! Keys and values as INT8 attention reads them, made on a device from bf16 rows.

use half::{bf16, f16};
use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Buffer, Stream, View};
use turbowan_sage::device::prepare::{E4m3Values, Int8Rows, Layout, MeanKeys, PooledRows, QuantRows, QuantValues, ValueLayout, sums_len};
use turbowan_sage::device::{Format, Keys, Values};
use turbowan_sage::{Sage as Rules, tiled_len};

use super::attention::{FP8_LARGEST, FP8_PAD, TILED_LARGEST};
use super::room;
use crate::bench::case::BLOCKS;
use crate::bench::error::Error;

/// Keys: their mean, int8 rows or tiles, means of blocks.
pub struct KeySide {
    pub layout: AttnShape,
    pub rules: Rules,
    pub format: Format,
    stream: Stream,
    mean: MeanKeys,
    quant: QuantRows,
    sums: Buffer<f32>,
    pub means: Buffer<f32>,
    pub values: Vec<Buffer<i8>>,
    pub scales: Vec<Buffer<f32>>,
    pub pooled: Vec<Buffer<bf16>>,
}

impl KeySide {
    pub fn new(layout: &AttnShape, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let (rules, format) = (Rules::sagesla(BLOCKS.0, BLOCKS.1), Format::preferred(stream.device().chip().capability));
        let (problems, len, dim) = (layout.problems(), layout.key_len, layout.head_dim);
        let values = if format == Format::Tiled { tiled_len(problems, len, dim) } else { layout.key_values() };
        Ok(Self {
            layout: *layout,
            rules,
            format,
            stream: stream.clone(),
            mean: MeanKeys::load(stream.device())?,
            quant: QuantRows::load(stream.device())?,
            sums: stream.allocate(sums_len(layout))?,
            means: stream.allocate(problems * dim)?,
            values: room(stream, values, slots)?,
            scales: room(stream, problems * rules.granularity.key_groups().count(len), slots)?,
            pooled: room(stream, problems * len.div_ceil(BLOCKS.1) * dim, slots)?,
        })
    }

    pub fn queue(&mut self, k: View<'_, bf16>, slot: usize) -> Result<(), Error> {
        self.mean.run(&self.stream, k, &self.layout, self.sums.view_mut(), self.means.view_mut())?;
        let out = Int8Rows {
            values: self.values[slot].view_mut(),
            layout: if self.format == Format::Tiled { Layout::Tiles } else { Layout::Rows },
            scales: self.scales[slot].view_mut(),
            pooled: Some(PooledRows { means: self.pooled[slot].view_mut(), rows: BLOCKS.1 }),
        };
        Ok(self.quant.keys(&self.stream, k, Some(self.means.view()), &self.layout, &self.rules, out)?)
    }

    pub fn keys(&self, slot: usize) -> Keys<'_> {
        let values = self.values[slot].view();
        if self.format == Format::Tiled { Keys::Tiled(values) } else { Keys::Rows(values) }
    }
}

/// Values: e4m3 with their scales, or f16.
pub struct ValueSide {
    pub layout: AttnShape,
    pub format: Format,
    stream: Stream,
    kernel: QuantValues,
    pub e4m3: Vec<Buffer<u8>>,
    pub scales: Vec<Buffer<f32>>,
    pub halves: Vec<Buffer<f16>>,
    amax: Buffer<u32>,
}

impl ValueSide {
    pub fn new(layout: &AttnShape, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let format = Format::preferred(stream.device().chip().capability);
        let (problems, len, dim) = (layout.problems(), layout.key_len, layout.head_dim);
        let (codes, halves) = match format {
            Format::Tiled => (tiled_len(problems, len, dim), None),
            Format::Fp8 => (problems * dim * len.next_multiple_of(FP8_PAD), None),
            Format::F16 => (0, Some(layout.key_values())),
        };
        let has_codes = halves.is_none();
        Ok(Self {
            layout: *layout,
            format,
            stream: stream.clone(),
            kernel: QuantValues::load(stream.device())?,
            e4m3: if has_codes { room(stream, codes, slots)? } else { Vec::new() },
            scales: if has_codes { room(stream, problems * dim, slots)? } else { Vec::new() },
            halves: halves.map(|values| room(stream, values, slots)).transpose()?.unwrap_or_default(),
            amax: stream.allocate(problems * dim)?,
        })
    }

    /// What the largest value of a channel becomes.
    pub fn largest(&self) -> f32 {
        if self.format == Format::Tiled { TILED_LARGEST } else { FP8_LARGEST }
    }

    fn padded_len(&self) -> usize {
        self.layout.key_len.next_multiple_of(FP8_PAD)
    }

    pub fn queue(&mut self, v: View<'_, bf16>, slot: usize) -> Result<(), Error> {
        if self.format == Format::F16 {
            return Ok(self.kernel.f16(&self.stream, v, self.halves[slot].view_mut())?);
        }
        let is_tiled = self.format == Format::Tiled;
        let layout = if is_tiled { ValueLayout::Tiles } else { ValueLayout::Channels { padded_len: self.padded_len() } };
        let largest = self.largest();
        let (values, scales) = (self.e4m3[slot].view_mut(), self.scales[slot].view_mut());
        let out = E4m3Values { values, layout, scales, amax: self.amax.view_mut() };
        Ok(self.kernel.e4m3(&self.stream, v, &self.layout, largest, out)?)
    }

    pub fn values(&self, slot: usize) -> Values<'_> {
        match self.format {
            Format::F16 => Values::F16(self.halves[slot].view()),
            Format::Fp8 => {
                Values::Fp8 { permuted: self.e4m3[slot].view(), scales: self.scales[slot].view(), padded_len: self.padded_len() }
            }
            Format::Tiled => Values::Tiled { tiles: self.e4m3[slot].view(), scales: self.scales[slot].view() },
        }
    }
}
