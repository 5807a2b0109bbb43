//! Attention with a position bias: on every device the f64 oracle's rows, and those of bf16 tensor operations one by one.

use half::bf16;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::bias_attention::device::{BiasAttention, Projected, TextShape};
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::umt5;

use crate::{devices, devices_in_all_ways};

/// Scores of about 1, each rounded twice to bf16, then weights and rows: four roundings of half a unit of 8 bits.
const ROUNDED: Bound = Bound::relative_l2(1e-2);
/// The same roundings at the same places: what is left are the values that another order of a sum moves over a tie. One
/// unit of a score of 60 is a quarter, so a score that tips over moves its weight by as much.
const STEPWISE: Bound = Bound::relative_l2(1.5e-2);

struct Case {
    rows: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
    qkv: [Vec<f32>; 3],
    bias: Vec<f32>,
}

impl Case {
    /// `scale` of the queries: without one, scores of 64 channels are as large as 8.
    fn new(kind: Kind, [rows, keys, heads, head_dim]: [usize; 4], scale: f32) -> Self {
        let width = heads * head_dim;
        let operand =
            |seed, scale| -> Vec<f32> { input(kind, rows, width, seed).iter().map(|x| Rounding::Bf16.apply(x * scale)).collect() };
        let mut bias = normal(heads * (rows + keys - 1), 4);
        Rounding::Bf16.apply_row(&mut bias);
        Self { rows, keys, heads, head_dim, qkv: [operand(1, scale), operand(2, 1.0), operand(3, 1.0)], bias }
    }

    fn truth(&self) -> Vec<f64> {
        let [q, k, v] = &self.qkv;
        umt5::relative_attention([q, k, v], self.rows, self.heads, &self.bias, self.keys)
    }

    /// Rounded where bf16 tensor operations store, sums in f64.
    fn stepwise(&self) -> Vec<f64> {
        let Self { rows, keys, heads, head_dim, .. } = *self;
        let (width, [q, k, v]) = (heads * head_dim, &self.qkv);
        let round = |value: f64| f64::from(Rounding::Bf16.apply(value as f32));
        let mut out = vec![0.0; rows * width];
        for (head, i) in (0..heads).flat_map(|head| (0..rows).map(move |i| (head, i))) {
            let at = head * head_dim;
            let product =
                |j: usize| (0..head_dim).map(|d| f64::from(q[i * width + at + d]) * f64::from(k[j * width + at + d])).sum::<f64>();
            let bias = |j: usize| f64::from(self.bias[head * (rows + keys - 1) + j + rows - 1 - i]);
            let scores: Vec<f64> = (0..keys).map(|j| round(round(product(j)) + bias(j))).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            for (j, score) in scores.iter().enumerate() {
                let weight = round((score - most).exp() / sum);
                (0..head_dim).for_each(|d| out[i * width + at + d] += weight * f64::from(v[j * width + at + d]));
            }
        }
        out.into_iter().map(round).collect()
    }

    /// `is_joined`: the three operands are thirds of one matrix's rows.
    fn run(&self, device: &Device, is_joined: bool) -> Vec<f32> {
        let Self { rows, keys, heads, head_dim, .. } = *self;
        let (stream, width) = (device.stream().unwrap(), heads * head_dim);
        let short = |values: &[f32]| values.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
        let [q, k, v] = &self.qkv;
        let bias = stream.upload(&self.bias).unwrap();
        let mut out = stream.allocate::<bf16>(rows * width).unwrap();
        let kernel = BiasAttention::load(device).unwrap();
        let shape = TextShape { rows, keys, heads, head_dim };
        if is_joined {
            let joined: Vec<f32> = (0..rows).flat_map(|row| [q, k, v].map(|x| x[row * width..][..width].to_vec()).concat()).collect();
            let joined = stream.upload(&short(&joined)).unwrap();
            kernel.run(&stream, &shape, Projected::Joined(joined.view()), bias.view(), out.view_mut()).unwrap();
        } else {
            let parts = [q, k, v].map(|x| stream.upload(&short(x)).unwrap());
            let parts = parts.each_ref().map(|part| part.view());
            kernel.run(&stream, &shape, Projected::Apart(parts), bias.view(), out.view_mut()).unwrap();
        }
        out.to_vec().unwrap().iter().map(|value| value.to_f32()).collect()
    }
}

/// Rows, keys, heads, head dim: one row, ragged tails, a tile and one more, masked keys, few channels.
const SHAPES: [[usize; 4]; 6] = [[1, 1, 1, 64], [7, 7, 3, 8], [64, 10, 2, 16], [65, 65, 2, 64], [97, 61, 2, 40], [140, 130, 1, 64]];

