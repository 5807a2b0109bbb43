//! Attention in floating point on a device: rows of `[batch * tokens, heads * head_dim]` go to the kernels of `sla` as they
//! lie. INT8 attention is next door.

use half::bf16;
use turbowan_cuda::device::{Buffer, Device, Stream, View};
use turbowan_cuda::ops::quant::Int8Rule;
use turbowan_cuda::{AttnShape, HeadLayout};
use turbowan_sage::Sage;
use turbowan_sage::device::prepare::{Int8Rows, Layout, MeanKeys, PooledRows, QuantRows, sums_len};
use turbowan_sla::device::linear::{Fold, LinearApply, LinearFold, LinearState, folded_values, partial_values, state_values};
use turbowan_sla::device::{ExactAttention, Map, Operands, Output, QueryNorm, Scores};

use super::DeviceBackend;
use super::block_map::{BlockMaps, Lists, pooled_rows};
use super::tensor::{DeviceTensor, Int8Values};
use crate::Result;
use crate::attention::{SlaProjection, Sparsity};
use crate::backend::{CrossAttention, Heads};

/// SLA's projection in device memory.
#[derive(Debug)]
pub struct DeviceProjection {
    /// `[head_dim, head_dim]`, output channel first.
    pub(super) weight: Buffer<f32>,
    /// `[head_dim]`.
    pub(super) bias: Buffer<f32>,
}

impl DeviceProjection {
    pub(super) fn upload(stream: &Stream, projection: &SlaProjection) -> Result<Self> {
        Ok(Self { weight: stream.upload(&projection.weight)?, bias: stream.upload(&projection.bias)? })
    }
}

/// The floating-point attention kernels of a device.
#[derive(Debug)]
pub(super) struct Attentions {
    exact: ExactAttention,
    means: MeanKeys,
    rows: QuantRows,
    maps: BlockMaps,
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

impl Attentions {
    pub fn load(device: &Device) -> Result<Self> {
        Ok(Self {
            exact: ExactAttention::load(device)?,
            means: MeanKeys::load(device)?,
            rows: QuantRows::load(device)?,
            maps: BlockMaps::load(device)?,
            state: LinearState::load(device)?,
            fold: LinearFold::load(device)?,
            apply: LinearApply::load(device)?,
        })
    }

    /// Dense attention of queries, keys and values of the same rows.
    pub fn to_itself(&self, stream: &Stream, qkv: [&DeviceTensor; 3], heads: Heads) -> Result<DeviceTensor> {
        let problem = Problem::new(stream, qkv, heads.self_shape(qkv[0].rows)?)?;
        Ok(DeviceTensor::bf16(qkv[0].width, self.exact(&problem, None)?))
    }

    /// Sparse-linear attention of them.
    pub fn sparsely(
        &self,
        stream: &Stream,
        qkv: [&DeviceTensor; 3],
        heads: Heads,
        sparsity: &Sparsity,
        projection: Option<&DeviceProjection>,
    ) -> Result<DeviceTensor> {
        let problem = Problem::new(stream, qkv, heads.self_shape(qkv[0].rows)?)?;
        let lists = self.select(&problem, sparsity)?;
        let map = Map { lists: lists.lists.view(), block_q: sparsity.block_q, block_k: sparsity.block_k, kept: lists.kept };
        let out = self.exact(&problem, Some(map))?;
        Ok(DeviceTensor::bf16(qkv[0].width, self.with_linear_branch(&problem, sparsity, projection, out)?))
    }

