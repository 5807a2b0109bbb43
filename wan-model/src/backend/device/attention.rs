//! Attention on a device: rows of `[batch * tokens, heads * head_dim]` go to the kernels of `sla` and `sage` as they lie.

use half::{bf16, f16};
use turbowan_cuda::device::{Buffer, Device, Stream, View};
use turbowan_cuda::{AttnShape, HeadLayout};
use turbowan_sage::device::prepare::{E4m3Values, Int8Rows, Layout, MeanKeys, PooledRows, QuantRows, QuantValues, ValueLayout, sums_len};
use turbowan_sage::device::{self as sage_device, Format, Keys, SageAttention};
use turbowan_sage::{Sage, TILE_KEYS, Tile, tiled_len};
use turbowan_sla::device::linear::{Fold, LinearApply, LinearFold, LinearState, folded_values, partial_values, state_values};
use turbowan_sla::device::{self as sla_device, BlockSelect, ExactAttention, Pooled, Scores};

use super::tensor::DeviceTensor;
use crate::Result;
use crate::attention::{Attention, SlaProjection, Sparsity};
use crate::backend::Heads;

/// The largest e4m3 value of a channel: what sums in f16 can take, and what sums in f32 can.
const FP8_SCALE: f32 = 2.25;
const TILED_SCALE: f32 = 448.0;

/// SLA's projection in device memory.
#[derive(Debug)]
pub struct DeviceProjection {
    /// `[head_dim, head_dim]`, output channel first.
    weight: Buffer<f32>,
    /// `[head_dim]`.
    bias: Buffer<f32>,
}

impl DeviceProjection {
    pub(super) fn upload(stream: &Stream, projection: &SlaProjection) -> Result<Self> {
        Ok(Self { weight: stream.upload(&projection.weight)?, bias: stream.upload(&projection.bias)? })
    }
}

/// The attention kernels of a device.
#[derive(Debug)]
pub(super) struct Attentions {
    capability: (u32, u32),
    exact: ExactAttention,
    sage: SageAttention,
    means: MeanKeys,
    rows: QuantRows,
    values: QuantValues,
    select: BlockSelect,
    state: LinearState,
    fold: LinearFold,
    apply: LinearApply,
}

/// Queries, keys and values of one attention, and their shape.
#[derive(Clone, Copy)]
struct Problem<'a> {
    stream: &'a Stream,
    shape: AttnShape,
    q: View<'a, bf16>,
    k: View<'a, bf16>,
    v: View<'a, bf16>,
}

/// Int8 queries and keys, and what a block map is chosen from.
struct Quantised {
    q: Buffer<i8>,
    q_scales: Buffer<f32>,
    k: Buffer<i8>,
    k_scales: Buffer<f32>,
    layout: Layout,
    /// Means of blocks of queries and of smoothed keys.
    pooled: Option<[Buffer<bf16>; 2]>,
}

/// Values in the format of an attention kernel.
enum PreparedValues {
    F16(Buffer<f16>),
    E4m3 { values: Buffer<u8>, scales: Buffer<f32>, layout: ValueLayout },
}

/// Key blocks of each query block.
struct Lists {
    lists: Buffer<u32>,
    kept: usize,
}

