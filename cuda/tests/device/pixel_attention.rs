//! Attention between the pixels of a frame: within the rounding of its probabilities of the oracle.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::ops::conv3d::packing::{from_stored, to_stored};
use turbowan_cuda::ops::pixel_attention::{PixelAttention, Workspace, WorkspaceSize};
use turbowan_reference::attention::{Head, Mask, attend};
use turbowan_reference::inputs::{Kind, rows as input};

use crate::{devices, devices_in_all_ways, emulated, gpu};

struct Case {
    qkv: [Vec<f32>; 3],
    channels: usize,
}

impl Case {
    fn new(kind: Kind, pixels: usize, channels: usize) -> Self {
        let of = |seed| input(kind, pixels, channels, seed).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        Self { qkv: [of(1), of(2), of(3)], channels }
    }

    fn pixels(&self) -> usize {
        self.qkv[0].len() / self.channels
    }

    /// With a workspace for `rows` rows.
    fn run(&self, device: &Device, rows: usize) -> Result<Vec<f32>, Error> {
        let stream = device.stream()?;
        let [q, k, v] = &self.qkv.each_ref().map(|values| stream.upload(&to_stored(values, self.channels).unwrap()).unwrap());
        let size = WorkspaceSize::of(self.pixels(), self.channels, rows);
        let (mut scores, mut probabilities) = (stream.allocate(size.scores)?, stream.allocate(size.probabilities)?);
        let (mut values, mut out) = (stream.allocate(size.values)?, stream.upload(&vec![bf16::NAN; q.len()])?);
        let workspace = Workspace { scores: scores.view_mut(), probabilities: probabilities.view_mut(), values: values.view_mut() };
        PixelAttention::load(device)?.run(&stream, [q.view(), k.view(), v.view()], self.channels, workspace, out.view_mut())?;
        from_stored(&out.to_vec()?, self.channels)
    }

    /// Fails at a value farther from the exact one than these allow: half a unit of bf16 of each probability and of the
    /// result, and of a score, whose error the exponential makes a relative one, the rounding of its sum in `f32`.
    fn demand_close(&self, got: &[f32], name: &str) {
        let [query, key, value] = &self.qkv;
        let head = Head { query, key, value, head_dim: self.channels };
        let magnitudes: Vec<f32> = value.iter().map(|value| value.abs()).collect();
        let (want, spread) = (attend(head, Mask::None).out, attend(Head { value: &magnitudes, ..head }, Mask::None).out);
        let largest = |values: &[f32]| {
            values.chunks(self.channels).map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()).fold(0.0, f64::max).sqrt()
        };
        let score = largest(query) * largest(key) / (self.channels as f64).sqrt();
        let exponent = score * f64::from(f32::EPSILON) * (self.channels as f64 / 4.0 + 8.0);
        assert!(exponent < 0.05, "{name}: scores of {score} leave nothing to compare");
        for (index, got) in got.iter().enumerate() {
            let bound = spread[index] * (1.0 / 256.0 + 2.0 * exponent + 1e-5) + want[index].abs() / 256.0 + 1e-30;
            assert!((f64::from(*got) - want[index]).abs() <= bound, "{name}: value {index}: {got}, exactly {}", want[index]);
        }
    }
}

/// Two ways of the emulator, and the GPU.
fn some_devices() -> Vec<Device> {
    emulated(&[EmulatorOptions::default(), EmulatorOptions::all()[7]]).into_iter().chain(gpu()).collect()
}

#[test]
fn frames_of_any_size_and_width_match_the_oracle() {
    for device in some_devices() {
        for (pixels, channels) in [(1, 8), (5, 3), (35, 20), (80, 20), (130, 96), (70, 384)] {
            for kind in Kind::ALL {
                let case = Case::new(kind, pixels, channels);
                case.demand_close(&case.run(&device, pixels).unwrap(), &format!("{device:?} {kind:?} {pixels} x {channels}"));
            }
        }
    }
}

#[test]
fn every_way_and_every_workspace_gives_the_same_bits() {
    let case = Case::new(Kind::Plain, 67, 20);
    let want = case.run(&devices()[0], 67).unwrap();
    for device in devices_in_all_ways().into_iter().filter(Device::is_emulated) {
        for rows in [1000, 30] {
            assert_eq!(case.run(&device, rows).unwrap(), want, "{device:?} {rows}");
        }
    }
    assert_eq!(case.run(&devices()[0], 1).unwrap(), want);
}

#[test]
fn large_scores_choose_one_pixel_and_stay_finite() {
    for device in devices() {
        let mut case = Case::new(Kind::Plain, 40, 16);
        // every pixel asks for itself: the scores of the others are 1e8 lower
        case.qkv[0].iter_mut().for_each(|x| *x = bf16::from_f32(*x * 1e4).to_f32());
        case.qkv[1] = case.qkv[0].iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        let got = case.run(&device, 40).unwrap();
        let (query, value) = (&case.qkv[0], &case.qkv[2]);
        for (pixel, got) in got.chunks(16).enumerate() {
            let score = |key: usize| (0..16).map(|c| f64::from(query[pixel * 16 + c]) * f64::from(query[key * 16 + c])).sum::<f64>();
            let chosen = (0..40).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
            assert_eq!(got, &value[chosen * 16..(chosen + 1) * 16], "pixel {pixel}");
        }
    }
}

#[test]
fn misfits_are_refused_and_no_pixels_are_no_work() {
    for device in devices() {
        let case = Case::new(Kind::Plain, 10, 8);
        assert!(matches!(case.run(&device, 0), Err(Error::Length { what: "room for scores", expected: 10, found: 0 })));
        assert!(Case::new(Kind::Plain, 0, 8).run(&device, 1).unwrap().is_empty());
        let mut case = Case::new(Kind::Plain, 10, 8);
        case.qkv[2].truncate(72);
        assert!(matches!(case.run(&device, 10), Err(Error::Length { what: "value", expected: 80, found: 72 })));
    }
}
