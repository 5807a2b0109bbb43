//! Against the host twin: the same integers, the same product, f32 sums in another order, and an output in bf16.

use half::f16;
use turbowan_cuda::{AttnShape, BlockMap, HeadLayout};
use turbowan_reference::inputs::{Kind, rows};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sage::{Error, Sage, Smoothing, Tile, ValuePrecision, forward_with_lse, quantise_keys, quantise_queries, quantise_values};

use crate::{HostValues, Outcome, Problem, devices, devices_in_all_ways};

/// The output is rounded to bf16: 2^-9 at most, and less in the mean.
const F16_PRODUCT: Bound = Bound::relative_l2(2e-3);
/// e4m3: a probability near a tie may round the other way, and the sums over 64 keys are in f16 rather than in f32.
const FP8_PRODUCT: Bound = Bound::relative_l2(6e-3);
/// A few f32 roundings of a score.
const LSE: Bound = Bound::relative_l2(2e-6);
const FP8: ValuePrecision = ValuePrecision::Fp8 { scale_max: 2.25 };

#[derive(Clone)]
struct Case {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    shape: AttnShape,
    map: Option<BlockMap>,
    causal: bool,
    sage: Sage,
}

impl Case {
    fn of(kind: Kind, shape: AttnShape, sage: Sage) -> Self {
        let draw = |len: usize, seed| rows(kind, shape.problems() * len, shape.head_dim, seed);
        let (q, k, v) = (draw(shape.query_len, 1), draw(shape.key_len, 2), draw(shape.key_len, 3));
        Self { q, k, v, shape, map: None, causal: false, sage: sage.with_values(ValuePrecision::F16) }
    }

    /// A map that keeps `kept` key blocks, others for every query block.
    fn mapped(mut self, block_q: usize, block_k: usize, kept: usize) -> Self {
        let (query_blocks, key_blocks) = (self.shape.query_len.div_ceil(block_q), self.shape.key_len.div_ceil(block_k));
        let list = |block: usize| {
            let mut list: Vec<u32> = (0..kept).map(|n| ((block * 2 + n * key_blocks.div_ceil(kept)) % key_blocks) as u32).collect();
            list.sort_unstable();
            list.dedup();
            let mut rest = (0..key_blocks as u32).filter(|block| !list.contains(block)).collect::<Vec<_>>().into_iter();
            list.extend(rest.by_ref().take(kept - list.len()));
            list.sort_unstable();
            list
        };
        let lists = (0..self.shape.problems() * query_blocks).flat_map(list).collect();
        self.map = Some(BlockMap::new(&self.shape, block_q, block_k, kept, lists).unwrap());
        self
    }

    fn run(&self, device: &turbowan_cuda::device::Device) -> Result<Outcome, Error> {
        let (q, k) =
            (quantise_queries(&self.q, &self.shape, &self.sage).unwrap(), quantise_keys(&self.k, None, &self.shape, &self.sage).unwrap());
        let (f16_values, fp8_values);
        let values = match self.sage.values {
            ValuePrecision::Fp8 { scale_max } => {
                fp8_values = quantise_values(&self.v, &self.shape, scale_max, 64, &self.sage).unwrap();
                HostValues::Fp8(&fp8_values)
            }
            _ => {
                f16_values = self.v.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>();
                HostValues::F16(&f16_values)
            }
        };
        let Self { shape, causal, sage, .. } = *self;
        Problem { q: &q, k: &k, values, map: self.map.as_ref(), shape, causal, sage }.run(device)
    }

    fn demand(&self, device: &turbowan_cuda::device::Device, bound: Bound) {
        let want = forward_with_lse(&self.q, &self.k, &self.v, &self.shape, self.map.as_ref(), self.causal, &self.sage).unwrap();
        let got = self.run(device).unwrap();
        let AttnShape { query_len, key_len, head_dim, .. } = self.shape;
        let kept = self.map.as_ref().map(BlockMap::kept);
        let label = format!("{device:?} {query_len}x{key_len}x{head_dim} kept {kept:?} causal {} {:?}", self.causal, self.sage);
        Verdict::of(&got.out, &want.out, bound).demand(&label);
        if self.sage.smoothing == Smoothing::None {
            // a row that sees no key has minus infinity in both
            let finite = |lse: &[f32]| lse.iter().map(|lse| if *lse == f32::NEG_INFINITY { 0.0 } else { *lse }).collect::<Vec<_>>();
            assert!(
                got.lse.iter().zip(&want.lse).all(|(got, want)| (*got == f32::NEG_INFINITY) == (*want == f32::NEG_INFINITY)),
                "{label}"
            );
            Verdict::of(&finite(&got.lse), &finite(&want.lse), LSE).demand(&format!("{label} lse"));
        }
    }
}

fn shape(heads: usize, query_len: usize, key_len: usize, head_dim: usize) -> AttnShape {
    AttnShape::cross(1, heads, query_len, key_len, head_dim).unwrap()
}

/// One row, a tile less one, a tile, a tile and one, lengths that differ, several tiles with ragged ends.
const LENGTHS: [(usize, usize); 9] = [(1, 1), (63, 63), (64, 64), (65, 65), (150, 328), (197, 197), (1, 400), (400, 1), (130, 64)];

#[test]
fn f16_values_at_every_length() {
    for device in devices_in_all_ways() {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                Case::of(Kind::Plain, shape(1, query_len, key_len, head_dim), Sage::default()).demand(&device, F16_PRODUCT);
            }
        }
    }
}

#[test]
fn e4m3_values_at_every_length() {
    for device in devices_in_all_ways() {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                let mut case = Case::of(Kind::Plain, shape(1, query_len, key_len, head_dim), Sage::default());
                case.sage.values = FP8;
                case.demand(&device, FP8_PRODUCT);
            }
        }
    }
}

