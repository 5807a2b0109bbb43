//! A causal convolution of some frames with what follows it, on the host and on a device.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Buffer, View};
use turbowan_cuda::ops::conv3d::device::{Convolution, DeviceWeight, Normed, Pixels, Window};
use turbowan_cuda::ops::conv3d::packing::{Packing, from_stored, stored, to_stored};
use turbowan_cuda::ops::conv3d::{Conv3d, ConvShape, ConvThen, Sampling};
use turbowan_cuda::ops::norm::{ChannelNormThen, channel_norm};
use turbowan_reference::conv3d as truth;
use turbowan_reference::norm::{channel_norm as normed_truth, silu};

use super::vae::{NORM_SHARE, hold_padding, padding};
use super::{HALF_STEP, bf16s};
use crate::verify::{Case, Fault, Held, Kind, Output, Place, Prepared, Stand};

/// What becomes of the sum.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Frames,
    Values,
    Bytes,
    Normed,
}

/// Values are frames one after another, `[frames, height, width, channels]`.
pub(super) struct Convolve {
    end: End,
    shape: ConvShape,
    parts: usize,
    size: [usize; 2],
    frames: usize,
    stride: usize,
    absent: usize,
    adds: bool,
    rounding: Rounding,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    gamma: Vec<f32>,
    /// With its bias, and the magnitudes behind it.
    sums: Vec<f64>,
    magnitudes: Vec<f64>,
}

impl Convolve {
    pub(super) fn prepare(case: &Case, (side, sampling): (usize, Sampling), end: End) -> Result<Box<dyn Prepared>, Fault> {
        let [input, output, height, width, kt, frames, stride, absent, parts, add, is_bf16] = case.sizes();
        let shape = ConvShape { input, output, kernel: [kt, side, side], sampling };
        let window = frames.saturating_sub(1) * stride + kt;
        if absent >= window {
            return Err(Fault::Case("a frame of the window is there"));
        }
        let rounded = |values: &[f32]| bf16s(values).1;
        let mut x = rounded(&case.kind.values(window * height * width, input, case.seed));
        x[..absent * height * width * input].fill(0.0);
        let terms = input * kt * side * side;
        let scale = (terms as f32).sqrt().recip();
        let weight: Vec<f32> = Kind::Plain.values(output, terms, case.seed + 1).iter().map(|w| w * scale).collect();
        let (weight, bias) = (rounded(&weight), rounded(&Kind::Plain.values(1, output, case.seed + 2)));
        let [out_height, out_width] = shape.output_size([height, width]);
        let residual = rounded(&Kind::Plain.values(frames * out_height * out_width, output, case.seed + 3));
        let gamma = rounded(&Kind::Plain.values(1, output, case.seed + 4));
        let run = |x: &[f32], weight: &[f32], bias: &[f32]| exact(&shape, [window, height, width], stride, x, weight, bias);
        let sizes = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
        let (sums, magnitudes) = (run(&x, &weight, &bias), run(&sizes(&x), &sizes(&weight), &sizes(&bias)));
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        let (size, adds) = ([height, width], add == 1);
        Ok(Box::new(Self {
            end,
            shape,
            parts,
            size,
            frames,
            stride,
            absent,
            adds,
            rounding,
            x,
            weight,
            bias,
            residual,
            gamma,
            sums,
            magnitudes,
        }))
    }

    /// Pixels of a frame of the result.
    fn pixels(&self) -> usize {
        self.shape.output_size(self.size).into_iter().product()
    }

    /// Where a value lies when the halves of the channels are frames of their own.
    fn place(&self, index: usize) -> usize {
        let (output, pixels, part) = (self.shape.output, self.pixels(), self.shape.output / self.parts);
        let (channel, pixel, frame) = (index % output, index / output % pixels, index / output / pixels);
        ((frame * self.parts + channel / part) * pixels + pixel) * part + channel % part
    }

    /// A device's frames of the parts as values, and the channels past their last.
    fn downloaded(&self, name: &'static str, out: &[bf16]) -> Result<[Output; 2], Fault> {
        let part = self.shape.output / self.parts;
        let values = from_stored(out, part)?;
        let values: Vec<f32> = (0..values.len()).map(|index| values[self.place(index)]).collect();
        Ok([Output::new(name, self.shape.output, &values), padding(out, part)])
    }

