//! Queries and keys from the projections to attention in one pass: norm, rotary embedding, int8 queries, sums of keys.

use half::bf16;
use turbowan_cuda::device::Buffer;
use turbowan_cuda::ops::norm::{RmsNorm, RmsRule, rms_norm};
use turbowan_cuda::ops::rope::RopeTable;
use turbowan_cuda::ops::rope::device::RopeTurns;
use turbowan_cuda::{AttnShape, HeadLayout, Rounding};
use turbowan_reference::{norm as norm_truth, rope as rope_truth, sage as truth};
use turbowan_sage::device::prepare::{KERNELS, MeanKeys, PooledRows, Prepared as Rows, Projected, QkPrep, sums_len};
use turbowan_sage::{mean_keys, quantise_queries};

use super::attention::AfterZeros;
use super::sage_means::{block_means, block_sums, hold_means, hold_sums};
use super::sage_quantise::Variant;
use super::{FAR_ROWS, HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

const EPS: f32 = 1e-6;
/// Columns of a part of a row's sum of squares.
const PART: usize = 128;

/// `gap` values lie between the rows of the projections; `fast` rounds the norm once; `variant` is that of `sage-quantise`;
/// `pooled` 1 and 2 give means of 64 and of 128 queries.
const AXES: &[Axis] = &[
    Axis::new("batch", 1, 2, 1),
    Axis::new("time", 1, 4, 1),
    Axis::new("height", 1, 7, 1),
    Axis::new("width", 1, 9, 1),
    Axis::new("heads", 1, 6, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::new("gap", 0, 64, 8),
    Axis::choice("fast", 1),
    Axis::choice("variant", 4),
    Axis::choice("pooled", 2),
];

/// The one pass.
pub const OPS: [Op; 1] = [Op {
    name: "sage-prepare",
    about: "RMS(x) weight, turned by position, then int8 queries, means of their blocks, and the mean key",
    axes: AXES,
    cases: || {
        // one token; two tiles with a ragged end and heads that fill no last block of four; the ends of each axis
        let shapes: [&[usize]; 7] = [
            &[1, 1, 1, 1, 1, 128, 0, 0, 4, 2],
            &[1, 3, 5, 9, 5, 64, 0, 0, 4, 2],
            &[2, 2, 5, 7, 3, 64, 8, 1, 1, 1],
            &[1, 1, 11, 12, 2, 128, 256, 0, 2, 0],
            &[1, 128, 1, 1, 1, 64, 0, 1, 0, 1],
            &[1, 1, 128, 1, 1, 64, 0, 0, 3, 2],
            &[1, 1, 1, 128, 1, 64, 0, 0, 4, 1],
        ];
        Case::cross(&shapes, &[1, 2, 5, 7, 2, 128, 0, 0, 4, 1], &Kind::ALL[1..])
    },
    tame: |_| {},
    kernels: |chip| [&KERNELS[0], &KERNELS[2]].map(|kernel| (kernel.choose)(chip).1).to_vec(),
    // 64 tokens of two heads are a block
    far: &[Far { shape: &[1, 1, 8, 8, 2, 64, 0, 0, 4, 1], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 1) }],
    prepare: Pass::prepare,
}];

/// One of the two projections.
struct Side {
    narrow: Vec<bf16>,
    wide: Vec<f32>,
    weight: Vec<f32>,
    /// Normed and turned, `[problems, tokens, head_dim]`.
    want: Vec<f64>,
}

/// A projection on a device.
struct Uploaded {
    values: Buffer<bf16>,
    squares: Buffer<f32>,
    weight: Buffer<f32>,
    stride: usize,
    squares_stride: usize,
}

impl Uploaded {
    /// Without the gap after the last row.
    fn projected(&self, pass: &Pass) -> Result<Projected<'_>, Fault> {
        Ok(Projected {
            values: self.values.view().slice(0..self.values.len() - pass.gap)?,
            stride: self.stride,
            squares: self.squares.view().slice(0..self.squares.len() - pass.gap)?,
            squares_stride: self.squares_stride,
            weight: self.weight.view(),
        })
    }
}

struct Pass {
    shape: AttnShape,
    grid: [usize; 3],
    gap: usize,
    rule: RmsRule,
    variant: Variant,
    /// 0 pools nothing.
    pool_rows: usize,
    q: Side,
    k: Side,
}

