//! The causal convolution: within the rounding of its sum of the oracle, near the host twin, and its laws bit for bit.

use std::collections::HashMap;

use half::bf16;
use turbowan_cuda::device::{Device, EmulatorOptions, Stream, View};
use turbowan_cuda::ops::conv3d::device::{Convolution, DeviceWeight, Normed, Pixels, Window};
use turbowan_cuda::ops::conv3d::packing::{Packing, from_stored, stored, to_stored};
use turbowan_cuda::ops::conv3d::{Conv3d, ConvShape, ConvThen, Sampling};
use turbowan_cuda::ops::norm::ChannelNormThen;
use turbowan_cuda::ops::norm::channel::ChannelNorm;
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::conv3d as truth;
use turbowan_reference::inputs::{Kind, normal, rows as input};

use crate::{emulated, gpu};

/// One unit of bf16 between a value and its neighbour, relative to the larger: the exact value and the sum may lie on two
/// sides of a tie.
const ONE_UNIT: f64 = 1.0 / 128.0;

/// A convolution of a whole video: frames that the first output frame looks back at are absent.
#[derive(Clone)]
struct Case {
    shape: ConvShape,
    parts: usize,
    size: [usize; 2],
    time_stride: usize,
    absent: usize,
    /// `[frames present, height, width, input]`.
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn rounded(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect()
}

impl Case {
    /// `frames` present ones after `absent`.
    fn new(kind: Kind, [i, o]: [usize; 2], kernel: [usize; 3], sampling: Sampling, size: [usize; 2], [frames, absent]: [usize; 2]) -> Self {
        let shape = ConvShape { input: i, output: o, kernel, sampling };
        let scale = 1.0 / (shape.weight_values() as f32 / o as f32).sqrt();
        let weight = normal(shape.weight_values(), 2).iter().map(|w| w * scale).collect();
        let x = input(kind, frames * size[0] * size[1], i, 1);
        Self { shape, parts: 1, size, time_stride: 1, absent, x: rounded(x), weight: rounded(weight), bias: rounded(normal(o, 3)) }
    }

    fn with_parts(self, parts: usize) -> Self {
        Self { parts, ..self }
    }

    fn with_time_stride(self, time_stride: usize) -> Self {
        Self { time_stride, ..self }
    }

    fn name(&self) -> String {
        let Self { shape, parts, size, time_stride, absent, .. } = self;
        format!("{shape:?} in {parts} on {size:?}, {} frames after {absent}, time {time_stride}", self.frames())
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn frames(&self) -> usize {
        self.x.len() / (self.pixels() * self.shape.input)
    }

    fn out_frames(&self) -> usize {
        (self.frames() + self.absent - self.shape.kernel[0]) / self.time_stride + 1
    }

    /// Values of the output that are stored.
    fn out_stored(&self) -> usize {
        let [height, width] = self.shape.output_size(self.size);
        self.out_frames() * self.parts * height * width * stored(self.shape.output / self.parts)
    }

    /// `[output frames, height, width, output]` as frames of the parts.
    fn in_parts<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let (output, part) = (self.shape.output, self.shape.output / self.parts);
        let frame = values.len() / self.out_frames();
        let of = |frame: &[T], half: usize| -> Vec<T> {
            frame.chunks(output).flat_map(|p| &p[half * part..(half + 1) * part]).copied().collect()
        };
        values.chunks(frame).flat_map(|frame| (0..self.parts).flat_map(move |half| of(frame, half)).collect::<Vec<_>>()).collect()
    }

    /// The exact result, and the sum of the magnitudes of its terms.
    fn oracle(&self) -> (Vec<f64>, Vec<f64>) {
        let magnitude = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
        let of = |x: &[f32], weight: &[f32], bias: &[f32]| {
            let (shape, [height, width]) = (&self.shape, self.size);
            let mut window = vec![0.0; self.absent * self.pixels() * shape.input];
            window.extend_from_slice(x);
            let frames = self.frames() + self.absent;
            let (stride, border) = match shape.sampling {
                Sampling::Same => (1, [shape.kernel[1] / 2; 4]),
                Sampling::Halve => (2, [0, 1, 0, 1]),
                Sampling::Double => (1, [1; 4]),
            };
            let conv = truth::Conv { weight, bias, kernel: shape.kernel, stride: [self.time_stride, stride, stride], border };
            if shape.sampling == Sampling::Double {
                let x: Vec<f32> =
                    window.chunks(self.pixels() * shape.input).flat_map(|frame| truth::double(frame, height, width, shape.input)).collect();
                return truth::conv3d(&x, [frames, 2 * height, 2 * width], shape.input, &conv).0;
            }
            truth::conv3d(&window, [frames, height, width], shape.input, &conv).0
        };
        let want = of(&self.x, &self.weight, &self.bias);
        let all = of(&magnitude(&self.x), &magnitude(&self.weight), &magnitude(&self.bias));
        (self.in_parts(&want), self.in_parts(&all))
    }

