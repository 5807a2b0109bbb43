//! The linear branch on every device: its state, its folded projection, its rows and their gradients, held to the f64
//! oracle and to recorded gradients of the official code.

use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;
use turbowan_cuda::device::{Buffer, Device, Stream};
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, Error, HeadLayout, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sla as oracle;
use turbowan_sla::device::linear::{
    Fold, LinearApply, LinearFold, LinearState, ValueRows, folded, folded_values, partial_values, state_values,
};
use turbowan_sla::device::linear_backward::{LinearBackward, LinearGradients, LinearOperands, LinearRoom};
use turbowan_sla::{FeatureMap, LinearBranch, Projection, linear_branch};

use crate::{bf16s, devices, devices_in_all_ways};

/// A feature moves by half a unit of bf16's 8 bits, 2^-9, and so does a sum of them that agree.
const STATE: Bound = Bound::relative_l2(2e-3);
/// One rounding to bf16 of an f32 sum.
const FOLDED: Bound = Bound::relative_l2(2e-3);
/// Roundings to bf16 of the features of keys and queries, of the folded state and of the result.
const ROWS: Bound = Bound::relative_l2(4.5e-3);
/// The same, and of `g / d`, of `dH`, and of a sum over channels that the softmax takes away from them.
const GRADIENT: Bound = Bound::relative_l2(1e-2);
/// One key, whose value every row returns: what is left of the gradients of q and k is the rounding of terms of about 1
/// that cancel.
const ONE_KEY: Bound = Bound::max_abs(3e-2);
/// Sums of bf16 values in f32.
const EXACT_SUMS: Bound = Bound::relative_l2(1e-5);

const FEATURES: [(FeatureMap, oracle::FeatureMap); 3] = [
    (FeatureMap::Softmax, oracle::FeatureMap::Softmax),
    (FeatureMap::Elu, oracle::FeatureMap::Elu),
    (FeatureMap::Relu, oracle::FeatureMap::Relu),
];

