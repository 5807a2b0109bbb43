//! Exact attention forward: held to the f64 oracle and to the host twin over the same bf16 operands.

use half::bf16;
use turbowan_cuda::device::{Device, Stream};
use turbowan_cuda::{AttnShape, Error as Ground, HeadLayout, Rounding};
use turbowan_reference::inputs::Kind;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sla::device::{ExactAttention, Output, QueryNorm, Scores};
use turbowan_sla::{Attend, Error, Keys, attend_with_lse};

use crate::case::{Case, Uploaded, shape};
use crate::{devices, devices_in_all_ways, hopper};

/// Against f64: probabilities and output are rounded to bf16, each by up to 2^-9 and by 2^-10.3 in the root of the mean square.
const BF16: Bound = Bound::relative_l2(5e-3);
/// Against the twin, which rounds in the same places but may round the other way where sums run in another order.
const TWIN: Bound = Bound::relative_l2(2.5e-3);
/// A few f32 roundings of a score.
const LSE: Bound = Bound::relative_l2(4e-6);

/// One row, a tile less one, a tile, a tile and one, lengths that differ, several tiles with ragged ends.
const LENGTHS: [(usize, usize); 9] = [(1, 1), (63, 63), (64, 64), (65, 65), (150, 328), (197, 197), (1, 400), (400, 1), (130, 64)];

/// On mma.sync and on wgmma.
fn both() -> impl Iterator<Item = Device> {
    devices().into_iter().chain(hopper().into_iter().next())
}

fn both_in_all_ways() -> impl Iterator<Item = Device> {
    devices_in_all_ways().into_iter().chain(hopper())
}

/// Output and logarithms.
#[derive(PartialEq)]
pub struct Outcome {
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
}

pub fn run(case: &Case, device: &Device) -> Result<Outcome, Error> {
    run_on(case, &device.stream()?, &ExactAttention::load(device)?)
}

fn run_on(case: &Case, stream: &Stream, attention: &ExactAttention) -> Result<Outcome, Error> {
    let uploaded = Uploaded::new(stream, case)?;
    let mut out = stream.allocate::<bf16>(case.shape.query_values())?;
    let mut lse = stream.allocate::<f32>(case.shape.problems() * case.shape.query_len)?;
    attention.run(stream, &case.shape, case.scores, &uploaded.operands(case), out.view_mut(), Some(lse.view_mut()))?;
    Ok(Outcome { out: out.to_vec()?.into_iter().map(bf16::to_f32).collect(), lse: lse.to_vec()? })
}

/// Holds a case to the oracle, and to the twin where that computes it.
fn demand(case: &Case, device: &Device) {
    let got = run(case, device).unwrap();
    let label = format!("{device:?} {case:?}");
    let (out, lse) = case.oracle();
    Verdict::of(&got.out, &out, BF16).demand(&label);
    demand_logarithms(&got.lse, &lse, &format!("logarithms, {label}"));
    if case.scores.is_causal && case.map.is_some() {
        return;
    }
    let keys = case.map.as_ref().map_or(Keys::All, Keys::Listed);
    let how = Attend { keys, is_causal: case.scores.is_causal, scale: case.scores.scale, rounding: Rounding::Bf16, ..Attend::default() };
    let twin = attend_with_lse(&case.q, &case.k, &case.v, &case.shape, &how).unwrap();
    Verdict::of(&got.out, &twin.out, TWIN).demand(&format!("twin, {label}"));
    Verdict::of(&got.lse, &twin.lse, LSE).demand(&format!("twin's logarithms, {label}"));
}

/// A row that sees no key has minus infinity in both.
fn demand_logarithms(got: &[f32], want: &[f64], label: &str) {
    let is_empty = |lse: f64| lse == f64::NEG_INFINITY;
    assert!(got.iter().zip(want).all(|(got, want)| is_empty((*got).into()) == is_empty(*want)), "{label}");
    let kept = |at: &usize| !is_empty(want[*at]);
    let got: Vec<f32> = (0..want.len()).filter(kept).map(|at| got[at]).collect();
    let want: Vec<f64> = (0..want.len()).filter(kept).map(|at| want[at]).collect();
    Verdict::of(&got, &want, LSE).demand(label);
}

