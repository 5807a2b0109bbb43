//! The autoencoder's norm: near the host twin, which rounds at the same places, and within their rounding of the oracle.

use half::bf16;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::conv3d::packing::{from_stored, stored, to_stored};
use turbowan_cuda::ops::norm::channel::ChannelNorm;
use turbowan_cuda::ops::norm::{ChannelNormThen, channel_norm};
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::norm as truth;

use crate::{devices, devices_in_all_ways};

const THENS: [ChannelNormThen; 2] = [ChannelNormThen::Nothing, ChannelNormThen::Silu];

/// Pixels and channels: one of one, colours, fewer than a chunk, every width of the network, odd ones, the widest.
const SHAPES: [[usize; 2]; 10] = [[1, 1], [5, 3], [300, 5], [67, 16], [70, 96], [33, 192], [17, 384], [3, 101], [2, 1023], [1, 1024]];

struct Case {
    x: Vec<f32>,
    gamma: Vec<f32>,
    channels: usize,
}

impl Case {
    fn new(kind: Kind, [pixels, channels]: [usize; 2]) -> Self {
        let rounded = |values: Vec<f32>| values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        Self { x: rounded(input(kind, pixels, channels, 1)), gamma: rounded(normal(channels, 2)), channels }
    }

    fn run(&self, device: &Device, then: ChannelNormThen) -> Result<Vec<f32>, Error> {
        let stream = device.stream()?;
        let x = stream.upload(&to_stored(&self.x, self.channels)?)?;
        let gamma = stream.upload(&to_stored(&self.gamma, self.channels)?)?;
        let mut out = stream.upload(&vec![bf16::NAN; x.len()])?;
        ChannelNorm::load(device)?.run(&stream, x.view(), self.channels, gamma.view(), then, out.view_mut())?;
        let out = out.to_vec()?;
        let is_kept = |pixel: &[bf16]| pixel[0].is_nan() || pixel[self.channels..].iter().all(|value| value.to_f32() == 0.0);
        assert!(out.chunks(stored(self.channels)).all(is_kept), "{} channels", self.channels);
        from_stored(&out, self.channels)
    }

    fn twin(&self, then: ChannelNormThen) -> Vec<f32> {
        let mut out = vec![0.0; self.x.len()];
        channel_norm(&self.x, self.channels, &self.gamma, then, Rounding::Bf16, &mut out).unwrap();
        out
    }
}

/// Fails at a value farther from the exact one than its roundings allow, each half a unit of bf16: of the length, of the
/// three products and of the result. SiLU changes a relative error of `y` by at most `1 + |y|`. Returns how many values differ
/// from the twin, which rounds at the same places: where one of them falls to the other side, so does what follows.
fn demand_close(got: &[f32], case: &Case, then: ChannelNormThen, name: &str) -> usize {
    const HALF_UNIT: f64 = 1.0 / 256.0;
    let y = truth::channel_norm(&case.x, case.channels, &case.gamma);
    let mut differ = 0;
    for (index, (got, twin)) in got.iter().zip(case.twin(then)).enumerate() {
        let (want, factor) = match then {
            ChannelNormThen::Nothing => (y[index], 1.0),
            ChannelNormThen::Silu => (truth::silu(y[index]), 1.0 + y[index].abs()),
        };
        let bound = want.abs() * HALF_UNIT * (4.0 * factor + 1.0) + 1e-30;
        assert!((f64::from(*got) - want).abs() <= bound, "{name}: value {index}: {got}, exactly {want}");
        let bound = got.abs().max(twin.abs()) * HALF_UNIT as f32 * 2.0 * (1.0 + factor as f32);
        assert!((got - twin).abs() <= bound + 1e-30, "{name}: value {index}: {got}, twin {twin}");
        differ += usize::from(*got != twin);
    }
    differ
}