impl Attentions {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self {
            capability: device.chip().capability,
            exact: ExactAttention::load(device)?,
            sage: SageAttention::load(device)?,
            means: MeanKeys::load(device)?,
            rows: QuantRows::load(device)?,
            values: QuantValues::load(device)?,
            select: BlockSelect::load(device)?,
            state: LinearState::load(device)?,
            fold: LinearFold::load(device)?,
            apply: LinearApply::load(device)?,
        })
    }

    /// Self-attention of queries, keys and values.
    pub fn to_itself(
        &self,
        stream: &Stream,
        qkv: [&DeviceTensor; 3],
        heads: Heads,
        how: &Attention,
        projection: Option<&DeviceProjection>,
    ) -> Result<DeviceTensor> {
        let problem = Problem::new(stream, qkv, heads.self_shape(qkv[0].rows)?)?;
        let out = match how {
            Attention::Original => self.exact(&problem, None)?,
            Attention::Sage => {
                let format = Format::preferred(self.capability);
                let sage = if format == Format::Tiled { Sage::per_thread(Tile::SM90) } else { Sage::default() };
                let quantised = self.quantise(&problem, &sage, format, None)?;
                self.int8(&problem, &sage, format, &quantised, None)?
            }
            Attention::Sla(sparsity) => {
                let quantised = self.quantise(&problem, &sagesla(sparsity), Format::F16, Some(sparsity))?;
                let lists = self.select(&problem, &quantised, sparsity)?;
                let map =
                    sla_device::Map { lists: lists.lists.view(), block_q: sparsity.block_q, block_k: sparsity.block_k, kept: lists.kept };
                let out = self.exact(&problem, Some(map))?;
                self.with_linear_branch(&problem, sparsity, projection, out)?
            }
            Attention::SageSla(sparsity) => {
                let (sage, format) = (sagesla(sparsity), self.sparse_format(sparsity));
                let quantised = self.quantise(&problem, &sage, format, Some(sparsity))?;
                let lists = self.select(&problem, &quantised, sparsity)?;
                let map =
                    sage_device::Map { lists: lists.lists.view(), block_q: sparsity.block_q, block_k: sparsity.block_k, kept: lists.kept };
                let out = self.int8(&problem, &sage, format, &quantised, Some(map))?;
                self.with_linear_branch(&problem, sparsity, projection, out)?
            }
        };
        Ok(DeviceTensor::bf16(qkv[0].width, out))
    }

    /// Dense attention of `q` to the keys and values of a prompt; with `text_batch` 1 all samples read the same.
    pub fn to_text(&self, stream: &Stream, qkv: [&DeviceTensor; 3], heads: Heads, text_batch: usize) -> Result<DeviceTensor> {
        let [q, k, _] = qkv;
        // Samples that share their keys are one longer sample.
        let batch = text_batch.max(1);
        let shape = AttnShape::cross(batch, heads.heads, q.rows / batch, k.rows / batch, heads.head_dim)?;
        let problem = Problem::new(stream, qkv, shape.with_layout(HeadLayout::Blhd))?;
        Ok(DeviceTensor::bf16(q.width, self.exact(&problem, None)?))
    }

    fn exact(&self, problem: &Problem<'_>, map: Option<sla_device::Map<'_>>) -> Result<Buffer<bf16>> {
        let Problem { stream, shape, q, k, v } = *problem;
        let mut out = stream.allocate(shape.query_values())?;
        self.exact.run(stream, &shape, Scores::default(), &sla_device::Operands { q, k, v, map }, out.view_mut(), None)?;
        Ok(out)
    }

    /// Int8 attention of quantised queries and keys.
    fn int8(
        &self,
        problem: &Problem<'_>,
        sage: &Sage,
        format: Format,
        quantised: &Quantised,
        map: Option<sage_device::Map<'_>>,
    ) -> Result<Buffer<bf16>> {
        let Problem { stream, shape, .. } = *problem;
        let values = self.values(problem, format)?;
        let operands = sage_device::Operands {
            q: quantised.q.view(),
            q_scales: quantised.q_scales.view(),
            k: match quantised.layout {
                Layout::Rows => Keys::Rows(quantised.k.view()),
                Layout::Tiles => Keys::Tiled(quantised.k.view()),
            },
            k_scales: quantised.k_scales.view(),
            values: values.operand(),
            map,
            added: None,
        };
        let mut out = stream.allocate(shape.query_values())?;
        self.sage.run(stream, &shape, sage, false, &operands, out.view_mut(), None)?;
        Ok(out)
    }

    /// Int8 queries and keys for a format, with means of the blocks of a map where it is asked for.
    fn quantise(&self, problem: &Problem<'_>, sage: &Sage, format: Format, pooled: Option<&Sparsity>) -> Result<Quantised> {
        let Problem { stream, shape, q, k, .. } = *problem;
        let (problems, head_dim, len) = (shape.problems(), shape.head_dim, shape.key_len);
        let (mut sums, mut means) = (stream.allocate(sums_len(&shape))?, stream.allocate(problems * head_dim)?);
        self.means.run(stream, k, &shape, sums.view_mut(), means.view_mut())?;

        let layout = if format == Format::Tiled { Layout::Tiles } else { Layout::Rows };
        let k_values = if layout == Layout::Tiles { tiled_len(problems, len, head_dim) } else { k.len() };
        let groups = [sage.granularity.query_groups().count(shape.query_len), sage.granularity.key_groups().count(len)];
        let (mut q_values, mut q_scales) = (stream.allocate(q.len())?, stream.allocate(problems * groups[0])?);
        let (mut k_values, mut k_scales) = (stream.allocate(k_values)?, stream.allocate(problems * groups[1])?);
        let mut means_of = pooled.map(|s| pooled_rows(stream, &shape, s)).transpose()?;
        let [q_pooled, k_pooled] = match (&mut means_of, pooled) {
            (Some([q, k]), Some(sparsity)) => [
                Some(PooledRows { means: q.view_mut(), rows: sparsity.block_q }),
                Some(PooledRows { means: k.view_mut(), rows: sparsity.block_k }),
            ],
            _ => [None, None],
        };
        let out = Int8Rows { values: q_values.view_mut(), layout: Layout::Rows, scales: q_scales.view_mut(), pooled: q_pooled };
        self.rows.queries(stream, q, &shape, sage, out)?;
        let out = Int8Rows { values: k_values.view_mut(), layout, scales: k_scales.view_mut(), pooled: k_pooled };
        self.rows.keys(stream, k, Some(means.view()), &shape, sage, out)?;
        Ok(Quantised { q: q_values, q_scales, k: k_values, k_scales, layout, pooled: means_of })
    }

    /// The key blocks that each query block keeps.
    fn select(&self, problem: &Problem<'_>, quantised: &Quantised, sparsity: &Sparsity) -> Result<Lists> {
        let Problem { stream, shape, .. } = *problem;
        let [query_blocks, key_blocks] = blocks(&shape, sparsity);
        let kept = sparsity.density.blocks(key_blocks);
        let mut lists = stream.allocate(shape.problems() * query_blocks * kept)?;
        if let Some([q, k]) = &quantised.pooled {
            let (problems, head_dim) = (shape.problems(), shape.head_dim);
            let pooled = Pooled { q: q.view(), k: k.view(), problems, query_blocks, key_blocks, head_dim };
            self.select.run(stream, pooled, sparsity.density, lists.view_mut())?;
        }
        Ok(Lists { lists, kept })
    }

    fn values(&self, problem: &Problem<'_>, format: Format) -> Result<PreparedValues> {
        let Problem { stream, shape, v, .. } = *problem;
        let (problems, head_dim, len) = (shape.problems(), shape.head_dim, shape.key_len);
        let padded_len = len.next_multiple_of(TILE_KEYS);
        let (layout, count, scale_max) = match format {
            Format::F16 => {
                let mut values = stream.allocate(v.len())?;
                self.values.f16(stream, v, values.view_mut())?;
                return Ok(PreparedValues::F16(values));
            }
            Format::Fp8 => (ValueLayout::Channels { padded_len }, problems * head_dim * padded_len, FP8_SCALE),
            Format::Tiled => (ValueLayout::Tiles, tiled_len(problems, len, head_dim), TILED_SCALE),
        };
        let (mut values, mut scales) = (stream.allocate(count)?, stream.allocate(problems * head_dim)?);
        let mut amax = stream.allocate(problems * head_dim)?;
        let out = E4m3Values { values: values.view_mut(), layout, scales: scales.view_mut(), amax: amax.view_mut() };
        self.values.e4m3(stream, v, &shape, scale_max, out)?;
        Ok(PreparedValues::E4m3 { values, scales, layout })
    }

    /// Adds the projected linear branch to the rows of the sparse one.
    fn with_linear_branch(
        &self,
        problem: &Problem<'_>,
        sparsity: &Sparsity,
        projection: Option<&DeviceProjection>,
        mut out: Buffer<bf16>,
    ) -> Result<Buffer<bf16>> {
        let Problem { stream, shape, q, k, v } = *problem;
        let (mut partial, mut state) = (stream.allocate(partial_values(&shape))?, stream.allocate(state_values(&shape))?);
        self.state.run(stream, &shape, sparsity.features, k, v, partial.view_mut(), state.view_mut())?;
        let mut folded = stream.allocate(folded_values(&shape))?;
        let fold = projection.map_or(Fold::Plain, |projection| Fold::Transposed(projection.weight.view()));
        self.fold.run(stream, shape.head_dim, state.view(), fold, folded.view_mut())?;
        let bias = projection.map(|projection| projection.bias.view());
        self.apply.run(stream, &shape, sparsity.features, q, folded.view(), bias, true, out.view_mut())?;
        Ok(out)
    }

    /// The format of the values under a map: tiles of keys need blocks of 128 queries.
    fn sparse_format(&self, sparsity: &Sparsity) -> Format {
        match Format::preferred(self.capability) {
            Format::Tiled if !sparsity.block_q.is_multiple_of(128) => Format::F16,
            format => format,
        }
    }
}

