//! The autoencoder's operations on a device, in bf16.
//!
//! A pixel's channels are stored in whole chunks of 8 ([`stored`]), those past the last as zeros. Frames are freed in the
//! order of the stream, so that memory which a later frame takes is never still being read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Device, Stream};
use turbowan_cuda::ops::conv3d::ConvShape;
use turbowan_cuda::ops::conv3d::device::{Convolution, DeviceWeight, Window};
use turbowan_cuda::ops::conv3d::packing::{Packing, from_stored, stored, to_stored};
use turbowan_cuda::ops::norm::ChannelNormThen;
use turbowan_cuda::ops::norm::channel::ChannelNorm;
use turbowan_cuda::ops::pixel_attention::{PixelAttention, Workspace, WorkspaceSize};

use crate::Result;
use crate::backend::vae::{FrameSize, VaeBackend};

/// Scores that the attention keeps at once: 256 MB of them, and half as much of probabilities.
const SCORES_AT_ONCE: usize = 1 << 26;

/// A device with the autoencoder's kernels, and the stream that its work is queued on.
pub struct DeviceFrames {
    stream: Stream,
    convolution: Convolution,
    norm: ChannelNorm,
    attention: PixelAttention,
    meter: Arc<Meter>,
}

/// Bytes of frames in use, and the most there have been.
#[derive(Debug, Default)]
struct Meter {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A frame in device memory; clones share its values.
#[derive(Debug, Clone)]
pub struct DeviceFrame {
    size: FrameSize,
    memory: Arc<Counted>,
}

/// Values of a frame, `[height, width, stored channels]`, which the meter forgets when they are freed.
#[derive(Debug)]
struct Counted {
    values: Buffer<bf16>,
    meter: Arc<Meter>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.values.len() * size_of::<bf16>(), Ordering::Relaxed);
    }
}

/// A convolution's weight and bias in device memory.
#[derive(Debug)]
pub struct DeviceConvolution {
    packing: Packing,
    weight: Buffer<bf16>,
    bias: Buffer<bf16>,
}

impl DeviceFrames {
    /// Loads the kernels and opens a stream.
    ///
    /// # Errors
    /// When the device lacks the kernels, or what the driver says.
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self {
            stream: device.stream()?,
            convolution: Convolution::load(device)?,
            norm: ChannelNorm::load(device)?,
            attention: PixelAttention::load(device)?,
            meter: Arc::default(),
        })
    }

    fn frame(&self, size: FrameSize, values: Buffer<bf16>) -> DeviceFrame {
        let bytes = values.len() * size_of::<bf16>();
        let now = self.meter.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.meter.most.fetch_max(now, Ordering::Relaxed);
        DeviceFrame { size, memory: Arc::new(Counted { values, meter: Arc::clone(&self.meter) }) }
    }

    fn run(&self, window: &[Option<&DeviceFrame>], layer: &DeviceConvolution, residual: Option<&DeviceFrame>) -> Result<DeviceFrame> {
        let Some(first) = window.iter().flatten().next() else {
            return Err(turbowan_cuda::Error::Size { what: "frames of a window", must: "at least 1", found: 0 }.into());
        };
        let shape = layer.packing.shape();
        let frames: Vec<_> = window.iter().map(|frame| frame.map(|frame| frame.memory.values.view())).collect();
        let [height, width] = shape.output_size([first.size.height, first.size.width]);
        let size = FrameSize { height, width, channels: shape.output };
        let mut out = self.stream.allocate(stored_values(size))?;
        let weight = DeviceWeight::new(layer.packing, layer.weight.view(), layer.bias.view())?;
        let window = Window { frames: &frames, size: [first.size.height, first.size.width], time_stride: 1 };
        self.convolution.run(&self.stream, weight, window, residual.map(|frame| frame.memory.values.view()), out.view_mut())?;
        Ok(self.frame(size, out))
    }

    fn norm_then(&self, x: &DeviceFrame, gamma: &Buffer<bf16>, then: ChannelNormThen) -> Result<DeviceFrame> {
        let values = &x.memory.values;
        let mut out = self.stream.allocate(values.len())?;
        self.norm.run(&self.stream, values.view(), x.size.channels, gamma.view(), then, out.view_mut())?;
        Ok(self.frame(x.size, out))
    }
}