#[test]
fn every_length_matches_the_oracle() {
    for device in both_in_all_ways() {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                demand(&Case::of(Kind::Plain, shape(1, query_len, key_len, head_dim)), &device);
            }
        }
    }
}

#[test]
fn every_number_of_text_tokens_is_attended_to() {
    for device in both() {
        for tokens in [512, 257, 77, 1] {
            demand(&Case::of(Kind::Plain, shape(1, 150, tokens, 128)), &device);
        }
        // the image's and the text's keys of one prompt, for two samples, as a linear layer writes them
        let two = AttnShape::cross(2, 3, 70, 77, 128).unwrap().with_layout(HeadLayout::Blhd);
        let mut case = Case::of(Kind::Plain, two);
        let sample = case.k.len() / 2;
        for rows in [&mut case.k, &mut case.v] {
            rows.copy_within(..sample, sample);
        }
        let twice = run(&case, &device).unwrap();
        case.shares_keys = true;
        assert!(run(&case, &device).unwrap() == twice, "{device:?}");
    }
}

#[test]
fn causal_and_maps_of_every_density() {
    for device in both_in_all_ways() {
        for head_dim in [64, 128] {
            let causal = Case::of(Kind::Plain, shape(1, 140, 140, head_dim)).causal();
            demand(&causal, &device);
            // some rows see no key
            demand(&causal.mapped(64, 64, 1), &device);
            for (block_q, block_k, kept) in [(128, 64, 1), (128, 64, 3), (64, 128, 2), (192, 64, 2)] {
                demand(&Case::of(Kind::Plain, shape(1, 400, 400, head_dim)).mapped(block_q, block_k, kept), &device);
            }
        }
    }
}

#[test]
fn a_map_that_keeps_all_is_dense_to_the_bit() {
    for device in both() {
        for (head_dim, block_q) in [(64, 128), (128, 128), (128, 64)] {
            // blocks of 64 queries have a kernel of their own, with steps of 64 keys
            if block_q == 64 && device.chip().capability == (9, 0) {
                continue;
            }
            let case = Case::of(Kind::Plain, shape(2, 197, 400, head_dim));
            let dense = run(&case, &device).unwrap();
            for block_k in [64, 128] {
                let mapped = run(&case.clone().mapped(block_q, block_k, 400usize.div_ceil(block_k)), &device).unwrap();
                assert!(mapped == dense, "{device:?} {head_dim} {block_q} x {block_k}");
            }
        }
    }
}

#[test]
fn outliers_zeros_and_other_layouts() {
    for device in both() {
        for head_dim in [64, 128] {
            for kind in Kind::ALL {
                demand(&Case::of(kind, shape(1, 70, 197, head_dim)), &device);
            }
            let mut case = Case::of(Kind::Plain, shape(1, 150, 197, head_dim));
            case.k[64 * head_dim..128 * head_dim].fill(0.0);
            case.q[128 * head_dim..].fill(0.0);
            demand(&case, &device);
            demand(&Case::of(Kind::Plain, AttnShape::cross(2, 3, 70, 133, head_dim).unwrap().with_layout(HeadLayout::Blhd)), &device);
        }
    }
}

#[test]
fn values_of_ten_thousand_stay_finite_and_right() {
    for device in both() {
        for head_dim in [64, 128] {
            let case = Case::of(Kind::Plain, shape(1, 70, 150, head_dim)).scaled(1e4, 1e4);
            demand(&case, &device);
            demand(&case.causal_as_square(), &device);
        }
    }
}

#[test]
fn a_scale_of_ones_own_is_used() {
    for device in both() {
        let mut case = Case::of(Kind::Plain, shape(1, 40, 90, 64));
        case.scores.scale = Some(0.3);
        demand(&case, &device);
    }
}

#[test]
fn a_query_that_is_no_number_spoils_its_row_alone() {
    for device in both() {
        let mut case = Case::of(Kind::Plain, shape(1, 70, 70, 64));
        let clean = run(&case, &device).unwrap();
        case.q[9 * 64] = f32::NAN;
        let spoiled = run(&case, &device).unwrap();
        assert!(spoiled.out[9 * 64..10 * 64].iter().all(|value| value.is_nan()));
        assert!(spoiled.out[..9 * 64] == clean.out[..9 * 64] && spoiled.out[10 * 64..] == clean.out[10 * 64..], "{device:?}");
    }
}