    /// The host twin in bf16.
    fn twin(&self) -> Vec<f32> {
        let conv = Conv3d::pack(self.shape, &self.weight, &self.bias, Rounding::Bf16).unwrap();
        let frames: Vec<_> = (0..self.absent).map(|_| None).chain(self.x.chunks(self.pixels() * self.shape.input).map(Some)).collect();
        let [height, width] = self.shape.output_size(self.size);
        let mut out = vec![0.0; self.out_frames() * height * width * self.shape.output];
        for (t, out) in out.chunks_mut(height * width * self.shape.output).enumerate() {
            conv.run(&frames[t * self.time_stride..][..self.shape.kernel[0]], self.size, ConvThen::Store, out).unwrap();
        }
        self.in_parts(&out)
    }

    fn run(&self, device: &Device) -> Result<Vec<f32>, Error> {
        self.run_onto(device, None)
    }

    fn run_onto(&self, device: &Device, residual: Option<&[bf16]>) -> Result<Vec<f32>, Error> {
        let stream = device.stream()?;
        let mut out = stream.upload(&vec![bf16::NAN; self.out_stored()])?;
        let residual = residual.map(|values| stream.upload(values)).transpose()?;
        self.queue(&stream, &Convolution::load(device)?, |convolution, weight, window| {
            convolution.run(&stream, weight, window, residual.as_ref().map(|r| r.view()), out.view_mut())
        })?;
        let out = out.to_vec()?;
        let part = self.shape.output / self.parts;
        // what is padded stays zero, but where zero times what is not a number is not one
        let is_kept = |pixel: &[bf16]| pixel[0].is_nan() || pixel[part..].iter().all(|value| value.to_bits() & 0x7fff == 0);
        assert!(out.chunks(stored(part)).all(is_kept), "{}", self.name());
        from_stored(&out, part)
    }

