//! The mean key, INT8 rows and e4m3 values on a device: the bits of the host's quantisers.

use half::{bf16, f16};
use turbowan_cuda::device::{Device, Stream};
use turbowan_cuda::{AttnShape, Element, HeadLayout};
use turbowan_reference::inputs::{Kind, Seeded, rows as input};
use turbowan_sage::device::prepare::{
    E4m3Values, Half, Int8Rows, Layout, MeanKeys, PooledRows, QuantRows, QuantValues, ValueLayout, sums_len,
};
use turbowan_sage::{
    Error, Granularity, Groups, Quantised, Rule, Sage, Smoothing, Tile, mean_keys, quantise_keys, quantise_queries, quantise_values,
    tiled_len,
};

use crate::{devices, devices_in_all_ways};

/// Pooled rows are f32 sums in another order than any other's: a unit of bf16's 8 bits at a tie, or of f16's 11.
const UNIT: [f64; 2] = [1.0 / 128.0, 1.0 / 1024.0];
/// Sums of 128 values lose this share of their magnitudes, which cancel where rows are smoothed.
const SUM: f64 = 1e-6;

pub fn narrowed<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|value| T::narrow(*value)).collect()
}

/// What the quantiser made.
pub struct Outcome<T> {
    pub values: Vec<i8>,
    pub scales: Vec<f32>,
    pub pooled: Vec<T>,
}

/// Which operand is quantised.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operand<'a> {
    Queries,
    Keys(&'a [f32]),
}

impl Operand<'_> {
    fn groups(self, sage: &Sage) -> Groups {
        match self {
            Self::Queries => sage.granularity.query_groups(),
            Self::Keys(_) => sage.granularity.key_groups(),
        }
    }
}

/// Quantises on a device; `pool_rows` 0 pools nothing.
pub fn quantise<T: Half>(
    stream: &Stream,
    x: &[T],
    operand: Operand<'_>,
    shape: &AttnShape,
    sage: &Sage,
    layout: Layout,
    pool_rows: usize,
) -> Result<Outcome<T>, Error> {
    let len = if operand == Operand::Queries { shape.query_len } else { shape.key_len };
    let count = if layout == Layout::Rows { x.len() } else { tiled_len(shape.problems(), len, shape.head_dim) };
    let blocks = if pool_rows == 0 { 0 } else { len.div_ceil(pool_rows) };
    let x = stream.upload(x)?;
    let mut values = stream.allocate::<i8>(count)?;
    let mut scales = stream.allocate::<f32>(shape.problems() * operand.groups(sage).count(len))?;
    let mut means = stream.allocate::<T>(shape.problems() * blocks * shape.head_dim)?;
    let pooled = (pool_rows != 0).then(|| PooledRows { means: means.view_mut(), rows: pool_rows });
    let out = Int8Rows { values: values.view_mut(), layout, scales: scales.view_mut(), pooled };
    let kernels = QuantRows::load(stream.device())?;
    match operand {
        Operand::Queries => kernels.queries(stream, x.view(), shape, sage, out)?,
        Operand::Keys(means) => {
            let means = stream.upload(means)?;
            kernels.keys(stream, x.view(), (!means.is_empty()).then(|| means.view()), shape, sage, out)?;
        }
    }
    Ok(Outcome { values: values.to_vec()?, scales: scales.to_vec()?, pooled: means.to_vec()? })
}

fn bits(scales: &[f32]) -> Vec<u32> {
    scales.iter().map(|scale| if scale.is_nan() { u32::MAX } else { scale.to_bits() }).collect()
}

/// Both operands of one problem in both layouts: integers and scales are those of the host.
fn demand_host_bits<T: Half>(device: &Device, x: &[f32], shape: &AttnShape, sage: &Sage, what: &str) {
    let stream = device.stream().unwrap();
    let x = narrowed::<T>(x);
    let means = mean_keys(&x, shape, sage).unwrap();
    let demand = |operand: Operand<'_>, want: &Quantised| {
        for layout in [Layout::Rows, Layout::Tiles] {
            let got = quantise(&stream, &x, operand, shape, sage, layout, 0).unwrap();
            let want_values = if layout == Layout::Rows { want.values.clone() } else { want.tiled(shape.head_dim) };
            let what = format!("{device:?} {what} {sage:?} {shape:?} {layout:?} f16 {}", T::IS_F16);
            if let Some(at) = got.values.iter().zip(&want_values).position(|(got, want)| got != want) {
                panic!("{what}: value {at} is {}, the host's {}", got.values[at], want_values[at]);
            }
            assert_eq!(bits(&got.scales), bits(&want.scales), "{what}");
        }
    };
    demand(Operand::Queries, &quantise_queries(&x, shape, sage).unwrap());
    demand(Operand::Keys(&means), &quantise_keys(&x, Some(&means), shape, sage).unwrap());
}

