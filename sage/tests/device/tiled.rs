//! The wgmma kernel over tiles: against the same arithmetic in f64, and against attention itself.

use turbowan_cuda::device::Device;
use turbowan_cuda::{AttnShape, HeadLayout, Rounding};
use turbowan_reference::attention::{Head, Mask, attend};
use turbowan_reference::fp8;
use turbowan_reference::inputs::Kind;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sage::device::Format;
use turbowan_sage::{Error, Sage, Smoothing, Tile};

use crate::twin::{Case, Int8Case, LENGTHS, LSE, shape};
use crate::{HOPPER, Outcome, in_all_ways, of};

/// The output is rounded to bf16, 2^-9 at most and 1.1e-3 in the mean; a probability near a tie of e4m3, worked out in f32,
/// may round the other way, which one of some thousands does.
const SAME_ARITHMETIC: Bound = Bound::relative_l2(2e-3);

/// Keys of a step: what a running maximum is taken over.
const STEP: usize = 128;

/// Keys of a tile.
const TILE: usize = 64;

/// What the kernel computes, without rounding but that of the probabilities: two tiles of those that a query block sees at a
/// time, `p = 2^(s - m + 8.807)` in e4m3 for the product and as it is in the denominator.
fn same_arithmetic(case: &Case, int8: &Int8Case) -> Outcome {
    /// `log2(448)`, as the official kernels write it.
    const OFFSET: f64 = 8.807;
    let AttnShape { query_len, key_len, head_dim: dim, .. } = case.shape;
    let scale = if case.sage.folds_scale { 1.0 } else { std::f64::consts::LOG2_E / (dim as f64).sqrt() };
    let mut outcome = Outcome { out: vec![0.0; case.shape.query_values()], lse: Vec::new() };
    for problem in 0..case.shape.problems() {
        let q = &int8.q.values[problem * query_len * dim..];
        let k = &int8.k.values[problem * key_len * dim..];
        let value = |key: usize, channel: usize| fp8::decode(int8.fp8.transposed[(problem * dim + channel) * int8.fp8.padded_len + key]);
        for row in 0..query_len {
            let tiles: Vec<usize> = match &case.map {
                None => (0..key_len.div_ceil(TILE)).collect(),
                Some(map) => {
                    let of_block = map.block_k() / TILE;
                    let blocks = map.list(problem, row / map.block_q()).iter();
                    blocks.flat_map(|block| (0..of_block).map(move |tile| *block as usize * of_block + tile)).collect()
                }
            };
            let keys: Vec<usize> = tiles.iter().flat_map(|tile| tile * TILE..(tile + 1) * TILE).collect();
            let (mut most, mut sum, mut acc) = (f64::MIN, 0.0, vec![0.0; dim]);
            for step in keys.chunks(STEP) {
                let seen = step.iter().copied().filter(|key| *key < key_len && (!case.causal || *key <= row));
                let scores: Vec<(usize, f64)> = seen
                    .map(|key| {
                        let dot: i32 = (0..dim).map(|d| i32::from(q[row * dim + d]) * i32::from(k[key * dim + d])).sum();
                        let scales = f64::from(int8.q.scale(problem, row)) * f64::from(int8.k.scale(problem, key));
                        (key, f64::from(dot) * scales * scale)
                    })
                    .collect();
                let now = scores.iter().fold(most, |most, (_, score)| most.max(*score));
                let fade = (most - now).exp2();
                most = now;
                sum *= fade;
                acc.iter_mut().for_each(|acc| *acc *= fade);
                for (key, score) in scores {
                    let weight = (score - now + OFFSET).exp2();
                    sum += weight;
                    let weight = fp8::round(weight);
                    acc.iter_mut().enumerate().for_each(|(channel, acc)| *acc += weight * value(key, channel));
                }
            }
            outcome.lse.push(if sum > 0.0 { ((most + sum.log2() - OFFSET) * std::f64::consts::LN_2) as f32 } else { f32::NEG_INFINITY });
            let to = &mut outcome.out[case.shape.query_offset(problem, row)..][..dim];
            for (channel, (to, acc)) in to.iter_mut().zip(acc).enumerate() {
                let scale = f64::from(int8.fp8.scales[problem * dim + channel]);
                *to = if sum > 0.0 { (acc / sum * scale) as f32 } else { 0.0 };
            }
        }
    }
    outcome
}

fn tiled(kind: Kind, shape: AttnShape, sage: Sage) -> Case {
    Case::of(kind, shape, sage).with_format(Format::Tiled)
}

fn demand(case: &Case, devices: &[Device]) {
    let int8 = case.quantised();
    let want = same_arithmetic(case, &int8);
    for device in devices {
        let got = case.problem(&int8).run(device).unwrap();
        let map = case.map.as_ref().map(|map| (map.block_q(), map.block_k(), map.kept()));
        let label = format!("{device:?} {:?} map {map:?} causal {} {:?}", case.shape, case.causal, case.sage.granularity);
        Verdict::of(&got.out, &want.out, SAME_ARITHMETIC).demand(&label);
        let finite = |lse: &[f32]| lse.iter().map(|lse| if *lse == f32::NEG_INFINITY { 0.0 } else { *lse }).collect::<Vec<_>>();
        assert!(got.lse.iter().zip(&want.lse).all(|(got, want)| (*got == f32::NEG_INFINITY) == (*want == f32::NEG_INFINITY)), "{label}");
        Verdict::of(&finite(&got.lse), &finite(&want.lse), LSE).demand(&format!("{label} lse"));
    }
}

