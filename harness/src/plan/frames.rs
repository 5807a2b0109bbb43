//! Frames on a device that only plans, whose zeros would be refused as a flat picture.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Device};
use turbowan_cuda::ops::conv3d::ConvShape;
use turbowan_wan_model::Result;
use turbowan_wan_model::backend::device::vae::{DeviceConvolution, DeviceFrame, DeviceFrames};
use turbowan_wan_model::backend::vae::{FrameSize, VaeBackend};

/// The autoencoder's operations as the device has them, but what comes back is no single colour.
pub struct PlannedFrames(DeviceFrames);

impl PlannedFrames {
    /// Loads the kernels.
    ///
    /// # Errors
    /// As [`DeviceFrames::load`].
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self(DeviceFrames::load(device)?))
    }
}

impl VaeBackend for PlannedFrames {
    type Frame = DeviceFrame;
    type Convolution = DeviceConvolution;
    type Gamma = Buffer<bf16>;

    fn rounding(&self) -> Rounding {
        self.0.rounding()
    }

    fn upload(&self, values: &[f32], size: FrameSize) -> Result<DeviceFrame> {
        self.0.upload(values, size)
    }

    fn download(&self, frame: &DeviceFrame) -> Result<Vec<f32>> {
        let mut values = self.0.download(frame)?;
        values.iter_mut().enumerate().for_each(|(at, value)| *value = (at % 2) as f32);
        Ok(values)
    }

    fn load_convolution(&self, name: &str, part: usize, shape: ConvShape, weight: &[f32], bias: &[f32]) -> Result<DeviceConvolution> {
        self.0.load_convolution(name, part, shape, weight, bias)
    }

    fn load_gamma(&self, name: &str, gamma: Vec<f32>) -> Result<Buffer<bf16>> {
        self.0.load_gamma(name, gamma)
    }

    fn convolve(&self, window: &[Option<&DeviceFrame>], layer: &DeviceConvolution) -> Result<DeviceFrame> {
        self.0.convolve(window, layer)
    }

    fn convolve_onto(&self, window: &[Option<&DeviceFrame>], layer: &DeviceConvolution, residual: DeviceFrame) -> Result<DeviceFrame> {
        self.0.convolve_onto(window, layer, residual)
    }

    fn norm_silu(&self, x: &DeviceFrame, gamma: &Buffer<bf16>) -> Result<DeviceFrame> {
        self.0.norm_silu(x, gamma)
    }

    fn norm(&self, x: &DeviceFrame, gamma: &Buffer<bf16>) -> Result<DeviceFrame> {
        self.0.norm(x, gamma)
    }

    fn attend(&self, query: DeviceFrame, key: DeviceFrame, value: DeviceFrame) -> Result<DeviceFrame> {
        self.0.attend(query, key, value)
    }

    fn peak_frame_bytes(&self) -> usize {
        self.0.peak_frame_bytes()
    }

    fn release(&self) {
        self.0.release();
    }
}
