//! What must hold of attention whatever the numbers are, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, HeadLayout, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sla::{
    Attend, Density, Error, FeatureMap, Keys, LinearBranch, Projection, SparseLinear, add_linear_branch, attend, attend_with_lse,
    block_map, linear_branch,
};

/// Rounding of `f32` sums.
const F32: Bound = Bound::max_abs(1e-5);

fn sparse_linear<'a>(density: f64, weight: &'a [f32], bias: &'a [f32], inner: Rounding) -> SparseLinear<'a> {
    SparseLinear {
        density: Density::new(density).unwrap(),
        block_q: 128,
        block_k: 64,
        features: FeatureMap::Softmax,
        projection: Projection { weight, bias },
        outer: inner,
        inner,
        isa: Isa::detect(),
    }
}

fn operands(shape: &AttnShape) -> [Vec<f32>; 3] {
    [normal(shape.query_values(), 1), normal(shape.key_values(), 2), normal(shape.key_values(), 3)]
}

#[test]
fn the_whole_map_and_a_zero_projection_are_dense_attention() {
    let shape = AttnShape::new(2, 2, 300, 64).unwrap();
    let [q, k, v] = operands(&shape);
    let (weight, bias) = (vec![0.0; 64 * 64], vec![0.0; 64]);
    let got = sparse_linear(1.0, &weight, &bias, Rounding::None).forward(&q, &k, &v, &shape).unwrap();
    assert_eq!(got, attend(&q, &k, &v, &shape, &Attend::default()).unwrap());
}

#[test]
fn a_constant_value_is_returned() {
    let shape = AttnShape::new(1, 2, 150, 40).unwrap();
    let [q, k, _] = operands(&shape);
    let v = vec![0.75; shape.key_values()];
    for isa in Isa::available() {
        let map = block_map(&q, &k, &shape, (64, 32), Density::new(0.3).unwrap(), Rounding::None).unwrap();
        for keys in [Keys::All, Keys::Listed(&map)] {
            let got = attend(&q, &k, &v, &shape, &Attend { keys, isa, ..Attend::default() }).unwrap();
            Verdict::of(&got, &v, F32).demand("softmax");
        }
        let how = LinearBranch { features: FeatureMap::Softmax, projection: None, rounding: Rounding::None, isa };
        Verdict::of(&linear_branch(&q, &k, &v, &shape, &how).unwrap(), &v, F32).demand("linear");
    }
}

#[test]
fn one_vector_added_to_every_key_changes_neither_the_map_nor_attention() {
    let shape = AttnShape::new(1, 1, 260, 32).unwrap();
    let [q, k, v] = operands(&shape);
    let moved: Vec<f32> = k.iter().enumerate().map(|(at, value)| value + (at % 32) as f32 * 0.25).collect();
    let density = Density::new(0.5).unwrap();
    let map = |k: &[f32]| block_map(&q, k, &shape, (32, 16), density, Rounding::None).unwrap();
    assert_eq!(map(&k), map(&moved));
    let out = |k: &[f32]| attend(&q, k, &v, &shape, &Attend::default()).unwrap();
    Verdict::of(&out(&k), &out(&moved), Bound::max_abs(1e-4)).demand("moved keys");
}

#[test]
fn both_layouts_give_the_same_bytes() {
    let bhld = AttnShape::new(2, 3, 140, 24).unwrap();
    let blhd = bhld.with_layout(HeadLayout::Blhd);
    let turned = |values: &[f32]| {
        let mut turned = vec![0.0; values.len()];
        for problem in 0..bhld.problems() {
            for row in 0..bhld.query_len {
                turned[blhd.query_offset(problem, row)..][..24].copy_from_slice(&values[bhld.query_offset(problem, row)..][..24]);
            }
        }
        turned
    };
    let (weight, bias) = (normal(24 * 24, 4), normal(24, 5));
    let gradient = normal(bhld.query_values(), 6);
    for rounding in [Rounding::None, Rounding::Bf16] {
        let [q, k, v] = operands(&bhld).map(|mut values| {
            rounding.apply_row(&mut values);
            values
        });
        let sla = sparse_linear(0.5, &weight, &bias, rounding);
        let (out, saved) = sla.forward_saved(&q, &k, &v, &bhld).unwrap();
        let grads = sla.backward(&q, &k, &v, &bhld, &saved, &gradient).unwrap();
        let [q, k, v] = [&q, &k, &v].map(|values| turned(values));
        let (other_out, other_saved) = sla.forward_saved(&q, &k, &v, &blhd).unwrap();
        let other = sla.backward(&q, &k, &v, &blhd, &other_saved, &turned(&gradient)).unwrap();
        assert_eq!(turned(&out), other_out);
        assert_eq!([turned(&grads.q), turned(&grads.k), turned(&grads.v)], [other.q, other.k, other.v]);
        assert_eq!((grads.weight, grads.bias), (other.weight, other.bias));
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let shape = AttnShape::new(1, 3, 1300, 32).unwrap();
    let [q, k, v] = operands(&shape);
    let (weight, bias, gradient) = (normal(32 * 32, 4), normal(32, 5), normal(shape.query_values(), 6));
    let work = || {
        let sla = sparse_linear(0.3, &weight, &bias, Rounding::None);
        let (out, saved) = sla.forward_saved(&q, &k, &v, &shape).unwrap();
        let gradients = sla.backward(&q, &k, &v, &shape, &saved, &gradient).unwrap();
        (out, saved, gradients, attend_with_lse(&q, &k, &v, &shape, &Attend::default()).unwrap())
    };
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work);
    let one = on(1);
    for threads in [2, 5] {
        assert!(one == on(threads), "{threads} threads");
    }
}