#[test]
fn pixels_of_every_width_are_those_of_the_host_twin() {
    let (mut differ, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        for shape in SHAPES {
            for kind in Kind::ALL {
                let case = Case::new(kind, shape);
                for then in THENS {
                    let got = case.run(&device, then).unwrap();
                    differ += demand_close(&got, &case, then, &format!("{device:?} {kind:?} {shape:?} {then:?}"));
                    all += got.len();
                }
            }
        }
    }
    println!("{differ} of {all} values differ from the host twin");
    assert!(differ * 500 <= all, "{differ} of {all} values differ from the host twin");
}

#[test]
fn large_and_tiny_pixels_are_normed_and_what_is_not_a_number_spoils_no_other() {
    for device in devices() {
        for factor in [1e4, 1e-18] {
            let mut case = Case::new(Kind::OutlierChannel, [5, 96]);
            case.x.iter_mut().for_each(|x| *x = bf16::from_f32(*x * factor).to_f32());
            let got = case.run(&device, ChannelNormThen::Silu).unwrap();
            assert!(got.iter().all(|value| value.is_finite()));
            if factor > 1.0 {
                demand_close(&got, &case, ChannelNormThen::Silu, "1e4");
            }
        }
        let mut case = Case::new(Kind::Plain, [3, 96]);
        let clean = case.run(&device, ChannelNormThen::Silu).unwrap();
        case.x[96 + 50] = f32::NAN;
        let got = case.run(&device, ChannelNormThen::Silu).unwrap();
        assert!(got[96..192].iter().all(|value| value.is_nan()));
        assert_eq!((&got[..96], &got[192..]), (&clean[..96], &clean[192..]));
    }
}

#[test]
fn a_repeat_a_second_stream_and_a_replay_give_the_same_bits() {
    for device in devices() {
        let case = Case::new(Kind::Plain, [70, 96]);
        let want = case.run(&device, ChannelNormThen::Silu).unwrap();
        assert_eq!(case.run(&device, ChannelNormThen::Silu).unwrap(), want);
        let norm = ChannelNorm::load(&device).unwrap();
        let stream = device.stream().unwrap();
        let x = stream.upload(&to_stored(&case.x, 96).unwrap()).unwrap();
        let gamma = stream.upload(&to_stored(&case.gamma, 96).unwrap()).unwrap();
        let mut out = stream.allocate::<bf16>(x.len()).unwrap();
        let queue =
            |stream: &turbowan_cuda::device::Stream| norm.run(stream, x.view(), 96, gamma.view(), ChannelNormThen::Silu, out.view_mut());
        let mut graph = stream.capture(queue).unwrap();
        for _ in 0..2 {
            out.view_mut().fill_bytes(0).unwrap();
            graph.replay().unwrap();
            assert_eq!(from_stored(&out.to_vec().unwrap(), 96).unwrap(), want);
        }
    }
}

#[test]
fn misfits_are_refused_and_no_pixels_are_no_work() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let norm = ChannelNorm::load(&device).unwrap();
        let run = |x: usize, channels, gamma: usize, out: usize| {
            let (x, gamma) = (stream.allocate::<bf16>(x)?, stream.allocate::<bf16>(gamma)?);
            let mut out = stream.allocate::<bf16>(out)?;
            norm.run(&stream, x.view(), channels, gamma.view(), ChannelNormThen::Silu, out.view_mut())
        };
        run(0, 96, 96, 0).unwrap();
        assert!(matches!(run(100, 96, 96, 100), Err(Error::Length { what: "channel norm input", .. })));
        assert!(matches!(run(16, 5, 5, 16), Err(Error::Length { what: "channel norm gamma", expected: 8, found: 5 })));
        assert!(matches!(run(16, 5, 8, 8), Err(Error::Length { what: "channel norm output", .. })));
        assert!(matches!(run(16, 0, 8, 16), Err(Error::Size { found: 0, .. })));
        assert!(matches!(run(1032, 1025, 1032, 1032), Err(Error::Size { found: 1025, .. })));
    }
}