impl<'a> Problem<'a> {
    fn new(stream: &'a Stream, qkv: [&'a DeviceTensor; 3], shape: AttnShape) -> Result<Self> {
        let [q, k, v] = qkv.map(DeviceTensor::expect_bf16);
        Ok(Self { stream, shape, q: q?.view(), k: k?.view(), v: v?.view() })
    }
}

impl PreparedValues {
    fn operand(&self) -> sage_device::Values<'_> {
        match self {
            Self::F16(values) => sage_device::Values::F16(values.view()),
            Self::E4m3 { values, scales, layout: ValueLayout::Tiles } => {
                sage_device::Values::Tiled { tiles: values.view(), scales: scales.view() }
            }
            Self::E4m3 { values, scales, layout: ValueLayout::Channels { padded_len } } => {
                sage_device::Values::Fp8 { permuted: values.view(), scales: scales.view(), padded_len: *padded_len }
            }
        }
    }
}

/// The official quantiser of a sparse branch.
fn sagesla(sparsity: &Sparsity) -> Sage {
    Sage::sagesla(sparsity.block_q, sparsity.block_k)
}

/// Query blocks and key blocks of a head.
fn blocks(shape: &AttnShape, sparsity: &Sparsity) -> [usize; 2] {
    [shape.query_len.div_ceil(sparsity.block_q.max(1)), shape.key_len.div_ceil(sparsity.block_k.max(1))]
}

/// Room for the means of the blocks of queries and keys.
fn pooled_rows(stream: &Stream, shape: &AttnShape, sparsity: &Sparsity) -> Result<[Buffer<bf16>; 2]> {
    let [query_blocks, key_blocks] = blocks(shape, sparsity).map(|count| shape.problems() * count * shape.head_dim);
    Ok([stream.allocate(query_blocks)?, stream.allocate(key_blocks)?])
}
