//! Norms and modulations on a device.

use std::sync::{Arc, OnceLock};

use turbowan_cuda::device::{Device, Stream};
use turbowan_cuda::ops::modulation::{Modulation, Tables};
use turbowan_cuda::ops::norm::device::{NormModQuant, NormedRows, Then};
use turbowan_cuda::ops::norm::{LayerNormRule, RmsRule};
use turbowan_cuda::ops::quant::{BLOCK, Int8Rule, padded};
use turbowan_cuda::ops::rope::device::{HeadRows, RmsRope, RopeTurns};
use turbowan_cuda::{Error, HeadLayout};

use super::tensor::{DeviceActivation, DeviceTensor, F32Values, Int8Values};
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

    /// `table + e`, one tensor a chunk, all in one memory.
    pub fn modulation(&self, stream: &Stream, table: &DeviceTensor, e: &DeviceTensor) -> Result<Vec<DeviceTensor>> {
        let (width, chunks, batch) = (table.width, table.rows, e.rows);
        let mut out = stream.allocate(chunks * batch * width)?;
        self.modulation.table(stream, width, table.expect_f32()?, e.expect_f32()?, e.width, out.view_mut())?;
        let (memory, part) = (Arc::new(out), batch * width);
        Ok((0..chunks).map(|chunk| DeviceTensor::f32(width, F32Values::part(&memory, chunk * part..(chunk + 1) * part))).collect())
    }

    /// The layer norm and what follows it; with `has_int8_readers` also as the int8 rows of the layers that come next.
    pub fn layer(&self, stream: &Stream, x: &DeviceTensor, norm: Norm, then: Then<'_>, has_int8_readers: bool) -> Result<DeviceActivation> {
        let (rows, width) = (x.rows, x.width);
        let mut out = stream.allocate(rows * width)?;
        let mut int8 = None;
        if has_int8_readers {
            int8 = Some((stream.allocate(rows * padded(width))?, stream.allocate(rows * width.div_ceil(BLOCK))?));
        }
        let to = match &mut int8 {
            None => NormedRows::Bf16(out.view_mut()),
            Some((values, scales)) => NormedRows::Both { rows: out.view_mut(), values: values.view_mut(), scales: scales.view_mut() },
        };
        self.layer.run(stream, layer_rule(norm.rule), norm.eps, x.expect_bf16()?.view(), width, then, to)?;
        let per_token = match int8 {
            None => OnceLock::new(),
            Some((values, scales)) => OnceLock::from(Int8Values { rule: Int8Rule::PerToken, values, scales }),
        };
        Ok(DeviceActivation { per_token, ..DeviceTensor::bf16(width, out).into() })
    }

    /// The layer norm, rounded, under a modulation that is not: what the head reads.
    pub fn layer_f32(&self, stream: &Stream, x: &DeviceTensor, norm: Norm, tables: Tables<'_>) -> Result<DeviceActivation> {
        // a modulation by zeros leaves the rounded norm as it is
        let none = stream.zeros(x.width)?;
        let then = Then::Modulate { shift: none.view(), scale: none.view(), rows_per_group: x.rows.max(1) };
        let normed = self.layer(stream, x, norm, then, false)?.tensor;
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
        let rule = match norm.rule {
            NormRule::Standard => RmsRule::Standard,
            NormRule::Fast => RmsRule::Fast,
        };
        let tokens = turns.map_or(rows, RopeTurns::tokens);
        let x = HeadRows { values: x.expect_bf16()?.view(), tokens, heads, head_dim: width / heads, stride: width };
        let mut out = stream.allocate(rows * width)?;
        self.rms.run(stream, rule, norm.eps, x, weight.expect_f32()?, turns, HeadLayout::Blhd, out.view_mut())?;
        Ok(DeviceTensor::bf16(width, out))
    }
}

fn layer_rule(rule: NormRule) -> LayerNormRule {
    match rule {
        NormRule::Standard => LayerNormRule::Standard,
        NormRule::Fast => LayerNormRule::Padded,
    }
}
