//! Norms and modulations on a device.

use std::sync::{Arc, OnceLock};

use turbowan_cuda::device::{Device, Stream, View};
use turbowan_cuda::ops::modulation::{Modulation, Tables};
use turbowan_cuda::ops::norm::device::{NormModQuant, NormedRows, Then};
use turbowan_cuda::ops::norm::{LayerNormRule, RmsRule};
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::ops::rope::device::{HeadRows, RmsRope, RopeTurns};
use turbowan_cuda::{Error, HeadLayout};

use super::layer::DeviceLinear;
use super::tensor::{DeviceActivation, DeviceTensor, Int8Values, Part};
use crate::Result;
use crate::backend::{Norm, NormRule};

/// The norms of a device.
#[derive(Debug)]
pub(super) struct Norms {
    layer: NormModQuant,
    rms: RmsRope,
    modulation: Modulation,
}

impl Norms {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self { layer: NormModQuant::load(device)?, rms: RmsRope::load(device)?, modulation: Modulation::load(device)? })
    }

    /// `table + e`, one tensor a chunk, all in one memory; `table` may be several, one behind the other.
    pub fn modulation(
        &self,
        stream: &Stream,
        table: View<'_, f32>,
        width: usize,
        e: &DeviceTensor,
        gates: &[usize],
    ) -> Result<Vec<DeviceTensor>> {
        let (chunks, part) = (table.len() / width.max(1), e.rows * width);
        let mut out = stream.allocate(chunks * part)?;
        self.modulation.table(stream, width, table, e.expect_f32()?, e.width / width.max(1), gates, out.view_mut())?;
        let memory = Arc::new(out);
        Ok((0..chunks).map(|chunk| DeviceTensor::f32(width, Part::of(&memory, chunk * part..(chunk + 1) * part))).collect())
    }

    /// The layer norm and what follows it, in the form of its readers: int8, bf16 where they are not known, or both.
    pub fn layer(
        &self,
        stream: &Stream,
        x: &DeviceTensor,
        norm: Norm,
        then: Then<'_>,
        readers: &[&DeviceLinear],
    ) -> Result<DeviceActivation> {
        let (rows, width) = (x.rows, x.width);
        let values = x.expect_bf16()?.view();
        let run = |to: NormedRows<'_>| self.layer.run(stream, layer_rule(norm.rule), norm.eps, values, width, then, to);
        let int8_readers = readers.iter().filter(|reader| reader.reads_per_token()).count();
        if int8_readers == 0 {
            let mut out = stream.allocate(rows * width)?;
            run(NormedRows::Bf16(out.view_mut()))?;
            return Ok(DeviceTensor::bf16(width, out).into());
        }
        let mut int8 = Int8Values::room(stream, Int8Rule::PerToken, rows, width)?;
        if int8_readers == readers.len() {
            run(NormedRows::Int8 { values: int8.values.view_mut(), scales: int8.scales.view_mut() })?;
            return Ok(DeviceTensor::int8(width, int8).into());
        }
        let mut out = stream.allocate(rows * width)?;
        run(NormedRows::Both { rows: out.view_mut(), values: int8.values.view_mut(), scales: int8.scales.view_mut() })?;
        Ok(DeviceActivation { per_token: OnceLock::from(int8), ..DeviceTensor::bf16(width, out).into() })
    }

    /// The layer norm, rounded, under a modulation that is not: what the head reads.
    pub fn layer_f32(&self, stream: &Stream, x: &DeviceTensor, norm: Norm, tables: Tables<'_>) -> Result<DeviceActivation> {
        // a modulation by zeros leaves the rounded norm as it is
        let none = stream.zeros(x.width)?;
        let then = Then::Modulate { shift: none.view(), scale: none.view(), rows_per_group: x.rows.max(1) };
        let normed = self.layer(stream, x, norm, then, &[])?.tensor;
        let mut out = stream.allocate(x.rows * x.width)?;
        self.modulation.apply(stream, x.width, normed.expect_bf16()?.view(), tables, out.view_mut())?;
        Ok(DeviceTensor::f32(x.width, out).into())
    }

    /// `RMS(x) * weight`, turned by `turns` where they are given.
    pub fn rms(
        &self,
        stream: &Stream,
        x: &DeviceTensor,
        norm: Norm,
        weight: &DeviceTensor,
        heads: usize,
        turns: Option<&RopeTurns>,
    ) -> Result<DeviceTensor> {
        let (rows, width) = (x.rows, x.width);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::Size { what: "heads of a row", must: "a divisor of its width", found: heads }.into());
        }
        let tokens = turns.map_or(rows, RopeTurns::tokens);
        let x = HeadRows { values: x.expect_bf16()?.view(), tokens, heads, head_dim: width / heads, stride: width };
        let mut out = stream.allocate(rows * width)?;
        self.rms.run(stream, rms_rule(norm.rule), norm.eps, x, weight.expect_f32()?, turns, HeadLayout::Blhd, out.view_mut())?;
        Ok(DeviceTensor::bf16(width, out))
    }
}

pub(super) fn rms_rule(rule: NormRule) -> RmsRule {
    match rule {
        NormRule::Standard => RmsRule::Standard,
        NormRule::Fast => RmsRule::Fast,
    }
}

fn layer_rule(rule: NormRule) -> LayerNormRule {
    match rule {
        NormRule::Standard => LayerNormRule::Standard,
        NormRule::Fast => LayerNormRule::Padded,
    }
}