impl Pass {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [batch, time, height, breadth, heads, dim, gap, fast, choice, pooled] = case.sizes();
        let grid = [time, height, breadth];
        let shape = AttnShape::new(batch, heads, grid.iter().product(), dim)?;
        let side = |seed: u64| {
            let width = heads * dim;
            let (narrow, wide) = bf16s(&case.kind.values(batch * shape.query_len, width, seed));
            let weight: Vec<f32> = Kind::Plain.values(1, width, seed + 1).into_iter().map(|w| 1.0 + 0.2 * w).collect();
            let normed: Vec<f32> = norm_truth::rms_norm(&wide, width, EPS.into(), &weight).into_iter().map(|value| value as f32).collect();
            let turned = rope_truth::rotate(&normed, heads, dim, &rope_truth::angles(grid, dim));
            Side { narrow, wide, weight, want: by_head(&turned, &shape) }
        };
        let (q, k) = (side(case.seed), side(case.seed + 2));
        let rule = if fast == 1 { RmsRule::Fast } else { RmsRule::Standard };
        Ok(Box::new(Self { shape, grid, gap, rule, variant: Variant::of(choice)?, pool_rows: 64 * pooled, q, k }))
    }

    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    /// A projection with what is not its own between the rows, behind samples of zeros.
    fn upload(&self, stand: &Stand, side: &Side) -> Result<Uploaded, Fault> {
        let (mut values, mut squares) = (Vec::new(), Vec::new());
        for (narrow, wide) in side.narrow.chunks(self.width()).zip(side.wide.chunks(self.width())) {
            values.extend_from_slice(narrow);
            values.extend(vec![bf16::NAN; self.gap]);
            squares.extend(wide.chunks(PART).map(|part| part.iter().fold(0.0f32, |sum, x| x.mul_add(*x, sum))));
            squares.extend(vec![f32::NAN; self.gap]);
        }
        let before = stand.lead() * self.shape.query_len;
        let (stride, squares_stride) = (self.width() + self.gap, self.width().div_ceil(PART) + self.gap);
        Ok(Uploaded {
            values: stand.upload_behind(before * stride, &values)?,
            squares: stand.upload_behind(before * squares_stride, &squares)?,
            weight: stand.upload(&side.weight)?,
            stride,
            squares_stride,
        })
    }

    /// The rows that a host makes, `[problems, tokens, head_dim]`.
    fn on_host(&self, side: &Side) -> Result<Vec<f32>, Fault> {
        let mut y = side.wide.clone();
        rms_norm(&RmsNorm { width: self.width(), rule: self.rule, eps: EPS, rounding: Rounding::Bf16 }, &mut y, &side.weight)?;
        RopeTable::wan(self.grid, self.shape.head_dim)?.apply(&mut y, self.shape.heads, Rounding::Bf16)?;
        Ok(by_head(&y, &self.shape))
    }

    /// Holds turned rows to the exact ones.
    fn hold_turned(got: &Output, want: &[f64]) -> Held {
        let allowed = |index: usize, value: f64| value.abs().max(want[index ^ 1].abs()) / 64.0 + 1e-6;
        let why = "the normed value, its product with the weight and the turned pair round to bf16";
        Held::each(got, want, allowed, "2^-6 of the pair", why)
    }
}

/// Rows with the heads of a token side by side as rows head by head.
fn by_head<T: Copy>(rows: &[T], shape: &AttnShape) -> Vec<T> {
    let from = shape.with_layout(HeadLayout::Blhd);
    let places = (0..shape.problems()).flat_map(|problem| (0..shape.query_len).map(move |row| from.query_offset(problem, row)));
    places.flat_map(|at| rows[at..at + shape.head_dim].iter().copied()).collect()
}

/// Values that came from f32 or narrower.
fn floats(output: &Output) -> Vec<f32> {
    output.values.iter().map(|value| *value as f32).collect()
}

