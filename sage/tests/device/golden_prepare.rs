//! Against recorded runs of the official quantisers: their integers, scales, codes and means.

use std::path::Path;

use half::{bf16, f16};
use safetensors::SafeTensors;
use turbowan_cuda::AttnShape;
use turbowan_cuda::device::Stream;
use turbowan_sage::device::prepare::{E4m3Values, Half, Layout, MeanKeys, QuantValues, ValueLayout, sums_len};
use turbowan_sage::{Sage, Smoothing, Tile};

use crate::devices;
use crate::prepare::{Operand, quantise};

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).unwrap().data()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn i8(&self, name: &str) -> Vec<i8> {
        self.bytes(name).iter().map(|byte| byte.cast_signed()).collect()
    }

    fn halves<T>(&self, name: &str, of: fn([u8; 2]) -> T) -> Vec<T> {
        self.bytes(name).as_chunks().0.iter().map(|bytes| of(*bytes)).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_ok()
    }

    fn shape(&self) -> AttnShape {
        let (q, k) = (self.0.tensor("q").unwrap(), self.0.tensor("k").unwrap());
        let [batch, heads, query_len, head_dim] = q.shape().try_into().unwrap();
        AttnShape::cross(batch, heads, query_len, k.shape()[2], head_dim).unwrap()
    }
}

fn with_golden(case: &str, then: impl FnOnce(&Golden<'_>)) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sage_op").join(format!("{case}.safetensors"));
    let bytes = std::fs::read(file).unwrap();
    then(&Golden(SafeTensors::deserialize(&bytes).unwrap()));
}

fn mean<T: Half>(stream: &Stream, k: &[T], shape: &AttnShape) -> Vec<f32> {
    let k = stream.upload(k).unwrap();
    let mut sums = stream.allocate::<f32>(sums_len(shape)).unwrap();
    let mut means = stream.allocate::<f32>(shape.problems() * shape.head_dim).unwrap();
    MeanKeys::load(stream.device()).unwrap().run(stream, k.view(), shape, sums.view_mut(), means.view_mut()).unwrap();
    means.to_vec().unwrap()
}

fn demand_rows<T: Half>(golden: &Golden<'_>, stream: &Stream, variant: &str, sage: &Sage, [q, k]: [&[T]; 2], means: &[f32]) {
    let shape = golden.shape();
    for (side, x, operand) in [("q", q, Operand::Queries), ("k", k, Operand::Keys(means))] {
        let name = format!("{variant}.{side}_int8");
        if golden.has(&name) {
            let got = quantise(stream, x, operand, &shape, sage, Layout::Rows, 0).unwrap();
            assert!(got.values == golden.i8(&name), "{name}");
            let scales = golden.f32(&format!("{variant}.{side}_scale"));
            assert_eq!(got.scales, scales, "{variant}.{side}_scale");
        }
    }
}

#[test]
fn the_official_quantisers_integers_scales_and_codes() {
    for case in ["d64", "d128_causal"] {
        with_golden(case, |golden| {
            let shape = golden.shape();
            let [q, k, v] = ["q", "k", "v"].map(|name| golden.halves(name, f16::from_le_bytes));
            let means: Vec<f32> = golden.halves("k_mean", f16::from_le_bytes).into_iter().map(f16::to_f32).collect();
            for device in devices() {
                let stream = device.stream().unwrap();
                let got = mean(&stream, &k, &shape);
                // the recorded mean was summed in another order
                let near = got.iter().zip(&means).all(|(got, want)| (got - want).abs() <= want.abs() / 1024.0);
                assert!(near, "{case} k_mean");
                for (variant, sage) in [
                    ("triton_block", Sage::triton_per_block()),
                    ("triton_block_nosmooth", Sage { smoothing: Smoothing::None, ..Sage::triton_per_block() }),
                    ("thread_sm89", Sage::per_thread(Tile::SM80)),
                    ("thread_sm90", Sage::per_thread(Tile::SM90)),
                    ("cuda_warp", Sage::cuda_per_warp(Tile::SM80)),
                ] {
                    demand_rows(golden, &stream, variant, &sage, [&q, &k], &means);
                }
                for (scale_max, name) in [(448.0, "v_fp8_smax448.0"), (2.25, "v_fp8_smax2.25")] {
                    let want = golden.bytes(&format!("{name}.transposed_permuted_u8"));
                    let from = stream.upload(&v).unwrap();
                    let channels = shape.problems() * shape.head_dim;
                    let (mut values, mut scales) = (stream.allocate::<u8>(want.len()).unwrap(), stream.allocate(channels).unwrap());
                    let mut amax = stream.allocate(channels).unwrap();
                    let layout = ValueLayout::Channels { padded_len: want.len() / channels };
                    let out = E4m3Values { values: values.view_mut(), layout, scales: scales.view_mut(), amax: amax.view_mut() };
                    QuantValues::load(&device).unwrap().e4m3(&stream, from.view(), &shape, scale_max, out).unwrap();
                    assert!(values.to_vec().unwrap() == want, "{case} {name}");
                    assert_eq!(scales.to_vec().unwrap(), golden.f32(&format!("{name}.scale")), "{case} {name}");
                }
            }
        });
    }
}

#[test]
fn the_official_sparse_branch_s_integers_and_scales() {
    with_golden("sagesla_d64", |golden| {
        let shape = golden.shape();
        let [q, k] = ["q", "k"].map(|name| golden.halves(name, bf16::from_le_bytes));
        let means: Vec<f32> = golden.halves("k_mean", bf16::from_le_bytes).into_iter().map(bf16::to_f32).collect();
        for device in devices() {
            let stream = device.stream().unwrap();
            assert_eq!(mean(&stream, &k, &shape), means);
            demand_rows(golden, &stream, "sm80_89_120", &Sage::sagesla(128, 64), [&q, &k], &means);
            demand_rows(golden, &stream, "sm90", &Sage::sagesla(64, 128), [&q, &k], &means);
        }
    });
}