#[test]
fn a_second_run_another_stream_and_a_replay_give_the_same_bits() {
    for device in both() {
        let attention = ExactAttention::load(&device).unwrap();
        let case = Case::of(Kind::Plain, shape(2, 150, 328, 128)).mapped(128, 64, 4);
        let first = run(&case, &device).unwrap();
        let streams = [device.stream().unwrap(), device.stream().unwrap()];
        for stream in &streams {
            assert!(run_on(&case, stream, &attention).unwrap() == first, "{device:?}");
        }

        let stream = &streams[0];
        let uploaded = Uploaded::new(stream, &case).unwrap();
        let mut out = stream.allocate::<bf16>(case.shape.query_values()).unwrap();
        let operands = uploaded.operands(&case);
        let queue = |stream: &Stream| attention.run(stream, &case.shape, case.scores, &operands, out.view_mut(), None);
        let mut graph = stream.capture(queue).unwrap();
        let name = if device.chip().capability == (9, 0) { "attend_fwd_wgmma_d128" } else { "attend_fwd_d128" };
        assert_eq!(graph.nodes().iter().map(|node| node.name).collect::<Vec<_>>(), [name]);
        for _ in 0..2 {
            graph.replay().unwrap();
            assert!(out.to_vec().unwrap().into_iter().map(bf16::to_f32).collect::<Vec<_>>() == first.out, "{device:?}");
            out.view_mut().fill_bytes(0).unwrap();
        }
    }
}

#[test]
fn misfits_are_refused() {
    for device in both() {
        let refused = |case: &Case| run(case, &device).err();
        let odd = Case::of(Kind::Plain, shape(1, 70, 70, 80));
        assert!(matches!(refused(&odd), Some(Error::Ground(Ground::Size { what: "head dim", .. }))));
        let case = Case::of(Kind::Plain, shape(1, 70, 90, 64));
        assert!(matches!(refused(&case.clone().causal()), Some(Error::Causal { query_len: 70, key_len: 90 })));
        assert!(matches!(refused(&case.clone().mapped(32, 64, 1)), Some(Error::Ground(Ground::Size { .. }))));
        assert!(matches!(refused(&case.clone().mapped(64, 32, 1)), Some(Error::Ground(Ground::Size { .. }))));
        let mut short = case.clone();
        short.k.truncate(64);
        assert!(matches!(refused(&short), Some(Error::Ground(Ground::Length { what: "keys", .. }))));
        let mut short = case.clone();
        short.v.truncate(64);
        assert!(matches!(refused(&short), Some(Error::Ground(Ground::Length { what: "values", .. }))));
        let mut flat = case.clone();
        flat.scores.scale = Some(0.0);
        assert!(matches!(refused(&flat), Some(Error::Scale { .. })));
        let attention = ExactAttention::load(&device).unwrap();
        let stream = device.stream().unwrap();
        let uploaded = Uploaded::new(&stream, &case).unwrap();
        let mut out = stream.allocate::<bf16>(64).unwrap();
        let small = attention.run(&stream, &case.shape, Scores::default(), &uploaded.operands(&case), out.view_mut(), None);
        assert!(matches!(small, Err(Error::Ground(Ground::Length { what: "output", .. }))));
    }
}

/// Attention between two products: queries still to be normed, and int8 rows.
struct Between {
    case: Case,
    /// Of all heads, in two parts a row.
    squares: Vec<f32>,
}

const EPS: f32 = 1e-6;

/// Integers and their scales.
type Int8 = (Vec<i8>, Vec<f32>);

impl Between {
    fn new(shape: AttnShape) -> Self {
        let mut case = Case::of(Kind::Plain, shape.with_layout(HeadLayout::Blhd));
        let width = shape.heads * shape.head_dim;
        // rows of very different sizes
        for (at, row) in case.q.chunks_mut(width).enumerate() {
            row.iter_mut().for_each(|x| *x *= [0.25, 1.0, 64.0][at % 3]);
        }
        let squares = case.q.chunks(width / 2).map(|part| part.iter().map(|x| x * x).sum()).collect();
        Self { case, squares }
    }