#[test]
fn rows_match_the_oracle_in_all_ways() {
    for device in devices_in_all_ways() {
        for shape in SHAPES {
            for kind in [Kind::Plain, Kind::Zero] {
                let case = Case::new(kind, shape, 1.0 / (shape[3] as f32).sqrt());
                Verdict::of(&case.run(&device, false), &case.truth(), ROUNDED).demand(&format!("{device:?} {shape:?} {kind:?}"));
            }
        }
    }
}

#[test]
fn unscaled_scores_and_outliers_round_where_the_official_code_stores() {
    for device in devices() {
        for shape in SHAPES {
            for kind in Kind::ALL {
                let case = Case::new(kind, shape, 1.0);
                let got = case.run(&device, true);
                Verdict::of(&got, &case.stepwise(), STEPWISE).demand(&format!("{device:?} {shape:?} {kind:?}"));
                assert_eq!(got, case.run(&device, false), "joined and apart");
            }
        }
        // scores of 10^8
        let case = Case::new(Kind::Plain, [40, 33, 2, 64], 1e4);
        let got = case.run(&device, false);
        assert!(got.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn masked_keys_have_no_weight_and_a_repeat_gives_the_same_bits() {
    for device in devices() {
        let mut case = Case::new(Kind::Plain, [70, 50, 2, 64], 0.1);
        let want = case.run(&device, false);
        for operand in &mut case.qkv[1..] {
            operand[50 * 128..].iter_mut().for_each(|value| *value = 1e30);
        }
        assert_eq!(case.run(&device, false), want);
        assert_eq!(case.run(&device, true), want);
    }
}

#[test]
fn recorded_attention_gives_the_bytes_of_a_queued_one() {
    for device in devices() {
        let case = Case::new(Kind::Plain, [40, 33, 1, 64], 0.1);
        let want = case.run(&device, false);
        let stream = device.stream().unwrap();
        let [q, k, v] = case.qkv.each_ref().map(|x| stream.upload(&x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>()).unwrap());
        let (bias, mut out) = (stream.upload(&case.bias).unwrap(), stream.allocate::<bf16>(want.len()).unwrap());
        let kernel = BiasAttention::load(&device).unwrap();
        let (shape, parts) = (TextShape { rows: 40, keys: 33, heads: 1, head_dim: 64 }, Projected::Apart([q.view(), k.view(), v.view()]));
        let mut graph = stream.capture(|stream| kernel.run(stream, &shape, parts, bias.view(), out.view_mut())).unwrap();
        for _ in 0..2 {
            out.view_mut().fill_bytes(0).unwrap();
            graph.replay().unwrap();
            assert_eq!(out.to_vec().unwrap().iter().map(|value| value.to_f32()).collect::<Vec<_>>(), want);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let kernel = BiasAttention::load(&device).unwrap();
        let (x, bias) = (stream.upload(&[bf16::ONE; 64]).unwrap(), stream.upload(&[0.0f32; 14]).unwrap());
        let mut out = stream.allocate::<bf16>(64).unwrap();
        let good = TextShape { rows: 4, keys: 4, heads: 2, head_dim: 8 };
        let parts = Projected::Apart([x.view(); 3]);
        let mut run = |shape: TextShape, parts| kernel.run(&stream, &shape, parts, bias.view(), out.view_mut());
        run(good, parts).unwrap();
        assert!(matches!(run(TextShape { keys: 3, ..good }, parts), Err(Error::Length { what: "position bias", expected: 12, found: 14 })));
        for keys in [0, 5] {
            assert!(matches!(run(TextShape { keys, ..good }, parts), Err(Error::Size { what: "keys that are seen", .. })));
        }
        for head_dim in [0, 12, 72] {
            assert!(matches!(run(TextShape { head_dim, ..good }, parts), Err(Error::Size { .. })));
        }
        for rows in [0, usize::MAX] {
            assert!(matches!(run(TextShape { rows, ..good }, parts), Err(Error::Size { what: "rows", .. })));
        }
        let short = Projected::Apart([x.view(), x.view().slice(0..56).unwrap(), x.view()]);
        assert!(matches!(run(good, short), Err(Error::Length { what: "keys", expected: 64, found: 56 })));
        let short = Projected::Joined(x.view());
        assert!(matches!(run(good, short), Err(Error::Length { what: "queries, keys and values", expected: 192, found: 64 })));
    }
}