    fn on_host(&self) -> Result<Vec<f32>, Fault> {
        let conv = Conv3d::pack(self.shape, &self.weight, &self.bias, self.rounding)?;
        let frame = self.size[0] * self.size[1] * self.shape.input;
        let frames: Vec<_> = self.x.chunks(frame).enumerate().map(|(index, frame)| (index >= self.absent).then_some(frame)).collect();
        let mut out = self.residual.clone();
        let then = if self.adds { ConvThen::Add } else { ConvThen::Store };
        for (t, out) in out.chunks_mut(self.pixels() * self.shape.output).enumerate() {
            conv.run(&frames[t * self.stride..][..self.shape.kernel[0]], self.size, then, out)?;
        }
        Ok(out)
    }

    /// With the residual.
    fn want(&self, index: usize) -> f64 {
        self.sums[index] + if self.adds { self.residual[index].into() } else { 0.0 }
    }

    /// How far a stored value may be off.
    fn allowed(&self, index: usize, is_bf16: bool) -> f64 {
        let terms = (self.shape.weight_values() / self.shape.output) as f64;
        let sum = self.magnitudes[index] * f64::from(f32::EPSILON) * (terms / 4.0 + 4.0);
        let rounding = if is_bf16 { 1.01 * HALF_STEP } else { f64::from(f32::EPSILON) };
        let again = if self.adds { self.want(index).abs() } else { 0.0 };
        2.0 * sum + rounding * (self.sums[index].abs() + again) + 1e-7
    }
}

fn exact(shape: &ConvShape, [frames, height, width]: [usize; 3], stride: usize, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let [_, kh, kw] = shape.kernel;
    let (step, border) = match shape.sampling {
        Sampling::Same => (1, [kh / 2, kh / 2, kw / 2, kw / 2]),
        Sampling::Halve => (2, [0, 1, 0, 1]),
        Sampling::Double => (1, [1; 4]),
    };
    let conv = truth::Conv { weight, bias, kernel: shape.kernel, stride: [stride, step, step], border };
    if shape.sampling == Sampling::Double {
        let x = truth::double(x, frames * height, width, shape.input);
        return truth::conv3d(&x, [frames, 2 * height, 2 * width], shape.input, &conv).0;
    }
    truth::conv3d(x, [frames, height, width], shape.input, &conv).0
}

/// What a byte stands for before it is cut off.
fn level(y: f64) -> f64 {
    ((1.0 + y) / 2.0).clamp(0.0, 1.0) * 255.0
}

impl Prepared for Convolve {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let (mut out, output) = (self.on_host()?, self.shape.output);
        Ok(match self.end {
            End::Frames => vec![Output::new("out", output, &out)],
            End::Values => {
                out.iter_mut().for_each(|y| *y = y.clamp(-1.0, 1.0));
                vec![Output::new("pixels", output, &out)]
            }
            End::Bytes => {
                let bytes: Vec<u8> = out.iter().map(|y| (((1.0 + y) / 2.0).clamp(0.0, 1.0) * 255.0 + 0.5) as u8).collect();
                vec![Output::new("bytes", output, &bytes)]
            }
            End::Normed => {
                let mut normed = vec![0.0; out.len()];
                channel_norm(&out, output, &self.gamma, ChannelNormThen::Silu, self.rounding, &mut normed)?;
                vec![Output::new("out", output, &out), Output::new("normed", output, &normed)]
            }
        })
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        if stand.lead() > 0 && self.frames * self.parts > 1 {
            return Err(Fault::Case("one frame behind rows"));
        }
        let (convolution, part) = (Convolution::load(stand.device())?, self.shape.output / self.parts);
        // rows of zeros at the top of a frame are what lies around it
        let size @ [height, width] = [stand.lead() + self.size[0], self.size[1]];
        let ([out_height, out_width], [own_height, _]) = (self.shape.output_size(size), self.shape.output_size(self.size));
        let (lead_in, lead_out) = ((height - self.size[0]) * width, (out_height - own_height) * out_width);
        let (lead_values, len) = (lead_out * stored(part), self.frames * self.parts * self.pixels() * stored(part));

        let packing = Packing::new(self.shape, self.parts)?;
        let (weight, bias) = packing.pack(&self.weight, &self.bias)?;
        let (weight, bias) = (stand.upload(&weight)?, stand.upload(&bias)?);
        let weight = DeviceWeight::new(packing, weight.view(), bias.view())?;
        let frames = self.x.chunks(self.size[0] * self.size[1] * self.shape.input).skip(self.absent);
        let frames = frames.map(|frame| stand.upload_behind(lead_in * stored(self.shape.input), &to_stored(frame, self.shape.input)?));
        let frames = frames.collect::<Result<Vec<Buffer<bf16>>, Fault>>()?;
        let present = frames.iter().map(|frame| Some(frame.view()));
        let frames: Vec<Option<View<'_, bf16>>> = (0..self.absent).map(|_| None).chain(present).collect();
        let window = Window { frames: &frames, size, time_stride: self.stride };
        let mut in_parts = vec![0.0; self.residual.len()];
        self.residual.iter().enumerate().for_each(|(index, value)| in_parts[self.place(index)] = *value);
        let residual = self.adds.then(|| stand.upload_behind(lead_values, &to_stored(&in_parts, part)?)).transpose()?;
        let residual = residual.as_ref().map(|residual| residual.view());

