//! INT8 self-attention on a device, from the projections on.
//!
//! ```text
//! projections    one product where their weights lie together, sums of squares in its end
//! preparation    norm, turn, int8 queries, pooled queries, sums of keys; values to f16 or their largest   one pass
//! mean key       and the largest values of the channels
//! keys, values   int8 keys less the mean, pooled keys; e4m3 values
//! block map      from the pooled rows
//! linear branch  its sums over chunks of keys, then the projection folded in
//! attention      the linear branch added, int8 rows for the next product
//! ```

use half::{bf16, f16};
use turbowan_cuda::device::{Buffer, Device, Stream};
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::{AttnShape, HeadLayout};
use turbowan_sage::device::prepare::{
    Beside, BesideTo, E4m3Codes, Int8Rows, Layout, MeanKeys, PooledRows, Prepared, Projected, QkPrep, QuantRows, QuantValues, ValueLayout,
    maxima_len, sums_len,
};
use turbowan_sage::device::{Added, Feature, Format, Keys, Map, Operands, Output, SageAttention, Values};
use turbowan_sage::{Sage, TILE_KEYS, Tile, tiled_len};
use turbowan_sla::FeatureMap;
use turbowan_sla::device::linear::{Fold, LinearFold, LinearState, ValueRows, folded_values, partial_values};

use super::DeviceBackend;
use super::attention::DeviceProjection;
use super::block_map::{BlockMaps, pooled_rows};
use super::linear::{Products, ProjectedRows};
use super::norm::rms_rule;
use super::tensor::{DeviceActivation, DeviceTensor, Int8Values};
use crate::Result;
use crate::attention::{Attention, Sparsity};
use crate::backend::{See, SelfAttention};

/// The largest e4m3 value of a channel: what sums in f16 can take, and what sums in f32 can.
const FP8_SCALE: f32 = 2.25;
const TILED_SCALE: f32 = 448.0;

/// The kernels.
#[derive(Debug)]
pub(super) struct Int8Attention {
    capability: (u32, u32),
    prepare: QkPrep,
    means: MeanKeys,
    rows: QuantRows,
    values: QuantValues,
    maps: BlockMaps,
    state: LinearState,
    fold: LinearFold,
    attention: SageAttention,
}

/// What one attention is asked for.
struct Problem<'a> {
    stream: &'a Stream,
    /// Rows of a token hold all heads.
    shape: AttnShape,
    sparsity: Option<&'a Sparsity>,
    sage: Sage,
    format: Format,
}

/// What the preparation leaves; a problem is a head of a sample, and rows of heads are `[problems, tokens, head_dim]`.
struct Ready {
    /// Normed and turned queries, where the linear branch or somebody who looks on reads them.
    q: Option<Buffer<bf16>>,
    k: Buffer<bf16>,
    q_values: Buffer<i8>,
    q_scales: Buffer<f32>,
    /// Means of blocks of queries, and room for those of keys.
    pooled: Option<[Buffer<bf16>; 2]>,
    /// Mean keys.
    means: Buffer<f32>,
}

/// What it leaves of the values.
enum ReadyValues {
    F16(Buffer<f16>),
    /// The largest magnitudes of the channels, which e4m3 codes are scaled by.
    Largest(Buffer<u32>),
}

/// Values in the format of an attention kernel.
enum PreparedValues {
    F16(Buffer<f16>),
    E4m3 { values: Buffer<u8>, scales: Buffer<f32>, layout: ValueLayout },
}

