//! INT8 attention held to its oracle, to the laws of softmax, and to its refusals, on every instruction set.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use half::{bf16, f16};
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, Element, HeadLayout, Rounding};
use turbowan_reference::attention::{self, Head, Mask};
use turbowan_reference::inputs::{Kind, Seeded, normal, rows};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sage as oracle;
use turbowan_sage::{
    Error, Granularity, Sage, Smoothing, Tile, ValuePrecision, forward, forward_with_lse, quantise_keys, quantise_queries,
};

/// The same INT8 operands, so only `f32` sums, the exponential (2e-7) and the order of additions differ.
const SAME_INTEGERS: Bound = Bound { max_abs: Some(2e-5), relative_l2: Some(5e-6), cosine: None };
/// f16 probabilities and values: half a unit in 11 bits on each factor.
const F16_PRODUCT: Bound = Bound::relative_l2(1e-3);
/// An e4m3 probability near a tie may round the other way: 1/16 of a rare weight.
const FP8_PRODUCT: Bound = Bound::relative_l2(5e-3);
/// What the 8-bit product promises against exact attention over the same scores.
const INT8_PRODUCT: Bound = Bound { max_abs: None, relative_l2: None, cosine: Some(0.999) };
/// Outputs of INT8 scores against exact attention on standard normal inputs.
const INT8_SCORES: Bound = Bound { max_abs: None, relative_l2: None, cosine: Some(0.999) };
/// Log-sum-exp over the same integers: a few `f32` roundings of a score.
const LSE: Bound = Bound::relative_l2(1e-6);

/// One head's operands, contiguous.
struct Case {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    shape: AttnShape,
}

impl Case {
    fn of(kind: Kind, heads: usize, query_len: usize, key_len: usize, head_dim: usize) -> Self {
        let shape = AttnShape::cross(1, heads, query_len, key_len, head_dim).unwrap();
        let draw = |len: usize, seed: u64| rows(kind, heads * len, head_dim, seed);
        Self { q: draw(query_len, 1), k: draw(key_len, 2), v: draw(key_len, 3), shape }
    }

    fn head(&self, problem: usize) -> Head<'_> {
        let (d, lq, lk) = (self.shape.head_dim, self.shape.query_len, self.shape.key_len);
        let part = |values: &'_ [f32], len: usize| values[problem * len * d..][..len * d].to_vec().leak() as &[f32];
        Head { query: part(&self.q, lq), key: part(&self.k, lk), value: part(&self.v, lk), head_dim: d }
    }
}

/// The oracle over the integers that our own quantisers gave (they are held to theirs elsewhere).
fn over_integers(case: &Case, sage: &Sage, mask: Mask<'_>) -> attention::Attended {
    let mut all = attention::Attended { out: Vec::new(), lse: Vec::new() };
    each_head(case, sage, |head, value| {
        let attended = head.attend(value, mask);
        all.out.extend(attended.out);
        all.lse.extend(attended.lse);
    });
    all
}

