//! The autoencoder's operations on the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use turbowan_cuda::ops::conv3d::{Conv3d, ConvShape, ConvThen};
use turbowan_cuda::ops::norm::{ChannelNormThen, channel_norm};
use turbowan_cuda::{AttnShape, Rounding};
use turbowan_sla::Attend;

use crate::Result;
use crate::backend::vae::{FrameSize, VaeBackend};

/// The CPU, with a store of frames that are used again: a frame of a large video is slow to allocate.
#[derive(Debug, Clone, Default)]
pub struct HostFrames {
    rounding: Rounding,
    store: Arc<Store>,
}

impl HostFrames {
    /// A backend whose results are rounded as `rounding` says.
    pub fn new(rounding: Rounding) -> Self {
        Self { rounding, store: Arc::default() }
    }

    fn frame(&self, size: FrameSize) -> HostFrame {
        let values = self.store.take(size.values());
        HostFrame { size, buffer: Arc::new(Buffer { values, store: Arc::clone(&self.store) }) }
    }

    /// A frame that nothing else refers to, with the values of `frame`.
    fn owned(&self, frame: HostFrame) -> HostFrame {
        if Arc::strong_count(&frame.buffer) == 1 {
            return frame;
        }
        let mut copy = self.frame(frame.size);
        copy.values_mut().copy_from_slice(frame.values());
        copy
    }
}

/// A frame in memory; clones share its values.
#[derive(Debug, Clone)]
pub struct HostFrame {
    size: FrameSize,
    buffer: Arc<Buffer>,
}

impl HostFrame {
    /// Sides and channels.
    pub fn size(&self) -> FrameSize {
        self.size
    }

    /// `[height, width, channels]`.
    pub fn values(&self) -> &[f32] {
        &self.buffer.values
    }

    /// The values of a frame that is not shared; none of a shared one.
    fn values_mut(&mut self) -> &mut [f32] {
        match Arc::get_mut(&mut self.buffer) {
            Some(buffer) => &mut buffer.values,
            None => &mut [],
        }
    }
}

/// Values that return to their store.
#[derive(Debug)]
struct Buffer {
    values: Vec<f32>,
    store: Arc<Store>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.store.put(std::mem::take(&mut self.values));
    }
}

/// Buffers that are free again, by length, and how much was ever in use.
#[derive(Debug, Default)]
struct Store {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    free: HashMap<usize, Vec<Vec<f32>>>,
    /// Values in use and free.
    values: usize,
    most_values: usize,
}

impl Store {
    fn with<R>(&self, work: impl FnOnce(&mut Held) -> R) -> R {
        work(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, len: usize) -> Vec<f32> {
        let free = self.with(|held| {
            let free = held.free.get_mut(&len).and_then(Vec::pop);
            if free.is_none() {
                held.values += len;
                held.most_values = held.most_values.max(held.values);
            }
            free
        });
        free.unwrap_or_else(|| vec![0.0; len])
    }

    fn put(&self, values: Vec<f32>) {
        self.with(|held| held.free.entry(values.len()).or_default().push(values));
    }
}

impl VaeBackend for HostFrames {
    type Frame = HostFrame;
    type Convolution = Conv3d;
    type Gamma = Vec<f32>;

    fn rounding(&self) -> Rounding {
        self.rounding
    }

    fn upload(&self, values: &[f32], size: FrameSize) -> Result<HostFrame> {
        turbowan_cuda::Error::expect_len("frame", values, size.values())?;
        let mut frame = self.frame(size);
        for (to, from) in frame.values_mut().iter_mut().zip(values) {
            *to = self.rounding.apply(*from);
        }
        Ok(frame)
    }

    fn download(&self, frame: &HostFrame) -> Result<Vec<f32>> {
        Ok(frame.values().to_vec())
    }

    fn load_convolution(&self, _name: &str, _part: usize, shape: ConvShape, weight: &[f32], bias: &[f32]) -> Result<Conv3d> {
        Ok(Conv3d::pack(shape, weight, bias, self.rounding)?)
    }

    fn load_gamma(&self, _name: &str, mut gamma: Vec<f32>) -> Result<Vec<f32>> {
        self.rounding.apply_row(&mut gamma);
        Ok(gamma)
    }

    fn convolve(&self, window: &[Option<&HostFrame>], layer: &Conv3d) -> Result<HostFrame> {
        let input = common_size(window)?;
        let [height, width] = layer.shape().output_size([input.height, input.width]);
        let mut out = self.frame(FrameSize { height, width, channels: layer.shape().output });
        run(window, input, layer, ConvThen::Store, out.values_mut())?;
        Ok(out)
    }

    fn convolve_onto(&self, window: &[Option<&HostFrame>], layer: &Conv3d, residual: HostFrame) -> Result<HostFrame> {
        let mut out = self.owned(residual);
        run(window, common_size(window)?, layer, ConvThen::Add, out.values_mut())?;
        Ok(out)
    }

