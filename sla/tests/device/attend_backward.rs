//! Exact attention backward: held to the f64 oracle, to finite differences of it, and to the host twin.

use half::bf16;
use turbowan_cuda::device::{Device, Stream};
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, Error as Ground, HeadLayout, Rounding};
use turbowan_reference::inputs::Kind;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::sla as oracle;
use turbowan_sla::device::{Attended, ExactAttention, ExactAttentionBackward, GradientsMut, InverseMap, Workspace};
use turbowan_sla::{Density, Error, FeatureMap, Gradients, Projection, Saved, SparseLinear};

use crate::case::{Case, Uploaded, draw, shape};
use crate::{bf16s, devices, devices_in_all_ways};

/// Probabilities, gradients of scores and the output behind delta are rounded to bf16: each by up to 2^-9.
const BF16: Bound = Bound::relative_l2(6e-3);
/// Against the twin, which has delta and the logarithms from the same output but keeps probabilities and gradients of scores in
/// f32. In keys with outliers or a bias one rounding counts several times.
const TWIN: Bound = Bound::relative_l2(4e-3);
const TWIN_OF_HARD_KEYS: Bound = Bound::relative_l2(1.5e-2);
/// Where the exact gradient is zero: f32 rounding of dp less delta.
const NOTHING: Bound = Bound::max_abs(1e-4);

const LENGTHS: [(usize, usize); 8] = [(1, 1), (63, 63), (64, 64), (65, 65), (150, 200), (1, 130), (130, 1), (130, 64)];

#[derive(PartialEq)]
pub struct Outcome {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
}

pub fn run(case: &Case, out_gradient: &[f32], device: &Device) -> Result<Outcome, Error> {
    let kernels = (ExactAttention::load(device)?, ExactAttentionBackward::load(device)?);
    run_on(case, out_gradient, &device.stream()?, &kernels, |_| Ok(()))
}

/// Queues both passes; `twice` may do something with what queues the second.
fn run_on(
    case: &Case,
    out_gradient: &[f32],
    stream: &Stream,
    (attention, backward): &(ExactAttention, ExactAttentionBackward),
    twice: impl FnOnce(&mut dyn FnMut(&Stream) -> Result<(), Error>) -> Result<(), Error>,
) -> Result<Outcome, Error> {
    let shape = &case.shape;
    let uploaded = Uploaded::new(stream, case)?;
    let operands = uploaded.operands(case);
    let out_gradient = stream.upload(&bf16s(out_gradient))?;
    let mut out = stream.allocate::<bf16>(shape.query_values())?;
    let mut lse = stream.allocate::<f32>(shape.problems() * shape.query_len)?;
    attention.run(stream, shape, case.scores, &operands, out.view_mut(), Some(lse.view_mut()))?;
    let words = case.map.as_ref().map_or(0, |map| InverseMap::words(shape, (map.block_q(), map.block_k())));
    let (mut delta, mut inverse) = (stream.allocate(shape.problems() * shape.query_len)?, stream.allocate(words)?);
    let mut gradients =
        [stream.allocate::<f32>(shape.query_values())?, stream.allocate(shape.key_values())?, stream.allocate(shape.key_values())?];
    let mut queue = |stream: &Stream| {
        let [q, k, v] = gradients.each_mut().map(|gradient| gradient.view_mut());
        let attended = Attended { out: out.view(), lse: lse.view() };
        let workspace = Workspace { delta: delta.view_mut(), inverse: inverse.view_mut() };
        let to = GradientsMut { q, k, v };
        backward.run(stream, shape, case.scores, &operands, attended, out_gradient.view(), workspace, to)
    };
    queue(stream)?;
    twice(&mut queue)?;
    let [q, k, v] = [gradients[0].to_vec()?, gradients[1].to_vec()?, gradients[2].to_vec()?];
    Ok(Outcome { q, k, v, out: out.to_vec()?.into_iter().map(bf16::to_f32).collect(), lse: lse.to_vec()? })
}

/// The oracle's gradients of one problem.
fn exact(case: &Case, out_gradient: &[f32], problem: usize) -> oracle::SparseGradients {
    let (q, k, v) = (case.of_queries(&case.q, problem), case.of_keys(&case.k, problem), case.of_keys(&case.v, problem));
    let grad = case.of_queries(out_gradient, problem);
    oracle::sparse_backward(&q, &k, &v, &grad, case.head(), case.lists(problem).as_ref(), case.scale(), case.scores.is_causal)
}

fn hold(got: &[f64], want: &[f64], bound: Bound, label: &str) {
    let is_nothing = want.iter().all(|value| value.abs() < 1e-9);
    Verdict::of(got, want, if is_nothing { NOTHING } else { bound }).demand(label);
}

fn demand(case: &Case, device: &Device, bound: Bound) {
    demand_for(case, &draw(Kind::Plain, case.shape.problems() * case.shape.query_len, case.shape.head_dim, 4), device, bound);
}

