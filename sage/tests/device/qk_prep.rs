//! Queries and keys from the projections in one pass: the norm and the rotary embedding of the kernel that does only those,
//! and from the turned rows on the bits of the kernels that do one step each.

use half::{bf16, f16};
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::ops::norm::RmsRule;
use turbowan_cuda::ops::rope::device::{HeadRows, RmsRope, RopeTurns};
use turbowan_cuda::{AttnShape, HeadLayout, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::{norm as norm_truth, rope as rope_truth};
use turbowan_sage::device::prepare::{
    Beside, BesideTo, E4m3Codes, E4m3Values, Layout, MeanKeys, PooledRows, Prepared, Projected, QkPrep, QuantValues, ValueLayout,
    maxima_len, sums_len,
};
use turbowan_sage::{Error, Granularity, Rule, Sage, Smoothing, Tile, tiled_len};

use crate::prepare::{Operand, narrowed, quantise};
use crate::{devices, devices_in_all_ways};

const EPS: f32 = 1e-6;

#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    grid: [usize; 3],
    heads: usize,
    head_dim: usize,
    /// Values between the rows of the projections.
    gap: usize,
    rule: RmsRule,
    sage: Sage,
    pool_rows: usize,
    stores_q: bool,
    values: Beyond,
    kind: Kind,
}

/// All that a pass gives.
#[derive(PartialEq)]
struct Outcome {
    q: Vec<bf16>,
    k: Vec<bf16>,
    values: Vec<i8>,
    scales: Vec<f32>,
    pooled: Vec<bf16>,
    sums: Vec<f32>,
    means: Vec<f32>,
    f16s: Vec<f16>,
    amax: Vec<u32>,
}

/// What is asked of the values.
#[derive(Clone, Copy, PartialEq)]
enum Beyond {
    Nothing,
    F16,
    Maxima,
}

/// One side's operands on a device.
struct Uploaded {
    values: Buffer<bf16>,
    squares: Buffer<f32>,
    weight: Buffer<f32>,
}

