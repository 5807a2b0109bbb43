//! Against the host twin: the same integers, the same product, f32 sums in another order, and an output in bf16.

use half::f16;
use turbowan_cuda::device::Device;
use turbowan_cuda::{AttnShape, BlockMap, HeadLayout};
use turbowan_reference::inputs::{Kind, rows};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sage::device::Format;
use turbowan_sage::{
    Error, Fp8Values, Quantised, Sage, Smoothing, Tile, ValuePrecision, forward_with_lse, quantise_keys, quantise_queries, quantise_values,
};

use crate::{ADA, Added, HostValues, Outcome, Problem, in_all_ways, of, on_every_chip};

/// The output is rounded to bf16: 2^-9 at most, and less in the mean.
pub const F16_PRODUCT: Bound = Bound::relative_l2(2e-3);
/// e4m3: a probability near a tie may round the other way, and the sums over 64 keys are in f16 rather than in f32.
pub const FP8_PRODUCT: Bound = Bound::relative_l2(6e-3);
/// A few f32 roundings of a score.
pub const LSE: Bound = Bound::relative_l2(2e-6);
pub const FP8: ValuePrecision = ValuePrecision::Fp8 { scale_max: 2.25 };

#[derive(Clone)]
pub struct Case {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub shape: AttnShape,
    pub map: Option<BlockMap>,
    pub added: Option<Added>,
    pub causal: bool,
    pub sage: Sage,
    pub format: Format,
}

/// Queries, keys and values as the kernels take them.
pub struct Int8Case {
    pub q: Quantised,
    pub k: Quantised,
    f16: Vec<f16>,
    pub fp8: Fp8Values,
}

impl Case {
    /// With f16 values.
    pub fn of(kind: Kind, shape: AttnShape, sage: Sage) -> Self {
        let draw = |len: usize, seed| rows(kind, shape.problems() * len, shape.head_dim, seed);
        let (q, k, v) = (draw(shape.query_len, 1), draw(shape.key_len, 2), draw(shape.key_len, 3));
        let sage = sage.with_values(ValuePrecision::F16);
        Self { q, k, v, shape, map: None, added: None, causal: false, sage, format: Format::F16 }
    }

    pub fn with_format(mut self, format: Format) -> Self {
        self.format = format;
        self.sage.values = match format {
            Format::F16 => ValuePrecision::F16,
            Format::Fp8 => FP8,
            Format::Tiled => ValuePrecision::Fp8 { scale_max: 448.0 },
        };
        self
    }

