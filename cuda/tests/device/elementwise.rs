//! Operations of single values: on every device the bits of the host twins.

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::elementwise::device::{CombineStep, Embedded, Gated, GeluGate, ResidualGate, Sinusoids};
use turbowan_cuda::ops::elementwise::{Combine, gelu_gate, residual_gate, sinusoids, time_frequencies};
use turbowan_cuda::ops::norm::RmsRule;
use turbowan_cuda::ops::norm::{RmsNorm, rms_norm};
use turbowan_cuda::ops::rope::device::{HeadRows, RmsRope};
use turbowan_cuda::{HeadLayout, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::{norm as norm_truth, umt5};

use crate::{devices, devices_in_all_ways};

fn bf16s(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

fn f32s(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn combined(device: &Device, step: Combine, x: &[f64], v: &[f32], noise: Option<&[f32]>) -> Vec<f64> {
    let stream = device.stream().unwrap();
    let (mut x, v) = (stream.upload(x).unwrap(), stream.upload(v).unwrap());
    let noise = noise.map(|noise| stream.upload(noise).unwrap());
    let kernel = CombineStep::load(device).unwrap();
    kernel.run(&stream, step, x.view_mut(), v.view(), noise.as_ref().map(|noise| noise.view())).unwrap();
    x.to_vec().unwrap()
}

/// Values whose products and sums have many bits, and those at the far ends.
fn state(count: usize) -> (Vec<f64>, Vec<f32>, Vec<f32>) {
    let mut x: Vec<f64> = normal(count, 1).iter().zip(normal(count, 2)).map(|(a, b)| f64::from(*a) * 80.0 + f64::from(b) * 1e-9).collect();
    let mut v = normal(count, 3);
    let noise = normal(count, 4);
    let ends = [(0.0, -0.0), (-0.0, 0.0), (1e300, 3e38), (-1e-310, 1e-40), (1e4, -1e4), (f64::NAN, 1.0), (1.0, f32::INFINITY)];
    for (at, (far_x, far_v)) in ends.into_iter().enumerate().take(count / 2) {
        (x[2 * at], v[2 * at]) = (far_x, far_v);
    }
    (x, v, noise)
}

#[test]
fn a_step_of_a_sampler_is_its_formula_bit_for_bit() {
    for device in devices_in_all_ways() {
        for count in [1, 3, 4, 1027, 2048] {
            let (x, v, noise) = state(count);
            for (now, next) in [(1.0, 0.9375), (0.9375, 0.833_333_333_3), (0.625, 0.0)] {
                let steps = [
                    (Combine { factor: -now, scale: 1.0 - next, weight: next as f32 }, (next != 0.0).then_some(&noise[..])),
                    (Combine { factor: -(now - next), scale: 1.0, weight: 0.0 }, None),
                ];
                for (step, noise) in steps {
                    let got = combined(&device, step, &x, &v, noise);
                    let mut twin = x.clone();
                    step.apply(&mut twin, &v, noise).unwrap();
                    for (index, got) in got.iter().enumerate() {
                        let towards = x[index] + step.factor * f64::from(v[index]);
                        let clean = if step.scale == 1.0 { towards } else { step.scale * towards };
                        let want = noise.map_or(clean, |noise| clean + f64::from(step.weight * noise[index]));
                        let is_same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                        assert!(is_same, "{device:?} {step:?} value {index}: {got}, the formula {want}");
                    }
                    assert!(bits(&got) == bits(&twin) || got.iter().zip(&twin).all(|(a, b)| a == b || (a.is_nan() && b.is_nan())));
                }
            }
        }
    }
}

#[test]
fn a_gated_gelu_has_the_bits_of_the_twin_joined_or_apart() {
    for device in devices_in_all_ways() {
        for (rows, width) in [(1, 8), (3, 40), (5, 2056)] {
            let mut gate = bf16s(&input(Kind::OutlierChannel, rows, width, 1));
            let up = bf16s(&input(Kind::Plain, rows, width, 2));
            for (at, far) in [1e4, -1e4, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40].into_iter().enumerate() {
                gate[at] = bf16::from_f32(far);
            }
            let mut want = f32s(&up);
            gelu_gate(&f32s(&gate), &mut want).unwrap();
            let joined: Vec<bf16> = gate.chunks(width).zip(up.chunks(width)).flat_map(|(gate, up)| [gate, up].concat()).collect();

            let stream = device.stream().unwrap();
            let [gate_there, up_there, joined] = [&gate, &up, &joined].map(|values| stream.upload(values).unwrap());
            let kernel = GeluGate::load(&device).unwrap();
            for operands in [Gated::Apart { gate: gate_there.view(), up: up_there.view() }, Gated::Joined(joined.view())] {
                let mut out = stream.allocate::<bf16>(rows * width).unwrap();
                kernel.run(&stream, operands, width, out.view_mut()).unwrap();
                for (index, (got, want)) in out.to_vec().unwrap().iter().zip(&want).enumerate() {
                    let is_same = got.to_f32().to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                    assert!(is_same, "{device:?} {rows} x {width} value {index}: {got}, the twin {want}, gate {}", gate[index]);
                }
            }
            let finite = 8..rows * width;
            let truth = umt5::gelu_gate(&f32s(&gate[finite.clone()]), &f32s(&up[finite.clone()]));
            // half a unit of bf16's 8 bits for each of nine roundings
            Verdict::of(&want[finite], &truth, Bound::relative_l2(1e-2)).demand("the twin");
        }
    }
}

#[test]
fn a_gated_sum_has_the_bits_of_the_twin() {
    for device in devices_in_all_ways() {
        for (rows, width, rows_per_gate) in [(1, 8, 1), (7, 40, 3), (5, 1032, 5)] {
            let x = bf16s(&input(Kind::OutlierChannel, rows, width, 1));
            let y: Vec<bf16> = bf16s(&input(Kind::Plain, rows, width, 2).iter().map(|y| y * 1e4).collect::<Vec<_>>());
            let gate = normal(rows.div_ceil(rows_per_gate) * width, 3);
            let stream = device.stream().unwrap();
            let (y_there, gate_there) = (stream.upload(&y).unwrap(), stream.upload(&gate).unwrap());
            for is_gated in [false, true] {
                let mut want = f32s(&x);
                residual_gate(&mut want, &f32s(&y), is_gated.then_some((&gate, rows_per_gate)), width).unwrap();
                let mut out = stream.upload(&x).unwrap();
                let kernel = ResidualGate::load(&device).unwrap();
                kernel.run(&stream, out.view_mut(), y_there.view(), is_gated.then(|| (gate_there.view(), rows_per_gate)), width).unwrap();
                assert_eq!(f32s(&out.to_vec().unwrap()), want, "{device:?} {rows} x {width} gated {is_gated}");
            }
        }
    }
}

/// Times of the network, which are up to 1000, and angles up to 2^20.
#[test]
fn embedded_times_have_the_bits_of_the_twin_and_the_values_of_the_functions() {
    for device in devices_in_all_ways() {
        for (half, most) in [(1, 1000.0), (128, 1000.0), (50, 1e6)] {
            let times: Vec<f32> = normal(9, 1).iter().enumerate().map(|(at, x)| if at == 0 { 0.0 } else { x * most / 4.0 }).collect();
            let frequencies = time_frequencies(half);
            let want = sinusoids(&times, &frequencies);
            let stream = device.stream().unwrap();
            let (there, frequencies_there) = (stream.upload(&times).unwrap(), stream.upload(&frequencies).unwrap());
            let (mut out, mut short) = (stream.allocate::<f32>(want.len()).unwrap(), stream.allocate::<bf16>(want.len()).unwrap());
            let kernel = Sinusoids::load(&device).unwrap();
            kernel.run(&stream, there.view(), frequencies_there.view(), Embedded::F32(out.view_mut())).unwrap();
            kernel.run(&stream, there.view(), frequencies_there.view(), Embedded::Bf16(short.view_mut())).unwrap();
            assert_eq!(out.to_vec().unwrap(), want, "{device:?} {half}");
            assert_eq!(short.to_vec().unwrap(), bf16s(&want), "{device:?} {half}");
            for (row, t) in want.chunks(2 * half).zip(&times) {
                for (at, w) in frequencies.iter().enumerate() {
                    let angle = f64::from(*t) * w;
                    // half a unit of f32, and 2^-50 of the way
                    let is_near = |got: f32, want: f64| (f64::from(got) - want).abs() <= want.abs() * 6e-8 + 1e-15 + angle.abs() * 2e-16;
                    assert!(is_near(row[at], angle.cos()) && is_near(row[half + at], angle.sin()), "{t} {w}");
                }
            }
            let refused = kernel.run(&stream, there.view(), frequencies_there.view().slice(0..0).unwrap(), Embedded::F32(out.view_mut()));
            assert!(matches!(refused, Err(Error::Size { what: "frequencies of a time", .. })));
        }
    }
}

/// The norm of a T5 encoder is the RMS norm of queries and keys without a rotation: rounded before the weight and after.
#[test]
fn the_norm_of_a_text_encoder_is_the_rms_norm_without_turns() {
    let (rows, width, eps) = (5, 4096, 1e-6);
    for device in devices() {
        let x = bf16s(&input(Kind::OutlierChannel, rows, width, 1));
        let weight: Vec<f32> = normal(width, 2).iter().map(|w| Rounding::Bf16.apply(*w)).collect();
        let stream = device.stream().unwrap();
        let (there, weight_there) = (stream.upload(&x).unwrap(), stream.upload(&weight).unwrap());
        let mut out = stream.allocate::<bf16>(x.len()).unwrap();
        let heads = HeadRows { values: there.view(), tokens: rows, heads: 1, head_dim: width, stride: width };
        RmsRope::load(&device)
            .unwrap()
            .run(&stream, RmsRule::Standard, eps, heads, weight_there.view(), None, HeadLayout::Blhd, out.view_mut())
            .unwrap();
        let got = f32s(&out.to_vec().unwrap());
        let mut want = f32s(&x);
        let norm = RmsNorm { width, rule: RmsRule::Standard, eps, rounding: Rounding::Bf16 };
        rms_norm(&norm, &mut want, &weight).unwrap();
        // a sum in another order may move one of a row's 128 mantissas over a tie, and all values that share it
        let differ = got.iter().zip(&want).filter(|(got, want)| got != want).count();
        assert!(differ * 128 <= got.len(), "{differ} of {}", got.len());
        assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() <= want.abs() / 64.0), "two roundings, a unit each");
        let truth = norm_truth::rms_norm(&f32s(&x), width, eps.into(), &weight);
        Verdict::of(&got, &truth, Bound::relative_l2(4e-3)).demand("two roundings to bf16");
    }
}

#[test]
fn a_recorded_step_gives_the_bits_of_a_queued_one_every_time() {
    for device in devices() {
        let (x, v, noise) = state(50);
        let (x, v) = (x[20..].to_vec(), v[20..].to_vec());
        let step = Combine { factor: -0.9, scale: 0.4, weight: 0.6 };
        let want = combined(&device, step, &x, &v, Some(&noise[20..]));
        let stream = device.stream().unwrap();
        let start = stream.upload(&x).unwrap();
        let (mut state, v, noise) = (stream.allocate::<f64>(30).unwrap(), stream.upload(&v).unwrap(), stream.upload(&noise[20..]).unwrap());
        let kernel = CombineStep::load(&device).unwrap();
        let mut graph = stream
            .capture(|stream| {
                state.view_mut().copy_from(start.view())?;
                kernel.run(stream, step, state.view_mut(), v.view(), Some(noise.view()))
            })
            .unwrap();
        for _ in 0..2 {
            graph.replay().unwrap();
            assert_eq!(bits(&state.to_vec().unwrap()), bits(&want));
        }
    }
}

#[test]
fn nothing_is_no_work_and_what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let (combine, gelu, gate) =
            (CombineStep::load(&device).unwrap(), GeluGate::load(&device).unwrap(), ResidualGate::load(&device).unwrap());
        let step = Combine { factor: 1.0, scale: 1.0, weight: 1.0 };
        let (mut x, v) = (stream.upload(&[0.0f64; 8]).unwrap(), stream.upload(&[0.0f32; 8]).unwrap());
        let short = v.view().slice(0..4).unwrap();
        assert!(matches!(
            combine.run(&stream, step, x.view_mut(), short, None),
            Err(Error::Length { what: "velocity", expected: 8, found: 4 })
        ));
        assert!(matches!(
            combine.run(&stream, step, x.view_mut(), v.view(), Some(short)),
            Err(Error::Length { what: "noise", expected: 8, found: 4 })
        ));
        let nothing = v.view().slice(0..0).unwrap();
        combine.run(&stream, step, x.view_mut().slice(0..0).unwrap(), nothing, None).unwrap();

        let (a, mut out) = (stream.upload(&[bf16::ONE; 48]).unwrap(), stream.upload(&[bf16::ONE; 24]).unwrap());
        let half = a.view().slice(0..24).unwrap();
        assert!(matches!(gelu.run(&stream, Gated::Joined(half), 8, out.view_mut()), Err(Error::Length { expected: 48, found: 24, .. })));
        assert!(matches!(gelu.run(&stream, Gated::Joined(a.view()), 12, out.view_mut()), Err(Error::Size { .. })));
        gelu.run(&stream, Gated::Joined(a.view()), 8, out.view_mut()).unwrap();
        assert!(matches!(
            gate.run(&stream, out.view_mut(), half, Some((v.view(), 2)), 8),
            Err(Error::Length { what: "gate", expected: 16, found: 8 })
        ));
        assert!(matches!(gate.run(&stream, out.view_mut(), half, Some((v.view(), 0)), 8), Err(Error::Size { .. })));
        gate.run(&stream, out.view_mut(), half, Some((v.view(), usize::MAX)), 8).unwrap();
    }
}