    fn run(&self, device: &Device, norms: bool) -> (Vec<f32>, Option<Int8>) {
        let (stream, shape) = (device.stream().unwrap(), &self.case.shape);
        let (uploaded, squares) = (Uploaded::new(&stream, &self.case).unwrap(), stream.upload(&self.squares).unwrap());
        let norm = norms.then(|| QueryNorm { squares: squares.view(), eps: EPS });
        let attention = ExactAttention::load(device).unwrap();
        let run = |out: Output<'_>| attention.run_between(&stream, shape, &uploaded.operands(&self.case), norm, out);
        let mut out = stream.allocate::<bf16>(shape.query_values()).unwrap();
        run(Output::Bf16(out.view_mut())).unwrap();
        let mut values = stream.allocate::<i8>(shape.query_values()).unwrap();
        let mut scales = stream.allocate::<f32>(shape.problems() * shape.query_len).unwrap();
        let quantised = run(Output::Int8 { values: values.view_mut(), scales: scales.view_mut() });
        assert_eq!(quantised.is_ok(), shape.head_dim == 128, "{quantised:?}");
        let out = out.to_vec().unwrap().into_iter().map(bf16::to_f32).collect();
        (out, quantised.is_ok().then(|| (values.to_vec().unwrap(), scales.to_vec().unwrap())))
    }
}

#[test]
fn queries_are_normed_in_their_scores() {
    for device in both_in_all_ways() {
        for (query_len, key_len, head_dim) in [(1, 3, 128), (70, 77, 64), (150, 130, 128)] {
            let mut between = Between::new(AttnShape::cross(2, 2, query_len, key_len, head_dim).unwrap());
            let got = between.run(&device, true).0;
            for row in between.case.q.chunks_mut(2 * head_dim) {
                let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / (2 * head_dim) as f64;
                row.iter_mut().for_each(|x| *x = (f64::from(*x) / (mean + f64::from(EPS)).sqrt()) as f32);
            }
            Verdict::of(&got, &between.case.oracle().0, BF16).demand(&format!("{device:?} {query_len} x {key_len} x {head_dim}"));
        }
    }
}

#[test]
fn int8_rows_are_those_of_the_bf16_output() {
    for device in both_in_all_ways() {
        for (query_len, norms) in [(1, false), (64, true), (131, false)] {
            let between = Between::new(AttnShape::cross(2, 3, query_len, 70, 128).unwrap());
            let (out, int8) = between.run(&device, norms);
            let (values, scales) = int8.unwrap();
            for (at, ((row, got), scale)) in out.chunks(128).zip(values.chunks(128)).zip(&scales).enumerate() {
                let amax = row.iter().fold(1e-8f32, |most, x| most.max(x.abs()));
                let want: Vec<i8> = row.iter().map(|x| (x * (127.0 / amax)).round_ties_even() as i8).collect();
                assert_eq!((got, *scale), (&want[..], amax / 127.0), "{device:?} {query_len}: row {at}");
            }
        }
    }
}

#[test]
fn what_does_not_lie_between_products_is_refused() {
    for device in both() {
        let stream = device.stream().unwrap();
        let between = Between::new(AttnShape::cross(1, 2, 5, 7, 128).unwrap());
        let attention = ExactAttention::load(&device).unwrap();
        let run = |layout: HeadLayout, squares: &[f32], scales: usize| {
            let (uploaded, squares) = (Uploaded::new(&stream, &between.case).unwrap(), stream.upload(squares).unwrap());
            let (mut values, mut scales) = (stream.allocate::<i8>(1280).unwrap(), stream.allocate::<f32>(scales).unwrap());
            let norm = Some(QueryNorm { squares: squares.view(), eps: EPS });
            let out = Output::Int8 { values: values.view_mut(), scales: scales.view_mut() };
            let shape = between.case.shape.with_layout(layout);
            attention.run_between(&stream, &shape, &uploaded.operands(&between.case), norm, out)
        };
        assert_eq!(run(HeadLayout::Blhd, &between.squares, 10), Ok(()));
        assert!(matches!(run(HeadLayout::Bhld, &between.squares, 10), Err(Error::Ground(Ground::Size { .. }))));
        assert!(matches!(run(HeadLayout::Blhd, &between.squares[1..], 10), Err(Error::Ground(Ground::Length { .. }))));
        assert!(matches!(run(HeadLayout::Blhd, &[], 10), Err(Error::Ground(Ground::Length { .. }))));
        assert!(matches!(run(HeadLayout::Blhd, &between.squares, 11), Err(Error::Ground(Ground::Length { .. }))));
    }
}