#[test]
fn every_granularity_and_rule() {
    let unsmoothed = Sage { smoothing: Smoothing::None, ..Sage::default() };
    let variants =
        [Sage::triton_per_block(), Sage::per_thread(Tile::SM90), Sage::cuda_per_warp(Tile::SM80), Sage::sagesla(128, 64), unsmoothed];
    for device in devices() {
        for sage in variants {
            for causal in [false, true] {
                let mut case = Case::of(Kind::Plain, shape(2, 140, 140, 128), sage);
                case.causal = causal;
                if sage.operands != turbowan_cuda::Rounding::None {
                    // the twin rounds its operands to bf16 first
                    [&mut case.q, &mut case.k, &mut case.v].into_iter().for_each(|rows| sage.operands.apply_row(rows));
                }
                case.demand(&device, F16_PRODUCT);
            }
        }
    }
}

#[test]
fn causal_and_maps_of_every_density() {
    let unsmoothed = Sage { smoothing: Smoothing::None, ..Sage::default() };
    for device in devices_in_all_ways() {
        for head_dim in [64, 128] {
            for values in [ValuePrecision::F16, FP8] {
                let bound = if values == FP8 { FP8_PRODUCT } else { F16_PRODUCT };
                let mut case = Case::of(Kind::Plain, shape(1, 140, 140, head_dim), unsmoothed);
                (case.causal, case.sage.values) = (true, values);
                case.demand(&device, bound);
                // some rows see no key
                case.mapped(64, 64, 1).demand(&device, bound);
                let mut case = Case::of(Kind::Plain, shape(1, 400, 400, head_dim), unsmoothed);
                case.sage.values = values;
                for (block_q, block_k, kept) in [(128, 64, 1), (128, 64, 3), (64, 128, 2)] {
                    // in e4m3 a probability depends on the step that it is weighed in
                    if values == FP8 && block_k != 64 {
                        continue;
                    }
                    case.clone().mapped(block_q, block_k, kept).demand(&device, bound);
                }
            }
        }
    }
}

#[test]
fn a_map_that_keeps_all_is_dense_to_the_bit() {
    for device in devices() {
        for values in [ValuePrecision::F16, FP8] {
            let mut case = Case::of(Kind::Plain, shape(2, 197, 400, 128), Sage::default());
            case.sage.values = values;
            let dense = case.run(&device).unwrap();
            for block_k in [64, 128] {
                let mapped = case.clone().mapped(128, block_k, 400usize.div_ceil(block_k)).run(&device).unwrap();
                assert_eq!((mapped.out, mapped.lse), (dense.out.clone(), dense.lse.clone()));
            }
        }
    }
}

#[test]
fn outliers_zeros_and_other_layouts() {
    for device in devices() {
        for head_dim in [64, 128] {
            for kind in [Kind::OutlierChannel, Kind::Biased] {
                Case::of(kind, shape(1, 150, 197, head_dim), Sage::default()).demand(&device, F16_PRODUCT);
            }
            // blocks of zeros, with and without an epsilon in their scale
            for sage in [Sage::default(), Sage { smoothing: Smoothing::None, ..Sage::triton_per_block() }] {
                let mut case = Case::of(Kind::Plain, shape(1, 150, 197, head_dim), sage);
                case.k[64 * head_dim..128 * head_dim].fill(0.0);
                case.q[128 * head_dim..].fill(0.0);
                case.demand(&device, F16_PRODUCT);
            }
            let tokens_first = AttnShape::cross(2, 3, 70, 133, head_dim).unwrap().with_layout(HeadLayout::Blhd);
            let mut case = Case::of(Kind::Plain, tokens_first, Sage::default());
            case.demand(&device, F16_PRODUCT);
            case.sage.values = FP8;
            case.demand(&device, FP8_PRODUCT);
        }
    }
}

#[test]
fn a_query_that_is_no_number_spoils_its_row_alone() {
    for device in devices() {
        let mut case = Case::of(Kind::Plain, shape(1, 70, 70, 64), Sage::default());
        let clean = case.run(&device).unwrap();
        case.q[9 * 64] = f32::NAN;
        let spoiled = case.run(&device).unwrap();
        assert!(spoiled.out[9 * 64..10 * 64].iter().all(|value| value.is_nan()));
        assert_eq!(spoiled.out[8 * 64..9 * 64], clean.out[8 * 64..9 * 64]);
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    for device in devices() {
        let case = Case::of(Kind::Plain, shape(2, 150, 328, 128), Sage::default());
        let (first, second) = (case.run(&device).unwrap(), case.run(&device).unwrap());
        assert_eq!((first.out, first.lse), (second.out, second.lse));
    }
}

#[test]
fn misfits_are_refused() {
    for device in devices() {
        let refused = |case: &Case| case.run(&device).err();
        assert!(matches!(refused(&Case::of(Kind::Plain, shape(1, 70, 70, 80), Sage::default())), Some(Error::Setting { .. })));
        let mut case = Case::of(Kind::Plain, shape(1, 70, 90, 64), Sage::default());
        case.causal = true;
        assert!(matches!(refused(&case), Some(Error::CausalLengths { query_len: 70, key_len: 90 })));
        case.causal = false;
        assert!(matches!(refused(&case.clone().mapped(32, 64, 1)), Some(Error::Setting { .. })));
        let mut sage = Sage::sagesla(64, 32);
        sage.values = ValuePrecision::F16;
        case.sage = sage;
        assert!(matches!(refused(&case), Some(Error::Setting { .. })));
    }
}
