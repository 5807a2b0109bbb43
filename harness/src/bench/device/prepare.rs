//! What INT8 attention reads, made on a device.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::ops::norm::RmsRule;
use turbowan_cuda::ops::rope::device::RopeTurns;
use turbowan_cuda::{AttnShape, Rounding};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_sage::device::Format;
use turbowan_sage::device::prepare::{PooledRows, Prepared, Projected, QkPrep, sums_len};
use turbowan_sage::{Sage as Rules, mean_keys, quantise_keys, quantise_queries, quantise_values};

use super::sides::{KeySide, ValueSide};
use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::{BLOCKS, HeadGrid, HeadRows};
use crate::bench::error::Error;
use crate::bench::host::{EPS, ends, turned};
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// Columns of a part of a row's sum of squares.
const PART: usize = 128;

fn layout_of(shape: &HeadRows) -> Result<AttnShape, Error> {
    Ok(AttnShape::new(shape.batch, shape.heads, shape.len, shape.head_dim)?)
}

/// One head's shape, and where its values lie among all.
fn of_head(layout: &AttnShape, problem: usize) -> Result<(AttnShape, std::ops::Range<usize>), Error> {
    let values = layout.key_len * layout.head_dim;
    Ok((AttnShape::new(1, 1, layout.key_len, layout.head_dim)?, problem * values..(problem + 1) * values))
}

/// Keys.
pub struct KeyRows {
    side: KeySide,
    host: Vec<f32>,
    k: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl KeyRows {
    pub fn new(shape: &HeadRows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let layout = layout_of(shape)?;
        let mut host = normal(layout.key_values(), 1);
        Rounding::Bf16.apply_row(&mut host);
        let k = copies(stream, &to_bf16(&host), slots)?;
        Ok(Self { side: KeySide::new(&layout, stream, slots)?, host, k, turn: Turn::default() })
    }
}

impl Work for KeyRows {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.k.len());
        self.side.queue(self.k[slot].view(), slot)?;
        Ok(None)
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let (side, slot) = (&self.side, self.turn.last);
        let (means, values, scales) = (side.means.to_vec()?, side.values[slot].to_vec()?, side.scales[slot].to_vec()?);
        let (problems, dim) = (side.layout.problems(), side.layout.head_dim);
        let mut checks = Vec::new();
        for problem in ends(problems) {
            let (head, range) = of_head(&side.layout, problem)?;
            let k = to_bf16(&self.host[range]);
            let found = &means[problem * dim..][..dim];
            checks.push(Check::of(found, &mean_keys(&k, &head, &side.rules)?, bound, "the host's mean keys"));
            // integers under the mean that was found: it may differ in its last bit
            let want = quantise_keys(&k, Some(found), &head, &side.rules)?;
            let wanted = if side.format == Format::Tiled { want.tiled(dim) } else { want.values.clone() };
            let (each, groups) = (values.len() / problems, scales.len() / problems);
            let mut got: Vec<f32> = values[problem * each..][..each].iter().map(|value| f32::from(*value)).collect();
            got.extend(&scales[problem * groups..][..groups]);
            let want: Vec<f32> = wanted.iter().map(|value| f32::from(*value)).chain(want.scales).collect();
            checks.push(Check::of(&got, &want, bound, "the host's int8 keys and scales, and its mean keys"));
        }
        checks.into_iter().reduce(Check::worse).ok_or_else(|| Error::case("prepare/keys", "no heads"))
    }
}

/// Values.
pub struct ValueRows {
    side: ValueSide,
    host: Vec<f32>,
    v: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl ValueRows {
    pub fn new(shape: &HeadRows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let layout = layout_of(shape)?;
        let mut host = normal(layout.key_values(), 1);
        Rounding::Bf16.apply_row(&mut host);
        let v = copies(stream, &to_bf16(&host), slots)?;
        Ok(Self { side: ValueSide::new(&layout, stream, slots)?, host, v, turn: Turn::default() })
    }
}

impl Work for ValueRows {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.v.len());
        self.side.queue(self.v[slot].view(), slot)?;
        Ok(None)
    }

    fn check(&mut self, _rows: usize, bound: Bound) -> Result<Check, Error> {
        let (side, slot) = (&self.side, self.turn.last);
        let (problems, dim, len) = (side.layout.problems(), side.layout.head_dim, side.layout.key_len);
        if side.format == Format::F16 {
            let got: Vec<f32> = side.halves[slot].to_vec()?.iter().map(|value| value.to_f32()).collect();
            let want: Vec<f32> = self.host.iter().map(|value| half::f16::from_f32(*value).to_f32()).collect();
            return Ok(Check::of(&got, &want, bound, "the nearest f16"));
        }
        let (codes, scales) = (side.e4m3[slot].to_vec()?, side.scales[slot].to_vec()?);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for problem in ends(problems) {
            let (head, range) = of_head(&side.layout, problem)?;
            let values = quantise_values(&to_bf16(&self.host[range]), &head, side.largest(), super::attention::FP8_PAD, &Rules::default())?;
            let wanted = if side.format == Format::Tiled { values.tiled(dim, len) } else { values.permuted() };
            let each = codes.len() / problems;
            got.extend(codes[problem * each..][..each].iter().map(|code| f32::from(*code)));
            got.extend(&scales[problem * dim..][..dim]);
            want.extend(wanted.iter().map(|code| f32::from(*code)).chain(values.scales));
        }
        Ok(Check::of(&got, &want, bound, "the host's e4m3 codes and scales"))
    }
}