fn each_head(case: &Case, sage: &Sage, mut body: impl FnMut(oracle::Int8Head<'_>, &[f32])) {
    let shape = &case.shape;
    let (query, key) = (quantise_queries(&case.q, shape, sage).unwrap(), quantise_keys(&case.k, None, shape, sage).unwrap());
    let (d, lq, lk) = (shape.head_dim, shape.query_len, shape.key_len);
    let scale = if sage.folds_scale { std::f64::consts::LN_2 } else { 1.0 / (d as f64).sqrt() };
    for problem in 0..shape.problems() {
        let query_scale: Vec<f32> = (0..lq).map(|row| query.scale(problem, row)).collect();
        let key_scale: Vec<f32> = (0..lk).map(|row| key.scale(problem, row)).collect();
        let head = oracle::Int8Head {
            query: &query.values[problem * lq * d..][..lq * d],
            query_scale: &query_scale,
            key: &key.values[problem * lk * d..][..lk * d],
            key_scale: &key_scale,
            width: d,
            scale,
        };
        body(head, case.head(problem).value);
    }
}

/// Every named variant, values in `f32`.
fn variants() -> Vec<(&'static str, Sage)> {
    let fp32 = |sage: Sage| sage.with_values(ValuePrecision::F32);
    vec![
        ("per thread sm80", Sage::per_thread(Tile::SM80)),
        ("per thread sm90", Sage::per_thread(Tile::SM90)),
        ("triton per block", fp32(Sage::triton_per_block())),
        ("cuda per warp", Sage::cuda_per_warp(Tile::SM80)),
        ("sagesla", Sage { operands: Rounding::None, ..Sage::sagesla(128, 64) }),
        ("unsmoothed", Sage { smoothing: Smoothing::None, ..Sage::default() }),
    ]
}

/// One row, a ragged tail, primes, a tile exactly, several tiles, more queries than keys.
const LENGTHS: [(usize, usize); 7] = [(1, 1), (1, 130), (3, 65), (64, 64), (67, 131), (97, 7), (200, 193)];

#[test]
fn every_variant_matches_the_oracle_over_the_same_integers() {
    for (name, sage) in variants() {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                let case = Case::of(Kind::Plain, 2, query_len, key_len, head_dim);
                let want = over_integers(&case, &sage, Mask::None);
                for isa in Isa::available() {
                    let sage = Sage { isa, ..sage };
                    let got = forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
                    let label = format!("{name} {query_len}x{key_len}x{head_dim} {isa:?}");
                    Verdict::of(&got, &want.out, SAME_INTEGERS).demand(&label);
                }
            }
        }
    }
}

#[test]
fn every_kind_of_input_and_any_head_dim_match_the_oracle() {
    for kind in Kind::ALL {
        for head_dim in [1, 24, 80, 130] {
            let case = Case::of(kind, 1, 70, 133, head_dim);
            for isa in Isa::available() {
                let sage = Sage { isa, ..Sage::default() };
                let want = over_integers(&case, &sage, Mask::None);
                let got = forward_with_lse(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
                Verdict::of(&got.out, &want.out, SAME_SCALED).demand(&format!("{kind:?} {head_dim} {isa:?}"));
            }
        }
    }
}

/// As [`SAME_INTEGERS`], for values that reach 100.
const SAME_SCALED: Bound = Bound { max_abs: Some(1e-3), relative_l2: Some(1e-5), cosine: None };

#[test]
fn the_exact_answer_is_near_on_inputs_that_smoothing_is_for() {
    for kind in [Kind::Plain, Kind::Biased] {
        let case = Case::of(kind, 1, 150, 328, 128);
        let want = attention::attend(case.head(0), Mask::None).out;
        for values in [ValuePrecision::F32, ValuePrecision::F16, ValuePrecision::Int8, ValuePrecision::Fp8 { scale_max: 448.0 }] {
            for isa in Isa::available() {
                let sage = Sage { isa, ..Sage::default() }.with_values(values);
                let got = forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
                Verdict::of(&got, &want, INT8_SCORES).demand(&format!("{kind:?} {values:?} {isa:?}"));
            }
        }
    }
}

#[test]
fn every_value_precision_matches_its_oracle() {
    for (query_len, key_len) in LENGTHS {
        let case = Case::of(Kind::Plain, 2, query_len, key_len, 64);
        for tile in [Tile::SM80, Tile::SM90] {
            let sage = Sage::per_thread(tile);
            let exact = over_integers(&case, &sage, Mask::None).out;
            let mut fp8 = Vec::new();
            each_head(&case, &sage, |head, value| {
                fp8.extend(head.attend_fp8(&oracle::quantise_values(value, 64, 2.25, 64), tile.key_block, Mask::None));
            });
            for isa in Isa::available() {
                let run = |values| {
                    let sage = Sage { isa, ..sage }.with_values(values);
                    forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap()
                };
                let label = format!("{query_len}x{key_len} {isa:?}");
                Verdict::of(&run(ValuePrecision::F16), &exact, F16_PRODUCT).demand(&label);
                Verdict::of(&run(ValuePrecision::Fp8 { scale_max: 2.25 }), &fp8, FP8_PRODUCT).demand(&label);
                Verdict::of(&run(ValuePrecision::Int8), &exact, INT8_PRODUCT).demand(&label);
            }
        }
    }
}

#[test]
fn the_8_bit_product_keeps_its_promise_where_rows_are_peaked_or_a_token_is_large() {
    for (sharpness, size) in [(4.0, 1.0), (1.0, 20.0), (0.0, 20.0)] {
        let mut case = Case::of(Kind::Plain, 1, 130, 700, 64);
        case.q.iter_mut().for_each(|value| *value *= sharpness);
        case.v[200 * 64..201 * 64].iter_mut().for_each(|value| *value *= size);
        let want = over_integers(&case, &Sage::default(), Mask::None).out;
        for isa in Isa::available() {
            let sage = Sage { isa, ..Sage::default() }.with_values(ValuePrecision::Int8);
            let got = forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
            Verdict::of(&got, &want, INT8_PRODUCT).demand(&format!("{sharpness} {size} {isa:?}"));
        }
    }
}

#[test]
fn causal_rows_see_the_keys_up_to_their_own() {
    for len in [1, 63, 64, 140, 257] {
        let case = Case::of(Kind::Plain, 1, len, len, 64);
        for isa in Isa::available() {
            let sage = Sage { isa, ..Sage::default() };
            let want = over_integers(&case, &sage, Mask::Causal);
            let got = forward_with_lse(&case.q, &case.k, &case.v, &case.shape, None, true, &sage).unwrap();
            Verdict::of(&got.out, &want.out, SAME_INTEGERS).demand(&format!("{len} {isa:?}"));
            let int8 = sage.with_values(ValuePrecision::Int8);
            let got = forward(&case.q, &case.k, &case.v, &case.shape, None, true, &int8).unwrap();
            Verdict::of(&got, &want.out, INT8_PRODUCT).demand(&format!("8-bit {len} {isa:?}"));
        }
    }
}

/// A map that keeps `kept` random blocks of every row, and the same as a mask of each head.
fn random_map(shape: &AttnShape, block_q: usize, block_k: usize, kept: usize) -> (BlockMap, Vec<Vec<bool>>) {
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(block_q), shape.key_len.div_ceil(block_k));
    let mut random = Seeded::new(7);
    let (mut lists, mut masks) = (Vec::new(), Vec::new());
    for _ in 0..shape.problems() {
        let mut mask = vec![false; query_blocks * key_blocks];
        for row in mask.chunks_mut(key_blocks) {
            while row.iter().filter(|kept| **kept).count() < kept {
                row[random.below(key_blocks)] = true;
            }
            lists.extend((0..key_blocks as u32).filter(|block| row[*block as usize]));
        }
        masks.push(mask);
    }
    (BlockMap::new(shape, block_q, block_k, kept, lists).unwrap(), masks)
}

