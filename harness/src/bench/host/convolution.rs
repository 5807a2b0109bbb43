//! The autoencoder's convolution on the host.

use std::time::Duration;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::conv3d::{Conv3d, ConvShape, ConvThen, Sampling};
use turbowan_reference::conv3d as truth;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;

use crate::bench::case::Convolution;
use crate::bench::error::Error;
use crate::bench::work::{Check, Work};

/// Lines at the top and at the bottom of a frame that the oracle works out.
const LINES: usize = 2;

/// Frames in a row, each from its own and the earlier ones.
pub struct Frames {
    shape: Convolution,
    convolution: Conv3d,
    weight: Vec<f32>,
    bias: Vec<f32>,
    frames: Vec<Vec<f32>>,
    out: Vec<Vec<f32>>,
}

impl Frames {
    pub fn new(shape: &Convolution) -> Result<Self, Error> {
        let Convolution { frames, size, input, output, kernel } = *shape;
        let sides = ConvShape { input, output, kernel, sampling: Sampling::Same };
        let fan = (input * kernel.iter().product::<usize>()) as f32;
        let weight: Vec<f32> = normal(sides.weight_values(), 2).iter().map(|w| w * fan.powf(-0.5)).collect();
        let bias = normal(output, 3);
        let convolution = Conv3d::pack(sides, &weight, &bias, Rounding::None)?;
        let pixels = size[0] * size[1];
        let read = (0..frames + kernel[0] - 1).map(|frame| normal(pixels * input, 4 + frame as u64)).collect();
        Ok(Self { shape: *shape, convolution, weight, bias, frames: read, out: vec![vec![0.0; pixels * output]; frames] })
    }
}

impl Work for Frames {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let taps = self.shape.kernel[0];
        for (first, out) in self.out.iter_mut().enumerate() {
            let frames: Vec<Option<&[f32]>> = self.frames[first..][..taps].iter().map(|frame| Some(&frame[..])).collect();
            self.convolution.run(&frames, self.shape.size, ConvThen::Store, out)?;
        }
        Ok(None)
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let newest = self.shape.frames - 1;
        check_lines(&self.shape, &self.frames[newest..], [&self.weight, &self.bias], &self.out[newest], bound)
    }
}

/// `out`, the last frame that is made, against f64: its top lines and its bottom lines. `frames` are those that it reads.
pub fn check_lines(
    shape: &Convolution,
    frames: &[Vec<f32>],
    [weight, bias]: [&[f32]; 2],
    out: &[f32],
    bound: Bound,
) -> Result<Check, Error> {
    let Convolution { size: [height, width], input, output, kernel, .. } = *shape;
    let ([_, kh, kw], lines) = (kernel, LINES.min(height));
    let reach = (lines + kh / 2).min(height);
    let mut checks = Vec::new();
    // the top lines read the zeros above them and `reach` lines of the frame, the bottom ones likewise
    for is_top in [true, false] {
        let from = if is_top { 0 } else { height - reach };
        let band: Vec<f32> = frames.iter().flat_map(|frame| &frame[from * width * input..][..reach * width * input]).copied().collect();
        let border = [if is_top { kh / 2 } else { 0 }, if is_top { 0 } else { kh / 2 }, kw / 2, kw / 2];
        let conv = truth::Conv { weight, bias, kernel, stride: [1; 3], border };
        let (all, [_, made, _]) = truth::conv3d(&band, [kernel[0], reach, width], input, &conv);
        let skip = if is_top { 0 } else { made - lines };
        let want = &all[skip * width * output..][..lines * width * output];
        let first = if is_top { 0 } else { height - lines };
        let got = &out[first * width * output..][..lines * width * output];
        checks.push(Check::of(got, want, bound, "f64, two lines at the top and two at the bottom of the last frame"));
    }
    checks.into_iter().reduce(Check::worse).ok_or_else(|| Error::case("conv3d", "no lines"))
}
