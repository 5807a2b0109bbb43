//! The quantisers, which must equal their oracle in every byte.

use std::borrow::Cow;

use half::bf16;
use turbowan_cuda::Error;
use turbowan_cuda::host::Isa;
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight, padded, padded_rows};
use turbowan_reference::inputs::Kind;
use turbowan_reference::quant::{Rule, quantise};

use crate::{bits, input, on_threads};

const RULES: [(Int8Rule, Rule); 2] = [(Int8Rule::Official, Rule::OFFICIAL), (Int8Rule::PerToken, Rule::PER_TOKEN)];

/// Ragged blocks of rows, of columns and of both.
const SHAPES: [(usize, usize); 12] =
    [(1, 128), (127, 128), (128, 256), (129, 384), (150, 256), (300, 128), (1, 1), (130, 1), (129, 64), (3, 129), (131, 192), (2, 576)];

fn quantised(isa: Isa, rule: Int8Rule, x: &[f32], rows: usize, width: usize) -> Int8Rows {
    let mut result = Int8Rows::quantise::<f32>(rule, &[], 0, width).unwrap();
    result.fill_on(isa, x, rows, width).unwrap();
    result
}

#[test]
fn every_byte_is_that_of_the_oracle() {
    for isa in Isa::available() {
        for (rule, oracle) in RULES {
            for (rows, width) in SHAPES {
                for kind in Kind::ALL {
                    let x = input(kind, rows, width, 1);
                    let got = quantised(isa, rule, &x, rows, width);
                    let (values, scales) = quantise(&x, width, oracle);
                    assert_eq!(got.values(), values, "{isa:?} {rule:?} {rows} x {width} {kind:?}");
                    assert_eq!(bits(got.scales()), bits(&scales), "{isa:?} {rule:?} {rows} x {width} {kind:?}");
                }
            }
        }
    }
}

#[test]
fn ties_and_both_ends_are_rounded_and_saturated_as_stated() {
    let mut x = vec![0.0f32; 128];
    // amax 128 makes the official factor 1
    x[..8].copy_from_slice(&[128.0, -128.0, 0.5, 1.5, -0.5, -2.5, 127.5, 1e-30]);
    for isa in Isa::available() {
        let got = quantised(isa, Int8Rule::Official, &x, 1, 128);
        assert_eq!(got.values()[..8], [127, -128, 0, 2, 0, -2, 127, 0], "{isa:?}");
        assert_eq!(got.scales(), [1.0]);
        let ours = quantised(isa, Int8Rule::PerToken, &x, 1, 128);
        assert_eq!(ours.values()[..2], [127, -127], "{isa:?}");
    }
}

#[test]
fn a_bf16_input_is_read_exactly_and_memory_is_reused() {
    let halves: Vec<bf16> = input(Kind::OutlierChannel, 140, 256, 2).into_iter().map(bf16::from_f32).collect();
    let floats: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
    for (rule, _) in RULES {
        let want = Int8Rows::quantise(rule, &floats, 140, 256).unwrap();
        let mut got = Int8Rows::quantise(rule, &input(Kind::Plain, 300, 384, 3), 300, 384).unwrap();
        got.fill(&halves, 140, 256).unwrap();
        assert_eq!(got, want);
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let x = input(Kind::OutlierChannel, 700, 256, 4);
    for (rule, _) in RULES {
        let run = || Int8Rows::quantise(rule, &x, 700, 256).unwrap();
        assert_eq!(on_threads(1, run), on_threads(3, run));
    }
}

#[test]
fn a_weight_is_quantised_as_rows_are() {
    for width in [256, 200] {
        let weight = input(Kind::Plain, 200, width, 5);
        let got = QuantizedWeight::quantise(&weight, 200, width).unwrap();
        let (values, scales) = quantise(&weight, width, Rule::OFFICIAL);
        assert_eq!((got.values(), got.scales()), (&values[..], &scales[..]));
        assert_eq!(QuantizedWeight::from_parts(200, width, values, scales).unwrap(), got);
    }
}

#[test]
fn a_device_s_rows_are_the_same_with_zeros_up_to_whole_blocks() {
    let values: Vec<i8> = (1..=6).collect();
    let rows = padded_rows(&values, 3);
    let row = |values: &[i8]| [values, &[0; 125]].concat();
    assert_eq!(rows[..], [row(&values[..3]), row(&values[3..])].concat());
    assert_eq!([0, 1, 128, 129, 576].map(padded), [0, 128, 128, 256, 640]);
    let whole = vec![3; 256];
    assert!(matches!(padded_rows(&whole, 128), Cow::Borrowed(rows) if rows == whole));
}

#[test]
fn misfits_are_refused() {
    let x = vec![0.0f32; 1000];
    assert!(matches!(Int8Rows::quantise(Int8Rule::Official, &x[..0], 1, 0), Err(Error::Size { found: 0, .. })));
    assert!(matches!(QuantizedWeight::quantise(&x[..0], 1, 0), Err(Error::Size { found: 0, .. })));
    assert!(matches!(Int8Rows::quantise(Int8Rule::Official, &x, 3, 192), Err(Error::Length { expected: 576, found: 1000, .. })));
    assert!(QuantizedWeight::from_parts(129, 192, vec![0; 129 * 192], vec![0.0; 3]).is_err());
    assert!(QuantizedWeight::from_parts(129, 192, vec![0; 129 * 256], vec![0.0; 4]).is_err());
    assert!(Int8Rows::from_parts(Int8Rule::PerToken, 2, 192, vec![0; 2 * 192], vec![0.0; 2]).is_err());
    assert!(matches!(Int8Rows::quantise(Int8Rule::PerToken, &x, 1, 128), Err(Error::Length { expected: 128, found: 1000, .. })));
    assert!(matches!(QuantizedWeight::quantise::<f32>(&[], 0, 128), Err(Error::Size { .. })));
    assert!(QuantizedWeight::from_parts(129, 256, vec![0; 129 * 256], vec![0.0; 3]).is_err());
    assert!(QuantizedWeight::from_parts(129, 256, vec![0; 129 * 255], vec![0.0; 4]).is_err());
    assert!(QuantizedWeight::from_parts(129, 256, vec![0; 129 * 256], vec![0.0; 4]).is_ok());
    assert!(Int8Rows::from_parts(Int8Rule::PerToken, 129, 256, vec![0; 129 * 256], vec![0.0; 4]).is_err());
    assert!(Int8Rows::from_parts(Int8Rule::Official, 129, 256, vec![0; 129 * 256], vec![0.0; 4]).is_ok());
}
