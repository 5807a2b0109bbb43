//! The int8 product: exact sums, the same bits from every kernel.

use half::bf16;
use turbowan_cuda::host::Isa;
use turbowan_cuda::ops::gemm::{Epilogue, Then};
use turbowan_cuda::ops::gemm_int8::{Int8Kernel, PackedInt8, gemm_int8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight};
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::inputs::{Kind, Seeded};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::quant::{Int8Matrix, int8_linear};

use crate::{bits, input, on_threads};

/// `rows, out, input`: one row, one column, ragged tiles, several row blocks, several depth blocks with a short last one; then
/// ragged last blocks of the sum, alone, after others and first of a depth block.
const SHAPES: [[usize; 3]; 12] = [
    [1, 1, 128],
    [13, 33, 256],
    [130, 40, 640],
    [7, 300, 1152],
    [257, 129, 384],
    [12, 32, 512],
    [5, 9, 1],
    [1, 17, 63],
    [130, 70, 64],
    [13, 192, 192],
    [6, 33, 515],
    [14, 130, 576],
];

/// The outer sum has at most a dozen terms in `f32`.
const OF_BLOCKS: f64 = 1e-6;

fn run(kernel: Int8Kernel, a: &Int8Rows, weight: &QuantizedWeight, epilogue: &Epilogue<'_>, from: &[f32]) -> Vec<f32> {
    let packed = PackedInt8::pack_for(kernel, weight).unwrap();
    let mut out = from.to_vec();
    out.resize(a.rows() * weight.out(), f32::NAN);
    gemm_int8(a, &packed, epilogue, &mut out).unwrap();
    out
}

fn oracle(a: &Int8Rows, weight: &QuantizedWeight) -> Vec<f64> {
    let rows = Int8Matrix { values: a.values(), scales: a.scales(), width: a.width(), block_rows: a.rule().block_rows() };
    let columns = Int8Matrix { values: weight.values(), scales: weight.scales(), width: weight.input(), block_rows: 128 };
    int8_linear(&rows, &columns)
}

#[test]
fn awkward_shapes_match_the_oracle_and_every_kernel_gives_the_same_bits() {
    for [rows, out, width] in SHAPES {
        for kind in Kind::ALL {
            let weight = QuantizedWeight::quantise(&input(Kind::Plain, out, width, 1), out, width).unwrap();
            for rule in [Int8Rule::Official, Int8Rule::PerToken] {
                let a = Int8Rows::quantise(rule, &input(kind, rows, width, 2), rows, width).unwrap();
                let want = oracle(&a, &weight);
                let plain = run(Int8Kernel::Portable, &a, &weight, &Epilogue::PLAIN, &[]);
                let case = format!("{rows} x {out} x {width}, {kind:?}, {rule:?}");
                Verdict::of(&plain, &want, Bound::relative_l2(OF_BLOCKS)).demand(&case);
                for kernel in Int8Kernel::available() {
                    assert_eq!(bits(&run(kernel, &a, &weight, &Epilogue::PLAIN, &[])), bits(&plain), "{kernel:?}, {case}");
                }
            }
        }
    }
}

#[test]
fn sums_are_exact_at_both_ends_of_the_range() {
    // with scales of one and one block the result is the integer sum itself, and it fits `f32` exactly
    let mut random = Seeded::new(3);
    let ends = [-128i8, 127];
    let (rows, out, width) = (15, 35, 128);
    let mut draw = |count: usize| (0..count).map(|_| ends[random.below(2)]).collect::<Vec<_>>();
    for (a, w) in [
        (vec![-128; rows * width], vec![-128; out * width]),
        (vec![127; rows * width], vec![127; out * width]),
        (vec![-128; rows * width], vec![127; out * width]),
        (draw(rows * width), draw(out * width)),
    ] {
        let a = Int8Rows::from_parts(Int8Rule::PerToken, rows, width, a, vec![1.0; rows]).unwrap();
        let weight = QuantizedWeight::from_parts(out, width, w, vec![1.0]).unwrap();
        let want = oracle(&a, &weight);
        for kernel in Int8Kernel::available() {
            let got = run(kernel, &a, &weight, &Epilogue::PLAIN, &[]);
            Verdict::of(&got, &want, Bound::EXACT).demand(&format!("{kernel:?}"));
        }
    }
}

#[test]
fn rows_of_another_batch_leave_nothing_in_a_ragged_sum() {
    // every word of a longer product is at hand when the shorter ones are packed
    let long = QuantizedWeight::from_parts(40, 512, vec![-128; 40 * 512], vec![1.0; 4]).unwrap();
    let long_rows = Int8Rows::from_parts(Int8Rule::PerToken, 30, 512, vec![-128; 30 * 512], vec![1.0; 30 * 4]).unwrap();
    for width in [1, 3, 6, 130, 261, 511] {
        let weight = QuantizedWeight::quantise(&input(Kind::Plain, 40, width, 1), 40, width).unwrap();
        let a = Int8Rows::quantise(Int8Rule::PerToken, &input(Kind::Plain, 30, width, 2), 30, width).unwrap();
        let want = oracle(&a, &weight);
        for kernel in Int8Kernel::available() {
            run(kernel, &long_rows, &long, &Epilogue::PLAIN, &[]);
            let got = run(kernel, &a, &weight, &Epilogue::PLAIN, &[]);
            Verdict::of(&got, &want, Bound::relative_l2(OF_BLOCKS)).demand(&format!("{kernel:?}, width {width}"));
        }
    }
}