impl Case {
    fn shape(&self) -> AttnShape {
        AttnShape::new(self.batch, self.heads, self.grid.iter().product(), self.head_dim).unwrap()
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn rows(&self) -> usize {
        self.batch * self.grid.iter().product::<usize>()
    }

    fn parts(&self) -> usize {
        self.width().div_ceil(128)
    }

    fn x(&self, seed: u64) -> Vec<f32> {
        let mut x = input(self.kind, self.rows(), self.width(), seed);
        Rounding::Bf16.apply_row(&mut x);
        x
    }

    fn weight(&self, seed: u64) -> Vec<f32> {
        normal(self.width(), seed + 10).into_iter().map(|w| 1.0 + 0.2 * w).collect()
    }

    /// Rows and their sums with what is not theirs between.
    fn upload(&self, stream: &Stream, seed: u64) -> Uploaded {
        let (x, width, parts) = (self.x(seed), self.width(), self.parts());
        let (mut wide, mut squares) = (Vec::new(), Vec::new());
        for row in x.chunks(width) {
            wide.extend(narrowed::<bf16>(row));
            wide.extend(vec![bf16::NAN; self.gap]);
            squares.extend(row.chunks(128).map(|part| part.iter().fold(0.0f32, |sum, x| x.mul_add(*x, sum))));
            squares.extend(vec![f32::NAN; self.gap]);
        }
        wide.truncate(wide.len() - self.gap);
        squares.truncate(squares.len() - self.gap);
        assert_eq!(squares.len(), (self.rows() - 1) * (parts + self.gap) + parts);
        Uploaded {
            values: stream.upload(&wide).unwrap(),
            squares: stream.upload(&squares).unwrap(),
            weight: stream.upload(&self.weight(seed)).unwrap(),
        }
    }

    fn projected<'a>(&self, uploaded: &'a Uploaded) -> Projected<'a> {
        Projected {
            values: uploaded.values.view(),
            stride: self.width() + self.gap,
            squares: uploaded.squares.view(),
            squares_stride: self.parts() + self.gap,
            weight: uploaded.weight.view(),
        }
    }

    fn run(&self, stream: &Stream) -> Result<Outcome, Error> {
        let shape = self.shape();
        let (q, k, v) = (self.upload(stream, 1), self.upload(stream, 2), self.upload(stream, 3));
        let mut f16s = stream.allocate::<f16>(shape.key_values())?;
        let (mut maxima, mut amax) =
            (stream.allocate::<f32>(maxima_len(&shape))?, stream.allocate::<u32>(shape.problems() * self.head_dim)?);
        let turns = RopeTurns::upload(stream, self.grid, self.head_dim)?;
        let count = shape.query_values();
        let (mut q_out, mut k_out) = (stream.allocate::<bf16>(if self.stores_q { count } else { 0 })?, stream.allocate::<bf16>(count)?);
        let mut values = stream.allocate::<i8>(count)?;
        let mut scales = stream.allocate::<f32>(shape.problems() * self.sage.granularity.query_groups().count(shape.query_len))?;
        let blocks = if self.pool_rows == 0 { 0 } else { shape.query_len.div_ceil(self.pool_rows) };
        let mut pooled = stream.allocate::<bf16>(shape.problems() * blocks * self.head_dim)?;
        let (mut sums, mut means) = (stream.allocate::<f32>(sums_len(&shape))?, stream.allocate::<f32>(shape.problems() * self.head_dim)?);
        let (prepare, mean) = (QkPrep::load(stream.device())?, MeanKeys::load(stream.device())?);
        let mut queue = |stream: &Stream| -> Result<(), Error> {
            let out = Prepared {
                q: self.stores_q.then(|| q_out.view_mut()),
                k: k_out.view_mut(),
                q_values: values.view_mut(),
                q_scales: scales.view_mut(),
                q_pooled: (self.pool_rows != 0).then(|| PooledRows { means: pooled.view_mut(), rows: self.pool_rows }),
                k_sums: sums.view_mut(),
                v: (self.values != Beyond::Nothing).then(|| Beside {
                    values: v.values.view(),
                    stride: self.width() + self.gap,
                    to: if self.values == Beyond::F16 { BesideTo::F16(f16s.view_mut()) } else { BesideTo::Maxima(maxima.view_mut()) },
                }),
            };
            prepare.run(stream, (self.rule, EPS), self.projected(&q), self.projected(&k), &shape, &turns, &self.sage, out)?;
            let maxima = (self.values == Beyond::Maxima).then(|| (maxima.view(), amax.view_mut()));
            mean.finish::<bf16>(stream, sums.view(), &shape, means.view_mut(), maxima)
        };
        queue(stream)?;
        let mut graph = stream.capture(&mut queue)?;
        let read = || -> Result<Outcome, Error> {
            Ok(Outcome {
                q: q_out.to_vec()?,
                k: k_out.to_vec()?,
                values: values.to_vec()?,
                scales: scales.to_vec()?,
                pooled: pooled.to_vec()?,
                sums: sums.to_vec()?,
                means: means.to_vec()?,
                f16s: if self.values == Beyond::F16 { f16s.to_vec()? } else { Vec::new() },
                amax: if self.values == Beyond::Maxima { amax.to_vec()? } else { Vec::new() },
            })
        };
        let eager = read()?;
        graph.replay()?;
        assert!(read()? == eager, "a replay");
        Ok(eager)
    }

    /// Normed and turned rows by the kernel that does no more.
    fn unfused(&self, stream: &Stream, seed: u64) -> Vec<bf16> {
        let uploaded = self.upload(stream, seed);
        let turns = RopeTurns::upload(stream, self.grid, self.head_dim).unwrap();
        let rows = HeadRows {
            values: uploaded.values.view(),
            tokens: turns.tokens(),
            heads: self.heads,
            head_dim: self.head_dim,
            stride: self.width() + self.gap,
        };
        let mut out = stream.allocate::<bf16>(self.shape().query_values()).unwrap();
        let kernel = RmsRope::load(stream.device()).unwrap();
        let (weight, turns) = (uploaded.weight.view(), Some(&turns));
        kernel.run(stream, self.rule, EPS, rows, weight, turns, HeadLayout::Bhld, out.view_mut()).unwrap();
        out.to_vec().unwrap()
    }

    /// The exact rows, `[batch, tokens, heads, head_dim]`.
    fn truth(&self, seed: u64) -> Vec<f64> {
        let y = norm_truth::rms_norm(&self.x(seed), self.width(), EPS.into(), &self.weight(seed));
        let y: Vec<f32> = y.into_iter().map(|y| y as f32).collect();
        rope_truth::rotate(&y, self.heads, self.head_dim, &rope_truth::angles(self.grid, self.head_dim))
    }

    /// How many rows' values differ from the unfused kernel's: none by more than a unit of bf16 of the pair that it was
    /// turned with, and from the exact ones by two roundings more.
    fn demand_turned(&self, got: &[bf16], stream: &Stream, seed: u64, what: &str) -> usize {
        let (twin, truth, shape) = (self.unfused(stream, seed), self.truth(seed), self.shape());
        let mut differ = 0;
        for (at, got) in got.iter().enumerate() {
            let size = twin[at].to_f32().abs().max(twin[at ^ 1].to_f32().abs());
            let (got, twin) = (got.to_f32(), twin[at].to_f32());
            assert!((got - twin).abs() <= size / 128.0, "{what}: value {at}: {got}, unfused {twin}");
            let (problem, token, dim) = (at / self.head_dim / shape.query_len, at / self.head_dim % shape.query_len, at % self.head_dim);
            let row = problem / self.heads * shape.query_len + token;
            let exact = truth[row * self.width() + problem % self.heads * self.head_dim + dim];
            assert!((f64::from(got) - exact).abs() <= f64::from(size) / 64.0 + 1e-6, "{what}: value {at}: {got}, exactly {exact}");
            differ += usize::from(got != twin);
        }
        differ
    }

    /// Everything behind the turned rows is what the unfused kernels make of them.
    fn demand_composed(&self, got: &Outcome, stream: &Stream, what: &str) {
        let shape = self.shape();
        if self.stores_q {
            let want = quantise(stream, &got.q, Operand::Queries, &shape, &self.sage, Layout::Rows, self.pool_rows).unwrap();
            assert!(got.values == want.values, "{what}: int8 queries");
            assert_eq!(got.scales, want.scales, "{what}");
            assert!(got.pooled == want.pooled, "{what}: means of blocks");
        }
        let k = stream.upload(&got.k).unwrap();
        let mut sums = stream.allocate::<f32>(sums_len(&shape)).unwrap();
        let mut means = stream.allocate::<f32>(got.means.len()).unwrap();
        MeanKeys::load(stream.device()).unwrap().run(stream, k.view(), &shape, sums.view_mut(), means.view_mut()).unwrap();
        assert_eq!(got.sums, sums.to_vec().unwrap(), "{what}");
        assert_eq!(got.means, means.to_vec().unwrap(), "{what}");
        let (v, dim) = (self.x(3), self.head_dim);
        assert!(got.f16s.iter().zip(&v).all(|(got, v)| *got == f16::from_f32(*v)), "{what}: f16 values");
        for (at, got) in got.amax.iter().enumerate() {
            let (problem, channel) = (at / dim, at % dim);
            let column = problem % self.heads * dim + channel;
            let rows = v.chunks(self.width()).skip(problem / self.heads * shape.key_len).take(shape.key_len);
            assert_eq!(f32::from_bits(*got), rows.fold(0.0, |most: f32, row| most.max(row[column].abs())), "{what}: largest of {at}");
        }
    }
}

