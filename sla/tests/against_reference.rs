//! Fast attention held to the oracle on awkward shapes, on every instruction set of the machine.

#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, HeadLayout, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sla as oracle;
use turbowan_sla::{
    Attend, Density, FeatureMap, Keys, LinearBranch, Projection, SparseLinear, attend_with_lse, block_map, linear_branch, pooled_scores,
};

/// Sums of a few hundred products of `f32` values of about 1.
const F32: Bound = Bound { max_abs: Some(2e-5), relative_l2: Some(2e-6), cosine: None };
/// Scores of outlier channels reach a thousand, where an `f32` step is 6e-5: probabilities move by as much.
const F32_OUTLIERS: Bound = Bound::relative_l2(3e-4);
/// bf16 keeps 8 bits: each stored result moves by up to 2^-9 of itself.
const BF16: Bound = Bound::relative_l2(6e-3);

const FEATURES: [(FeatureMap, oracle::FeatureMap); 3] = [
    (FeatureMap::Softmax, oracle::FeatureMap::Softmax),
    (FeatureMap::Elu, oracle::FeatureMap::Elu),
    (FeatureMap::Relu, oracle::FeatureMap::Relu),
];

struct Case {
    shape: AttnShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, shape: AttnShape) -> Self {
        let rows_of = |count: usize, seed| rows(kind, count / shape.head_dim, shape.head_dim, seed);
        Self { shape, q: rows_of(shape.query_values(), 1), k: rows_of(shape.key_values(), 2), v: rows_of(shape.key_values(), 3) }
    }

    fn rounded(mut self, rounding: Rounding) -> Self {
        for values in [&mut self.q, &mut self.k, &mut self.v] {
            rounding.apply_row(values);
        }
        self
    }

    fn head(&self) -> oracle::Head {
        oracle::Head { query_len: self.shape.query_len, key_len: self.shape.key_len, dim: self.shape.head_dim }
    }

    fn of_queries(&self, values: &[f32], problem: usize) -> Vec<f64> {
        let rows = (0..self.shape.query_len).map(|row| self.shape.query_offset(problem, row));
        rows.flat_map(|at| &values[at..at + self.shape.head_dim]).map(|value| f64::from(*value)).collect()
    }

    fn of_keys(&self, values: &[f32], problem: usize) -> Vec<f64> {
        let rows = (0..self.shape.key_len).map(|row| self.shape.key_offset(problem, row));
        rows.flat_map(|at| &values[at..at + self.shape.head_dim]).map(|value| f64::from(*value)).collect()
    }

    fn operands(&self, problem: usize) -> [Vec<f64>; 3] {
        [self.of_queries(&self.q, problem), self.of_keys(&self.k, problem), self.of_keys(&self.v, problem)]
    }

    fn name(&self, isa: Isa) -> String {
        format!("{:?} {isa:?}", self.shape)
    }
}

fn lists_of(map: &BlockMap, problem: usize) -> oracle::BlockLists {
    let list = |block| map.list(problem, block).iter().map(|key| *key as usize).collect();
    oracle::BlockLists { block_q: map.block_q(), block_k: map.block_k(), lists: (0..map.query_blocks()).map(list).collect() }
}

/// One row, ragged tails, prime lengths, head dims that fill no register, and another number of keys than queries.
fn shapes() -> Vec<AttnShape> {
    let sizes = [(1, 1, 1, 1, 1), (1, 2, 1, 97, 64), (2, 2, 67, 67, 20), (1, 3, 130, 41, 128), (1, 1, 197, 197, 64), (1, 1, 17, 70, 384)];
    let mut shapes = Vec::new();
    for (batch, heads, query_len, key_len, head_dim) in sizes {
        let shape = AttnShape::cross(batch, heads, query_len, key_len, head_dim).unwrap();
        shapes.extend([shape, shape.with_layout(HeadLayout::Blhd)]);
    }
    shapes
}

fn hold_dense(case: &Case, how: &Attend<'_>, bound: Bound) {
    let got = attend_with_lse(&case.q, &case.k, &case.v, &case.shape, how).unwrap();
    for problem in 0..case.shape.problems() {
        let [q, k, v] = case.operands(problem);
        let lists = match how.keys {
            Keys::All => None,
            Keys::Listed(map) => Some(lists_of(map, problem)),
        };
        let want = oracle::sparse_attention(&q, &k, &v, case.head(), lists.as_ref(), case.head().scale(), how.is_causal);
        Verdict::of(&case.of_queries(&got.out, problem), &want.out, bound).demand(&case.name(how.isa));
        let lse = &got.lse[problem * case.shape.query_len..][..case.shape.query_len];
        Verdict::of(lse, &want.lse, Bound::max_abs(4e-4)).demand(&format!("logarithms, {}", case.name(how.isa)));
    }
}