#[test]
fn a_block_map_shows_its_blocks_and_no_others() {
    for (block_q, block_k, len, kept) in [(128, 64, 400, 2), (64, 128, 400, 1), (100, 48, 333, 3), (7, 5, 61, 4)] {
        let case = Case::of(Kind::Plain, 2, len, len, 64);
        let (map, masks) = random_map(&case.shape, block_q, block_k, kept);
        let sage = Sage { operands: Rounding::None, ..Sage::sagesla(block_q, block_k) };
        let (mut want, mut lse, mut problem) = (Vec::new(), Vec::new(), 0);
        each_head(&case, &sage, |head, value| {
            let attended = head.attend(value, Mask::Blocks { block_q, block_k, kept: &masks[problem] });
            want.extend(attended.out);
            lse.extend(attended.lse);
            problem += 1;
        });
        for isa in Isa::available() {
            let sage = Sage { isa, ..sage };
            let label = format!("{block_q}x{block_k} of {len} {isa:?}");
            let got = forward_with_lse(&case.q, &case.k, &case.v, &case.shape, Some(&map), false, &sage).unwrap();
            Verdict::of(&got.out, &want, SAME_INTEGERS).demand(&label);
            let int8 = sage.with_values(ValuePrecision::Int8);
            let got = forward(&case.q, &case.k, &case.v, &case.shape, Some(&map), false, &int8).unwrap();
            Verdict::of(&got, &want, INT8_PRODUCT).demand(&label);
        }
    }
}