fn variants() -> Vec<Sage> {
    let mut variants = Vec::new();
    for tile in [Tile::SM80, Tile::SM90] {
        for granularity in [Granularity::PerBlock(tile), Granularity::PerWarp(tile), Granularity::PerThread(tile)] {
            for (rule, smoothing, folds_scale) in [
                (Rule::HalfAway, Smoothing::Stored, true),
                (Rule::HalfAwayEpsilon, Smoothing::Stored, false),
                (Rule::HalfEven, Smoothing::MeanStored, true),
                (Rule::HalfAway, Smoothing::MeanStored, false),
                (Rule::HalfAwayEpsilon, Smoothing::None, true),
            ] {
                variants.push(Sage { granularity, rule, smoothing, folds_scale, ..Sage::default() });
            }
        }
    }
    variants
}

/// One row, a sum's rows less one, those, and one more, a tile, and one more, several with a ragged end.
const LENGTHS: [usize; 7] = [1, 63, 64, 65, 128, 129, 300];

#[test]
fn integers_and_scales_at_every_length_are_those_of_the_host() {
    for device in devices_in_all_ways() {
        for len in LENGTHS {
            for head_dim in [64, 128] {
                let shape = AttnShape::new(1, 1, len, head_dim).unwrap();
                let x = input(Kind::OutlierChannel, len, head_dim, 7);
                for sage in [Sage::default(), Sage::cuda_per_warp(Tile::SM80)] {
                    demand_host_bits::<bf16>(&device, &x, &shape, &sage, "lengths");
                }
            }
        }
    }
}

#[test]
fn every_granularity_rule_and_smoothing_gives_the_host_s_bits() {
    for device in devices() {
        for sage in variants() {
            for (head_dim, len) in [(64, 130), (128, 200)] {
                let shape = AttnShape::new(1, 2, len, head_dim).unwrap();
                let x = input(Kind::Biased, 2 * len, head_dim, 3);
                demand_host_bits::<bf16>(&device, &x, &shape, &sage, "variants");
                demand_host_bits::<f16>(&device, &x, &shape, &sage, "variants");
            }
        }
    }
}

/// Rows whose quotients are ties, blocks of zeros, and magnitudes to the ends of the exponents.
fn hard_rows(len: usize, head_dim: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Seeded::new(11);
    // the largest of a block is 127, so that the scale is one and every half is a tie
    let ties: Vec<f32> = (0..len * head_dim).map(|at| if at % head_dim == 0 { 127.0 } else { random.below(60) as f32 - 29.5 }).collect();
    let mut zeros = input(Kind::Plain, len, head_dim, 5);
    zeros[..len / 2 * head_dim].fill(0.0);
    let scaled = |factor: f32| input(Kind::Plain, len, head_dim, 5).into_iter().map(|x| x * factor).collect::<Vec<_>>();
    let mut endless = scaled(1.0);
    (endless[3], endless[(len - 1) * head_dim]) = (f32::INFINITY, f32::NAN);
    vec![
        ("ties", ties),
        ("a block of zeros", zeros),
        ("1e4", scaled(1e4)),
        ("1e-6", scaled(1e-6)),
        ("1e-30", scaled(1e-30)),
        ("subnormal", scaled(1e-38)),
        ("1e36", scaled(1e36)),
        ("constant", vec![0.75; len * head_dim]),
        ("not finite", endless),
    ]
}