impl Int8Attention {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self {
            capability: device.chip().capability,
            prepare: QkPrep::load(device)?,
            means: MeanKeys::load(device)?,
            rows: QuantRows::load(device)?,
            values: QuantValues::load(device)?,
            maps: BlockMaps::load(device)?,
            state: LinearState::load(device)?,
            fold: LinearFold::load(device)?,
            attention: SageAttention::load(device)?,
        })
    }

    /// Attention of the rows `x` to themselves; `sparsity` is that of [`Attention::SageSla`], none of [`Attention::Sage`].
    pub fn run(
        &self,
        stream: &Stream,
        products: &Products,
        x: &DeviceActivation,
        asked: &SelfAttention<'_, DeviceBackend>,
        see: Option<See<'_, DeviceBackend>>,
    ) -> Result<DeviceActivation> {
        let sparsity = match asked.how {
            Attention::SageSla(sparsity) => Some(sparsity),
            _ => None,
        };
        let problem = Problem::new(stream, asked.shape(x.rows())?, sparsity, self.capability);
        let projected = products.queries_keys_values(stream, x, [&asked.projections.q, &asked.projections.k, &asked.projections.v])?;
        let (mut ready, values) = self.prepare(&problem, asked, &projected, see.is_some())?;
        if let Some(see) = see {
            let [q, k, v] = seen(&problem, &ready, &projected)?;
            see([&q, &k, &v])?;
        }

        let (k_values, k_scales) = self.keys(&problem, &mut ready)?;
        let values = self.values(&problem, &projected, values)?;
        let lists = match (&ready.pooled, sparsity) {
            (Some(pooled), Some(sparsity)) => Some(self.maps.choose(stream, &problem.shape, pooled, sparsity)?),
            _ => None,
        };
        let folded = match sparsity {
            Some(sparsity) => Some(self.linear_branch(&problem, sparsity, asked.linear_branch, &ready, &projected)?),
            None => None,
        };
        let operands = Operands {
            q: ready.q_values.view(),
            q_scales: ready.q_scales.view(),
            k: if problem.format == Format::Tiled { Keys::Tiled(k_values.view()) } else { Keys::Rows(k_values.view()) },
            k_scales: k_scales.view(),
            values: values.operand(),
            map: lists.as_ref().zip(sparsity).map(|(lists, sparsity)| Map {
                lists: lists.lists.view(),
                block_q: sparsity.block_q,
                block_k: sparsity.block_k,
                kept: lists.kept,
            }),
            added: folded.as_ref().zip(ready.q.as_ref()).zip(sparsity).map(|((folded, q), sparsity)| Added {
                q: q.view(),
                state: folded.view(),
                bias: asked.linear_branch.map(|branch| branch.bias.view()),
                feature: feature(sparsity.features),
            }),
        };
        let Problem { shape, sage, .. } = &problem;
        let (rows, width) = (x.rows(), shape.heads * shape.head_dim);
        if asked.reader.reads_per_token() && shape.head_dim == 128 {
            let mut out = Int8Values::room(stream, Int8Rule::PerToken, rows, width)?;
            let to = Output::Int8 { values: out.values.view_mut(), scales: out.scales.view_mut() };
            self.attention.run(stream, shape, sage, false, &operands, to, None)?;
            return Ok(DeviceTensor::int8(width, out).into());
        }
        let mut out = stream.allocate(rows * width)?;
        self.attention.run(stream, shape, sage, false, &operands, out.view_mut(), None)?;
        Ok(DeviceTensor::bf16(width, out).into())
    }

    /// The pass over the projections, and the mean key.
    fn prepare(
        &self,
        problem: &Problem<'_>,
        asked: &SelfAttention<'_, DeviceBackend>,
        projected: &ProjectedRows,
        is_seen: bool,
    ) -> Result<(Ready, ReadyValues)> {
        let Problem { stream, shape, sparsity, sage, format } = problem;
        let problems = shape.problems();
        let mut q = (is_seen || sparsity.is_some()).then(|| stream.allocate(shape.query_values())).transpose()?;
        let mut k = stream.allocate(shape.key_values())?;
        let mut q_values = stream.allocate(shape.query_values())?;
        let mut q_scales = stream.allocate(problems * sage.granularity.query_groups().count(shape.query_len))?;
        let mut pooled = sparsity.map(|sparsity| pooled_rows(stream, shape, sparsity)).transpose()?;
        let mut sums = stream.allocate(sums_len(shape))?;
        let mut f16s = if *format == Format::F16 { Some(stream.allocate(shape.key_values())?) } else { None };
        let mut maxima = stream.allocate(if f16s.is_some() { 0 } else { maxima_len(shape) })?;

        let q_side = side(projected, 0, &asked.projections.norm_q)?;
        let k_side = side(projected, 1, &asked.projections.norm_k)?;
        let to = match &mut f16s {
            Some(values) => BesideTo::F16(values.view_mut()),
            None => BesideTo::Maxima(maxima.view_mut()),
        };
        let out = Prepared {
            q: q.as_mut().map(Buffer::view_mut),
            k: k.view_mut(),
            q_values: q_values.view_mut(),
            q_scales: q_scales.view_mut(),
            q_pooled: pooled.as_mut().zip(*sparsity).map(|([q, _], sparsity)| PooledRows { means: q.view_mut(), rows: sparsity.block_q }),
            k_sums: sums.view_mut(),
            v: Some(Beside { values: projected.rows[2].view()?, stride: projected.stride, to }),
        };
        self.prepare.run(stream, (rms_rule(asked.norm.rule), asked.norm.eps), q_side, k_side, shape, asked.rope, sage, out)?;

        let channels = problems * shape.head_dim;
        let mut means = stream.allocate(channels)?;
        let mut largest = stream.allocate(if f16s.is_some() { 0 } else { channels })?;
        let of_values = f16s.is_none().then(|| (maxima.view(), largest.view_mut()));
        self.means.finish::<bf16>(stream, sums.view(), shape, means.view_mut(), of_values)?;
        let values = f16s.map_or(ReadyValues::Largest(largest), ReadyValues::F16);
        Ok((Ready { q, k, q_values, q_scales, pooled, means }, values))
    }

    /// Int8 keys and their scales; where a block map is asked for, also the means of their blocks.
    fn keys(&self, problem: &Problem<'_>, ready: &mut Ready) -> Result<(Buffer<i8>, Buffer<f32>)> {
        let Problem { stream, shape, sparsity, sage, format } = problem;
        let (layout, count) = match format {
            Format::Tiled => (Layout::Tiles, tiled_len(shape.problems(), shape.key_len, shape.head_dim)),
            Format::F16 | Format::Fp8 => (Layout::Rows, shape.key_values()),
        };
        let mut values = stream.allocate(count)?;
        let mut scales = stream.allocate(shape.problems() * sage.granularity.key_groups().count(shape.key_len))?;
        let pooled = ready.pooled.as_mut().zip(*sparsity);
        let pooled = pooled.map(|([_, k], sparsity)| PooledRows { means: k.view_mut(), rows: sparsity.block_k });
        let out = Int8Rows { values: values.view_mut(), layout, scales: scales.view_mut(), pooled };
        self.rows.keys(stream, ready.k.view(), Some(ready.means.view()), &shape.with_layout(HeadLayout::Bhld), sage, out)?;
        Ok((values, scales))
    }

    fn values(&self, problem: &Problem<'_>, projected: &ProjectedRows, values: ReadyValues) -> Result<PreparedValues> {
        let Problem { stream, shape, format, .. } = problem;
        let largest = match values {
            ReadyValues::F16(values) => return Ok(PreparedValues::F16(values)),
            ReadyValues::Largest(largest) => largest,
        };
        let (problems, head_dim, len) = (shape.problems(), shape.head_dim, shape.key_len);
        let padded_len = len.next_multiple_of(TILE_KEYS);
        let (layout, count, scale_max) = match format {
            Format::Tiled => (ValueLayout::Tiles, tiled_len(problems, len, head_dim), TILED_SCALE),
            Format::F16 | Format::Fp8 => (ValueLayout::Channels { padded_len }, problems * head_dim * padded_len, FP8_SCALE),
        };
        let (mut values, mut scales) = (stream.allocate(count)?, stream.allocate(problems * head_dim)?);
        let out = E4m3Codes { values: values.view_mut(), layout, scales: scales.view_mut() };
        self.values.e4m3_below(stream, projected.rows[2].view()?, projected.stride, shape, scale_max, largest.view(), out)?;
        Ok(PreparedValues::E4m3 { values, scales, layout })
    }

    /// The linear branch as the end of attention adds it.
    fn linear_branch(
        &self,
        problem: &Problem<'_>,
        sparsity: &Sparsity,
        projection: Option<&DeviceProjection>,
        ready: &Ready,
        projected: &ProjectedRows,
    ) -> Result<Buffer<bf16>> {
        let Problem { stream, shape, .. } = problem;
        let mut partial = stream.allocate(partial_values(shape))?;
        let values = ValueRows::apart(projected.rows[2].view()?, projected.stride);
        let by_head = shape.with_layout(HeadLayout::Bhld);
        self.state.chunks(stream, &by_head, sparsity.features, ready.k.view(), values, partial.view_mut())?;
        let mut folded = stream.allocate(folded_values(shape))?;
        let fold = projection.map_or(Fold::Plain, |projection| Fold::Transposed(projection.weight.view()));
        self.fold.run_chunks(stream, shape, partial.view(), fold, folded.view_mut())?;
        Ok(folded)
    }
}