fn demand_for(case: &Case, out_gradient: &[f32], device: &Device, bound: Bound) {
    let got = run(case, out_gradient, device).unwrap();
    for problem in 0..case.shape.problems() {
        let want = exact(case, out_gradient, problem);
        let label = |what| format!("{what} of problem {problem}, {device:?} {case:?}");
        hold(&case.of_queries(&got.q, problem), &want.q, bound, &label("dq"));
        hold(&case.of_keys(&got.k, problem), &want.k, bound, &label("dk"));
        hold(&case.of_keys(&got.v, problem), &want.v, bound, &label("dv"));
    }
}

#[test]
fn every_length_matches_the_oracle() {
    for device in devices_in_all_ways() {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                demand(&Case::of(Kind::Plain, shape(1, query_len, key_len, head_dim)), &device, BF16);
            }
        }
    }
}

#[test]
fn causal_and_maps_of_every_density() {
    for device in devices_in_all_ways() {
        for head_dim in [64, 128] {
            let causal = Case::of(Kind::Plain, shape(1, 140, 140, head_dim)).causal();
            demand(&causal, &device, BF16);
            // some rows see no key
            demand(&causal.mapped(64, 64, 1), &device, BF16);
            for (block_q, block_k, kept) in [(128, 64, 1), (64, 128, 1), (192, 64, 3)] {
                demand(&Case::of(Kind::Plain, shape(1, 270, 270, head_dim)).mapped(block_q, block_k, kept), &device, BF16);
            }
        }
    }
}

#[test]
fn zeros_large_values_and_other_layouts() {
    for device in devices() {
        for head_dim in [64, 128] {
            demand(&Case::of(Kind::Zero, shape(1, 70, 150, head_dim)), &device, BF16);
            let mut case = Case::of(Kind::Plain, shape(1, 150, 140, head_dim));
            case.k[64 * head_dim..128 * head_dim].fill(0.0);
            case.q[128 * head_dim..].fill(0.0);
            demand(&case, &device, BF16);
            let large = Case::of(Kind::Plain, shape(1, 70, 70, head_dim)).scaled(1.0, 1e4);
            let out_gradient =
                draw(Kind::Plain, 70, head_dim, 4).into_iter().map(|value| Rounding::Bf16.apply(value * 1e4)).collect::<Vec<_>>();
            demand_for(&large, &out_gradient, &device, BF16);
            demand(&Case::of(Kind::Plain, AttnShape::cross(2, 3, 70, 133, head_dim).unwrap().with_layout(HeadLayout::Blhd)), &device, BF16);
        }
    }
}