/// Rows of one projection.
struct Rows {
    host: Vec<f32>,
    weight: Vec<f32>,
    values: Vec<Buffer<bf16>>,
    squares: Buffer<f32>,
    weight_there: Buffer<f32>,
}

impl Rows {
    fn new(stream: &Stream, tokens: usize, width: usize, seed: u64, slots: usize) -> Result<Self, Error> {
        let mut host = normal(tokens * width, seed);
        Rounding::Bf16.apply_row(&mut host);
        let sums = |row: &[f32]| row.chunks(PART).map(|part| part.iter().fold(0.0f32, |sum, x| x.mul_add(*x, sum))).collect::<Vec<_>>();
        let squares: Vec<f32> = host.chunks(width).flat_map(sums).collect();
        let weight: Vec<f32> = normal(width, seed + 10).into_iter().map(|w| 1.0 + 0.2 * w).collect();
        Ok(Self {
            values: copies(stream, &to_bf16(&host), slots)?,
            squares: stream.upload(&squares)?,
            weight_there: stream.upload(&weight)?,
            weight,
            host,
        })
    }

    fn projected(&self, slot: usize, width: usize) -> Projected<'_> {
        Projected {
            values: self.values[slot].view(),
            stride: width,
            squares: self.squares.view(),
            squares_stride: width.div_ceil(PART),
            weight: self.weight_there.view(),
        }
    }
}

/// Queries and keys from the projections on, in one pass.
pub struct Qk {
    shape: HeadGrid,
    layout: AttnShape,
    rules: Rules,
    stream: Stream,
    kernel: QkPrep,
    turns: RopeTurns,
    q: Rows,
    k: Rows,
    q_out: Vec<Buffer<bf16>>,
    k_out: Vec<Buffer<bf16>>,
    q_values: Vec<Buffer<i8>>,
    q_scales: Vec<Buffer<f32>>,
    pooled: Buffer<bf16>,
    sums: Buffer<f32>,
    turn: Turn,
}

impl Qk {
    pub fn new(shape: &HeadGrid, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let HeadGrid { grid, heads, head_dim } = *shape;
        let (tokens, width) = (grid.iter().product::<usize>(), heads * head_dim);
        let layout = AttnShape::new(1, heads, tokens, head_dim)?;
        let rules = Rules::sagesla(BLOCKS.0, BLOCKS.1);
        Ok(Self {
            shape: *shape,
            layout,
            rules,
            stream: stream.clone(),
            kernel: QkPrep::load(stream.device())?,
            turns: RopeTurns::upload(stream, grid, head_dim)?,
            q: Rows::new(stream, tokens, width, 1, slots)?,
            k: Rows::new(stream, tokens, width, 2, slots)?,
            q_out: room(stream, tokens * width, slots)?,
            k_out: room(stream, tokens * width, slots)?,
            q_values: room(stream, tokens * width, slots)?,
            q_scales: room(stream, heads * rules.granularity.query_groups().count(tokens), slots)?,
            pooled: stream.allocate(heads * tokens.div_ceil(BLOCKS.0) * head_dim)?,
            sums: stream.allocate(sums_len(&layout))?,
            turn: Turn::default(),
        })
    }
}

impl Work for Qk {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let (slot, width) = (self.turn.take(self.q_out.len()), self.shape.heads * self.shape.head_dim);
        let out = Prepared {
            q: Some(self.q_out[slot].view_mut()),
            k: self.k_out[slot].view_mut(),
            q_values: self.q_values[slot].view_mut(),
            q_scales: self.q_scales[slot].view_mut(),
            q_pooled: Some(PooledRows { means: self.pooled.view_mut(), rows: BLOCKS.0 }),
            k_sums: self.sums.view_mut(),
            v: None,
        };
        let (q, k) = (self.q.projected(slot, width), self.k.projected(slot, width));
        self.kernel.run(&self.stream, (RmsRule::Fast, EPS), q, k, &self.layout, &self.turns, &self.rules, out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (HeadGrid { heads, head_dim, .. }, tokens, slot) = (self.shape, self.turns.tokens(), self.turn.last);
        let rows = seeded_rows(tokens, rows);
        let head_rows: Vec<usize> = rows.iter().flat_map(|row| (0..heads).map(move |head| head * tokens + row)).collect();
        let q_out = self.q_out[slot].to_vec()?;
        let mut checks = Vec::new();
        for (side, out) in [(&self.q, to_f32(&q_out)), (&self.k, to_f32(&self.k_out[slot].to_vec()?))] {
            let want = turned(&gather(&side.host, heads * head_dim, &rows), Some(&side.weight), &self.shape, &rows);
            checks.push(Check::of(
                &gather(&out, head_dim, &head_rows),
                &want,
                bound,
                "the f64 norm and rotation; the host's int8 of the turned rows",
            ));
        }
        let (values, scales) = (self.q_values[slot].to_vec()?, self.q_scales[slot].to_vec()?);
        for head in ends(heads) {
            let (shape, range) = of_head(&self.layout, head)?;
            let want = quantise_queries(&q_out[range.clone()], &shape, &self.rules)?;
            let groups = scales.len() / heads;
            let mut got: Vec<f32> = values[range].iter().map(|value| f32::from(*value)).collect();
            got.extend(&scales[head * groups..][..groups]);
            let want: Vec<f32> = want.values.iter().map(|value| f32::from(*value)).chain(want.scales).collect();
            checks.push(Check::of(&got, &want, bound, "the host's int8 queries and scales of the same turned rows"));
        }
        checks.into_iter().reduce(Check::worse).ok_or_else(|| Error::case("prepare/qk", "no heads"))
    }
}