#[test]
fn ties_zeros_and_extreme_magnitudes_give_the_host_s_bits() {
    let unsmoothed = |rule, folds_scale| Sage { rule, smoothing: Smoothing::None, folds_scale, ..Sage::default() };
    for device in devices() {
        for (what, x) in hard_rows(140, 64) {
            for rule in [Rule::HalfAway, Rule::HalfAwayEpsilon, Rule::HalfEven] {
                for folds_scale in [false, true] {
                    let shape = AttnShape::new(1, 1, 140, 64).unwrap();
                    demand_host_bits::<bf16>(&device, &x, &shape, &unsmoothed(rule, folds_scale), what);
                }
            }
        }
    }
}

#[test]
fn tokens_first_and_several_samples_give_the_host_s_bits() {
    for device in devices() {
        for layout in [HeadLayout::Bhld, HeadLayout::Blhd] {
            let shape = AttnShape::new(2, 3, 70, 64).unwrap().with_layout(layout);
            let x = input(Kind::OutlierChannel, 6 * 70, 64, 9);
            demand_host_bits::<bf16>(&device, &x, &shape, &Sage::default(), "layouts");
            demand_host_mean::<bf16>(&device, &x, &shape);
            demand_host_codes::<bf16>(&device, &x, &shape, 448.0);
        }
    }
}

/// How many of the means differ from the host's, which are at most a unit away.
fn demand_host_mean<T: Half>(device: &Device, x: &[f32], shape: &AttnShape) -> (usize, usize) {
    let stream = device.stream().unwrap();
    let x = narrowed::<T>(x);
    let k = stream.upload(&x).unwrap();
    let mut sums = stream.allocate::<f32>(sums_len(shape)).unwrap();
    let mut means = stream.allocate::<f32>(shape.problems() * shape.head_dim).unwrap();
    MeanKeys::load(device).unwrap().run(&stream, k.view(), shape, sums.view_mut(), means.view_mut()).unwrap();
    let (got, want) = (means.to_vec().unwrap(), mean_keys(&x, shape, &Sage::default()).unwrap());
    let unit = UNIT[usize::from(T::IS_F16)] as f32;
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(T::narrow(*got).widen().to_bits(), got.to_bits(), "{device:?} {shape:?}: a mean in its format");
        assert!((got - want).abs() <= want.abs() * unit, "{device:?} {shape:?}: {got}, the host's {want}");
    }
    (got.iter().zip(&want).filter(|(got, want)| got != want).count(), got.len())
}

#[test]
fn the_mean_key_is_that_of_the_host() {
    let (mut differ, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        for (len, head_dim) in [(1, 64), (63, 128), (64, 64), (129, 128), (300, 64)] {
            for kind in Kind::ALL {
                let shape = AttnShape::new(1, 2, len, head_dim).unwrap();
                let x = input(kind, 2 * len, head_dim, 2);
                for (one, of) in [demand_host_mean::<bf16>(&device, &x, &shape), demand_host_mean::<f16>(&device, &x, &shape)] {
                    differ += one;
                    all += of;
                }
            }
        }
    }
    // more parts than threads that add them
    for device in devices() {
        let shape = AttnShape::new(1, 1, 64 * 70 + 5, 64).unwrap();
        demand_host_mean::<bf16>(&device, &input(Kind::Biased, shape.key_len, 64, 2), &shape);
    }
    println!("{differ} of {all} means differ from the host's");
    assert!(differ * 1000 <= all, "{differ} of {all} means differ from the host's");
}