    fn norm_silu(&self, x: &HostFrame, gamma: &Vec<f32>) -> Result<HostFrame> {
        let mut out = self.frame(x.size);
        channel_norm(x.values(), x.size.channels, gamma, ChannelNormThen::Silu, self.rounding, out.values_mut())?;
        Ok(out)
    }

    fn norm(&self, x: &HostFrame, gamma: &Vec<f32>) -> Result<HostFrame> {
        let mut out = self.frame(x.size);
        channel_norm(x.values(), x.size.channels, gamma, ChannelNormThen::Nothing, self.rounding, out.values_mut())?;
        Ok(out)
    }

    fn attend(&self, query: HostFrame, key: HostFrame, value: HostFrame) -> Result<HostFrame> {
        let size = query.size;
        let shape = AttnShape::new(1, 1, size.height * size.width, size.channels)?;
        let how = Attend { rounding: self.rounding, ..Attend::default() };
        let mut out = self.frame(size);
        turbowan_sla::attend_into(query.values(), key.values(), value.values(), &shape, &how, out.values_mut(), None)?;
        self.rounding.apply_row(out.values_mut());
        Ok(out)
    }

    fn peak_frame_bytes(&self) -> usize {
        self.store.with(|held| held.most_values * size_of::<f32>())
    }

    fn release(&self) {
        self.store.with(|held| {
            let free: usize = held.free.values().flatten().map(Vec::len).sum();
            held.values -= free;
            held.most_values = held.values;
            held.free.clear();
        });
    }
}

/// The size of the frames of a window, all alike.
fn common_size(window: &[Option<&HostFrame>]) -> Result<FrameSize> {
    let mut sizes = window.iter().flatten().map(|frame| frame.size);
    let Some(first) = sizes.next() else {
        return Err(turbowan_cuda::Error::Size { what: "frames of a window", must: "at least 1", found: 0 }.into());
    };
    match sizes.find(|size| *size != first) {
        None => Ok(first),
        Some(other) => {
            Err(turbowan_cuda::Error::Length { what: "frame of a window", expected: first.values(), found: other.values() }.into())
        }
    }
}

fn run(window: &[Option<&HostFrame>], input: FrameSize, layer: &Conv3d, then: ConvThen, out: &mut [f32]) -> Result<()> {
    let frames: Vec<_> = window.iter().map(|frame| frame.map(HostFrame::values)).collect();
    Ok(layer.run(&frames, [input.height, input.width], then, out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::ops::conv3d::Sampling;

    const SIZE: FrameSize = FrameSize { height: 2, width: 3, channels: 2 };

    fn doubling(backend: &HostFrames) -> Conv3d {
        let shape = ConvShape { input: 2, output: 2, kernel: [1, 1, 1], sampling: Sampling::Same };
        backend.load_convolution("", 0, shape, &[2.0, 0.0, 0.0, 2.0], &[0.0, 0.0]).unwrap()
    }

    #[test]
    fn adding_onto_a_shared_frame_leaves_the_other_holder_alone() {
        let backend = HostFrames::new(Rounding::None);
        let layer = doubling(&backend);
        let x = backend.upload(&[1.0; 12], SIZE).unwrap();
        let kept = x.clone();
        let sum = backend.convolve_onto(&[Some(&kept)], &layer, x).unwrap();
        assert_eq!((sum.values(), kept.values()), (&[3.0; 12][..], &[1.0; 12][..]));
    }

    #[test]
    fn buffers_are_used_again_and_the_peak_is_counted() {
        let backend = HostFrames::new(Rounding::None);
        let layer = doubling(&backend);
        let mut x = backend.upload(&[1.0; 12], SIZE).unwrap();
        for _ in 0..10 {
            x = backend.convolve(&[Some(&x)], &layer).unwrap();
        }
        assert_eq!(x.values(), [1024.0; 12]);
        assert_eq!(backend.peak_frame_bytes(), 2 * 12 * 4);
        drop(x);
        backend.release();
        assert_eq!(backend.peak_frame_bytes(), 0);
    }

    #[test]
    fn a_window_without_frames_or_with_unlike_ones_is_refused() {
        let backend = HostFrames::new(Rounding::None);
        let layer = doubling(&backend);
        assert!(backend.convolve(&[None], &layer).is_err());
        let x = backend.upload(&[1.0; 12], SIZE).unwrap();
        let y = backend.upload(&[1.0; 6], FrameSize { height: 1, ..SIZE }).unwrap();
        assert!(backend.convolve(&[Some(&x), Some(&y)], &layer).is_err());
        assert!(backend.upload(&[1.0; 5], SIZE).is_err());
    }
}
