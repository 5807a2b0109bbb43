//! Operations of the ground on a device, held to the parts above that have the same operation on the host: a sampler's run,
//! the text encoder's attention and gate.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use std::ops::ControlFlow;

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::ops::bias_attention::device::{BiasAttention, Projected, TextShape};
use turbowan_cuda::ops::elementwise::Combine;
use turbowan_cuda::ops::elementwise::device::{CombineStep, Gated, GeluGate};
use turbowan_rcm::{AtBoundary, Call, Error, FewStep, LatentRounding, Network, NoiseKind, NoiseSource, Sampler, Schedule, TimeRounding};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_wan_model::backend::Backend;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::text::TextBackend;

/// The emulator, and GPU 0 where there is one and kernels for it.
fn devices() -> Vec<Device> {
    let has_code = turbowan_cuda::kernels::ALL.iter().all(|file| file.compiled.is_some());
    let devices = [Some(Device::emulated(EmulatorOptions::default())), has_code.then(|| Device::open(0))];
    devices.into_iter().flatten().filter_map(|device| device.inspect_err(|why| println!("skipped: {why}")).ok()).collect()
}

/// `v = x / 2 + t / 1000`, in f32.
struct Toy;

impl Network for Toy {
    type Error = Error;

    fn forward(&mut self, latent: &[f32], time: f32, _: Call) -> Result<Vec<f32>, Error> {
        Ok(latent.iter().map(|x| 0.5 * x + time / 1000.0).collect())
    }
}

#[test]
fn steps_on_a_device_end_in_the_bits_of_a_few_step_run() {
    const COUNT: usize = 1003;
    for device in devices() {
        for sampler in [Sampler::Sde, Sampler::Ode] {
            let run = FewStep::new(Schedule::few_step(80.0, 4).unwrap(), sampler);
            let mut noise = NoiseSource::seeded(NoiseKind::Native, 5);
            let start = run.start(vec![0.0; COUNT], &mut noise).unwrap();
            let mut network = AtBoundary { network: Toy, latent: LatentRounding::F32, time: TimeRounding::Exact };
            let mut states = Vec::new();
            let see = |state: &turbowan_rcm::State<Vec<f64>>| {
                states.push(state.latent.clone());
                ControlFlow::Continue(())
            };
            run.run(start, &mut network, &mut noise, see).unwrap();

            let stream = device.stream().unwrap();
            let kernel = CombineStep::load(&device).unwrap();
            let mut x = stream.upload(&states[0]).unwrap();
            let mut noise = NoiseSource::seeded(NoiseKind::Native, 5);
            for (step, want) in states[1..].iter().enumerate() {
                let (now, next) = run.schedule().step(step).unwrap();
                let seen: Vec<f32> = x.to_vec().unwrap().iter().map(|x| *x as f32).collect();
                let velocity = seen.iter().map(|x| 0.5 * x + now.network(TimeRounding::Exact) / 1000.0).collect::<Vec<f32>>();
                let velocity = stream.upload(&velocity).unwrap();
                let (combine, is_noised) = match sampler {
                    Sampler::Ode => (Combine { factor: -(now.share() - next.share()), scale: 1.0, weight: 0.0 }, false),
                    Sampler::Sde => {
                        let weight = next.share() as f32;
                        (Combine { factor: -now.share(), scale: 1.0 - next.share(), weight }, weight != 0.0)
                    }
                };
                let mut values = vec![0.0f32; COUNT];
                if is_noised {
                    noise.seek(step as u64 + 1, COUNT).unwrap();
                    noise.fill(&mut values).unwrap();
                }
                let values = stream.upload(&values).unwrap();
                kernel.run(&stream, combine, x.view_mut(), velocity.view(), is_noised.then(|| values.view())).unwrap();
                let got: Vec<u64> = x.to_vec().unwrap().iter().map(|x| x.to_bits()).collect();
                assert_eq!(got, want.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), "{device:?} {sampler:?} step {step}");
            }
        }
    }
}

/// Values that bf16 holds.
fn rounded(count: usize, seed: u64, scale: f32) -> Vec<f32> {
    normal(count, seed).into_iter().map(|x| Rounding::Bf16.apply(x * scale)).collect()
}

fn short(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|x| bf16::from_f32(*x)).collect()
}

#[test]
fn attention_and_gate_of_a_text_encoder_are_those_of_the_host() {
    let host = Host { rounding: Rounding::Bf16 };
    let (rows, keys, heads, head_dim) = (83, 70, 2, 64);
    let width = heads * head_dim;
    let qkv = [1, 2, 3].map(|seed| rounded(rows * width, seed, 0.5));
    let bias = rounded(heads * (rows + keys - 1), 4, 1.0);
    let there = |values: &Vec<f32>, width| host.upload(values.clone(), width).unwrap();
    let [q, k, v] = qkv.each_ref().map(|x| there(x, width));
    let want = host.relative_attention([&q, &k, &v], &there(&bias, rows + keys - 1), keys).unwrap();
    let gated = host.gelu_gate(&q, &k).unwrap();
    for device in devices() {
        let stream = device.stream().unwrap();
        let parts = qkv.each_ref().map(|x| stream.upload(&short(x)).unwrap());
        let [q, k, v] = parts.each_ref().map(|part| part.view());
        let (bias, mut out) = (stream.upload(&bias).unwrap(), stream.allocate::<bf16>(rows * width).unwrap());
        let shape = TextShape { rows, keys, heads, head_dim };
        BiasAttention::load(&device).unwrap().run(&stream, &shape, Projected::Apart([q, k, v]), bias.view(), out.view_mut()).unwrap();
        let got: Vec<f32> = out.to_vec().unwrap().iter().map(|x| x.to_f32()).collect();
        // the same roundings at the same places; a score that another order of its sum moves over a tie moves its weight
        Verdict::of(&got, &want.rows.values, Bound::relative_l2(4e-3)).demand(&format!("{device:?}"));

        GeluGate::load(&device).unwrap().run(&stream, Gated::Apart { gate: q, up: k }, width, out.view_mut()).unwrap();
        let got: Vec<f32> = out.to_vec().unwrap().iter().map(|x| x.to_f32()).collect();
        assert_eq!(got, gated.rows.values, "{device:?}");
    }
}
