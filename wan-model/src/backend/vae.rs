//! The operations that the video autoencoder is written in.
//!
//! An activation is one frame, `[height, width, channels]`. The network never needs more than the frames that a causal
//! kernel looks back at, so a backend holds frames, not clips; a clone of a frame shares its values.

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::conv3d::ConvShape;

use crate::Result;

/// Sides and channels of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSize {
    /// Lines.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels of a pixel.
    pub channels: usize,
}

impl FrameSize {
    /// Values of a frame.
    pub fn values(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// The fused operations of the autoencoder. Every stored result is rounded as [`VaeBackend::rounding`] says.
pub trait VaeBackend {
    /// A frame in the backend's memory.
    type Frame: Clone;
    /// A convolution, its weight in the form the device wants.
    type Convolution;
    /// The weight of a channel norm.
    type Gamma;

    /// Rounding of activations and weights.
    fn rounding(&self) -> Rounding;
    /// Copies `[height, width, channels]` values in.
    fn upload(&self, values: &[f32], size: FrameSize) -> Result<Self::Frame>;
    /// Copies values out.
    fn download(&self, frame: &Self::Frame) -> Result<Vec<f32>>;
    /// Prepares a convolution: `weight [out, input, kt, kh, kw]`, `bias [out]`. They are part `part` of the tensors `name.weight` and
    /// `name.bias`, which is for a backend that keeps parameters apart.
    fn load_convolution(&self, name: &str, part: usize, shape: ConvShape, weight: &[f32], bias: &[f32]) -> Result<Self::Convolution>;
    /// Prepares the weight of a channel norm, the tensor `name`.
    fn load_gamma(&self, name: &str, gamma: Vec<f32>) -> Result<Self::Gamma>;

    /// The convolution of `kt` frames, the oldest first; an absent frame counts as zero.
    fn convolve(&self, window: &[Option<&Self::Frame>], layer: &Self::Convolution) -> Result<Self::Frame>;
    /// `residual + convolution`.
    fn convolve_onto(&self, window: &[Option<&Self::Frame>], layer: &Self::Convolution, residual: Self::Frame) -> Result<Self::Frame>;
    /// `SiLU(x / |x| * sqrt(channels) * gamma)` of every pixel.
    fn norm_silu(&self, x: &Self::Frame, gamma: &Self::Gamma) -> Result<Self::Frame>;
    /// `x / |x| * sqrt(channels) * gamma` of every pixel.
    fn norm(&self, x: &Self::Frame, gamma: &Self::Gamma) -> Result<Self::Frame>;
    /// Attention of every pixel of a frame to every other, one head over all channels.
    fn attend(&self, query: Self::Frame, key: Self::Frame, value: Self::Frame) -> Result<Self::Frame>;

    /// Most bytes that frames have taken at any time.
    fn peak_frame_bytes(&self) -> usize;
    /// Forgets memory kept for reuse and starts measuring the peak anew.
    fn release(&self);
}