fn plain(grid: [usize; 3], heads: usize, head_dim: usize) -> Case {
    Case {
        batch: 1,
        grid,
        heads,
        head_dim,
        gap: 0,
        rule: RmsRule::Standard,
        sage: Sage::sagesla(128, 64),
        pool_rows: 128,
        stores_q: true,
        values: Beyond::Nothing,
        kind: Kind::Plain,
    }
}

fn cases() -> Vec<Case> {
    let thread = Sage { granularity: Granularity::PerThread(Tile::SM90), rule: Rule::HalfEven, ..Sage::default() };
    let folded = Sage { smoothing: Smoothing::None, ..Sage::triton_per_block() };
    vec![
        plain([1, 1, 1], 1, 128),
        // two tiles with a ragged end, heads that fill no last block of four
        Case { kind: Kind::OutlierChannel, values: Beyond::Maxima, ..plain([3, 5, 9], 5, 64) },
        Case { batch: 2, gap: 8, rule: RmsRule::Fast, sage: thread, pool_rows: 64, values: Beyond::F16, ..plain([2, 5, 7], 3, 64) },
        Case { gap: 256, sage: folded, pool_rows: 0, values: Beyond::Maxima, ..plain([1, 11, 12], 2, 128) },
        Case { kind: Kind::Zero, sage: Sage::sagesla(64, 128), pool_rows: 64, values: Beyond::F16, ..plain([1, 5, 13], 1, 64) },
    ]
}