#[test]
fn means_of_blocks_are_the_exact_ones_rounded() {
    let (mut differ, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        let stream = device.stream().unwrap();
        for (len, head_dim, pool_rows) in [(1, 64, 64), (65, 128, 64), (300, 128, 128), (129, 64, 128), (200, 64, 64)] {
            let shape = AttnShape::new(1, 2, len, head_dim).unwrap();
            for kind in [Kind::Plain, Kind::Biased, Kind::OutlierChannel, Kind::Zero] {
                let x = narrowed::<bf16>(&input(kind, 2 * len, head_dim, 4));
                let sage = Sage::sagesla(128, 64);
                let means = mean_keys(&x, &shape, &sage).unwrap();
                for operand in [Operand::Queries, Operand::Keys(&means)] {
                    let got = quantise(&stream, &x, operand, &shape, &sage, Layout::Rows, pool_rows).unwrap();
                    let blocks = len.div_ceil(pool_rows);
                    for (at, got) in got.pooled.iter().enumerate() {
                        let (problem, block, dim) = (at / head_dim / blocks, at / head_dim % blocks, at % head_dim);
                        let mean = if operand == Operand::Queries { 0.0 } else { means[problem * head_dim + dim] };
                        let rows = block * pool_rows..len.min((block + 1) * pool_rows);
                        let count = rows.len() as f64;
                        let values = rows.map(|row| bf16::from_f32(x[(problem * len + row) * head_dim + dim].to_f32() - mean).to_f64());
                        let (sum, size) = values.fold((0.0, 0.0), |(sum, size), value| (sum + value, size + value.abs()));
                        let (want, size) = (sum / count, size / count);
                        let off = (got.to_f64() - want).abs();
                        assert!(off <= want.abs() * UNIT[0] / 2.0 + size * SUM, "{device:?} {shape:?} {kind:?}: {got}, exactly {want}");
                        differ += usize::from(*got != bf16::from_f64(want));
                        all += 1;
                    }
                }
            }
        }
    }
    println!("{differ} of {all} means of blocks differ from the exact ones rounded");
    assert!(differ * 1000 <= all, "{differ} of {all} means of blocks differ from the exact ones rounded");
}

fn codes<T: Half>(stream: &Stream, v: &[T], shape: &AttnShape, scale_max: f32, layout: ValueLayout) -> Result<(Vec<u8>, Vec<f32>), Error> {
    let count = match layout {
        ValueLayout::Channels { padded_len } => shape.problems() * shape.head_dim * padded_len,
        ValueLayout::Tiles => tiled_len(shape.problems(), shape.key_len, shape.head_dim),
    };
    let v = stream.upload(v)?;
    let (mut values, mut scales) = (stream.allocate(count)?, stream.allocate(shape.problems() * shape.head_dim)?);
    let mut amax = stream.upload(&vec![u32::MAX; scales.len()])?;
    let out = E4m3Values { values: values.view_mut(), layout, scales: scales.view_mut(), amax: amax.view_mut() };
    QuantValues::load(stream.device())?.e4m3(stream, v.view(), shape, scale_max, out)?;
    Ok((values.to_vec()?, scales.to_vec()?))
}

fn demand_host_codes<T: Half>(device: &Device, v: &[f32], shape: &AttnShape, scale_max: f32) {
    let stream = device.stream().unwrap();
    let v = narrowed::<T>(v);
    for pad in [64, 128] {
        let want = quantise_values(&v, shape, scale_max, pad, &Sage::default()).unwrap();
        let layout = ValueLayout::Channels { padded_len: want.padded_len };
        let got = codes(&stream, &v, shape, scale_max, layout).unwrap();
        assert_eq!(bits(&got.1), bits(&want.scales), "{device:?} {shape:?}");
        assert!(got.0 == want.permuted(), "{device:?} {shape:?} {scale_max} padded to {pad}");
        let tiled = codes(&stream, &v, shape, scale_max, ValueLayout::Tiles).unwrap();
        assert!(tiled.0 == want.tiled(shape.head_dim, shape.key_len), "{device:?} {shape:?} {scale_max} in tiles");
        assert_eq!(tiled.1, got.1);
    }
}

#[test]
fn e4m3_values_at_every_length_are_those_of_the_host() {
    for device in devices_in_all_ways() {
        for len in LENGTHS {
            for head_dim in [64, 128] {
                let shape = AttnShape::new(1, 1, len, head_dim).unwrap();
                let v = input(Kind::OutlierChannel, len, head_dim, 8);
                demand_host_codes::<bf16>(&device, &v, &shape, 2.25);
            }
        }
    }
    for device in devices() {
        for (len, head_dim) in [(600, 64), (130, 128)] {
            let shape = AttnShape::new(1, 2, len, head_dim).unwrap();
            for kind in Kind::ALL {
                demand_host_codes::<f16>(&device, &input(kind, 2 * len, head_dim, 8), &shape, 448.0);
            }
            for factor in [1e4, 1e-6, 1e-30] {
                let v: Vec<f32> = input(Kind::Plain, 2 * len, head_dim, 8).into_iter().map(|v| v * factor).collect();
                demand_host_codes::<bf16>(&device, &v, &shape, 448.0);
            }
        }
    }
}