#[test]
fn dense_attention_matches_the_oracle() {
    for isa in Isa::available() {
        for shape in shapes() {
            hold_dense(&Case::new(Kind::Plain, shape), &Attend { isa, ..Attend::default() }, F32);
        }
    }
}

#[test]
fn every_kind_of_input_matches_the_oracle() {
    let shape = AttnShape::new(1, 2, 83, 40).unwrap();
    for isa in Isa::available() {
        for kind in Kind::ALL {
            let bound = if matches!(kind, Kind::OutlierChannel | Kind::Biased) { F32_OUTLIERS } else { F32 };
            hold_dense(&Case::new(kind, shape), &Attend { isa, ..Attend::default() }, bound);
        }
    }
}

#[test]
fn causal_attention_matches_the_oracle() {
    for isa in Isa::available() {
        for len in [1, 63, 64, 65, 200] {
            let shape = AttnShape::new(1, 2, len, 32).unwrap();
            hold_dense(&Case::new(Kind::Plain, shape), &Attend { isa, is_causal: true, ..Attend::default() }, F32);
        }
    }
}

#[test]
fn bf16_attention_matches_the_oracle_within_its_rounding() {
    let shape = AttnShape::new(1, 2, 150, 64).unwrap();
    for isa in Isa::available() {
        let case = Case::new(Kind::Plain, shape).rounded(Rounding::Bf16);
        hold_dense(&case, &Attend { isa, rounding: Rounding::Bf16, ..Attend::default() }, BF16);
    }
}

#[test]
fn attention_over_a_map_matches_the_oracle() {
    for isa in Isa::available() {
        for shape in shapes() {
            for (block_q, block_k) in [(128, 64), (64, 128), (5, 7), (200, 3)] {
                let case = Case::new(Kind::Plain, shape);
                let density = Density::new(0.4).unwrap();
                let map = block_map(&case.q, &case.k, &shape, (block_q, block_k), density, Rounding::None).unwrap();
                hold_dense(&case, &Attend { isa, keys: Keys::Listed(&map), ..Attend::default() }, F32);
            }
        }
    }
}

#[test]
fn block_maps_match_the_oracle() {
    for shape in shapes() {
        for (sides, share) in [((128, 64), 0.1), ((64, 128), 0.5), ((5, 7), 0.3), ((3, 2), 1.0)] {
            let case = Case::new(Kind::Plain, shape);
            let scores = pooled_scores(&case.q, &case.k, &shape, sides, Rounding::None).unwrap();
            let map = block_map(&case.q, &case.k, &shape, sides, Density::new(share).unwrap(), Rounding::None).unwrap();
            let key_blocks = shape.key_len.div_ceil(sides.1);
            assert_eq!(map.kept(), oracle::kept_blocks(share, key_blocks));
            for problem in 0..shape.problems() {
                let [q, k, _] = case.operands(problem);
                let want = oracle::pooled_scores(&q, &k, case.head(), sides.0, sides.1);
                Verdict::of(&scores[problem * want.len()..][..want.len()], &want, Bound::max_abs(2e-5)).demand("pooled scores");
                let want = oracle::block_map(&q, &k, case.head(), sides.0, sides.1, map.kept());
                assert_eq!(lists_of(&map, problem), want, "{shape:?} {sides:?}");
            }
        }
    }
}

#[test]
fn bf16_block_scores_round_where_the_official_code_stores() {
    let shape = AttnShape::new(1, 1, 5, 2).unwrap();
    let bf16 = |value: f32| Rounding::Bf16.apply(value);
    let (q, k) = (rows(Kind::Biased, 5, 2, 1).into_iter().map(bf16).collect::<Vec<_>>(), rows(Kind::Biased, 5, 2, 2));
    let k: Vec<f32> = k.into_iter().map(bf16).collect();
    let pooled = |values: &[f32], channel: usize, rows: std::ops::Range<usize>| {
        let count = rows.len() as f32;
        bf16(rows.map(|row| values[row * 2 + channel]).sum::<f32>() / count)
    };
    let means = [pooled(&k, 0, 0..5), pooled(&k, 1, 0..5)];
    let smooth: Vec<f32> = k.iter().enumerate().map(|(at, value)| bf16(value - means[at % 2])).collect();
    let mut want = Vec::new();
    for query in [0..3, 3..5] {
        for key in [0..2, 2..4, 4..5] {
            let product = |channel| pooled(&q, channel, query.clone()) * pooled(&smooth, channel, key.clone());
            want.push(bf16(product(0) + product(1)));
        }
    }
    assert_eq!(pooled_scores(&q, &k, &shape, (3, 2), Rounding::Bf16).unwrap(), want);
}