#[test]
fn the_product_is_rounded_before_the_bias_and_again_after_it() {
    let (rows, out, width) = (14, 50, 256);
    let weight = QuantizedWeight::quantise(&input(Kind::Plain, out, width, 4), out, width).unwrap();
    let a = Int8Rows::quantise(Int8Rule::Official, &input(Kind::Plain, rows, width, 5), rows, width).unwrap();
    let round = |v: f32| bf16::from_f32(v).to_f32();
    let bias: Vec<f32> = input(Kind::Plain, 1, out, 6).into_iter().map(round).collect();
    let residual: Vec<f32> = input(Kind::Plain, rows, out, 7).into_iter().map(round).collect();
    for kernel in Int8Kernel::available() {
        let bare = run(kernel, &a, &weight, &Epilogue::PLAIN, &[]);
        let with = |then| {
            let epilogue = Epilogue { bias: Some(&bias), then, rounding: Rounding::Bf16 };
            run(kernel, &a, &weight, &epilogue, &residual)
        };
        let stored: Vec<f32> = bare.iter().enumerate().map(|(index, v)| round(round(*v) + bias[index % out])).collect();
        assert_eq!(with(Then::Store), stored, "{kernel:?}");
        let added: Vec<f32> = stored.iter().zip(&residual).map(|(v, r)| round(r + v)).collect();
        assert_eq!(with(Then::Add), added, "{kernel:?}");
    }
}

#[test]
fn threads_and_the_place_of_a_row_do_not_change_a_bit() {
    let (rows, out, width) = (300, 200, 640);
    let x = input(Kind::OutlierChannel, rows, width, 8);
    let weight = QuantizedWeight::quantise(&input(Kind::Plain, out, width, 9), out, width).unwrap();
    let a = Int8Rows::quantise(Int8Rule::PerToken, &x, rows, width).unwrap();
    for kernel in Int8Kernel::available() {
        let one = on_threads(1, || run(kernel, &a, &weight, &Epilogue::PLAIN, &[]));
        assert_eq!(bits(&on_threads(3, || run(kernel, &a, &weight, &Epilogue::PLAIN, &[]))), bits(&one), "{kernel:?}");
        let row = 250;
        let alone = Int8Rows::quantise(Int8Rule::PerToken, &x[row * width..][..width], 1, width).unwrap();
        assert_eq!(bits(&run(kernel, &alone, &weight, &Epilogue::PLAIN, &[])), bits(&one[row * out..][..out]), "{kernel:?}");
    }
}

#[test]
fn a_row_by_itself_costs_less_error_under_our_rule_when_another_row_is_large() {
    let (rows, out, width) = (64, 64, 256);
    let mut x = input(Kind::Plain, rows, width, 10);
    x[..width].iter_mut().for_each(|v| *v *= 100.0);
    let weights = input(Kind::Plain, out, width, 11);
    let weight = QuantizedWeight::quantise(&weights, out, width).unwrap();
    let want = turbowan_reference::gemm::linear(&x, &weights, None, width);
    let error = |rule| {
        let a = Int8Rows::quantise(rule, &x, rows, width).unwrap();
        let got = run(Int8Kernel::Portable, &a, &weight, &Epilogue::PLAIN, &[]);
        Verdict::of(&got[out..], &want[out..], Bound::default()).distance.relative_l2
    };
    assert!(error(Int8Rule::PerToken) < 0.02 && error(Int8Rule::Official) > 0.2);
}

#[test]
fn misfits_are_refused() {
    let weight = QuantizedWeight::quantise(&[0.0f32; 2 * 128], 2, 128).unwrap();
    let packed = PackedInt8::pack(&weight);
    let rows = |width| Int8Rows::quantise(Int8Rule::Official, &vec![0.0f32; width], 1, width).unwrap();
    assert!(matches!(gemm_int8(&rows(256), &packed, &Epilogue::PLAIN, &mut [0.0; 2]), Err(Error::Size { found: 256, .. })));
    assert!(matches!(gemm_int8(&rows(128), &packed, &Epilogue::PLAIN, &mut [0.0; 3]), Err(Error::Length { .. })));
    let epilogue = Epilogue { bias: Some(&[0.0]), ..Epilogue::PLAIN };
    assert!(matches!(gemm_int8(&rows(128), &packed, &epilogue, &mut [0.0; 2]), Err(Error::Length { what: "bias", .. })));
    if !Isa::Avx512.is_available() {
        assert!(matches!(PackedInt8::pack_for(Int8Kernel::Avx512Vnni, &weight), Err(Error::MissingIsa(Isa::Avx512))));
    }
}