#[test]
fn the_linear_branch_may_be_added_to_another_sparse_branch() {
    let shape = AttnShape::new(1, 2, 100, 48).unwrap();
    let (weight, bias) = (normal(48 * 48, 4), normal(48, 5));
    for rounding in [Rounding::None, Rounding::Bf16] {
        let [q, k, v] = operands(&shape).map(|mut values| {
            rounding.apply_row(&mut values);
            values
        });
        let sla = sparse_linear(0.5, &weight, &bias, rounding);
        let map = sla.map(&q, &k, &shape).unwrap();
        let how = Attend { keys: Keys::Listed(&map), rounding, ..Attend::default() };
        let mut out = attend(&q, &k, &v, &shape, &how).unwrap();
        let linear = LinearBranch { features: sla.features, projection: Some(sla.projection), rounding, isa: sla.isa };
        let want: Vec<f32> = out
            .iter()
            .zip(linear_branch(&q, &k, &v, &shape, &linear).unwrap())
            .map(|(sparse, linear)| rounding.apply(sparse + linear))
            .collect();
        add_linear_branch(&q, &k, &v, &shape, &linear, &mut out).unwrap();
        assert_eq!(out, want);
        assert_eq!(out, sla.forward(&q, &k, &v, &shape).unwrap());
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let shape = AttnShape::new(1, 1, 130, 64).unwrap();
    let (weight, bias) = (normal(64 * 64, 4), normal(64, 5));
    for isa in Isa::available() {
        for operand in 0..3 {
            let mut operands = operands(&shape);
            operands[operand][70 * 64 + 5] = f32::NAN;
            let [q, k, v] = operands;
            let dense = attend(&q, &k, &v, &shape, &Attend { isa, ..Attend::default() }).unwrap();
            assert!(dense[70 * 64..71 * 64].iter().any(|value| value.is_nan()), "{isa:?} {operand}");
            let sla = SparseLinear { isa, ..sparse_linear(0.4, &weight, &bias, Rounding::None) };
            let sparse = sla.forward(&q, &k, &v, &shape).unwrap();
            assert!(sparse[70 * 64..71 * 64].iter().any(|value| value.is_nan()), "{isa:?} {operand}");
        }
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let shape = AttnShape::new(1, 1, 200, 64).unwrap();
    for isa in Isa::available() {
        let [q, k] = [1, 2].map(|seed| rows(Kind::OutlierChannel, 200, 64, seed).into_iter().map(|x| x * 100.0).collect::<Vec<_>>());
        let v = normal(shape.key_values(), 3);
        let got = attend_with_lse(&q, &k, &v, &shape, &Attend { isa, ..Attend::default() }).unwrap();
        assert!(got.out.iter().chain(&got.lse).all(|value| value.is_finite()), "{isa:?}");
    }
}

#[test]
fn densities_outside_their_range_do_not_exist() {
    for share in [0.0, -0.1, 1.0001, f64::NAN, f64::INFINITY] {
        assert_eq!(Density::new(share), None, "{share}");
    }
    assert_eq!(Density::new(0.1).unwrap().blocks(512), 51);
    assert_eq!(Density::new(0.1).unwrap().blocks(3), 1);
    assert_eq!(Density::new(1.0).unwrap().blocks(11), 11);
    assert_eq!(Density::new(0.29).unwrap().blocks(100), 28);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let shape = AttnShape::new(1, 1, 10, 8).unwrap();
    let [q, k, v] = operands(&shape);
    let short = turbowan_cuda::Error::Length { what: "keys", expected: 80, found: 79 };
    assert_eq!(attend(&q, &k[1..], &v, &shape, &Attend::default()), Err(Error::Ground(short)));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let refused = attend(&q, &k, &v, &shape, &Attend { scale: Some(scale), ..Attend::default() });
        assert!(matches!(refused, Err(Error::Scale { .. })), "{scale}");
    }
    let cross = AttnShape::cross(1, 1, 10, 5, 8).unwrap();
    let causal = Attend { is_causal: true, ..Attend::default() };
    assert_eq!(attend(&q, &k[..40], &v[..40], &cross, &causal), Err(Error::Causal { query_len: 10, key_len: 5 }));
    let map = BlockMap::new(&AttnShape::new(1, 1, 20, 8).unwrap(), 5, 5, 1, vec![0; 4]).unwrap();
    let foreign = attend(&q, &k, &v, &shape, &Attend { keys: Keys::Listed(&map), ..Attend::default() });
    assert!(matches!(foreign, Err(Error::MapShape { expected: (2, 2), found: (4, 4), .. })));
    let heads = BlockMap::new(&AttnShape::new(1, 2, 10, 8).unwrap(), 5, 5, 1, vec![0; 4]).unwrap();
    let foreign = attend(&q, &k, &v, &shape, &Attend { keys: Keys::Listed(&heads), ..Attend::default() });
    assert!(matches!(foreign, Err(Error::MapShape { expected_problems: 1, found_problems: 2, .. })));
    let refused = sparse_linear(0.5, &[0.0; 63], &[0.0; 8], Rounding::None).forward(&q, &k, &v, &shape);
    let weight = turbowan_cuda::Error::Length { what: "projection weight", expected: 64, found: 63 };
    assert_eq!(refused, Err(Error::Ground(weight)));
}