#[test]
fn a_map_of_all_blocks_is_dense_attention() {
    let case = Case::of(Kind::Plain, 2, 200, 200, 64);
    let shape = case.shape;
    let map = BlockMap::new(&shape, 128, 64, 4, [0, 1, 2, 3].repeat(4)).unwrap();
    let sage = Sage::default();
    let dense = forward(&case.q, &case.k, &case.v, &shape, None, false, &sage).unwrap();
    let mapped = forward(&case.q, &case.k, &case.v, &shape, Some(&map), false, &sage).unwrap();
    assert_eq!(dense, mapped);
}

#[test]
fn the_log_sum_exp_is_that_of_the_unsmoothed_scores() {
    let case = Case::of(Kind::Biased, 2, 70, 133, 64);
    let want: Vec<f64> = (0..2).flat_map(|problem| attention::attend(case.head(problem), Mask::None).lse).collect();
    for (name, sage) in variants() {
        for isa in Isa::available() {
            let sage = Sage { isa, ..sage };
            let got = forward_with_lse(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
            if sage.smoothing == Smoothing::None {
                let own = over_integers(&case, &sage, Mask::None);
                Verdict::of(&got.lse, &own.lse, LSE).demand(&format!("{name} {isa:?}"));
            } else {
                // Queries of mean 5 times rounding errors of 0.008 over 64 channels, over 8: 0.04 is one deviation of a score.
                Verdict::of(&got.lse, &want, Bound::max_abs(0.2)).demand(&format!("{name} {isa:?}"));
            }
        }
    }
}

#[test]
fn one_vector_added_to_every_key_changes_nothing() {
    let case = Case::of(Kind::Plain, 1, 70, 200, 64);
    let shift = normal(64, 9);
    let shifted: Vec<f32> = case.k.iter().zip(shift.iter().cycle()).map(|(k, shift)| k + 3.0 * shift).collect();
    for isa in Isa::available() {
        let sage = Sage { isa, ..Sage::default() };
        let before = forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
        let after = forward(&case.q, &shifted, &case.v, &case.shape, None, false, &sage).unwrap();
        // The differences to the mean move by one f32 rounding, which may tip a few INT8 values by one.
        Verdict::of(&after, &before, Bound::relative_l2(1e-3)).demand(&format!("{isa:?}"));
    }
}

#[test]
fn a_constant_value_is_returned_as_it_is() {
    let mut case = Case::of(Kind::Plain, 1, 70, 200, 64);
    case.v = normal(64, 4).repeat(200);
    let want = case.v[..64].repeat(70);
    for isa in Isa::available() {
        for (values, bound) in [(ValuePrecision::F32, 1e-6), (ValuePrecision::Int8, 1e-6), (ValuePrecision::F16, 2e-3)] {
            let sage = Sage { isa, ..Sage::default() }.with_values(values);
            let got = forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
            Verdict::of(&got, &want, Bound { relative_l2: Some(bound), ..Bound::default() }).demand(&format!("{values:?} {isa:?}"));
        }
    }
}

#[test]
fn both_layouts_and_every_batch_give_the_same_rows() {
    let shape = AttnShape { batch: 2, heads: 3, query_len: 37, key_len: 70, head_dim: 64, layout: HeadLayout::Blhd };
    let (q, k, v) = (normal(shape.query_values(), 1), normal(shape.key_values(), 2), normal(shape.key_values(), 3));
    let planes = |values: &[f32], len: usize| {
        let plain = shape.with_layout(HeadLayout::Bhld);
        let mut to = vec![0.0; values.len()];
        for problem in 0..6 {
            for row in 0..len {
                let (from, at) = match len {
                    37 => (shape.query_offset(problem, row), plain.query_offset(problem, row)),
                    _ => (shape.key_offset(problem, row), plain.key_offset(problem, row)),
                };
                to[at..at + 64].copy_from_slice(&values[from..from + 64]);
            }
        }
        to
    };
    let sage = Sage::default();
    let rows = forward(&q, &k, &v, &shape, None, false, &sage).unwrap();
    let heads =
        forward(&planes(&q, 37), &planes(&k, 70), &planes(&v, 70), &shape.with_layout(HeadLayout::Bhld), None, false, &sage).unwrap();
    assert_eq!(planes(&rows, 37), heads);
}

#[test]
fn half_precision_operands_are_read_as_what_they_hold() {
    fn check<T: Element>(case: &Case, operands: Rounding) {
        let narrow = |values: &[f32]| values.iter().map(|v| T::narrow(*v)).collect::<Vec<T>>();
        let (q, k, v) = (narrow(&case.q), narrow(&case.k), narrow(&case.v));
        let got = forward(&q, &k, &v, &case.shape, None, false, &Sage::default()).unwrap();
        // The same numbers in f32 slices that stand for that format.
        let emulated = Sage { operands, ..Sage::default() };
        let want = forward(&case.q, &case.k, &case.v, &case.shape, None, false, &emulated).unwrap();
        if operands == Rounding::Bf16 {
            assert_eq!(got, want);
        } else {
            Verdict::of(&got, &want, Bound::relative_l2(1e-2)).demand("f16");
        }
    }
    let case = Case::of(Kind::Biased, 1, 40, 90, 64);
    check::<bf16>(&case, Rounding::Bf16);
    check::<f16>(&case, Rounding::None);
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let case = Case::of(Kind::Plain, 3, 300, 300, 64);
    let (map, _) = random_map(&case.shape, 128, 64, 2);
    let run = |threads: usize, values: ValuePrecision, map: Option<&BlockMap>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let sage = Sage::default().with_values(values);
        pool.install(|| forward(&case.q, &case.k, &case.v, &case.shape, map, false, &sage).unwrap())
    };
    for values in [ValuePrecision::F32, ValuePrecision::Int8] {
        for map in [None, Some(&map)] {
            let one = run(1, values, map);
            assert!([2, 5].into_iter().all(|threads| run(threads, values, map) == one));
        }
    }
}