fn f32s(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// One layer's operands, which hold bf16 values.
struct Case {
    shape: AttnShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out_gradient: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// What the forward pass leaves.
struct Forward {
    state: Vec<f32>,
    folded: Vec<bf16>,
    out: Vec<f32>,
}

/// What the backward pass gives.
#[derive(Debug, PartialEq)]
struct Gradients {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, shape: AttnShape) -> Self {
        let dim = shape.head_dim;
        let rows = |count: usize, seed| f32s(&bf16s(&input(kind, count / dim, dim, seed)));
        Self {
            shape,
            q: rows(shape.query_values(), 1),
            k: rows(shape.key_values(), 2),
            v: rows(shape.key_values(), 3),
            out_gradient: f32s(&bf16s(&normal(shape.query_values(), 4))),
            weight: normal(dim * dim, 5).into_iter().map(|value| value / (dim as f32).sqrt()).collect(),
            bias: normal(dim, 6),
        }
    }

    fn upload(&self, stream: &Stream) -> [Buffer<bf16>; 4] {
        [&self.q, &self.k, &self.v, &self.out_gradient].map(|values| stream.upload(&bf16s(values)).unwrap())
    }

    fn forward(&self, device: &Device, features: FeatureMap, projects: bool, sparse: Option<&[f32]>) -> Forward {
        let stream = device.stream().unwrap();
        let [q, k, v, _] = self.upload(&stream);
        let (weight, bias) = (stream.upload(&self.weight).unwrap(), stream.upload(&self.bias).unwrap());
        let mut partial = stream.allocate(partial_values(&self.shape)).unwrap();
        let mut state = stream.allocate(state_values(&self.shape)).unwrap();
        let mut folded = stream.allocate(folded_values(&self.shape)).unwrap();
        let held = sparse.map_or(vec![0.0; self.q.len()], <[f32]>::to_vec);
        let mut out = stream.upload(&bf16s(&held)).unwrap();
        let kernel = LinearState::load(device).unwrap();
        kernel.run(&stream, &self.shape, features, k.view(), v.view(), partial.view_mut(), state.view_mut()).unwrap();
        let fold = if projects { Fold::Transposed(weight.view()) } else { Fold::Plain };
        LinearFold::load(device).unwrap().run(&stream, self.shape.head_dim, state.view(), fold, folded.view_mut()).unwrap();
        let bias = projects.then(|| bias.view());
        let kernel = LinearApply::load(device).unwrap();
        kernel.run(&stream, &self.shape, features, q.view(), folded.view(), bias, sparse.is_some(), out.view_mut()).unwrap();
        Forward { state: state.to_vec().unwrap(), folded: folded.to_vec().unwrap(), out: f32s(&out.to_vec().unwrap()) }
    }

    /// Gradients added to `held` in each of q, k and v, or written.
    fn backward(&self, device: &Device, features: FeatureMap, forward: &Forward, projects: bool, held: Option<f32>) -> Gradients {
        let stream = device.stream().unwrap();
        let [q, k, v, out_gradient] = self.upload(&stream);
        let (state, folded) = (stream.upload(&forward.state).unwrap(), stream.upload(&forward.folded).unwrap());
        let weight = stream.upload(&self.weight).unwrap();
        let start = |count| stream.upload(&vec![held.unwrap_or(f32::NAN); count]).unwrap();
        let (mut dq, mut dk, mut dv) = (start(self.q.len()), start(self.k.len()), start(self.v.len()));
        let (mut dw, mut db) = (start(self.weight.len()), start(self.bias.len()));
        let mut room = LinearRoom::allocate(&stream, &self.shape).unwrap();
        let operands = LinearOperands {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            out_gradient: out_gradient.view(),
            state: state.view(),
            folded: folded.view(),
            weight: projects.then(|| weight.view()),
        };
        let gradients = LinearGradients {
            q: dq.view_mut(),
            k: dk.view_mut(),
            v: dv.view_mut(),
            projection: projects.then(|| [dw.view_mut(), db.view_mut()]),
            adds: held.is_some(),
        };
        LinearBackward::load(device).unwrap().run(&stream, &self.shape, features, &operands, &mut room, gradients).unwrap();
        let [q, k, v, weight, bias] = [dq, dk, dv, dw, db].map(|buffer| buffer.to_vec().unwrap());
        Gradients { q, k, v, weight, bias }
    }

    fn of_queries(&self, values: &[f32], problem: usize) -> Vec<f64> {
        let rows = (0..self.shape.query_len).map(|row| self.shape.query_offset(problem, row));
        rows.flat_map(|at| &values[at..at + self.shape.head_dim]).map(|value| f64::from(*value)).collect()
    }

    fn of_keys(&self, values: &[f32], problem: usize) -> Vec<f64> {
        let rows = (0..self.shape.key_len).map(|row| self.shape.key_offset(problem, row));
        rows.flat_map(|at| &values[at..at + self.shape.head_dim]).map(|value| f64::from(*value)).collect()
    }

    fn head(&self) -> oracle::Head {
        oracle::Head { query_len: self.shape.query_len, key_len: self.shape.key_len, dim: self.shape.head_dim }
    }

    /// `H` and `z` of a head, in f64.
    fn true_state(&self, problem: usize, features: oracle::FeatureMap) -> Vec<f64> {
        let dim = self.shape.head_dim;
        let mut state = vec![0.0; (dim + 1) * dim];
        let (k, v) = (self.of_keys(&self.k, problem), self.of_keys(&self.v, problem));
        for (k, v) in k.chunks(dim).zip(v.chunks(dim)) {
            for (d, c) in features.apply(k).into_iter().enumerate() {
                state[d * dim..][..dim].iter_mut().zip(v).for_each(|(sum, v)| *sum += c * v);
                state[dim * dim + d] += c;
            }
        }
        state
    }

    fn identity(&self) -> (Vec<f64>, Vec<f64>) {
        let dim = self.shape.head_dim;
        ((0..dim * dim).map(|at| f64::from(at / dim == at % dim)).collect(), vec![0.0; dim])
    }

    fn hold_forward(&self, got: &Forward, features: oracle::FeatureMap, projects: bool, sparse: Option<&[f32]>, what: &str) {
        let (weight, bias) = if projects { (wide(&self.weight), wide(&self.bias)) } else { self.identity() };
        let values = (self.shape.head_dim + 1) * self.shape.head_dim;
        for problem in 0..self.shape.problems() {
            let what = format!("{what}, problem {problem}");
            let want = self.true_state(problem, features);
            Verdict::of(&got.state[problem * values..][..values], &want, STATE).demand(&format!("state, {what}"));
            let [q, k, v] = [self.of_queries(&self.q, problem), self.of_keys(&self.k, problem), self.of_keys(&self.v, problem)];
            let branch = oracle::linear_branch(&q, &k, &v, self.head(), features);
            let mut want = oracle::Projection { weight: &weight, bias: &bias }.apply(&branch);
            if let Some(sparse) = sparse {
                want.iter_mut().zip(self.of_queries(sparse, problem)).for_each(|(want, held)| *want += held);
            }
            Verdict::of(&self.of_queries(&got.out, problem), &want, ROWS).demand(&format!("rows, {what}"));
        }
        let weight = projects.then_some((self.weight.as_slice(), true));
        assert_eq!(got.folded, folded(&got.state, self.shape.head_dim, self.shape.problems(), weight), "{what}");
    }

    fn true_gradients(&self, problem: usize, features: oracle::FeatureMap, projects: bool) -> oracle::LinearGradients {
        let (weight, bias) = if projects { (wide(&self.weight), wide(&self.bias)) } else { self.identity() };
        let [q, g] = [&self.q, &self.out_gradient].map(|values| self.of_queries(values, problem));
        let [k, v] = [&self.k, &self.v].map(|values| self.of_keys(values, problem));
        oracle::linear_backward(&q, &k, &v, &g, self.head(), features, oracle::Projection { weight: &weight, bias: &bias })
    }

    fn hold_backward(&self, got: &Gradients, features: oracle::FeatureMap, projects: bool, bound: Bound, what: &str) {
        let (mut weight, mut bias) = (vec![0.0; self.weight.len()], vec![0.0; self.bias.len()]);
        for problem in 0..self.shape.problems() {
            let want = self.true_gradients(problem, features, projects);
            Verdict::of(&self.of_queries(&got.q, problem), &want.q, bound).demand(&format!("dq, {what}"));
            Verdict::of(&self.of_keys(&got.k, problem), &want.k, bound).demand(&format!("dk, {what}"));
            Verdict::of(&self.of_keys(&got.v, problem), &want.v, bound).demand(&format!("dv, {what}"));
            weight.iter_mut().zip(&want.weight).for_each(|(sum, value)| *sum += value);
            bias.iter_mut().zip(&want.bias).for_each(|(sum, value)| *sum += value);
        }
        if projects {
            Verdict::of(&got.weight, &weight, bound).demand(&format!("dW, {what}"));
            Verdict::of(&got.bias, &bias, EXACT_SUMS).demand(&format!("db, {what}"));
        }
    }
}

fn shape(batch: usize, heads: usize, query_len: usize, key_len: usize, head_dim: usize, layout: HeadLayout) -> AttnShape {
    AttnShape::cross(batch, heads, query_len, key_len, head_dim).unwrap().with_layout(layout)
}

/// One row; ragged tails of tiles and warps; more than a chunk of keys, and of queries.
fn shapes() -> Vec<AttnShape> {
    vec![
        shape(1, 1, 1, 1, 64, HeadLayout::Bhld),
        shape(1, 2, 37, 97, 128, HeadLayout::Blhd),
        shape(2, 1, 65, 33, 64, HeadLayout::Bhld),
        shape(1, 1, 17, 545, 128, HeadLayout::Bhld),
        shape(1, 1, 530, 20, 64, HeadLayout::Blhd),
    ]
}

#[test]
fn state_rows_and_gradients_match_the_oracle_in_all_ways() {
    for (index, device) in devices_in_all_ways().into_iter().enumerate() {
        for shape in shapes() {
            let (features, truth) = FEATURES[index % 3];
            let case = Case::new(Kind::Plain, shape);
            let what = format!("{device:?} {shape:?} {features:?}");
            let forward = case.forward(&device, features, true, None);
            case.hold_forward(&forward, truth, true, None, &what);
            let got = case.backward(&device, features, &forward, true, None);
            case.hold_backward(&got, truth, true, if shape.key_len == 1 { ONE_KEY } else { GRADIENT }, &what);
        }
    }
}

#[test]
fn a_folded_projection_matches_the_oracle() {
    for device in devices() {
        for (dim, rows, problems) in [(64, 65, 3), (128, 130, 2)] {
            let (state, weight) = (normal(problems * rows * dim, 1), normal(dim * dim, 2));
            let stream = device.stream().unwrap();
            let (on_device, w) = (stream.upload(&state).unwrap(), stream.upload(&weight).unwrap());
            for is_transposed in [false, true] {
                let fold = if is_transposed { Fold::Transposed(w.view()) } else { Fold::Straight(w.view()) };
                let mut out = stream.allocate(problems * (dim + 1) * dim).unwrap();
                LinearFold::load(&device).unwrap().run(&stream, dim, on_device.view(), fold, out.view_mut()).unwrap();
                let got = out.to_vec().unwrap();
                assert_eq!(got, folded(&state, dim, problems, Some((&weight, is_transposed))));
                let mut want = Vec::new();
                for state in state.chunks(rows * dim) {
                    for column in 0..dim {
                        let at = |e: usize| f64::from(weight[if is_transposed { column * dim + e } else { e * dim + column }]);
                        want.extend((0..dim).map(|d| (0..dim).map(|e| f64::from(state[d * dim + e]) * at(e)).sum::<f64>()));
                    }
                    want.extend(state[dim * dim..][..dim].iter().map(|value| f64::from(*value)));
                }
                Verdict::of(&f32s(&got), &want, FOLDED).demand(&format!("{device:?} {dim} {is_transposed}"));
            }
        }
    }
}

#[test]
fn every_kind_of_input_and_every_feature_map_match_the_oracle() {
    let shape = shape(1, 2, 70, 100, 64, HeadLayout::Blhd);
    for device in devices() {
        for (features, truth) in FEATURES {
            for kind in Kind::ALL {
                let case = Case::new(kind, shape);
                for projects in [false, true] {
                    let sparse = projects.then(|| f32s(&bf16s(&normal(case.q.len(), 8))));
                    let what = format!("{device:?} {features:?} {kind:?} {projects}");
                    let got = case.forward(&device, features, projects, sparse.as_deref());
                    case.hold_forward(&got, truth, projects, sparse.as_deref(), &what);
                    if matches!(kind, Kind::Plain | Kind::OutlierChannel) {
                        let got = case.backward(&device, features, &got, projects, None);
                        case.hold_backward(&got, truth, projects, GRADIENT, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn values_of_ten_thousand_stay_finite() {
    for device in devices() {
        for (features, truth) in FEATURES {
            let mut case = Case::new(Kind::Plain, shape(1, 1, 40, 50, 128, HeadLayout::Bhld));
            for values in [&mut case.q, &mut case.k, &mut case.v] {
                values.iter_mut().for_each(|value| *value = bf16::from_f32(*value * 1e4).to_f32());
            }
            let forward = case.forward(&device, features, true, None);
            case.hold_forward(&forward, truth, true, None, &format!("{device:?} {features:?}"));
            let got = case.backward(&device, features, &forward, true, None);
            for values in [&got.q, &got.k, &got.v, &got.weight, &got.bias] {
                assert!(values.iter().all(|value| value.is_finite()), "{features:?}");
            }
        }
    }
}

#[test]
fn rows_are_those_of_the_host_twin() {
    let shape = shape(1, 2, 130, 600, 128, HeadLayout::Blhd);
    let case = Case::new(Kind::Plain, shape);
    let projection = Some(Projection { weight: &case.weight, bias: &case.bias });
    let how = LinearBranch { features: FeatureMap::Softmax, projection, rounding: Rounding::Bf16, isa: Isa::detect() };
    let want = linear_branch(&case.q, &case.k, &case.v, &shape, &how).unwrap();
    for device in devices() {
        let got = case.forward(&device, FeatureMap::Softmax, true, None);
        // the twin rounds H, the numerator, the denominator and the quotient as well, as the official code does
        Verdict::of(&got.out, &want, Bound::relative_l2(1e-2)).demand(&format!("{device:?}"));
    }
}

#[test]
fn one_constant_value_is_returned_and_a_zero_projection_gives_the_bias() {
    for device in devices() {
        for (features, _) in FEATURES {
            let mut case = Case::new(Kind::Plain, shape(1, 1, 20, 64, 64, HeadLayout::Bhld));
            case.v.fill(1.5);
            let got = case.forward(&device, features, false, None);
            let bound = Bound::relative_l2(4e-3); // the roundings of the features do not matter, those of H and z do
            Verdict::of(&got.out, &vec![1.5; got.out.len()], bound).demand(&format!("{features:?}"));
            case.weight.fill(0.0);
            let got = case.forward(&device, features, true, None);
            let want: Vec<f32> = case.bias.iter().map(|bias| bf16::from_f32(*bias).to_f32()).cycle().take(got.out.len()).collect();
            assert_eq!(got.out, want);
        }
    }
}

#[test]
fn gradients_are_added_to_those_of_the_sparse_branch_and_a_repeat_gives_the_same_bits() {
    for device in devices() {
        let case = Case::new(Kind::Plain, shape(2, 2, 67, 40, 64, HeadLayout::Blhd));
        let forward = case.forward(&device, FeatureMap::Softmax, true, None);
        let got = case.backward(&device, FeatureMap::Softmax, &forward, true, None);
        assert_eq!(got, case.backward(&device, FeatureMap::Softmax, &forward, true, None));
        let added = case.backward(&device, FeatureMap::Softmax, &forward, true, Some(0.5));
        for (alone, added) in [(&got.q, &added.q), (&got.k, &added.k), (&got.v, &added.v)] {
            assert!(alone.iter().zip(added).all(|(alone, added)| 0.5 + alone == *added));
        }
        assert_eq!((got.weight, got.bias), (added.weight, added.bias));
    }
}

/// Central differences of the oracle's loss in directions that bf16 can take: the gradient along a random direction.
#[test]
fn gradients_equal_finite_differences_on_a_tiny_case() {
    let case = Case::new(Kind::Plain, shape(1, 1, 5, 7, 64, HeadLayout::Bhld));
    for device in devices() {
        for (features, truth) in FEATURES {
            let forward = case.forward(&device, features, true, None);
            let got = case.backward(&device, features, &forward, true, None);
            let [q, k, v, g, weight, bias] = [&case.q, &case.k, &case.v, &case.out_gradient, &case.weight, &case.bias].map(|x| wide(x));
            let loss = |q: &[f64], k: &[f64], v: &[f64], weight: &[f64]| -> f64 {
                let branch = oracle::linear_branch(q, k, v, case.head(), truth);
                let out = oracle::Projection { weight, bias: &bias }.apply(&branch);
                out.iter().zip(&g).map(|(out, g)| out * g).sum()
            };
            let (mut error, mut size) = (0.0, 0.0);
            for trial in 0..12 {
                let along = |count: usize, seed: u64| wide(&normal(count, 100 + 10 * trial + seed));
                let (aq, ak, av, aw) = (along(q.len(), 1), along(k.len(), 2), along(v.len(), 3), along(weight.len(), 4));
                let step = 1e-6;
                let moved = |sign: f64| {
                    let add = |x: &[f64], a: &[f64]| x.iter().zip(a).map(|(x, a)| x + sign * step * a).collect::<Vec<_>>();
                    loss(&add(&q, &aq), &add(&k, &ak), &add(&v, &av), &add(&weight, &aw))
                };
                let want = (moved(1.0) - moved(-1.0)) / (2.0 * step);
                let dot = |gradient: &[f32], a: &[f64]| gradient.iter().zip(a).map(|(g, a)| f64::from(*g) * a).sum::<f64>();
                let found = dot(&got.q, &aq) + dot(&got.k, &ak) + dot(&got.v, &av) + dot(&got.weight, &aw);
                error += (found - want).powi(2);
                size += want.powi(2);
            }
            let bound = GRADIENT.relative_l2.unwrap();
            assert!(error.sqrt() <= bound * size.sqrt(), "{features:?}: {} of {}", error.sqrt(), size.sqrt());
        }
    }
}

/// Recorded gradients of the official code (f32): all of the projection's, and of q, k and v what the sparse branch's
/// oracle leaves.
#[test]
fn recorded_gradients_are_met() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sla_op/d64_l197.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f32> {
        golden.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let integers = |name: &str| -> Vec<usize> {
        golden.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes) as usize).collect()
    };
    let rounded = |name: &str| f32s(&bf16s(&values(name)));
    let case = Case {
        shape: AttnShape::new(1, 1, 197, 64).unwrap(),
        q: rounded("q"),
        k: rounded("k"),
        v: rounded("v"),
        out_gradient: rounded("grad_out"),
        weight: values("proj_l.weight"),
        bias: values("proj_l.bias"),
    };
    let [q, k, v, g] = ["q", "k", "v", "grad_out"].map(|name| wide(&values(name)));
    for device in devices() {
        for (features, name) in [(FeatureMap::Softmax, "softmax"), (FeatureMap::Elu, "elu"), (FeatureMap::Relu, "relu")] {
            let of = |what: &str| values(&format!("{name}.topk0.5.{what}"));
            let lists = integers(&format!("{name}.topk0.5.lut_sorted")).chunks(2).map(<[usize]>::to_vec).collect();
            let lists = oracle::BlockLists { block_q: 64, block_k: 64, lists };
            let head = case.head();
            let sparse = oracle::sparse_attention(&q, &k, &v, head, Some(&lists), head.scale(), false);
            let gradients = oracle::sparse_backward(&q, &k, &v, &g, head, Some(&lists), head.scale(), false);
            let less =
                |all: Vec<f32>, sparse: &[f64]| all.iter().zip(sparse).map(|(all, sparse)| f64::from(*all) - sparse).collect::<Vec<_>>();

            let forward = case.forward(&device, features, true, None);
            let got = case.backward(&device, features, &forward, true, None);
            // beside the kernel's own roundings, the operands were rounded to bf16 first
            let bound = Bound::relative_l2(1.2 * GRADIENT.relative_l2.unwrap());
            let what = |operand: &str| format!("{device:?} {name} {operand}");
            Verdict::of(&forward.out, &less(of("out"), &sparse.out), Bound::relative_l2(5e-3)).demand(&what("out"));
            Verdict::of(&got.q, &less(of("grad.q"), &gradients.q), bound).demand(&what("dq"));
            Verdict::of(&got.k, &less(of("grad.k"), &gradients.k), bound).demand(&what("dk"));
            Verdict::of(&got.v, &less(of("grad.v"), &gradients.v), bound).demand(&what("dv"));
            Verdict::of(&got.weight, &wide(&of("grad.proj_l.weight")), bound).demand(&what("dW"));
            Verdict::of(&got.bias, &wide(&of("grad.proj_l.bias")), Bound::relative_l2(3e-3)).demand(&what("db"));
        }
    }
}

#[test]
fn a_recorded_branch_gives_the_bytes_of_a_queued_one_also_beside_another_stream() {
    for device in devices() {
        let case = Case::new(Kind::Plain, shape(1, 2, 37, 97, 64, HeadLayout::Blhd));
        let want = case.forward(&device, FeatureMap::Softmax, true, None);
        let (stream, other) = (device.stream().unwrap(), device.stream().unwrap());
        let [q, k, v, _] = case.upload(&stream);
        let [_, other_k, other_v, _] = case.upload(&other);
        let weight = stream.upload(&case.weight).unwrap();
        let room = |stream: &Stream| {
            let [partial, state] = [partial_values(&case.shape), state_values(&case.shape)].map(|count| stream.allocate(count).unwrap());
            (partial, state, stream.allocate::<bf16>(folded_values(&case.shape)).unwrap())
        };
        let ((mut partial, mut state, mut folded), (mut other_partial, mut other_state, _)) = (room(&stream), room(&other));
        let mut out = stream.allocate::<bf16>(q.len()).unwrap();
        let kernels = (LinearState::load(&device).unwrap(), LinearFold::load(&device).unwrap(), LinearApply::load(&device).unwrap());
        let (shape, features) = (&case.shape, FeatureMap::Softmax);
        let mut graph = stream
            .capture(|stream| {
                kernels.0.run(stream, shape, features, k.view(), v.view(), partial.view_mut(), state.view_mut())?;
                kernels.1.run(stream, 64, state.view(), Fold::Transposed(weight.view()), folded.view_mut())?;
                kernels.2.run(stream, shape, features, q.view(), folded.view(), None, false, out.view_mut())
            })
            .unwrap();
        for _ in 0..2 {
            out.view_mut().fill_bytes(0).unwrap();
            graph.replay().unwrap();
            kernels
                .0
                .run(&other, shape, features, other_k.view(), other_v.view(), other_partial.view_mut(), other_state.view_mut())
                .unwrap();
            assert_eq!((state.to_vec().unwrap(), folded.to_vec().unwrap()), (want.state.clone(), want.folded.clone()));
            assert_eq!(other_state.to_vec().unwrap(), want.state);
        }
        let refused = kernels.0.run(&stream, shape, features, other_k.view(), v.view(), partial.view_mut(), state.view_mut());
        assert!(matches!(refused, Err(Error::OtherStream { .. })));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let good = shape(1, 2, 3, 4, 64, HeadLayout::Bhld);
        let case = Case::new(Kind::Plain, good);
        let [q, k, v, g] = case.upload(&stream);
        let kernels = (LinearState::load(&device).unwrap(), LinearFold::load(&device).unwrap(), LinearApply::load(&device).unwrap());
        let mut partial = stream.allocate(partial_values(&good)).unwrap();
        let mut state = stream.allocate(state_values(&good)).unwrap();
        let mut run = |shape: &AttnShape| {
            kernels.0.run(&stream, shape, FeatureMap::Softmax, k.view(), v.view(), partial.view_mut(), state.view_mut())
        };
        run(&good).unwrap();
        assert!(matches!(run(&AttnShape { head_dim: 96, ..good }), Err(Error::Size { what: "head dim of the linear branch", .. })));
        assert!(matches!(run(&AttnShape { key_len: 5, ..good }), Err(Error::Length { what: "keys", .. })));
        let mut folded = stream.allocate(folded_values(&good)).unwrap();
        let short = state.view().slice(0..state.len() - 4).unwrap();
        let refused = kernels.1.run(&stream, 64, short, Fold::Plain, folded.view_mut());
        assert!(matches!(refused, Err(Error::Length { what: "state of the linear branch", .. })), "{refused:?}");
        let weight = stream.allocate::<f32>(64).unwrap();
        let refused = kernels.1.run(&stream, 64, state.view(), Fold::Straight(weight.view()), folded.view_mut());
        assert!(matches!(refused, Err(Error::Length { what: "projection weight", .. })));
        kernels.1.run(&stream, 64, state.view(), Fold::Plain, folded.view_mut()).unwrap();
        let mut out = stream.allocate::<bf16>(q.len() - 1).unwrap();
        let refused = kernels.2.run(&stream, &good, FeatureMap::Softmax, q.view(), folded.view(), None, false, out.view_mut());
        assert!(matches!(refused, Err(Error::Length { what: "output", .. })));

        let mut room = LinearRoom::allocate(&stream, &good).unwrap();
        let operands = LinearOperands {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            out_gradient: g.view(),
            state: state.view(),
            folded: folded.view(),
            weight: None,
        };
        let backward = LinearBackward::load(&device).unwrap();
        let mut gradients = [q.len(), k.len(), v.len() - 8].map(|count| stream.allocate::<f32>(count).unwrap());
        let [dq, dk, dv] = gradients.each_mut().map(|buffer| buffer.view_mut());
        let short = LinearGradients { q: dq, k: dk, v: dv, projection: None, adds: false };
        let refused = backward.run(&stream, &good, FeatureMap::Softmax, &operands, &mut room, short);
        assert!(matches!(refused, Err(Error::Length { what: "gradient of the values", .. })), "{refused:?}");
    }
}

#[test]
fn chunks_fold_to_the_bits_of_their_sum_and_values_may_lie_between_others() {
    for device in devices_in_all_ways() {
        let stream = device.stream().unwrap();
        for (shape, gap) in [(shape(2, 3, 70, 1300, 64, HeadLayout::Blhd), 40), (shape(1, 2, 70, 600, 128, HeadLayout::Blhd), 0)] {
            let case = Case::new(Kind::Plain, shape);
            let want = case.forward(&device, FeatureMap::Softmax, true, None);
            let chunks = partial_values(&shape) / state_values(&shape);
            assert!(chunks > 1, "one chunk is no sum");
            // keys head by head, values with what is not theirs between the rows
            let (dim, width, stride) = (shape.head_dim, shape.heads * shape.head_dim, shape.heads * shape.head_dim + gap);
            let by_head = (0..shape.batch * shape.heads).flat_map(|problem| {
                let row = move |key| (problem / shape.heads * shape.key_len + key) * width + problem % shape.heads * dim;
                (0..shape.key_len).flat_map(move |key| row(key)..row(key) + dim)
            });
            let k = stream.upload(&by_head.map(|at| bf16::from_f32(case.k[at])).collect::<Vec<_>>()).unwrap();
            let mut apart: Vec<_> = bf16s(&case.v).chunks(width).flat_map(|row| [row, &vec![bf16::NAN; gap]].concat()).collect();
            apart.truncate(apart.len() - gap);
            let (v, weight) = (stream.upload(&apart).unwrap(), stream.upload(&case.weight).unwrap());
            let mut partial = stream.allocate(partial_values(&shape)).unwrap();
            let mut folded = stream.allocate(folded_values(&shape)).unwrap();
            let kernel = LinearState::load(&device).unwrap();
            let mut run = |stride| {
                let rows = ValueRows::apart(v.view(), stride);
                kernel.chunks(&stream, &shape.with_layout(HeadLayout::Bhld), FeatureMap::Softmax, k.view(), rows, partial.view_mut())
            };
            assert!(matches!(run(width - 8), Err(Error::Size { .. })));
            assert!(matches!(run(stride + 8), Err(Error::Length { .. })));
            run(stride).unwrap();
            let fold = LinearFold::load(&device).unwrap();
            fold.run_chunks(&stream, &shape, partial.view(), Fold::Transposed(weight.view()), folded.view_mut()).unwrap();
            assert!(folded.to_vec().unwrap() == want.folded, "{device:?} {shape:?}");
        }
    }
}