    /// Dense attention of rows to a prompt, from the product that made their queries, `[q, k, v]` with the sums of squares of
    /// the queries' rows: to int8 rows where the `reader` takes them and nothing is to be added first.
    pub fn to_text(
        &self,
        stream: &Stream,
        qkv: [&DeviceTensor; 3],
        squares: &Buffer<f32>,
        asked: &CrossAttention<'_, DeviceBackend>,
    ) -> Result<DeviceTensor> {
        let ([q, k, _], heads) = (qkv, asked.heads);
        // Samples that share their keys are one longer sample.
        let batch = asked.text_batch.max(1);
        let shape = AttnShape::cross(batch, heads.heads, q.rows / batch, k.rows / batch, heads.head_dim)?;
        let Problem { shape, q: queries, k, v, .. } = Problem::new(stream, qkv, shape.with_layout(HeadLayout::Blhd))?;
        let operands = Operands { q: queries, k, v, map: None };
        let norm = Some(QueryNorm { squares: squares.view(), eps: asked.norm.eps });
        if asked.image.is_none() && asked.reader.reads_per_token() && heads.head_dim == 128 {
            let mut out = Int8Values::room(stream, Int8Rule::PerToken, q.rows, q.width)?;
            let to = Output::Int8 { values: out.values.view_mut(), scales: out.scales.view_mut() };
            self.exact.run_between(stream, &shape, &operands, norm, to)?;
            return Ok(DeviceTensor::int8(q.width, out));
        }
        let mut out = stream.allocate(shape.query_values())?;
        self.exact.run_between(stream, &shape, &operands, norm, Output::Bf16(out.view_mut()))?;
        Ok(DeviceTensor::bf16(q.width, out))
    }

    fn exact(&self, problem: &Problem<'_>, map: Option<Map<'_>>) -> Result<Buffer<bf16>> {
        let Problem { stream, shape, q, k, v } = *problem;
        let mut out = stream.allocate(shape.query_values())?;
        self.exact.run(stream, &shape, Scores::default(), &Operands { q, k, v, map }, out.view_mut(), None)?;
        Ok(out)
    }

    /// The key blocks that each query block keeps: chosen by what the INT8 quantiser pools, whose integers nobody reads here.
    fn select(&self, problem: &Problem<'_>, sparsity: &Sparsity) -> Result<Lists> {
        let Problem { stream, shape, q, k, .. } = *problem;
        let sage = Sage::sagesla(sparsity.block_q, sparsity.block_k);
        let (mut sums, mut means) = (stream.allocate(sums_len(&shape))?, stream.allocate(shape.problems() * shape.head_dim)?);
        self.means.run(stream, k, &shape, sums.view_mut(), means.view_mut())?;

        let groups = [sage.granularity.query_groups().count(shape.query_len), sage.granularity.key_groups().count(shape.key_len)];
        let [q_groups, k_groups] = groups.map(|groups| shape.problems() * groups);
        let (mut q_values, mut q_scales) = (stream.allocate(q.len())?, stream.allocate(q_groups)?);
        let (mut k_values, mut k_scales) = (stream.allocate(k.len())?, stream.allocate(k_groups)?);
        let mut pooled = pooled_rows(stream, &shape, sparsity)?;
        let [q_pooled, k_pooled] = &mut pooled;
        let of_queries = Some(PooledRows { means: q_pooled.view_mut(), rows: sparsity.block_q });
        let out = Int8Rows { values: q_values.view_mut(), layout: Layout::Rows, scales: q_scales.view_mut(), pooled: of_queries };
        self.rows.queries(stream, q, &shape, &sage, out)?;
        let of_keys = Some(PooledRows { means: k_pooled.view_mut(), rows: sparsity.block_k });
        let out = Int8Rows { values: k_values.view_mut(), layout: Layout::Rows, scales: k_scales.view_mut(), pooled: of_keys };
        self.rows.keys(stream, k, Some(means.view()), &shape, &sage, out)?;
        self.maps.choose(stream, &shape, &pooled, sparsity)
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
}

impl<'a> Problem<'a> {
    fn new(stream: &'a Stream, qkv: [&'a DeviceTensor; 3], shape: AttnShape) -> Result<Self> {
        let [q, k, v] = qkv.map(DeviceTensor::expect_bf16);
        Ok(Self { stream, shape, q: q?.view(), k: k?.view(), v: v?.view() })
    }
}