impl<'a> Problem<'a> {
    /// Tiles of keys need blocks of 128 queries.
    fn new(stream: &'a Stream, shape: AttnShape, sparsity: Option<&'a Sparsity>, capability: (u32, u32)) -> Self {
        let format = match (Format::preferred(capability), sparsity) {
            (Format::Tiled, Some(sparsity)) if !sparsity.block_q.is_multiple_of(128) => Format::F16,
            (format, _) => format,
        };
        let sage = match sparsity {
            Some(sparsity) => Sage::sagesla(sparsity.block_q, sparsity.block_k),
            None if format == Format::Tiled => Sage::per_thread(Tile::SM90),
            None => Sage::default(),
        };
        Self { stream, shape, sparsity, sage, format }
    }
}

/// Queries or keys with what their norm needs.
fn side<'a>(projected: &'a ProjectedRows, at: usize, weight: &'a DeviceTensor) -> Result<Projected<'a>> {
    Ok(Projected {
        values: projected.rows[at].view()?,
        stride: projected.stride,
        squares: projected.squares[at].view()?,
        squares_stride: projected.squares_stride,
        weight: weight.expect_f32()?,
    })
}

impl PreparedValues {
    fn operand(&self) -> Values<'_> {
        match self {
            Self::F16(values) => Values::F16(values.view()),
            Self::E4m3 { values, scales, layout: ValueLayout::Tiles } => Values::Tiled { tiles: values.view(), scales: scales.view() },
            Self::E4m3 { values, scales, layout: ValueLayout::Channels { padded_len } } => {
                Values::Fp8 { permuted: values.view(), scales: scales.view(), padded_len: *padded_len }
            }
        }
    }
}