#[test]
fn f16_values_are_the_nearest() {
    for device in devices_in_all_ways() {
        let stream = device.stream().unwrap();
        let kernels = QuantValues::load(&device).unwrap();
        for count in [0, 8, 8192, 8200, 20_000] {
            let mut v = narrowed::<bf16>(&input(Kind::Plain, 1, count, 8));
            let hard = [7e4, -7e4, 1e-8, -0.0, 65504.0, 6e-8, f32::INFINITY, 1e-40];
            v.iter_mut().zip(hard).for_each(|(v, hard)| *v = bf16::from_f32(hard));
            let (from, mut to) = (stream.upload(&v).unwrap(), stream.allocate::<f16>(count).unwrap());
            kernels.f16(&stream, from.view(), to.view_mut()).unwrap();
            let want: Vec<f16> = v.iter().map(|v| f16::from_f32(v.to_f32())).collect();
            assert_eq!(to.to_vec().unwrap(), want, "{device:?} {count}");
        }
    }
}

#[test]
fn a_value_that_is_no_number_spoils_no_other() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let shape = AttnShape::new(1, 1, 70, 64).unwrap();
        let mut v = narrowed::<bf16>(&input(Kind::Plain, 70, 64, 8));
        let layout = ValueLayout::Channels { padded_len: 128 };
        let clean = codes(&stream, &v, &shape, 448.0, layout).unwrap();
        v[9 * 64 + 5] = bf16::NAN;
        let spoiled = codes(&stream, &v, &shape, 448.0, layout).unwrap();
        assert_eq!(spoiled.1.len(), 64);
        // token 9 stands at depth 3 of its 16
        assert_eq!(spoiled.0[5 * 128 + 3] & 0x7f, 0x7f);
        let differ = spoiled.0.iter().zip(&clean.0).enumerate().filter(|(at, (got, want))| at / 128 != 5 && got != want).count();
        assert_eq!(differ, 0);
    }
}