impl Prepared for Pass {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let (q, k, dim, sage) = (self.on_host(&self.q)?, self.on_host(&self.k)?, self.shape.head_dim, &self.variant.sage);
        let int8 = quantise_queries(&bf16s(&q).0, &self.shape, sage)?;
        let means = mean_keys(&bf16s(&k).0, &self.shape, sage)?;
        Ok(vec![
            Output::new("turned queries", dim, &q),
            Output::new("turned keys", dim, &k),
            Output::new("int8 queries", dim, &int8.values),
            Output::new("query scales", 1, &int8.scales),
            Output::new("mean keys", dim, &means),
        ])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (own, sage, dim) = (&self.shape, &self.variant.sage, self.shape.head_dim);
        // samples of zeros come first
        let after = AfterZeros::new(&own.with_layout(HeadLayout::Blhd), stand.lead());
        let (q, k) = (self.upload(stand, &self.q)?, self.upload(stand, &self.k)?);
        let turns = RopeTurns::upload(stand.stream(), self.grid, dim)?;
        let blocks = if self.pool_rows == 0 { 0 } else { own.problems() * own.query_len.div_ceil(self.pool_rows) * dim };
        let len = own.query_values();
        let scale_count = own.problems() * sage.granularity.query_groups().count(own.query_len);
        let (sum_count, mean_count) = (sums_len(own), own.problems() * dim);
        let mut q_out = stand.room_behind::<bf16>(after.behind(len), len)?;
        let mut k_out = stand.room_behind::<bf16>(after.behind(len), len)?;
        let mut values = stand.room_behind::<i8>(after.behind(len), len)?;
        let mut scales = stand.room_behind::<f32>(after.behind(scale_count), scale_count)?;
        let mut pooled = stand.room_behind::<bf16>(after.behind(blocks), blocks)?;
        let mut sums = stand.room_behind::<f32>(after.behind(sum_count), sum_count)?;
        let mut means = stand.room_behind::<f32>(after.behind(mean_count), mean_count)?;
        let (pass, mean) = (QkPrep::load(stand.device())?, MeanKeys::load(stand.device())?);
        let (from_q, from_k) = (q.projected(self)?, k.projected(self)?);
        // the mean has other blocks, of which those past 2^31 are not run
        let gives_means = stand.lead() == 0;
        stand.launch(|stream| {
            let out = Rows {
                q: Some(q_out.view_mut()),
                k: k_out.view_mut(),
                q_values: values.view_mut(),
                q_scales: scales.view_mut(),
                q_pooled: (blocks != 0).then(|| PooledRows { means: pooled.view_mut(), rows: self.pool_rows }),
                k_sums: sums.view_mut(),
                v: None,
            };
            pass.run(stream, (self.rule, EPS), from_q, from_k, &after.shape, &turns, sage, out)?;
            if gives_means {
                mean.finish::<bf16>(stream, sums.view(), &after.shape, means.view_mut(), None)?;
            }
            Ok(())
        })?;
        let mut outputs = vec![
            Output::new("turned queries", dim, &stand.results(&q_out, len)?),
            Output::new("turned keys", dim, &stand.results(&k_out, len)?),
            Output::new("int8 queries", dim, &stand.results(&values, len)?),
            Output::new("query scales", 1, &stand.results(&scales, scale_count)?),
            Output::new("sums of keys", dim, &stand.results(&sums, sum_count)?),
        ];
        if blocks != 0 {
            outputs.push(Output::new("pooled queries", dim, &stand.results(&pooled, blocks)?));
        }
        if gives_means {
            outputs.push(Output::new("mean keys", dim, &stand.results(&means, mean_count)?));
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let dim = self.shape.head_dim;
        let of_head = self.shape.query_len * dim;
        let (q, k) = (floats(&outputs[0]), floats(&outputs[1]));
        let mut held = vec![Self::hold_turned(&outputs[0], &self.q.want), Self::hold_turned(&outputs[1], &self.k.want)];
        let why = "what the quantiser makes of the turned rows";
        for output in &outputs[2..] {
            held.push(match output.name {
                "int8 queries" => {
                    let want: Vec<i8> = q.chunks(of_head).flat_map(|rows| self.variant.queries(rows, dim).0).collect();
                    Held::equal(output, &want, why)
                }
                "query scales" => {
                    let want: Vec<f32> = q.chunks(of_head).flat_map(|rows| self.variant.queries(rows, dim).1).collect();
                    Held::equal(output, &want, why)
                }
                "pooled queries" => {
                    let want: Vec<_> = q.chunks(of_head).flat_map(|rows| block_means(rows, dim, self.pool_rows)).collect();
                    hold_means(output, &want, HALF_STEP)
                }
                "sums of keys" => {
                    let want: Vec<_> = k.chunks(of_head).flat_map(|rows| block_sums(rows, dim)).collect();
                    hold_sums(output, &want)
                }
                _ => {
                    let want: Vec<f32> = k.chunks(of_head).flat_map(|rows| truth::mean_row(rows, dim, truth::Stored::Bf16)).collect();
                    let unit = if place == Place::Host { 0.0 } else { 2.0 * HALF_STEP };
                    let why = "sums in f32 may fall on the other side of a tie";
                    Held::each(output, &want, |_, want| unit * want.abs(), "a unit in the last place", why)
                }
            });
        }
        Ok(held)
    }
}
