//! The packed product and its epilogues.

use half::{bf16, f16};
use turbowan_cuda::host::Isa;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, Then, gemm};
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::gemm as oracle;
use turbowan_reference::inputs::Kind;
use turbowan_reference::metrics::{Bound, Verdict};

use crate::{SHAPES, bits, input, on_threads};

/// A chain of 256 additions in `f32` rounds by at most 256 * 2^-24 of the sum of magnitudes; in practice by its root.
const OF_MAGNITUDE: f64 = 16.0 / 16_777_216.0;

/// Half a unit in the last place of bf16, relative.
const BF16_HALF_STEP: f64 = 1.0 / 256.0;

fn product(isa: Isa, x: &[f32], weight: &[f32], [rows, out, input]: [usize; 3], epilogue: &Epilogue<'_>, from: &[f32]) -> Vec<f32> {
    let packed = PackedMatrix::pack_for(isa, weight, out, input).unwrap();
    let mut result = from.to_vec();
    result.resize(rows * out, f32::NAN);
    gemm(x, rows, &packed, epilogue, &mut result).unwrap();
    result
}

/// Holds every value to the oracle within a share of the sum of magnitudes behind it.
fn demand_close(got: &[f32], want: &[f64], magnitude: &[f64], share: f64, case: &str) {
    for (index, ((got, want), magnitude)) in got.iter().zip(want).zip(magnitude).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= share * magnitude, "{case}: at {index} got {got}, want {want}, allowed {}", share * magnitude);
    }
}

#[test]
fn awkward_shapes_and_kinds_match_the_oracle() {
    for isa in Isa::available() {
        for shape @ [rows, out, depth] in SHAPES {
            for kind in Kind::ALL {
                let x = input(kind, rows, depth, 1);
                let weight = input(Kind::Plain, out, depth, 2);
                let bias = input(Kind::Plain, 1, out, 3);
                let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::PLAIN };
                let got = product(isa, &x, &weight, shape, &epilogue, &[]);
                let want = oracle::linear(&x, &weight, Some(&bias), depth);
                let magnitude = oracle::linear_magnitude(&x, &weight, Some(&bias), depth);
                demand_close(&got, &want, &magnitude, OF_MAGNITUDE, &format!("{isa:?} {shape:?} {kind:?}"));
            }
        }
    }
}

#[test]
fn a_bf16_weight_gives_the_bits_of_the_same_weight_in_f32() {
    for isa in Isa::available() {
        for [rows, out, depth] in SHAPES {
            let x = input(Kind::OutlierChannel, rows, depth, 4);
            let halves: Vec<bf16> = input(Kind::Plain, out, depth, 5).into_iter().map(bf16::from_f32).collect();
            let widened: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
            let packed = PackedMatrix::pack_for(isa, &halves, out, depth).unwrap();
            let as_floats = PackedMatrix::pack_for(isa, &widened, out, depth).unwrap();
            assert!(depth % 2 == 1 || packed.bytes() <= as_floats.bytes() / 2 + 64);
            let (mut got, mut want) = (vec![0.0; rows * out], vec![0.0; rows * out]);
            gemm(&x, rows, &packed, &Epilogue::PLAIN, &mut got).unwrap();
            gemm(&x, rows, &as_floats, &Epilogue::PLAIN, &mut want).unwrap();
            assert_eq!(bits(&got), bits(&want), "{isa:?} {rows} x {out} x {depth}");
        }
    }
}

#[test]
fn half_precision_rows_are_read_exactly() {
    let (rows, out, depth) = (13, 40, 300);
    let weight = input(Kind::Plain, out, depth, 6);
    let packed = PackedMatrix::pack(&weight, out, depth).unwrap();
    let x = input(Kind::Plain, rows, depth, 7);
    let as_bf16: Vec<bf16> = x.iter().map(|v| bf16::from_f32(*v)).collect();
    let as_f16: Vec<f16> = x.iter().map(|v| f16::from_f32(*v)).collect();
    let run = |x: &[f32]| {
        let mut out = vec![0.0; rows * out];
        gemm(x, rows, &packed, &Epilogue::PLAIN, &mut out).unwrap();
        out
    };
    let mut got = vec![0.0; rows * out];
    gemm(&as_bf16, rows, &packed, &Epilogue::PLAIN, &mut got).unwrap();
    assert_eq!(got, run(&as_bf16.iter().map(|v| v.to_f32()).collect::<Vec<_>>()));
    gemm(&as_f16, rows, &packed, &Epilogue::PLAIN, &mut got).unwrap();
    assert_eq!(got, run(&as_f16.iter().map(|v| v.to_f32()).collect::<Vec<_>>()));
}