    /// Uploads the operands, each frame to memory of its own, and does `work` with them.
    fn queue(
        &self,
        stream: &Stream,
        convolution: &Convolution,
        work: impl FnOnce(&Convolution, DeviceWeight<'_>, Window<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let packing = Packing::new(self.shape, self.parts)?;
        let (weight, bias) = packing.pack(&self.weight, &self.bias)?;
        let (weight, bias) = (stream.upload(&weight)?, stream.upload(&bias)?);
        let frames = self.x.chunks(self.pixels() * self.shape.input).map(|frame| stream.upload(&to_stored(frame, self.shape.input)?));
        let frames = frames.collect::<Result<Vec<_>, Error>>()?;
        let window: Vec<Option<View<'_, bf16>>> =
            (0..self.absent).map(|_| None).chain(frames.iter().map(|frame| Some(frame.view()))).collect();
        let window = Window { frames: &window, size: self.size, time_stride: self.time_stride };
        work(convolution, DeviceWeight::new(packing, weight.view(), bias.view())?, window)
    }

    /// Fails at a value farther from the exact one than a rounding to bf16 and that of the sum allow: each step of the sum
    /// is at most one unit in the last place off (tensor cores cut off).
    fn demand_close(&self, got: &[f32], name: &str) {
        let (want, magnitude) = self.oracle();
        assert_eq!(got.len(), want.len(), "{name}");
        let depth = stored(self.shape.input) * self.shape.kernel.iter().product::<usize>();
        for (index, got) in got.iter().enumerate() {
            let sum = magnitude[index] * f64::from(f32::EPSILON) * (depth as f64 / 4.0 + 4.0);
            let bound = ONE_UNIT / 2.0 * want[index].abs() + 2.0 * sum;
            assert!((f64::from(*got) - want[index]).abs() <= bound, "{name}: value {index}: {got}, exactly {}", want[index]);
        }
    }
}

/// Every kernel, with channels that fill no chunk, no step and no panel, and frames of one pixel, of less than a tile and of
/// a little more.
fn cases(kind: Kind) -> Vec<Case> {
    use Sampling::{Double, Halve, Same};
    let case = |channels, kernel, sampling, size, frames| Case::new(kind, channels, kernel, sampling, size, frames);
    vec![
        case([3, 96], [3, 3, 3], Same, [9, 17], [3, 0]),
        case([40, 49], [3, 3, 3], Same, [1, 1], [1, 2]),
        case([96, 100], [1, 3, 3], Same, [2, 31], [1, 0]),
        case([16, 60], [3, 3, 3], Same, [5, 6], [4, 2]),
        case([33, 50], [1, 1, 1], Same, [9, 5], [1, 0]),
        case([72, 104], [3, 1, 1], Same, [3, 18], [3, 2]).with_parts(2),
        case([20, 64], [3, 1, 1], Same, [4, 5], [5, 0]).with_time_stride(2),
        case([10, 50], [1, 3, 3], Halve, [19, 8], [1, 0]),
        case([5, 5], [1, 3, 3], Halve, [2, 36], [1, 0]),
        case([20, 10], [1, 3, 3], Double, [5, 9], [1, 0]),
        case([7, 50], [1, 3, 3], Double, [1, 1], [2, 0]),
        case([96, 3], [3, 3, 3], Same, [8, 16], [1, 2]),
        case([16, 20], [3, 3, 3], Same, [3, 20], [3, 1]),
        case([16, 16], [1, 1, 1], Same, [9, 3], [2, 0]),
        case([20, 40], [3, 1, 1], Same, [2, 3], [3, 1]).with_parts(2),
    ]
}

/// One chip without wgmma and one with it.
const CHIPS: [(u32, u32); 2] = [(8, 0), (9, 0)];

/// The emulator in these ways as each of the chips, and the GPU.
fn as_chips(chips: &[(u32, u32)], ways: &[EmulatorOptions]) -> Vec<Device> {
    let ways: Vec<_> = chips.iter().flat_map(|chip| ways.iter().map(|way| way.for_capability(*chip))).collect();
    emulated(&ways).into_iter().chain(gpu()).collect()
}

fn devices() -> Vec<Device> {
    as_chips(&CHIPS, &[EmulatorOptions::default()])
}

/// Two ways of the emulator.
fn some_devices() -> Vec<Device> {
    as_chips(&CHIPS, &[EmulatorOptions::default(), EmulatorOptions::all()[7]])
}

#[test]
fn awkward_shapes_match_the_oracle_and_the_host_twin() {
    let (mut differ, mut all) = (0, 0);
    for device in some_devices() {
        for case in cases(Kind::Plain) {
            let name = format!("{device:?} {}", case.name());
            let got = case.run(&device).unwrap();
            case.demand_close(&got, &name);
            for (index, (got, twin)) in got.iter().zip(case.twin()).enumerate() {
                let larger = f64::from(got.abs().max(twin.abs()));
                // where terms cancel the two sums differ by more than a unit of what is left
                assert!(f64::from((got - twin).abs()) <= ONE_UNIT * larger + 1e-5, "{name}: value {index}: {got}, twin {twin}");
                differ += usize::from(*got != twin);
            }
            all += got.len();
        }
    }
    println!("{differ} of {all} values differ from the host twin");
    assert!(differ * 500 <= all, "{differ} of {all} values differ from the host twin");
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_way_gives_the_same_bits() {
    use Sampling::{Double, Halve, Same};
    let case = |channels, kernel, sampling, size, frames| Case::new(Kind::Plain, channels, kernel, sampling, size, frames);
    // the chips that differ; steps enough to go round every ring of buffers
    for (chips, case) in [
        (&CHIPS[..1], case([40, 97], [2, 3, 3], Same, [9, 5], [2, 0])),
        (&CHIPS[..], case([72, 50], [2, 3, 3], Same, [17, 9], [2, 0])),
        (&CHIPS[..1], case([72, 50], [3, 1, 1], Same, [2, 18], [4, 1])),
        (&CHIPS[..1], case([8, 50], [1, 3, 3], Halve, [6, 36], [1, 0])),
        (&CHIPS[..], case([100, 50], [1, 3, 3], Double, [2, 9], [1, 0])),
        (&CHIPS[..1], case([40, 16], [2, 3, 3], Same, [3, 5], [2, 0])),
        (&CHIPS[..1], case([100, 16], [1, 1, 1], Same, [3, 5], [1, 0])),
    ] {
        let mut first: HashMap<(u32, u32), Vec<u32>> = HashMap::new();
        for device in as_chips(chips, &EmulatorOptions::all()) {
            let got = case.run(&device).unwrap();
            let name = format!("{device:?} {}", case.name());
            case.demand_close(&got, &name);
            let got = bits(&got);
            if device.is_emulated() {
                assert_eq!(*first.entry(device.chip().capability).or_insert_with(|| got.clone()), got, "{name}");
            }
        }
    }
}

#[test]
fn outliers_zeros_and_large_values_match_the_oracle() {
    for device in devices() {
        for kind in Kind::ALL {
            for case in cases(kind).into_iter().step_by(5) {
                case.demand_close(&case.run(&device).unwrap(), &format!("{device:?} {kind:?} {}", case.name()));
            }
        }
        let mut case = Case::new(Kind::OutlierChannel, [16, 60], [3, 3, 3], Sampling::Same, [5, 6], [3, 0]);
        case.x.iter_mut().for_each(|x| *x = bf16::from_f32(*x * 1e4).to_f32());
        let got = case.run(&device).unwrap();
        assert!(got.iter().all(|value| value.is_finite()));
        case.demand_close(&got, "1e4");
    }
}

#[test]
fn a_value_that_is_not_a_number_reaches_its_neighbours_only() {
    for device in devices() {
        let mut case = Case::new(Kind::Plain, [8, 60], [1, 3, 3], Sampling::Same, [6, 20], [1, 0]);
        let clean = case.run(&device).unwrap();
        let (line, column) = (3, 16);
        case.x[(line * 20 + column) * 8 + 5] = f32::NAN;
        for (pixel, (got, clean)) in case.run(&device).unwrap().chunks(60).zip(clean.chunks(60)).enumerate() {
            let is_near = (pixel / 20usize).abs_diff(line) <= 1 && (pixel % 20usize).abs_diff(column) <= 1;
            assert!(if is_near { got.iter().all(|value| value.is_nan()) } else { got == clean }, "pixel {pixel}");
        }
    }
}

/// Frames in one launch, in launches of one each, and with zeros in the place of absent ones.
#[test]
fn a_chunk_is_its_frames_one_by_one_with_a_cache() {
    for device in devices() {
        for channels in [[16, 60], [16, 10]] {
            let case = Case::new(Kind::Plain, channels, [3, 3, 3], Sampling::Same, [5, 18], [5, 2]);
            let whole = case.run(&device).unwrap();
            let frame = case.pixels() * channels[0];
            for (t, want) in whole.chunks(case.pixels() * channels[1]).enumerate() {
                let absent = 2usize.saturating_sub(t);
                let one = Case { absent, x: case.x[(t + absent - 2) * frame..(t + 1) * frame].to_vec(), ..case.clone() };
                assert_eq!(bits(&one.run(&device).unwrap()), bits(want), "frame {t}");
                let zeros = Case { absent: 0, x: [vec![0.0; absent * frame], one.x.clone()].concat(), ..one };
                assert_eq!(bits(&zeros.run(&device).unwrap()), bits(want), "frame {t} after zeros");
            }
        }
    }
}

#[test]
fn a_doubled_frame_is_never_needed() {
    for device in devices() {
        let case = Case::new(Kind::Plain, [20, 50], [1, 3, 3], Sampling::Double, [5, 11], [2, 0]);
        let frame = case.pixels() * 20;
        let doubled = case.x.chunks(frame).flat_map(|frame| truth::double(frame, 5, 11, 20)).collect();
        let plain = Case { shape: ConvShape { sampling: Sampling::Same, ..case.shape }, size: [10, 22], x: doubled, ..case.clone() };
        assert_eq!(bits(&case.run(&device).unwrap()), bits(&plain.run(&device).unwrap()));
    }
}

#[test]
fn two_parts_are_the_halves_of_the_channels_as_frames() {
    for device in devices() {
        let case = Case::new(Kind::Plain, [20, 40], [3, 1, 1], Sampling::Same, [3, 7], [4, 1]);
        let whole = case.run(&device).unwrap();
        let two = case.clone().with_parts(2).run(&device).unwrap();
        assert_eq!(bits(&two), bits(&case.with_parts(2).in_parts(&whole)));
    }
}

#[test]
fn a_residual_is_added_to_the_rounded_convolution() {
    for device in devices() {
        for channels in [[16, 50], [16, 10]] {
            let case = Case::new(Kind::Plain, channels, [3, 3, 3], Sampling::Same, [5, 18], [2, 2]);
            let plain = case.run(&device).unwrap();
            let residual = to_stored(&normal(plain.len(), 9), channels[1]).unwrap();
            let got = case.run_onto(&device, Some(&residual)).unwrap();
            let want: Vec<f32> = plain.iter().zip(from_stored(&residual, channels[1]).unwrap()).map(|(y, x)| y + x).collect();
            assert_eq!(bits(&got), bits(&rounded(want)));
        }
    }
}

#[test]
fn a_norm_in_the_end_gives_the_bits_of_a_norm_of_its_own() {
    for device in devices() {
        for (channels, with_residual, with_frames) in
            [([16, 60], true, true), ([8, 96], false, false), ([8, 10], true, false), ([24, 16], false, true)]
        {
            let case = Case::new(Kind::OutlierChannel, channels, [3, 3, 3], Sampling::Same, [9, 18], [2, 2]);
            let name = format!("{device:?} {}", case.name());
            let stream = device.stream().unwrap();
            let values = case.out_stored();
            let of = |values: Vec<f32>| stream.upload(&to_stored(&values, channels[1]).unwrap()).unwrap();
            let residual = with_residual.then(|| of(normal(values / stored(channels[1]) * channels[1], 9)));
            let residual = residual.as_ref().map(|residual| residual.view());
            let gamma = of(normal(channels[1], 4));
            let mut buffers = [(); 4].map(|()| stream.upload(&vec![bf16::NAN; values]).unwrap());
            let [frames, normed, plain, want] = &mut buffers;
            let convolution = Convolution::load(&device).unwrap();
            case.queue(&stream, &convolution, |c, weight, window| {
                c.run(&stream, weight, window, residual, plain.view_mut())?;
                let norm = Normed { gamma: gamma.view(), out: normed.view_mut() };
                c.run_normed(&stream, weight, window, residual, with_frames.then(|| frames.view_mut()), norm)
            })
            .unwrap();
            let norm = ChannelNorm::load(&device).unwrap();
            norm.run(&stream, plain.view(), channels[1], gamma.view(), ChannelNormThen::Silu, want.view_mut()).unwrap();
            assert_eq!(normed.to_vec().unwrap(), want.to_vec().unwrap(), "{name}");
            if with_frames {
                assert_eq!(frames.to_vec().unwrap(), plain.to_vec().unwrap(), "{name}");
            }
        }
        let stream = device.stream().unwrap();
        let case = Case::new(Kind::Plain, [8, 100], [3, 3, 3], Sampling::Same, [2, 3], [3, 0]);
        let (gamma, mut out) = (stream.allocate::<bf16>(104).unwrap(), stream.allocate::<bf16>(case.out_stored()).unwrap());
        let norm = Normed { gamma: gamma.view(), out: out.view_mut() };
        let refused = case.queue(&stream, &Convolution::load(&device).unwrap(), |c, weight, window| {
            c.run_normed(&stream, weight, window, None, None, norm)
        });
        assert!(matches!(refused, Err(Error::Size { found: 100, .. })), "{refused:?}");
    }
}

#[test]
fn video_pixels_are_the_rounded_convolution_clamped_or_as_bytes() {
    for device in devices() {
        let mut case = Case::new(Kind::Plain, [96, 3], [3, 3, 3], Sampling::Same, [9, 18], [2, 2]);
        case.bias = vec![0.0, 0.5, -0.5];
        let frames = case.run(&device).unwrap();
        let stream = device.stream().unwrap();
        let convolution = Convolution::load(&device).unwrap();
        let values = |limit| {
            let mut out = stream.allocate(frames.len()).unwrap();
            let pixels = Pixels::Values { out: out.view_mut(), limit };
            case.queue(&stream, &convolution, |c, weight, window| c.pixels(&stream, weight, window, pixels)).unwrap();
            out.to_vec().unwrap()
        };
        assert_eq!(bits(&values(f32::INFINITY)), bits(&frames));
        let clamped: Vec<f32> = frames.iter().map(|value| value.clamp(-1.0, 1.0)).collect();
        assert!(clamped != frames, "no value to clamp");
        assert_eq!(bits(&values(1.0)), bits(&clamped));
        let mut out = stream.allocate(frames.len()).unwrap();
        let pixels = Pixels::Bytes(out.view_mut());
        case.queue(&stream, &convolution, |c, weight, window| c.pixels(&stream, weight, window, pixels)).unwrap();
        let want: Vec<u8> = clamped.iter().map(|value| ((1.0 + value) / 2.0 * 255.0 + 0.5) as u8).collect();
        assert_eq!(out.to_vec().unwrap(), want);
    }
}

#[test]
fn a_repeat_a_second_stream_and_a_replay_give_the_same_bits() {
    for device in devices() {
        let case = Case::new(Kind::Plain, [16, 97], [3, 3, 3], Sampling::Same, [9, 17], [3, 1]);
        let want = case.run(&device).unwrap();
        let convolution = Convolution::load(&device).unwrap();
        let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
        let mut outs = [&first, &second].map(|stream| stream.allocate::<bf16>(case.out_stored()).unwrap());
        for (stream, out) in [&first, &second].into_iter().zip(&mut outs) {
            case.queue(stream, &convolution, |c, weight, window| c.run(stream, weight, window, None, out.view_mut())).unwrap();
        }
        for out in &outs {
            assert_eq!(bits(&from_stored(&out.to_vec().unwrap(), 97).unwrap()), bits(&want));
        }
        case.queue(&first, &convolution, |c, weight, window| {
            let out = &mut outs[0];
            let mut graph = first.capture(|stream| c.run(stream, weight, window, None, out.view_mut()))?;
            for _ in 0..2 {
                out.view_mut().fill_bytes(0)?;
                graph.replay()?;
                assert_eq!(bits(&from_stored(&out.to_vec()?, 97)?), bits(&want));
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn misfits_are_refused() {
    type Frames<'a> = Vec<Option<View<'a, bf16>>>;
    for device in devices() {
        let stream = device.stream().unwrap();
        let convolution = Convolution::load(&device).unwrap();
        let case = Case::new(Kind::Plain, [8, 16], [3, 3, 3], Sampling::Same, [2, 3], [3, 0]);
        let with = |change: &dyn Fn(&mut Frames<'_>), size, time_stride, values: usize| {
            let mut out = stream.allocate(values)?;
            case.queue(&stream, &convolution, |c, weight, window| {
                let mut frames = window.frames.to_vec();
                change(&mut frames);
                c.run(&stream, weight, Window { frames: &frames, size, time_stride }, None, out.view_mut())
            })
        };
        let same = |_: &mut Frames<'_>| {};
        with(&same, [2, 3], 1, 96).unwrap();
        assert!(matches!(with(&same, [2, 3], 1, 97), Err(Error::Length { what: "convolution output", .. })));
        assert!(matches!(with(&same, [3, 3], 1, 144), Err(Error::Length { what: "input frame", .. })));
        assert!(matches!(with(&same, [2, 0], 1, 0), Err(Error::Size { what: "side of a frame", .. })));
        assert!(matches!(with(&|frames| frames.truncate(2), [2, 3], 1, 96), Err(Error::Size { found: 2, .. })));
        assert!(matches!(with(&|frames| frames[1] = None, [2, 3], 1, 96), Err(Error::Size { what: "frames of a window", .. })));
        assert!(matches!(with(&|frames| frames.push(frames[0]), [2, 3], 2, 96), Err(Error::Size { what: "stride in time", .. })));
        let mut bytes = stream.allocate(18).unwrap();
        let pixels = Pixels::Bytes(bytes.view_mut());
        let refused = case.queue(&stream, &convolution, |c, weight, window| c.pixels(&stream, weight, window, pixels));
        assert!(matches!(refused, Err(Error::Size { what: "channels of video pixels", found: 16, .. })));
    }
}

/// A frame whose output is all border, and one whose every window is absent.
#[test]
fn without_frames_the_bias_is_left() {
    for device in devices() {
        let case = Case::new(Kind::Plain, [8, 50], [3, 3, 3], Sampling::Same, [2, 3], [1, 4]);
        let got = case.run(&device).unwrap();
        // five frames make three: the first two see none
        assert!(got.chunks(50).take(2 * 6).all(|pixel| pixel == case.bias));
        case.demand_close(&got, "mostly absent");
    }
}