#[test]
fn turned_rows_are_the_unfused_kernel_s_and_all_behind_them_its_composition() {
    let (mut differ, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        let stream = device.stream().unwrap();
        for case in cases() {
            let got = case.run(&stream).unwrap();
            let what = format!("{device:?} {:?} x {} x {}", case.grid, case.heads, case.head_dim);
            differ += case.demand_turned(&got.q, &stream, 1, &what) + case.demand_turned(&got.k, &stream, 2, &what);
            all += got.q.len() + got.k.len();
            case.demand_composed(&got, &stream, &what);
        }
    }
    println!("{differ} of {all} turned values differ from the unfused kernel's");
    assert!(differ * 1000 <= all, "{differ} of {all} turned values differ from the unfused kernel's");
}

#[test]
fn the_last_position_of_each_axis_is_turned_right() {
    for device in devices() {
        let stream = device.stream().unwrap();
        for grid in [[128, 1, 1], [1, 128, 1], [1, 1, 128], [2, 6, 11]] {
            let case = plain(grid, 1, 64);
            let got = case.run(&stream).unwrap();
            case.demand_turned(&got.q, &stream, 1, &format!("{grid:?}"));
        }
    }
}

#[test]
fn queries_that_are_not_stored_change_nothing_and_a_repeat_gives_the_same_bits() {
    for device in devices() {
        let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
        let case = plain([1, 10, 14], 2, 64);
        let stored = case.run(&first).unwrap();
        assert!(stored == case.run(&second).unwrap());
        let left_out = Case { stores_q: false, ..case }.run(&first).unwrap();
        assert!(left_out == Outcome { q: Vec::new(), ..stored });
    }
}

#[test]
fn rows_of_1e4_stay_finite_and_a_row_that_is_no_number_spoils_its_group_alone() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let case = plain([1, 10, 14], 1, 64);
        let shape = case.shape();
        let run = |x: &[f32]| {
            let squares: Vec<f32> = x.chunks(64).map(|row| row.iter().map(|x| x * x).sum()).collect();
            let (x, squares) = (stream.upload(&narrowed::<bf16>(x)).unwrap(), stream.upload(&squares).unwrap());
            let weight = stream.upload(&[1.0f32; 64]).unwrap();
            let turns = RopeTurns::upload(&stream, case.grid, 64).unwrap();
            let (mut k, mut values) = (stream.allocate::<bf16>(140 * 64).unwrap(), stream.allocate::<i8>(140 * 64).unwrap());
            let (mut scales, mut sums) = (stream.allocate::<f32>(2).unwrap(), stream.allocate::<f32>(3 * 64).unwrap());
            let rows = Projected { values: x.view(), stride: 64, squares: squares.view(), squares_stride: 1, weight: weight.view() };
            let out = Prepared {
                q: None,
                k: k.view_mut(),
                q_values: values.view_mut(),
                q_scales: scales.view_mut(),
                q_pooled: None,
                k_sums: sums.view_mut(),
                v: None,
            };
            QkPrep::load(&device).unwrap().run(&stream, (case.rule, EPS), rows, rows, &shape, &turns, &case.sage, out).unwrap();
            (k.to_vec().unwrap(), values.to_vec().unwrap(), scales.to_vec().unwrap())
        };
        let mut x: Vec<f32> = input(Kind::Plain, 140, 64, 3).into_iter().map(|x| x * 1e4).collect();
        let (k, values, scales) = run(&x);
        assert!(k.iter().all(|k| k.to_f32().abs() < 30.0) && scales.iter().all(|scale| scale.is_finite()));
        x[130 * 64] = f32::NAN;
        let spoiled = run(&x);
        assert!(spoiled.2[1].is_nan() && spoiled.2[0] == scales[0]);
        assert_eq!(spoiled.1[..128 * 64], values[..128 * 64]);
        assert!(spoiled.1[128 * 64..].iter().all(|value| *value == 0));
        assert!(spoiled.0[130 * 64..131 * 64].iter().all(|k| k.is_nan()) && spoiled.0[..130 * 64] == k[..130 * 64]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let case = plain([1, 2, 3], 2, 64);
        let shape = case.shape();
        let (q, turns) = (case.upload(&stream, 1), RopeTurns::upload(&stream, case.grid, 64).unwrap());
        let (mut k, mut values) = (stream.allocate::<bf16>(768).unwrap(), stream.allocate::<i8>(768).unwrap());
        let (mut scales, mut sums) = (stream.allocate::<f32>(2).unwrap(), stream.allocate::<f32>(128).unwrap());
        let kernel = QkPrep::load(&device).unwrap();
        let mut run = |rows: Projected<'_>, shape: &AttnShape, sage: &Sage| {
            let out = Prepared {
                q: None,
                k: k.view_mut(),
                q_values: values.view_mut(),
                q_scales: scales.view_mut(),
                q_pooled: None,
                k_sums: sums.view_mut(),
                v: None,
            };
            kernel.run(&stream, (case.rule, EPS), rows, case.projected(&q), shape, &turns, sage, out).err()
        };
        let good = case.projected(&q);
        assert_eq!(run(good, &shape, &case.sage), None);
        let setting = |refused: Option<Error>| assert!(matches!(refused, Some(Error::Setting { .. })), "{refused:?}");
        let operand = |refused: Option<Error>| assert!(matches!(refused, Some(Error::Operand(_))), "{refused:?}");
        setting(run(Projected { stride: 120, ..good }, &shape, &case.sage));
        setting(run(Projected { stride: 132, ..good }, &shape, &case.sage));
        setting(run(Projected { squares_stride: 0, ..good }, &shape, &case.sage));
        operand(run(Projected { stride: 136, ..good }, &shape, &case.sage));
        operand(run(Projected { squares_stride: 2, ..good }, &shape, &case.sage));
        operand(run(Projected { weight: good.weight.slice(0..64).unwrap(), ..good }, &shape, &case.sage));
        setting(run(good, &AttnShape::cross(1, 2, 6, 7, 64).unwrap(), &case.sage));
        setting(run(good, &AttnShape::new(1, 4, 6, 32).unwrap(), &case.sage));
        operand(run(good, &AttnShape::new(1, 2, 5, 64).unwrap(), &case.sage));
        operand(run(good, &AttnShape::new(1, 1, 6, 128).unwrap(), &case.sage));
        setting(run(good, &shape, &Sage::sagesla(96, 64)));
        operand(run(good, &shape, &Sage::cuda_per_warp(Tile::SM80)));
    }
}

