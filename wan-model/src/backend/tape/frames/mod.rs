//! The autoencoder's operations on a tape.
//!
//! A frame here holds the same frame of every picture of a batch, `[images, height, width, channels]`: the network feeds
//! frames one by one, and a batch of small crops goes through it as one. Results of one picture are those of
//! [`HostFrames`](crate::backend::host::vae::HostFrames) in `f32`, bit for bit.

mod convolution;
mod norm;

use std::sync::MutexGuard;

use turbowan_cuda::ops::conv3d::ConvShape;
use turbowan_cuda::ops::norm::ChannelNormThen;
use turbowan_cuda::{AttnShape, Rounding};

pub use convolution::TapeConvolution;

use super::record::Source;
use super::{Gradients, Parameters, Recording, Tape, TapeTensor};
use crate::Result;
use crate::backend::vae::{FrameSize, VaeBackend};

/// A backend of the autoencoder that records; see the [module](self).
#[derive(Debug)]
pub struct TapeFrames {
    tape: Tape,
}

/// One frame of every picture of a batch; clones are the same variable.
#[derive(Debug)]
pub struct TapeFrame {
    size: FrameSize,
    rows: TapeTensor,
}

impl Clone for TapeFrame {
    fn clone(&self) -> Self {
        Self { size: self.size, rows: self.rows.again() }
    }
}

impl TapeFrame {
    /// Sides and channels of a picture.
    pub fn size(&self) -> FrameSize {
        self.size
    }

    /// `[images, height, width, channels]`.
    pub fn values(&self) -> &[f32] {
        match &self.rows.source {
            Source::Rows { values, .. } => values,
            Source::Parameter(_) => &[],
        }
    }
}

impl TapeFrames {
    /// A backend whose layers find their parameters by name.
    pub fn new(parameters: Parameters) -> Self {
        Self { tape: Tape::new(parameters) }
    }

    /// The parameters; see [`Tape::parameters`].
    pub fn parameters(&self) -> MutexGuard<'_, Parameters> {
        self.tape.parameters()
    }

    /// The parameters, to be changed between passes.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        self.tape.parameters_mut()
    }

    /// As [`Tape::recorded`].
    ///
    /// # Errors
    /// Those of `work`.
    pub fn recorded<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Recording)> {
        self.tape.recorded(work)
    }

    /// As [`Tape::backward`].
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward(&self, recording: Recording, gradients: &mut Gradients) -> Result<()> {
        self.tape.backward(recording, gradients)
    }

    /// A frame that a gradient can be taken with respect to.
    ///
    /// # Errors
    /// When `values` are not whole pictures.
    pub fn variable(&self, values: Vec<f32>, size: FrameSize) -> Result<TapeFrame> {
        let images = values.len().checked_div(size.values()).unwrap_or(0);
        turbowan_cuda::Error::expect_len("frame", &values, images.max(1) * size.values())?;
        Ok(TapeFrame { size, rows: self.tape.variable(values, size.channels)? })
    }

    /// Sets the gradient with respect to a frame, where a pass is left.
    ///
    /// # Errors
    /// When it is not as long as the frame.
    pub fn seed(&self, gradients: &mut Gradients, frame: &TapeFrame, gradient: Vec<f32>) -> Result<()> {
        gradients.seed(&self.tape, &frame.rows, gradient)
    }

    /// The gradient with respect to a frame, if any has come to it.
    pub fn gradient_of<'a>(&self, gradients: &'a Gradients, frame: &TapeFrame) -> Option<&'a [f32]> {
        gradients.of(&frame.rows)
    }
}

impl VaeBackend for TapeFrames {
    type Frame = TapeFrame;
    type Convolution = TapeConvolution;
    /// Which parameter it is.
    type Gamma = usize;

    fn rounding(&self) -> Rounding {
        Rounding::None
    }

    fn upload(&self, values: &[f32], size: FrameSize) -> Result<TapeFrame> {
        let images = values.len().checked_div(size.values()).unwrap_or(0);
        turbowan_cuda::Error::expect_len("frame", values, images.max(1) * size.values())?;
        Ok(TapeFrame { size, rows: self.tape.constant(values.to_vec(), size.channels) })
    }

    fn download(&self, frame: &TapeFrame) -> Result<Vec<f32>> {
        Ok(frame.values().to_vec())
    }

    fn load_convolution(&self, name: &str, part: usize, shape: ConvShape, _weight: &[f32], _bias: &[f32]) -> Result<TapeConvolution> {
        let find = |kind| self.tape.find(&format!("{name}.{kind}"));
        Ok(TapeConvolution::new(shape, find("weight")?, find("bias")?, part))
    }

    fn load_gamma(&self, name: &str, _gamma: Vec<f32>) -> Result<usize> {
        self.tape.find(name)
    }

    fn convolve(&self, window: &[Option<&TapeFrame>], layer: &TapeConvolution) -> Result<TapeFrame> {
        self.convolved(window, layer, None)
    }

    fn convolve_onto(&self, window: &[Option<&TapeFrame>], layer: &TapeConvolution, residual: TapeFrame) -> Result<TapeFrame> {
        self.convolved(window, layer, Some(residual))
    }

    fn norm_silu(&self, x: &TapeFrame, gamma: &usize) -> Result<TapeFrame> {
        self.normed(x, *gamma, ChannelNormThen::Silu)
    }

    fn norm(&self, x: &TapeFrame, gamma: &usize) -> Result<TapeFrame> {
        self.normed(x, *gamma, ChannelNormThen::Nothing)
    }

    fn attend(&self, query: TapeFrame, key: TapeFrame, value: TapeFrame) -> Result<TapeFrame> {
        let size = query.size;
        let pixels = size.height * size.width;
        let shape = AttnShape::new(query.values().len() / size.values(), 1, pixels, size.channels)?;
        Ok(TapeFrame { size, rows: self.tape.dense([&query.rows, &key.rows, &value.rows], shape)? })
    }

    /// Not counted: a tape keeps whatever its gradients need.
    fn peak_frame_bytes(&self) -> usize {
        0
    }

    fn release(&self) {}
}