#[test]
fn a_repeated_a_recorded_and_a_neighbouring_run_give_the_same_bits() {
    for device in devices() {
        let shape = AttnShape::new(1, 2, 150, 128).unwrap();
        let x = narrowed::<bf16>(&input(Kind::OutlierChannel, 300, 128, 8));
        let sage = Sage::sagesla(128, 64);
        let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
        let run = |stream: &Stream| {
            let k = stream.upload(&x).unwrap();
            let mut sums = stream.allocate::<f32>(sums_len(&shape)).unwrap();
            let mut means = stream.allocate::<f32>(256).unwrap();
            let mut values = stream.allocate::<i8>(x.len()).unwrap();
            let mut scales = stream.allocate::<f32>(2 * 3).unwrap();
            let mut pooled = stream.allocate::<bf16>(2 * 3 * 128).unwrap();
            let (mut fp8, mut fp8_scales, mut amax) =
                (stream.allocate::<u8>(256 * 192).unwrap(), stream.allocate::<f32>(256).unwrap(), stream.allocate::<u32>(256).unwrap());
            let (mean, rows, quantiser) =
                (MeanKeys::load(&device).unwrap(), QuantRows::load(&device).unwrap(), QuantValues::load(&device).unwrap());
            let mut queue = |stream: &Stream| -> Result<(), Error> {
                mean.run(stream, k.view(), &shape, sums.view_mut(), means.view_mut())?;
                let pooled = Some(PooledRows { means: pooled.view_mut(), rows: 64 });
                let out = Int8Rows { values: values.view_mut(), layout: Layout::Rows, scales: scales.view_mut(), pooled };
                rows.keys(stream, k.view(), Some(means.view()), &shape, &sage, out)?;
                let layout = ValueLayout::Channels { padded_len: 192 };
                let out = E4m3Values { values: fp8.view_mut(), layout, scales: fp8_scales.view_mut(), amax: amax.view_mut() };
                quantiser.e4m3(stream, k.view(), &shape, 448.0, out)
            };
            queue(stream).unwrap();
            let mut graph = stream.capture(&mut queue).unwrap();
            let read = || (values.to_vec().unwrap(), scales.to_vec().unwrap(), pooled.to_vec().unwrap(), fp8.to_vec().unwrap());
            let eager = read();
            for _ in 0..2 {
                graph.replay().unwrap();
                assert!(read() == eager, "{device:?}: a replay");
            }
            eager
        };
        assert!(run(&first) == run(&second), "{device:?}: another stream");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let shape = |head_dim| AttnShape::new(1, 1, 70, head_dim).unwrap();
        let x = |count| vec![bf16::ONE; count];
        let rows = |x: &[bf16], operand, shape: &AttnShape, sage: &Sage, pool| {
            quantise(&stream, x, operand, shape, sage, Layout::Rows, pool).map(|outcome| outcome.values.len())
        };
        let sage = Sage::default();
        assert_eq!(rows(&x(70 * 64), Operand::Queries, &shape(64), &sage, 64).unwrap(), 70 * 64);
        assert!(matches!(rows(&x(70 * 80), Operand::Queries, &shape(80), &sage, 0), Err(Error::Setting { what: "head dim", .. })));
        assert!(matches!(rows(&x(70 * 64 - 1), Operand::Queries, &shape(64), &sage, 0), Err(Error::Operand(_))));
        assert!(matches!(rows(&x(70 * 64), Operand::Queries, &shape(64), &sage, 32), Err(Error::Setting { .. })));
        assert!(matches!(rows(&x(70 * 64), Operand::Keys(&[]), &shape(64), &sage, 0), Err(Error::Operand(_))));
        assert!(matches!(rows(&x(70 * 64), Operand::Keys(&[0.0; 63]), &shape(64), &sage, 0), Err(Error::Operand(_))));
        let wide = Sage { smoothing: Smoothing::MeanStored, ..sage };
        assert!(matches!(rows(&x(70 * 64), Operand::Keys(&[0.0; 64]), &shape(64), &wide, 64), Err(Error::Setting { .. })));
        for tile in [(256, 256), (24, 24), (64, 8)] {
            let tile = Tile { query_block: tile.0, query_warp: tile.1, ..Tile::SM80 };
            let sage = Sage { granularity: Granularity::PerWarp(tile), ..sage };
            assert!(matches!(rows(&x(70 * 64), Operand::Queries, &shape(64), &sage, 0), Err(Error::Setting { .. })), "{tile:?}");
        }
        let refused =
            |x: &[bf16], scale_max, padded_len| codes(&stream, x, &shape(64), scale_max, ValueLayout::Channels { padded_len }).err();
        assert!(refused(&x(70 * 64), 448.0, 128).is_none());
        for (scale_max, padded_len) in [(449.0, 128), (0.0, 128), (448.0, 100), (448.0, 64), (448.0, 256)] {
            assert!(matches!(refused(&x(70 * 64), scale_max, padded_len), Some(Error::Setting { .. })), "{scale_max} {padded_len}");
        }
        assert!(matches!(refused(&x(70 * 32), 448.0, 128), Some(Error::Operand(_))));
        let (k, mut sums, mut means) = (stream.upload(&x(70 * 64)).unwrap(), stream.allocate(128).unwrap(), stream.allocate(64).unwrap());
        let mean = MeanKeys::load(&device).unwrap();
        mean.run(&stream, k.view(), &shape(64), sums.view_mut(), means.view_mut()).unwrap();
        let long = AttnShape::new(1, 1, 140, 64).unwrap();
        assert!(matches!(mean.run(&stream, k.view(), &long, sums.view_mut(), means.view_mut()), Err(Error::Operand(_))));
        assert!(matches!(mean.finish::<bf16>(&stream, sums.view(), &long, means.view_mut(), None), Err(Error::Operand(_))));
        let mut odd = stream.allocate::<f16>(12).unwrap();
        let cast = QuantValues::load(&device).unwrap();
        assert!(matches!(cast.f16(&stream, k.view().slice(0..12).unwrap(), odd.view_mut()), Err(Error::Setting { .. })));
    }
}

#[test]
fn a_chip_without_e4m3_is_told_so() {
    let Ok(device) = Device::emulated(turbowan_cuda::device::EmulatorOptions::default().for_capability((8, 0))) else { return };
    let stream = device.stream().unwrap();
    let shape = AttnShape::new(1, 1, 1, 64).unwrap();
    let refused = codes(&stream, &[bf16::ONE; 64], &shape, 448.0, ValueLayout::Tiles);
    assert!(matches!(refused, Err(Error::Setting { what: "bits of a value", .. })), "{refused:?}");
}