#[test]
fn tiles_at_every_length() {
    let (all_ways, one) = (in_all_ways(HOPPER), of(HOPPER));
    for (query_len, key_len) in LENGTHS {
        for head_dim in [64, 128] {
            let devices = if head_dim == 128 || key_len < 100 { &all_ways } else { &one };
            demand(&tiled(Kind::Plain, shape(1, query_len, key_len, head_dim), Sage::per_thread(Tile::SM90)), devices);
        }
    }
}

/// More steps than stages, so that every stage is used again.
#[test]
fn tiles_of_many_steps() {
    demand(&tiled(Kind::Plain, shape(1, 70, 1300, 64), Sage::per_thread(Tile::SM90)), &in_all_ways(HOPPER));
}

#[test]
fn tiles_under_causal_masks_and_maps() {
    let (all_ways, one) = (in_all_ways(HOPPER), of(HOPPER));
    for head_dim in [64, 128] {
        let mut case = tiled(Kind::Plain, shape(1, 200, 200, head_dim), Sage::per_thread(Tile::SM90));
        case.causal = true;
        demand(&case, if head_dim == 64 { &all_ways } else { &one });
        // some rows see no key, and some blocks none at all
        demand(&case.mapped(128, 64, 1), &all_ways);
        let case = tiled(Kind::Plain, shape(1, 260, 400, head_dim), Sage::sagesla(128, 64));
        // one tile, odd and even counts of them, blocks of two tiles
        for (block_q, block_k, kept) in [(128, 64, 1), (128, 64, 4), (256, 128, 2)] {
            demand(&case.clone().mapped(block_q, block_k, kept), &one);
        }
        let case = tiled(Kind::Plain, shape(1, 130, 400, head_dim), Sage::sagesla(128, 64));
        demand(&case.mapped(128, 64, 3), &all_ways);
    }
}

#[test]
fn every_granularity_and_rule_over_tiles() {
    let variants = [
        Sage::triton_per_block(),
        Sage::per_thread(Tile::SM80),
        Sage::cuda_per_warp(Tile::SM90),
        Sage::sagesla(128, 64),
        Sage::sagesla(64, 192),
    ];
    let devices = of(HOPPER);
    for sage in variants {
        for causal in [false, true] {
            let mut case = tiled(Kind::Plain, shape(2, 140, 140, 128), sage);
            case.causal = causal;
            if sage.operands != Rounding::None {
                [&mut case.q, &mut case.k, &mut case.v].into_iter().for_each(|rows| sage.operands.apply_row(rows));
            }
            demand(&case, &devices);
        }
    }
}

#[test]
fn outliers_zeros_magnitudes_and_layouts_over_tiles() {
    let devices = of(HOPPER);
    for head_dim in [64, 128] {
        for kind in [Kind::OutlierChannel, Kind::Biased, Kind::Zero, Kind::Constant] {
            demand(&tiled(kind, shape(1, 150, 197, head_dim), Sage::default()), &devices);
        }
        for sage in [Sage::default(), Sage { smoothing: Smoothing::None, ..Sage::triton_per_block() }] {
            let mut case = tiled(Kind::Plain, shape(1, 150, 197, head_dim), sage);
            case.k[64 * head_dim..128 * head_dim].fill(0.0);
            case.q[128 * head_dim..].fill(0.0);
            demand(&case, &devices);
        }
        let mut case = tiled(Kind::Plain, shape(1, 150, 197, head_dim), Sage::default());
        case.q.iter_mut().chain(&mut case.k).for_each(|value| *value *= 1e4);
        demand(&case, &devices);
        let tokens_first = AttnShape::cross(2, 3, 70, 133, head_dim).unwrap().with_layout(HeadLayout::Blhd);
        demand(&tiled(Kind::Plain, tokens_first, Sage::default()), &devices);
    }
}

/// e4m3 has three bits of mantissa: each weight and each value is off by up to 1/16, at random.
const ATTENTION: Bound = Bound { max_abs: None, relative_l2: Some(0.05), cosine: Some(0.999) };

#[test]
fn tiles_give_attention() {
    for device in of(HOPPER) {
        for head_dim in [64, 128] {
            let case = tiled(Kind::Plain, shape(1, 200, 500, head_dim), Sage::per_thread(Tile::SM90));
            let want = attend(Head { query: &case.q, key: &case.k, value: &case.v, head_dim }, Mask::None).out;
            Verdict::of(&case.run(&device).unwrap().out, &want, ATTENTION).demand(&format!("head dim {head_dim}"));
        }
    }
}

#[test]
fn maps_of_half_a_tile_of_queries_are_refused() {
    for device in of(HOPPER) {
        let case = tiled(Kind::Plain, shape(1, 130, 130, 64), Sage::default()).mapped(64, 64, 1);
        assert!(matches!(case.run(&device), Err(Error::Setting { what: "query rows of a block over tiled keys", .. })));
    }
}
