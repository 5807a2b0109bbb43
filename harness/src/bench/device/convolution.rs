//! The autoencoder's convolution on a device.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, Stream, View};
use turbowan_cuda::ops::conv3d::device::{Convolution as Kernel, DeviceWeight, WINDOW_LIMIT, Window};
use turbowan_cuda::ops::conv3d::packing::{Packing, from_stored, stored, to_stored};
use turbowan_cuda::ops::conv3d::{ConvShape, Sampling};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;

use super::{Turn, room};
use crate::bench::case::Convolution;
use crate::bench::error::Error;
use crate::bench::host::check_lines;
use crate::bench::work::{Check, Work};

/// Frames in a row, each from its own and the earlier ones; as many a launch as a window holds.
pub struct Frames {
    shape: Convolution,
    packing: Packing,
    stream: Stream,
    kernel: Kernel,
    /// Weight and bias, on the host and there.
    host: [Vec<f32>; 2],
    weight: Buffer<bf16>,
    bias: Buffer<bf16>,
    /// The last frames that are read, on the host.
    newest: Vec<Vec<f32>>,
    /// Frames of each copy.
    frames: Vec<Vec<Buffer<bf16>>>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Frames {
    pub fn new(shape: &Convolution, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let Convolution { frames, size, input, output, kernel } = *shape;
        let packing = Packing::new(ConvShape { input, output, kernel, sampling: Sampling::Same }, 1)?;
        let fan = (input * kernel.iter().product::<usize>()) as f32;
        let weight: Vec<f32> = normal(packing.shape().weight_values(), 2).iter().map(|w| w * fan.powf(-0.5)).collect();
        let mut host = [weight, normal(output, 3)];
        host.iter_mut().for_each(|values| Rounding::Bf16.apply_row(values));
        let (weight, bias) = packing.pack(&host[0], &host[1])?;
        let pixels = size[0] * size[1];
        let stored_frame = |frame: usize| to_stored(&normal(pixels * input, 4 + frame as u64), input);
        let read: Vec<Vec<bf16>> = (0..frames + kernel[0] - 1).map(stored_frame).collect::<Result<_, _>>()?;
        let there = || read.iter().map(|frame| Ok(stream.upload(frame)?)).collect::<Result<Vec<_>, Error>>();
        Ok(Self {
            shape: *shape,
            packing,
            stream: stream.clone(),
            kernel: Kernel::load(stream.device())?,
            host,
            weight: stream.upload(&weight)?,
            bias: stream.upload(&bias)?,
            newest: read[frames - 1..].iter().map(|frame| from_stored(frame, input)).collect::<Result<_, _>>()?,
            frames: (0..slots).map(|_| there()).collect::<Result<_, _>>()?,
            out: room(stream, frames * pixels * stored(output), slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Frames {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let Convolution { frames, size, output, kernel, .. } = self.shape;
        let slot = self.turn.take(self.out.len());
        let weight = DeviceWeight::new(self.packing, self.weight.view(), self.bias.view())?;
        let read: Vec<Option<View<'_, bf16>>> = self.frames[slot].iter().map(|frame| Some(frame.view())).collect();
        let frame_values = size[0] * size[1] * stored(output);
        let at_once = (WINDOW_LIMIT + 1).saturating_sub(kernel[0]).max(1);
        for first in (0..frames).step_by(at_once) {
            let count = at_once.min(frames - first);
            let window = Window { frames: &read[first..first + count + kernel[0] - 1], size, time_stride: 1 };
            let mut all = self.out[slot].view_mut();
            let out = all.slice(first * frame_values..(first + count) * frame_values)?;
            self.kernel.run(&self.stream, weight, window, None, out)?;
        }
        Ok(None)
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let Convolution { frames, size, output, .. } = self.shape;
        let frame_values = size[0] * size[1] * stored(output);
        let out = self.out[self.turn.last].to_vec()?;
        let last = from_stored(&out[(frames - 1) * frame_values..], output)?;
        let [weight, bias] = &self.host;
        check_lines(&self.shape, &self.newest, [weight, bias], &last, bound)
    }
}
