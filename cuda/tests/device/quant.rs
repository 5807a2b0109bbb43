//! The block quantiser: on every device the bytes of the host twin, and of the recorded official run.

use std::path::Path;

use half::bf16;
use safetensors::{Dtype, SafeTensors};
use turbowan_cuda::Error;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::quant::device::QuantBlock;
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, padded};
use turbowan_reference::inputs::{Kind, rows as input};

use crate::{devices, devices_in_all_ways, int8_rows};

const RULES: [Int8Rule; 2] = [Int8Rule::Official, Int8Rule::PerToken];

/// One row, ragged blocks of rows in both directions, primes, several columns of blocks, ragged blocks of columns.
const SHAPES: [[usize; 2]; 12] =
    [[1, 128], [5, 128], [127, 256], [128, 128], [129, 384], [257, 128], [150, 640], [1, 8], [130, 64], [129, 192], [3, 576], [67, 136]];

fn quantised(device: &Device, rule: Int8Rule, x: &[bf16], rows: usize, width: usize) -> Result<Int8Rows, Error> {
    let stream = device.stream()?;
    let quantiser = QuantBlock::load(device)?;
    let x = stream.upload(x)?;
    let mut values = stream.allocate(rows * padded(width))?;
    let mut scales = stream.allocate(rows.div_ceil(rule.block_rows()) * width.div_ceil(128))?;
    quantiser.run(&stream, rule, x.view(), rows, width, values.view_mut(), scales.view_mut())?;
    int8_rows(rule, rows, width, &values.to_vec()?, scales.to_vec()?)
}

/// Fails at the first byte that differs.
fn demand_equal(got: &Int8Rows, want: &Int8Rows, case: &str) {
    for (index, (got, want)) in got.values().iter().zip(want.values()).enumerate() {
        assert_eq!(got, want, "{case}: value {index}");
    }
    for (index, (got, want)) in got.scales().iter().zip(want.scales()).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{case}: scale {index}: {got} {want}");
    }
    assert_eq!(got.rule(), want.rule());
}

#[test]
fn every_byte_is_that_of_the_host_twin() {
    for device in devices_in_all_ways() {
        for [rows, width] in SHAPES {
            for kind in Kind::ALL {
                let x: Vec<bf16> = input(kind, rows, width, 1).into_iter().map(bf16::from_f32).collect();
                for rule in RULES {
                    let got = quantised(&device, rule, &x, rows, width).unwrap();
                    let want = Int8Rows::quantise(rule, &x, rows, width).unwrap();
                    demand_equal(&got, &want, &format!("{device:?} {rule:?} {rows} x {width} {kind:?}"));
                }
            }
        }
    }
}

#[test]
fn ties_ends_zeros_and_numbers_that_are_none_are_as_on_the_host() {
    let special = [128.0, -128.0, 0.5, 1.5, -0.5, -2.5, 127.5, 1e-30, 0.0, -0.0, 1e4, -1e4, 3.0e38, -3.0e38, 1e-40];
    let mut cases = vec![vec![bf16::ZERO; 256], vec![bf16::NEG_ZERO; 256]];
    for upto in 1..=special.len() {
        let mut x = vec![bf16::ZERO; 256];
        x.iter_mut().rev().zip(&special[..upto]).for_each(|(x, value)| *x = bf16::from_f32(*value));
        cases.push(x);
    }
    for none in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY] {
        let mut x: Vec<bf16> = (0..256).map(|i| bf16::from_f32(i as f32)).collect();
        x[37] = none;
        cases.push(x);
    }
    for device in devices() {
        for (case, x) in cases.iter().enumerate() {
            for rule in RULES {
                for [rows, width] in [[2, 128], [4, 64]] {
                    let want = Int8Rows::quantise(rule, x, rows, width).unwrap();
                    let got = quantised(&device, rule, x, rows, width).unwrap();
                    demand_equal(&got, &want, &format!("{device:?} {rule:?} {rows} x {width} case {case}"));
                }
            }
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bytes() {
    let x: Vec<bf16> = input(Kind::OutlierChannel, 300, 256, 4).into_iter().map(bf16::from_f32).collect();
    for device in devices() {
        for rule in RULES {
            let run = || quantised(&device, rule, &x, 300, 256).unwrap();
            assert_eq!(run(), run());
        }
    }
}

#[test]
fn misfits_are_refused_and_no_rows_are_no_work() {
    for device in devices() {
        let x = vec![bf16::ONE; 256];
        assert!(matches!(quantised(&device, Int8Rule::Official, &x[..120], 2, 60), Err(Error::Size { found: 60, .. })));
        assert!(matches!(quantised(&device, Int8Rule::Official, &x, 3, 128), Err(Error::Length { expected: 384, found: 256, .. })));
        assert_eq!(quantised(&device, Int8Rule::PerToken, &[], 0, 128).unwrap().rows(), 0);
    }
}

/// The recorded run of the official quantiser.
#[test]
fn the_official_rule_gives_the_recorded_bytes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/quant_linear");
    for case in ["m150_k256_n128", "m5_k128_n128_zero"] {
        let bytes = std::fs::read(folder.join(format!("{case}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for [input, values, scales] in [["x", "x_int8", "x_scale"], ["weight", "int8_weight", "scale"]] {
            let [input, values, scales] = [input, values, scales].map(|name| tensors.tensor(name).unwrap());
            assert_eq!((input.dtype(), values.dtype(), scales.dtype()), (Dtype::BF16, Dtype::I8, Dtype::F32));
            let (rows, width) = (input.shape()[0], input.shape()[1]);
            let x: Vec<bf16> = input.data().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes)).collect();
            let values = values.data().iter().map(|byte| byte.cast_signed()).collect();
            let scales = scales.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let want = Int8Rows::from_parts(Int8Rule::Official, rows, width, values, scales).unwrap();
            for device in devices() {
                demand_equal(&quantised(&device, Int8Rule::Official, &x, rows, width).unwrap(), &want, &format!("{device:?} {case}"));
            }
        }
    }
}