fn projection(dim: usize) -> (Vec<f32>, Vec<f32>) {
    (normal(dim * dim, 5).into_iter().map(|value| value / (dim as f32).sqrt()).collect(), normal(dim, 6))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

#[test]
fn the_linear_branch_matches_the_oracle() {
    for isa in Isa::available() {
        for shape in shapes().into_iter().chain([AttnShape::new(1, 1, 1100, 32).unwrap()]) {
            for (features, oracle_features) in FEATURES {
                for (rounding, bound) in [(Rounding::None, F32), (Rounding::Bf16, Bound::relative_l2(1.2e-2))] {
                    let case = Case::new(Kind::Plain, shape).rounded(rounding);
                    let (weight, bias) = projection(shape.head_dim);
                    let with = Some(Projection { weight: &weight, bias: &bias });
                    for projection in [None, with] {
                        let how = LinearBranch { features, projection, rounding, isa };
                        let got = linear_branch(&case.q, &case.k, &case.v, &shape, &how).unwrap();
                        for problem in 0..shape.problems() {
                            let [q, k, v] = case.operands(problem);
                            let mut want = oracle::linear_branch(&q, &k, &v, case.head(), oracle_features);
                            if projection.is_some() {
                                want = oracle::Projection { weight: &wide(&weight), bias: &wide(&bias) }.apply(&want);
                            }
                            let bound =
                                if features == FeatureMap::Relu && rounding == Rounding::None { Bound::relative_l2(1e-5) } else { bound };
                            let name = format!("{features:?} {rounding:?} {}", case.name(isa));
                            Verdict::of(&case.of_queries(&got, problem), &want, bound).demand(&name);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn forward_and_backward_match_the_oracle() {
    for isa in Isa::available() {
        for shape in shapes() {
            for (block_q, block_k) in [(128, 64), (5, 70)] {
                for (features, oracle_features) in FEATURES {
                    hold_gradients(&Case::new(Kind::Plain, shape), (block_q, block_k), features, oracle_features, isa);
                }
            }
        }
    }
}

fn hold_gradients(case: &Case, (block_q, block_k): (usize, usize), features: FeatureMap, oracle_features: oracle::FeatureMap, isa: Isa) {
    let shape = case.shape;
    let (weight, bias) = projection(shape.head_dim);
    let sla = SparseLinear {
        density: Density::new(0.5).unwrap(),
        block_q,
        block_k,
        features,
        projection: Projection { weight: &weight, bias: &bias },
        outer: Rounding::None,
        inner: Rounding::None,
        isa,
    };
    let out_gradient = normal(shape.query_values(), 7);
    let (out, saved) = sla.forward_saved(&case.q, &case.k, &case.v, &shape).unwrap();
    assert_eq!(out, sla.forward(&case.q, &case.k, &case.v, &shape).unwrap());
    let got = sla.backward(&case.q, &case.k, &case.v, &shape, &saved, &out_gradient).unwrap();

    let (weight, bias) = (wide(&weight), wide(&bias));
    let projection = oracle::Projection { weight: &weight, bias: &bias };
    let (mut want_weight, mut want_bias) = (vec![0.0; weight.len()], vec![0.0; bias.len()]);
    // a row whose relu features are nearly all zero divides by 1e-5: gradients there reach 1e5
    let share = if features == FeatureMap::Relu { 1e-4 } else { 1e-5 };
    let bound = |want: &[f64]| Bound::max_abs(share * want.iter().fold(1.0, |largest: f64, value| largest.max(value.abs())));
    let name = |what| format!("{what} {features:?} {}", case.name(isa));
    for problem in 0..shape.problems() {
        let [q, k, v] = case.operands(problem);
        let lists = lists_of(&saved.map, problem);
        let want = oracle::forward(&q, &k, &v, case.head(), &lists, oracle_features, projection);
        Verdict::of(&case.of_queries(&out, problem), &want, bound(&want)).demand(&name("output"));
        let grad = case.of_queries(&out_gradient, problem);
        let want = oracle::backward(&q, &k, &v, &grad, case.head(), &lists, oracle_features, projection);
        Verdict::of(&case.of_queries(&got.q, problem), &want.q, bound(&want.q)).demand(&name("dq"));
        Verdict::of(&case.of_keys(&got.k, problem), &want.k, bound(&want.k)).demand(&name("dk"));
        Verdict::of(&case.of_keys(&got.v, problem), &want.v, bound(&want.v)).demand(&name("dv"));
        want_weight.iter_mut().zip(&want.weight).for_each(|(total, value)| *total += value);
        want_bias.iter_mut().zip(&want.bias).for_each(|(total, value)| *total += value);
    }
    Verdict::of(&got.weight, &want_weight, bound(&want_weight)).demand(&name("dW"));
    Verdict::of(&got.bias, &want_bias, bound(&want_bias)).demand(&name("db"));
}