#[test]
fn every_end_matches_the_oracle() {
    let shape @ [rows, out, depth] = [29, 71, 300];
    let x = input(Kind::Plain, rows, depth, 8);
    // weights of size 1/8 put the sums where the activations bend
    let weight: Vec<f32> = input(Kind::Plain, out, depth, 9).into_iter().map(|v| v / 8.0).collect();
    let bias = input(Kind::Plain, 1, out, 10);
    let residual = input(Kind::Plain, rows, out, 11);
    let rows_per_group = 10;
    let gate = input(Kind::Plain, rows.div_ceil(rows_per_group), out, 12);
    let sums = oracle::linear(&x, &weight, Some(&bias), depth);
    let at = |index: usize, group: usize| gate[(index / out / group) * out + index % out];
    type End<'a> = (Then<'a>, Box<dyn Fn(usize, f64) -> f64 + 'a>);
    let ends: [End<'_>; 6] = [
        (Then::Store, Box::new(|_, y| y)),
        (Then::Gelu, Box::new(|_, y| oracle::gelu_tanh(y))),
        (Then::GeluErf, Box::new(|_, y| oracle::gelu_erf(y))),
        (Then::Silu, Box::new(|_, y| oracle::silu(y))),
        (Then::Add, Box::new(|index, y| f64::from(residual[index]) + y)),
        (
            Then::AddGated { gate: &gate, rows_per_group },
            Box::new(|index, y| f64::from(residual[index]) + f64::from(at(index, rows_per_group)) * y),
        ),
    ];
    for isa in Isa::available() {
        for (then, end) in &ends {
            let want: Vec<f64> = sums.iter().enumerate().map(|(index, y)| end(index, *y)).collect();
            for (rounding, bound) in [(Rounding::None, Bound::max_abs(1e-4)), (Rounding::Bf16, Bound::relative_l2(BF16_HALF_STEP))] {
                let epilogue = Epilogue { bias: Some(&bias), then: *then, rounding };
                let got = product(isa, &x, &weight, shape, &epilogue, &residual);
                Verdict::of(&got, &want, bound).demand(&format!("{isa:?} {then:?} {rounding:?}"));
            }
        }
    }
}

#[test]
fn every_step_rounds_to_bf16_where_the_official_code_stores_one() {
    let shape @ [rows, out, depth] = [14, 35, 90];
    let x = input(Kind::Plain, rows, depth, 13);
    let weight = input(Kind::Plain, out, depth, 14);
    let bias = input(Kind::Plain, 1, out, 15);
    let round = |v: f32| bf16::from_f32(v).to_f32();
    let residual: Vec<f32> = input(Kind::Plain, rows, out, 16).into_iter().map(round).collect();
    let gate: Vec<f32> = input(Kind::Plain, 1, out, 17).into_iter().map(round).collect();
    for isa in Isa::available() {
        let with = |then, rounding| product(isa, &x, &weight, shape, &Epilogue { bias: Some(&bias), then, rounding }, &residual);
        let exact = with(Then::Store, Rounding::None);
        let stored = with(Then::Store, Rounding::Bf16);
        assert_eq!(stored, exact.iter().map(|v| round(*v)).collect::<Vec<_>>());
        let sums: Vec<f32> = residual.iter().zip(&stored).map(|(r, y)| round(r + y)).collect();
        assert_eq!(with(Then::Add, Rounding::Bf16), sums);
        let gated: Vec<f32> = residual.iter().zip(&stored).enumerate().map(|(i, (r, y))| round(r + round(y * gate[i % out]))).collect();
        assert_eq!(with(Then::AddGated { gate: &gate, rows_per_group: rows }, Rounding::Bf16), gated);
        for value in with(Then::Gelu, Rounding::Bf16) {
            assert_eq!(value, round(value), "an activation is stored as a bf16");
        }
    }
}

#[test]
fn rows_and_weight_in_bf16_round_to_the_bf16_of_the_oracle() {
    let round = |v: f32| bf16::from_f32(v).to_f32();
    for isa in Isa::available() {
        for [rows, out, depth] in SHAPES {
            for kind in Kind::ALL {
                let x: Vec<f32> = input(kind, rows, depth, 22).into_iter().map(round).collect();
                let halves: Vec<bf16> = input(Kind::Plain, out, depth, 23).into_iter().map(bf16::from_f32).collect();
                let weight: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
                let packed = PackedMatrix::pack_for(isa, &halves, out, depth).unwrap();
                let mut got = vec![0.0; rows * out];
                let epilogue = Epilogue { rounding: Rounding::Bf16, ..Epilogue::PLAIN };
                gemm(&x, rows, &packed, &epilogue, &mut got).unwrap();
                let case = format!("{isa:?} {rows} x {out} x {depth} {kind:?}");
                let want = oracle::linear(&x, &weight, None, depth);
                let magnitude = oracle::linear_magnitude(&x, &weight, None, depth);
                for (index, got) in got.iter().enumerate() {
                    // the sum's own error, then the rounding of what came out
                    let allowed = OF_MAGNITUDE * magnitude[index] + BF16_HALF_STEP * f64::from(got.abs());
                    let error = (f64::from(*got) - want[index]).abs();
                    assert!(error <= allowed, "{case}: at {index} got {got}, want {}, allowed {allowed}", want[index]);
                    assert_eq!(*got, round(*got), "{case}: at {index}");
                }
                let narrow: Vec<bf16> = x.iter().map(|v| bf16::from_f32(*v)).collect();
                let mut again = vec![0.0; rows * out];
                on_threads(3, || gemm(&narrow, rows, &packed, &epilogue, &mut again)).unwrap();
                assert_eq!(bits(&again), bits(&got), "{case}: bf16 rows, three threads");
            }
        }
    }
}