#[test]
fn a_map_that_keeps_all_is_dense_to_the_bit() {
    for device in devices() {
        for (head_dim, block_q) in [(64, 128), (128, 128), (128, 64)] {
            let case = Case::of(Kind::Plain, shape(2, 150, 200, head_dim));
            let out_gradient = draw(Kind::Plain, 2 * 150, head_dim, 4);
            let dense = run(&case, &out_gradient, &device).unwrap();
            for block_k in [64, 128] {
                let case = case.clone().mapped(block_q, block_k, 200usize.div_ceil(block_k));
                assert!(run(&case, &out_gradient, &device).unwrap() == dense, "{device:?} {case:?}");
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let tiny = Case::of(Kind::Plain, shape(1, 5, 7, 64));
    let out_gradient = draw(Kind::Plain, 5, 64, 4);
    let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
    let mut operands = [wide(&tiny.q), wide(&tiny.k), wide(&tiny.v)];
    let grad = wide(&out_gradient);
    let difference = |operands: &mut [Vec<f64>; 3], which: usize, index: usize| {
        let mut loss = |step: f64| {
            operands[which][index] += step;
            let [q, k, v] = &*operands;
            let out = oracle::sparse_attention(q, k, v, tiny.head(), None, tiny.scale(), false).out;
            out.iter().zip(&grad).map(|(out, grad)| out * grad).sum::<f64>()
        };
        let (above, below) = (loss(1e-5), loss(-2e-5));
        loss(1e-5);
        (above - below) / 2e-5
    };
    let want: Vec<Vec<f64>> =
        (0..3).map(|which| (0..operands[which].len()).map(|index| difference(&mut operands, which, index)).collect()).collect();
    for device in devices() {
        let got = run(&tiny, &out_gradient, &device).unwrap();
        for ((got, want), what) in [got.q, got.k, got.v].iter().zip(&want).zip(["dq", "dk", "dv"]) {
            Verdict::of(got, want, BF16).demand(what);
        }
    }
}

/// Outliers and a bias are held to the twin alone: there nearly all of a row lies in one key, or in what all keys share, and dp
/// less delta, which comes from the output rounded to bf16, is a small difference of large numbers in any such arithmetic.
#[test]
fn the_host_twin_gives_the_same_gradients() {
    for device in devices() {
        for head_dim in [64, 128] {
            for (kind, bound) in [(Kind::Plain, TWIN), (Kind::OutlierChannel, TWIN_OF_HARD_KEYS), (Kind::Biased, TWIN_OF_HARD_KEYS)] {
                let case = Case::of(kind, shape(2, 150, 270, head_dim)).mapped(128, 64, 2);
                let out_gradient = draw(Kind::Plain, 2 * 150, head_dim, 4);
                let got = run(&case, &out_gradient, &device).unwrap();
                let want = twin(&case, &out_gradient, &got);
                for (got, want, what) in [(got.q, want.q, "dq"), (got.k, want.k, "dk"), (got.v, want.v, "dv")] {
                    Verdict::of(&got, &want, bound).demand(&format!("{what}, {device:?} {kind:?} {case:?}"));
                }
            }
        }
    }
}

/// The host's gradients from what a device's forward pass gave; with a projection of zeros the linear branch has none.
fn twin(case: &Case, out_gradient: &[f32], given: &Outcome) -> Gradients {
    let (map, dim) = (case.map.clone().unwrap(), case.shape.head_dim);
    let zeros = vec![0.0; dim * dim];
    let sla = SparseLinear {
        density: Density::DENSE,
        block_q: map.block_q(),
        block_k: map.block_k(),
        features: FeatureMap::Softmax,
        projection: Projection { weight: &zeros, bias: &zeros[..dim] },
        outer: Rounding::Bf16,
        inner: Rounding::Bf16,
        isa: Isa::detect(),
    };
    let saved = Saved { map, sparse: given.out.clone(), lse: given.lse.clone() };
    sla.backward(&case.q, &case.k, &case.v, &case.shape, &saved, out_gradient).unwrap()
}

#[test]
fn a_second_run_another_stream_and_a_replay_give_the_same_bits() {
    for device in devices() {
        let kernels = (ExactAttention::load(&device).unwrap(), ExactAttentionBackward::load(&device).unwrap());
        let case = Case::of(Kind::Plain, shape(2, 150, 270, 128)).mapped(128, 64, 2);
        let out_gradient = draw(Kind::Plain, 2 * 150, 128, 4);
        let first = run(&case, &out_gradient, &device).unwrap();
        let streams = [device.stream().unwrap(), device.stream().unwrap()];
        for stream in &streams {
            assert!(run_on(&case, &out_gradient, stream, &kernels, |_| Ok(())).unwrap() == first, "{device:?}");
        }
        let replayed = run_on(&case, &out_gradient, &streams[1], &kernels, |queue| {
            let mut graph = streams[1].capture(queue)?;
            let names: Vec<_> = graph.nodes().iter().map(|node| node.name).collect();
            assert_eq!(names, ["inverse_map", "attend_bwd_dq_d128", "attend_bwd_dkdv_d128"]);
            Ok(graph.replay()?)
        });
        assert!(replayed.unwrap() == first, "{device:?}");
    }
}

#[test]
fn misfits_are_refused() {
    for device in devices() {
        let case = Case::of(Kind::Plain, shape(1, 70, 90, 64));
        let out_gradient = draw(Kind::Plain, 70, 64, 4);
        let refused = run(&case, &out_gradient[64..], &device);
        assert!(matches!(refused, Err(Error::Ground(Ground::Length { what: "output gradient", .. }))));
        let mut shared = Case::of(Kind::Plain, AttnShape::cross(2, 1, 64, 64, 64).unwrap());
        shared.shares_keys = true;
        let refused = run(&shared, &draw(Kind::Plain, 128, 64, 4), &device);
        assert!(matches!(refused, Err(Error::Ground(Ground::Length { what: "keys", .. }))));
    }
}

#[test]
fn a_turned_map_has_the_bits_of_its_lists() {
    for device in devices_in_all_ways() {
        let turn = InverseMap::load(&device).unwrap();
        let stream = device.stream().unwrap();
        // query and key blocks: one of each, a word and one more, more key blocks than a block of threads holds
        for (query_blocks, key_blocks, kept) in [(1, 1, 1), (33, 40, 7), (70, 5, 5), (3, 4200, 300)] {
            let of_blocks = |block: usize| AttnShape::cross(1, 2, query_blocks * block - 1, key_blocks * block - 1, 64).unwrap();
            // the lists alone: no operand of this length is needed
            let mut case = Case::of(Kind::Zero, shape(1, 1, 1, 64));
            case.shape = of_blocks(64);
            let case = case.mapped(64, 64, kept);
            let map = case.map.as_ref().unwrap();
            let words = query_blocks.div_ceil(32);
            let mut want = vec![0u32; 2 * key_blocks * words];
            for problem in 0..2 {
                for block in 0..query_blocks {
                    for key in map.list(problem, block) {
                        want[(problem * key_blocks + *key as usize) * words + block / 32] |= 1 << (block % 32);
                    }
                }
            }
            let uploaded = Uploaded::new(&stream, &case).unwrap();
            let mut inverse = stream.allocate(InverseMap::words(&case.shape, (64, 64))).unwrap();
            turn.run(&stream, &case.shape, &uploaded.operands(&case).map.unwrap(), inverse.view_mut()).unwrap();
            assert_eq!(inverse.to_vec().unwrap(), want, "{device:?} {query_blocks} x {key_blocks}");
            let mut short = stream.allocate(want.len() - 1).unwrap();
            let refused = turn.run(&stream, &case.shape, &uploaded.operands(&case).map.unwrap(), short.view_mut());
            assert!(matches!(refused, Err(Error::Ground(Ground::Length { what: "turned block map", .. }))));
        }
    }
}