    /// A map that keeps `kept` key blocks, others for every query block.
    pub fn mapped(mut self, block_q: usize, block_k: usize, kept: usize) -> Self {
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

    pub fn quantised(&self) -> Int8Case {
        let scale_max = if self.format == Format::Tiled { 448.0 } else { 2.25 };
        Int8Case {
            q: quantise_queries(&self.q, &self.shape, &self.sage).unwrap(),
            k: quantise_keys(&self.k, None, &self.shape, &self.sage).unwrap(),
            f16: self.v.iter().map(|v| f16::from_f32(*v)).collect(),
            fp8: quantise_values(&self.v, &self.shape, scale_max, 64, &self.sage).unwrap(),
        }
    }

    pub fn problem<'a>(&'a self, int8: &'a Int8Case) -> Problem<'a> {
        let values = match self.format {
            Format::F16 => HostValues::F16(&int8.f16),
            Format::Fp8 => HostValues::Fp8(&int8.fp8),
            Format::Tiled => HostValues::Tiled(&int8.fp8),
        };
        let Self { shape, causal, sage, .. } = *self;
        Problem { q: &int8.q, k: &int8.k, values, map: self.map.as_ref(), added: self.added.as_ref(), shape, causal, sage }
    }

    pub fn run(&self, device: &Device) -> Result<Outcome, Error> {
        self.problem(&self.quantised()).run(device)
    }

    fn demand(&self, device: &Device, bound: Bound) {
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

pub fn shape(heads: usize, query_len: usize, key_len: usize, head_dim: usize) -> AttnShape {
    AttnShape::cross(1, heads, query_len, key_len, head_dim).unwrap()
}

/// One row, a tile less one, a tile, a tile and one, lengths that differ, several tiles with ragged ends.
pub const LENGTHS: [(usize, usize); 9] = [(1, 1), (63, 63), (64, 64), (65, 65), (150, 328), (197, 197), (1, 400), (400, 1), (130, 64)];

#[test]
fn f16_values_at_every_length() {
    for device in on_every_chip().into_iter().chain(in_all_ways(ADA)) {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                Case::of(Kind::Plain, shape(1, query_len, key_len, head_dim), Sage::default()).demand(&device, F16_PRODUCT);
            }
        }
    }
}

#[test]
fn e4m3_values_at_every_length() {
    for device in in_all_ways(ADA) {
        for (query_len, key_len) in LENGTHS {
            for head_dim in [64, 128] {
                let case = Case::of(Kind::Plain, shape(1, query_len, key_len, head_dim), Sage::default());
                case.with_format(Format::Fp8).demand(&device, FP8_PRODUCT);
            }
        }
    }
}

#[test]
fn every_granularity_and_rule() {
    let unsmoothed = Sage { smoothing: Smoothing::None, ..Sage::default() };
    let variants =
        [Sage::triton_per_block(), Sage::per_thread(Tile::SM90), Sage::cuda_per_warp(Tile::SM80), Sage::sagesla(128, 64), unsmoothed];
    for device in on_every_chip() {
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
    for device in in_all_ways(ADA) {
        for head_dim in [64, 128] {
            for (format, bound) in [(Format::F16, F16_PRODUCT), (Format::Fp8, FP8_PRODUCT)] {
                let mut case = Case::of(Kind::Plain, shape(1, 140, 140, head_dim), unsmoothed).with_format(format);
                case.causal = true;
                case.demand(&device, bound);
                // some rows see no key
                case.mapped(64, 64, 1).demand(&device, bound);
                let case = Case::of(Kind::Plain, shape(1, 400, 400, head_dim), unsmoothed).with_format(format);
                for (block_q, block_k, kept) in [(128, 64, 1), (128, 64, 3), (64, 128, 2)] {
                    // in e4m3 a probability depends on the step that it is weighed in
                    if format == Format::Fp8 && block_k != 64 {
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
    for device in on_every_chip() {
        for format in formats(&device) {
            let case = Case::of(Kind::Plain, shape(2, 197, 400, 128), Sage::default()).with_format(format);
            let dense = case.run(&device).unwrap();
            for block_k in [64, 128] {
                let mapped = case.clone().mapped(128, block_k, 400usize.div_ceil(block_k)).run(&device).unwrap();
                assert_eq!(mapped, dense, "{format:?}");
            }
        }
    }
}

/// What a device has kernels for.
pub fn formats(device: &Device) -> Vec<Format> {
    let capability = device.chip().capability;
    [Format::F16, Format::Fp8, Format::Tiled].into_iter().filter(|format| format.is_on(capability)).collect()
}

#[test]
fn outliers_zeros_and_other_layouts() {
    for device in on_every_chip() {
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
            let case = Case::of(Kind::Plain, tokens_first, Sage::default());
            case.demand(&device, F16_PRODUCT);
            if formats(&device).contains(&Format::Fp8) {
                case.with_format(Format::Fp8).demand(&device, FP8_PRODUCT);
            }
        }
    }
}

#[test]
fn magnitudes_of_ten_thousand_stay_finite() {
    for device in of(ADA) {
        for (format, bound) in [(Format::F16, F16_PRODUCT), (Format::Fp8, FP8_PRODUCT)] {
            let mut case = Case::of(Kind::Plain, shape(1, 150, 197, 128), Sage::default()).with_format(format);
            case.q.iter_mut().chain(&mut case.k).for_each(|value| *value *= 1e4);
            case.demand(&device, bound);
        }
    }
}

#[test]
fn a_query_that_is_no_number_spoils_its_row_alone() {
    for device in on_every_chip() {
        for format in formats(&device) {
            let mut case = Case::of(Kind::Plain, shape(1, 70, 70, 64), Sage::default()).with_format(format);
            let clean = case.run(&device).unwrap();
            case.q[9 * 64] = f32::NAN;
            let spoiled = case.run(&device).unwrap();
            assert!(spoiled.out[9 * 64..10 * 64].iter().all(|value| value.is_nan()));
            assert_eq!(spoiled.out[8 * 64..9 * 64], clean.out[8 * 64..9 * 64]);
        }
    }
}

#[test]
fn misfits_are_refused() {
    for device in on_every_chip() {
        let refused = |case: &Case| case.run(&device).err();
        assert!(matches!(refused(&Case::of(Kind::Plain, shape(1, 70, 70, 80), Sage::default())), Some(Error::Setting { .. })));
        let mut case = Case::of(Kind::Plain, shape(1, 70, 90, 64), Sage::default());
        case.causal = true;
        assert!(matches!(refused(&case), Some(Error::CausalLengths { query_len: 70, key_len: 90 })));
        case.causal = false;
        assert!(matches!(refused(&case.clone().mapped(32, 64, 1)), Some(Error::Setting { .. })));
        for format in [Format::F16, Format::Fp8, Format::Tiled] {
            let has_kernels = formats(&device).contains(&format);
            assert_eq!(case.clone().with_format(format).run(&device).is_ok(), has_kernels, "{format:?} on {device:?}");
        }
        let mut sage = Sage::sagesla(64, 32);
        sage.values = ValuePrecision::F16;
        case.sage = sage;
        assert!(matches!(refused(&case), Some(Error::Setting { .. })));
    }
}
