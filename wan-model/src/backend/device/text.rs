//! The text encoder's operations on a device.

use turbowan_cuda::ops::bias_attention::device::{Projected, TextShape};
use turbowan_cuda::ops::elementwise::device::Gated;

use super::{DeviceActivation, DeviceBackend, DeviceTensor};
use crate::Result;
use crate::backend::text::TextBackend;
use crate::backend::{Backend, Norm, NormRule};

impl TextBackend for DeviceBackend {
    fn position_bias(&self, table: &DeviceTensor, buckets: &[usize]) -> Result<DeviceTensor> {
        let heads = table.width;
        if let Some(bucket) = buckets.iter().find(|bucket| **bucket >= table.rows) {
            let must = "below the rows of their table";
            return Err(turbowan_cuda::Error::Size { what: "bucket of positions", must, found: *bucket }.into());
        }
        // a table has a few kilobytes, and the encoder is asked once a prompt
        let values = table.to_vec()?;
        let bias = (0..heads).flat_map(|head| buckets.iter().map(|bucket| values[bucket * heads + head]).collect::<Vec<_>>());
        self.upload_exact(bias.collect(), buckets.len())
    }

    fn rms_norm(&self, x: &DeviceTensor, weight: &DeviceTensor, eps: f32) -> Result<DeviceTensor> {
        self.norms.rms(&self.stream, x, Norm { rule: NormRule::Standard, eps }, weight, 1, None)
    }

    fn gelu_gate(&self, gate: &DeviceTensor, up: &DeviceTensor) -> Result<DeviceActivation> {
        let mut out = self.stream.allocate(up.rows * up.width)?;
        let operands = Gated::Apart { gate: gate.expect_bf16()?.view(), up: up.expect_bf16()?.view() };
        self.gate.run(&self.stream, operands, up.width, out.view_mut())?;
        Ok(DeviceTensor::bf16(up.width, out).into())
    }

    fn relative_attention(&self, qkv: [&DeviceTensor; 3], bias: &DeviceTensor, keys: usize) -> Result<DeviceActivation> {
        let [q, k, v] = qkv;
        let shape = TextShape { rows: q.rows, keys, heads: bias.rows, head_dim: q.width / bias.rows.max(1) };
        let projected = Projected::Apart([q.expect_bf16()?.view(), k.expect_bf16()?.view(), v.expect_bf16()?.view()]);
        let mut out = self.stream.allocate(q.rows * q.width)?;
        self.text_attention.run(&self.stream, &shape, projected, bias.expect_f32()?, out.view_mut())?;
        Ok(DeviceTensor::bf16(q.width, out).into())
    }
}