#[test]
fn rows_that_bf16_does_not_hold_are_not_rounded_on_the_way_in() {
    let (rows, out, depth) = (5, 40, 64);
    let mut x = vec![1.0f32; rows * depth];
    x[3 * depth + 7] = 1.0 + 1.0 / 4096.0;
    x[3 * depth + 8] = -1.0;
    let mut weight = vec![bf16::ZERO; out * depth];
    weight.chunks_mut(depth).for_each(|row| row[7..9].fill(bf16::ONE));
    for isa in Isa::available() {
        let packed = PackedMatrix::pack_for(isa, &weight, out, depth).unwrap();
        let mut got = vec![0.0; rows * out];
        gemm(&x, rows, &packed, &Epilogue { rounding: Rounding::Bf16, ..Epilogue::PLAIN }, &mut got).unwrap();
        assert_eq!(got[3 * out..4 * out], vec![1.0 / 4096.0; out], "{isa:?}");
    }
}

#[test]
fn threads_and_the_place_of_a_row_do_not_change_a_bit() {
    let shape @ [rows, out, depth] = [301, 197, 700];
    let x = input(Kind::OutlierChannel, rows, depth, 18);
    let weight = input(Kind::Plain, out, depth, 19);
    for isa in Isa::available() {
        let run = |x: &[f32], rows| product(isa, x, &weight, [rows, out, depth], &Epilogue { then: Then::Gelu, ..Epilogue::PLAIN }, &[]);
        let one = on_threads(1, || run(&x, shape[0]));
        for threads in [2, 3, 8] {
            assert_eq!(bits(&on_threads(threads, || run(&x, rows))), bits(&one), "{isa:?}, {threads} threads");
        }
        for row in [0, 1, 11, 12, 240, 300] {
            let alone = run(&x[row * depth..][..depth], 1);
            assert_eq!(bits(&alone), bits(&one[row * out..][..out]), "{isa:?}, row {row} alone");
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let packed = PackedMatrix::pack(&[1.0f32; 6], 2, 3).unwrap();
    gemm::<f32>(&[], 0, &packed, &Epilogue::PLAIN, &mut []).unwrap();
}

#[test]
fn a_value_that_is_not_a_number_reaches_only_its_own_row() {
    for isa in Isa::available() {
        let mut x = input(Kind::Plain, 20, 50, 20);
        x[7 * 50 + 3] = f32::NAN;
        let weight = input(Kind::Plain, 40, 50, 21);
        for then in [Then::Store, Then::Gelu, Then::GeluErf, Then::Silu] {
            for rounding in [Rounding::None, Rounding::Bf16] {
                let got = product(isa, &x, &weight, [20, 40, 50], &Epilogue { bias: None, then, rounding }, &[]);
                assert!(got.iter().enumerate().all(|(index, v)| v.is_nan() == (index / 40 == 7)), "{isa:?} {then:?}");
            }
        }
    }
}

#[test]
fn misfits_are_refused() {
    assert!(matches!(PackedMatrix::pack(&[0.0f32; 5], 2, 3), Err(Error::Length { what: "weight", expected: 6, found: 5 })));
    assert!(matches!(PackedMatrix::pack::<f32>(&[], 0, 3), Err(Error::Size { .. })));
    assert!(matches!(PackedMatrix::pack::<f32>(&[], 3, 0), Err(Error::Size { .. })));
    let missing = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Avx2 };
    assert!(matches!(PackedMatrix::pack_for(missing, &[0.0f32; 6], 2, 3), Err(Error::MissingIsa(_))));
    let packed = PackedMatrix::pack(&[0.0f32; 6], 2, 3).unwrap();
    let mut out = [0.0; 4];
    let end = |bias, then| Epilogue { bias, then, rounding: Rounding::None };
    assert!(matches!(gemm(&[0.0f32; 5], 2, &packed, &Epilogue::PLAIN, &mut out), Err(Error::Length { what: "input rows", .. })));
    assert!(matches!(gemm(&[0.0f32; 6], 2, &packed, &Epilogue::PLAIN, &mut [0.0; 3]), Err(Error::Length { what: "output", .. })));
    let x = [0.0f32; 6];
    assert!(matches!(gemm(&x, 2, &packed, &end(Some(&[0.0]), Then::Store), &mut out), Err(Error::Length { what: "bias", .. })));
    let short = Then::AddGated { gate: &[0.0; 2], rows_per_group: 1 };
    assert!(matches!(gemm(&x, 2, &packed, &end(None, short), &mut out), Err(Error::Length { what: "gate", .. })));
    let none = Then::AddGated { gate: &[0.0; 2], rows_per_group: 0 };
    assert!(matches!(gemm(&x, 2, &packed, &end(None, none), &mut out), Err(Error::Size { .. })));
}