#[test]
fn values_between_others_become_the_codes_that_they_become_alone() {
    for device in devices().into_iter().filter(|device| device.chip().capability >= (8, 9)) {
        let stream = device.stream().unwrap();
        let case = Case { batch: 2, gap: 24, values: Beyond::Maxima, ..plain([1, 10, 14], 3, 64) };
        let (shape, kernel) = (case.shape().with_layout(HeadLayout::Blhd), QuantValues::load(&device).unwrap());
        let amax = stream.upload(&case.run(&stream).unwrap().amax).unwrap();
        for (layout, count) in [
            (ValueLayout::Channels { padded_len: 192 }, shape.problems() * 64 * 192),
            (ValueLayout::Tiles, tiled_len(shape.problems(), shape.key_len, 64)),
        ] {
            let v = stream.upload(&narrowed::<bf16>(&case.x(3))).unwrap();
            let (mut values, mut scales) = (stream.allocate::<u8>(count).unwrap(), stream.allocate::<f32>(amax.len()).unwrap());
            let mut room = stream.allocate::<u32>(amax.len()).unwrap();
            let out = E4m3Values { values: values.view_mut(), layout, scales: scales.view_mut(), amax: room.view_mut() };
            kernel.e4m3(&stream, v.view(), &shape, 448.0, out).unwrap();
            let want = (values.to_vec().unwrap(), scales.to_vec().unwrap());
            values.view_mut().fill_bytes(0xff).unwrap();
            let v = case.upload(&stream, 3);
            let mut run = |stride: usize| {
                let out = E4m3Codes { values: values.view_mut(), layout, scales: scales.view_mut() };
                kernel.e4m3_below(&stream, v.values.view(), stride, &shape, 448.0, amax.view(), out)
            };
            assert!(matches!(run(case.width() - 8), Err(Error::Setting { .. })));
            assert!(matches!(run(case.width()), Err(Error::Operand(_))));
            run(case.width() + case.gap).unwrap();
            assert!((values.to_vec().unwrap(), scales.to_vec().unwrap()) == want, "{device:?} {layout:?}");
        }
    }
}