fn feature(map: FeatureMap) -> Feature {
    match map {
        FeatureMap::Softmax => Feature::Softmax,
        FeatureMap::Elu => Feature::Elu,
        FeatureMap::Relu => Feature::Relu,
    }
}

/// Queries, keys and values as rows of all heads, by way of the host: for those who look on.
fn seen(problem: &Problem<'_>, ready: &Ready, projected: &ProjectedRows) -> Result<[DeviceTensor; 3]> {
    let Problem { stream, shape, .. } = problem;
    let (dim, width, len) = (shape.head_dim, shape.heads * shape.head_dim, shape.query_len);
    let rows = |heads: Option<&Buffer<bf16>>| -> Result<DeviceTensor> {
        let heads = heads.map_or(Ok(Vec::new()), Buffer::to_vec)?;
        let mut rows = vec![bf16::ZERO; heads.len()];
        for (at, head) in heads.chunks_exact(dim).enumerate() {
            let (problem, token) = (at / len, at % len);
            let to = (problem / shape.heads * len + token) * width + problem % shape.heads * dim;
            rows[to..to + dim].copy_from_slice(head);
        }
        Ok(DeviceTensor::bf16(width, stream.upload(&rows)?))
    };
    let v: Vec<bf16> = projected.rows[2].view()?.to_vec()?.chunks(projected.stride).flat_map(|row| &row[..width]).copied().collect();
    Ok([rows(ready.q.as_ref())?, rows(Some(&ready.k))?, DeviceTensor::bf16(width, stream.upload(&v)?)])
}