        match self.end {
            End::Frames => {
                let mut out = stand.room_behind(lead_values, len)?;
                stand.launch(|stream| Ok(convolution.run(stream, weight, window, residual, out.view_mut())?))?;
                Ok(self.downloaded("out", &stand.results(&out, len)?)?.into())
            }
            End::Values => {
                let mut out = stand.room_behind::<f32>(3 * lead_out, self.sums.len())?;
                stand.launch(|stream| {
                    Ok(convolution.pixels(stream, weight, window, Pixels::Values { out: out.view_mut(), limit: 1.0 })?)
                })?;
                Ok(vec![Output::new("pixels", 3, &stand.results(&out, self.sums.len())?)])
            }
            End::Bytes => {
                let mut out = stand.room_behind::<u8>(3 * lead_out, self.sums.len())?;
                stand.launch(|stream| Ok(convolution.pixels(stream, weight, window, Pixels::Bytes(out.view_mut()))?))?;
                Ok(vec![Output::new("bytes", 3, &stand.results(&out, self.sums.len())?)])
            }
            End::Normed => {
                let gamma = stand.upload(&to_stored(&self.gamma, part)?)?;
                let room = || stand.room_behind::<bf16>(lead_values, len);
                let (mut out, mut normed, mut alone) = (room()?, room()?, room()?);
                stand.launch(|stream| {
                    let norm = Normed { gamma: gamma.view(), out: normed.view_mut() };
                    convolution.run_normed(stream, weight, window, residual, Some(out.view_mut()), norm)?;
                    let norm = Normed { gamma: gamma.view(), out: alone.view_mut() };
                    Ok(convolution.run_normed(stream, weight, window, residual, None, norm)?)
                })?;
                let of = |name, buffer| self.downloaded(name, &stand.results(buffer, len)?);
                Ok([of("out", &out)?, of("normed", &normed)?, of("normed alone", &alone)?].into_iter().flatten().collect())
            }
        }
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let (got, is_bf16) = (&outputs[0], self.rounding == Rounding::Bf16 || place != Place::Host);
        let want: Vec<f64> = (0..self.sums.len()).map(|index| self.want(index)).collect();
        let why = "a sum in f32, each step of it off by one unit at most; stored rounded";
        let bound = "(terms / 2 + 8) 2^-23 |x||w| + 2^-8 |y|, in f32 2^-23 |y|";
        Ok(match self.end {
            End::Frames | End::Normed => {
                let mut held = vec![Held::each(got, &want, |index, _| self.allowed(index, is_bf16), bound, why)];
                let of = |name| outputs.iter().filter(move |output| output.name == name);
                held.extend(of("padding").map(hold_padding));
                for normed in of("normed") {
                    let rows: Vec<f32> = got.values.iter().map(|value| *value as f32).collect();
                    let before = normed_truth(&rows, self.shape.output, &self.gamma);
                    let want: Vec<f64> = before.iter().copied().map(silu).collect();
                    let share = if is_bf16 { NORM_SHARE } else { 4e-6 };
                    let why = "length, quotient, root, weight and activation of what was stored each round";
                    let allowed = |index: usize, _| share * before[index].abs() + 1e-30;
                    held.push(Held::each(normed, &want, allowed, "2^-5 |normed|, in f32 4e-6", why));
                    held.extend(
                        of("normed alone").map(|alone| Held::equal(alone, &normed.values, "frames that are not stored change nothing")),
                    );
                }
                held
            }
            End::Values => {
                let want: Vec<f64> = want.iter().map(|y| y.clamp(-1.0, 1.0)).collect();
                vec![Held::each(got, &want, |index, _| self.allowed(index, is_bf16), bound, why)]
            }
            End::Bytes => {
                let want: Vec<f64> = want.iter().map(|y| level(*y)).collect();
                let allowed = |index: usize, _| 0.5 + 1e-4 + 127.5 * self.allowed(index, is_bf16);
                vec![Held::each(got, &want, allowed, "1/2 + 127.5 of the sum's", "a byte is the nearest level of the rounded sum")]
            }
        })
    }
}