#[test]
fn what_is_not_finite_is_never_hidden() {
    for isa in Isa::available() {
        for values in [ValuePrecision::F32, ValuePrecision::Int8] {
            let sage = Sage { isa, ..Sage::default() }.with_values(values);
            let clean = Case::of(Kind::Plain, 2, 70, 70, 64);
            let run = |case: &Case| forward(&case.q, &case.k, &case.v, &case.shape, None, false, &sage).unwrap();
            for spoil in [|case: &mut Case| case.k[5] = f32::NAN, |case: &mut Case| case.v[99] = f32::INFINITY] {
                let mut case = Case::of(Kind::Plain, 2, 70, 70, 64);
                spoil(&mut case);
                let out = run(&case);
                assert!(out[..70 * 64].iter().all(|value| value.is_nan()), "{isa:?} {values:?}");
                assert_eq!(out[70 * 64..], run(&clean)[70 * 64..]);
            }
            let mut case = Case::of(Kind::Plain, 2, 70, 70, 64);
            case.q[64 * 9] = f32::NAN;
            let out = run(&case);
            assert!(out[64 * 9..64 * 10].iter().all(|value| value.is_nan()) && out[64 * 8] == run(&clean)[64 * 8]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::of(Kind::Plain, 1, 70, 133, 64);
    let sage = Sage::default();
    let run = |q: &[f32], shape: &AttnShape, map: Option<&BlockMap>, causal: bool, sage: &Sage| {
        forward(q, &case.k, &case.v, shape, map, causal, sage)
    };
    assert!(matches!(run(&case.q[1..], &case.shape, None, false, &sage), Err(Error::Operand(_))));
    assert!(matches!(run(&case.q, &case.shape, None, true, &sage), Err(Error::CausalLengths { query_len: 70, key_len: 133 })));
    let other = AttnShape::cross(1, 1, 70, 200, 64).unwrap();
    let map = BlockMap::new(&other, 64, 64, 1, vec![0, 0]).unwrap();
    assert!(matches!(run(&case.q, &case.shape, Some(&map), false, &sage), Err(Error::MapShape { found_k: 4, key_blocks: 3, .. })));
    let tile = Tile { query_block: 100, query_warp: 32, ..Tile::SM80 };
    let odd = Sage { granularity: Granularity::PerWarp(tile), ..sage };
    assert!(matches!(run(&case.q, &case.shape, None, false, &odd), Err(Error::Setting { .. })));
}