impl fmt::Debug for DeviceFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceFrames on {:?}", self.stream.device())
    }
}

fn stored_values(size: FrameSize) -> usize {
    size.height * size.width * stored(size.channels)
}

impl VaeBackend for DeviceFrames {
    type Frame = DeviceFrame;
    type Convolution = DeviceConvolution;
    type Gamma = Buffer<bf16>;

    fn rounding(&self) -> Rounding {
        Rounding::Bf16
    }

    fn upload(&self, values: &[f32], size: FrameSize) -> Result<DeviceFrame> {
        turbowan_cuda::Error::expect_len("frame", values, size.values())?;
        Ok(self.frame(size, self.stream.upload(&to_stored(values, size.channels)?)?))
    }

    fn download(&self, frame: &DeviceFrame) -> Result<Vec<f32>> {
        Ok(from_stored(&frame.memory.values.to_vec()?, frame.size.channels)?)
    }

    fn load_convolution(&self, _name: &str, _part: usize, shape: ConvShape, weight: &[f32], bias: &[f32]) -> Result<DeviceConvolution> {
        let packing = Packing::new(shape, 1)?;
        let (weight, bias) = packing.pack(weight, bias)?;
        Ok(DeviceConvolution { packing, weight: self.stream.upload(&weight)?, bias: self.stream.upload(&bias)? })
    }

    fn load_gamma(&self, _name: &str, gamma: Vec<f32>) -> Result<Buffer<bf16>> {
        Ok(self.stream.upload(&to_stored(&gamma, gamma.len())?)?)
    }

    fn convolve(&self, window: &[Option<&DeviceFrame>], layer: &DeviceConvolution) -> Result<DeviceFrame> {
        self.run(window, layer, None)
    }

    fn convolve_onto(&self, window: &[Option<&DeviceFrame>], layer: &DeviceConvolution, residual: DeviceFrame) -> Result<DeviceFrame> {
        self.run(window, layer, Some(&residual))
    }

    fn norm_silu(&self, x: &DeviceFrame, gamma: &Buffer<bf16>) -> Result<DeviceFrame> {
        self.norm_then(x, gamma, ChannelNormThen::Silu)
    }

    fn norm(&self, x: &DeviceFrame, gamma: &Buffer<bf16>) -> Result<DeviceFrame> {
        self.norm_then(x, gamma, ChannelNormThen::Nothing)
    }

    fn attend(&self, query: DeviceFrame, key: DeviceFrame, value: DeviceFrame) -> Result<DeviceFrame> {
        let size = query.size;
        let pixels = size.height * size.width;
        let room = WorkspaceSize::of(pixels, size.channels, (SCORES_AT_ONCE / pixels.max(1)).clamp(1, pixels.max(1)));
        let (mut scores, mut probabilities) = (self.stream.allocate(room.scores)?, self.stream.allocate(room.probabilities)?);
        let mut values = self.stream.allocate(room.values)?;
        let mut out = self.stream.allocate(query.memory.values.len())?;
        let workspace = Workspace { scores: scores.view_mut(), probabilities: probabilities.view_mut(), values: values.view_mut() };
        let qkv = [&query, &key, &value].map(|frame| frame.memory.values.view());
        self.attention.run(&self.stream, qkv, size.channels, workspace, out.view_mut())?;
        Ok(self.frame(size, out))
    }

    fn peak_frame_bytes(&self) -> usize {
        self.meter.most.load(Ordering::Relaxed)
    }

    fn release(&self) {
        self.meter.most.store(self.meter.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
