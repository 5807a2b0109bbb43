//! Sparse-linear self-attention with an INT8 sparse branch on a device, from bf16 queries, keys and values: everything that a
//! layer needs between its projections and the next.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_sage::device::prepare::{Int8Rows, Layout, PooledRows, QuantRows};
use turbowan_sage::device::{Added, Feature, Map, Operands, SageAttention};
use turbowan_sla::device::{BlockSelect, Pooled};

use super::branch::Branch;
use super::sides::{KeySide, ValueSide};
use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::{Attention, BLOCKS};
use crate::bench::error::Error;
use crate::bench::host::{self, shape_of};
use crate::bench::work::{Check, Work};

/// The whole of it.
pub struct Whole {
    shape: Attention,
    layout: AttnShape,
    stream: Stream,
    keys: KeySide,
    values: ValueSide,
    branch: Branch,
    quant: QuantRows,
    select: BlockSelect,
    attention: SageAttention,
    host: [Vec<f32>; 3],
    qkv: [Vec<Buffer<bf16>>; 3],
    q_values: Vec<Buffer<i8>>,
    q_scales: Vec<Buffer<f32>>,
    pooled: Buffer<bf16>,
    lists: Vec<Buffer<u32>>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Whole {
    pub fn new(shape: &Attention, stream: &Stream, slots: usize) -> Result<Self, Error> {
        if shape.key_len() != shape.len {
            return Err(Error::case("self-attention/sagesla", "self-attention has as many keys as queries"));
        }
        let layout = shape_of(shape)?;
        let mut host = [normal(layout.query_values(), 1), normal(layout.key_values(), 2), normal(layout.key_values(), 3)];
        host.iter_mut().for_each(|values| Rounding::Bf16.apply_row(values));
        let there = |values: &[f32]| copies(stream, &to_bf16(values), slots);
        let (keys, problems, query_blocks) = (KeySide::new(&layout, stream, slots)?, shape.problems(), shape.blocks().0);
        Ok(Self {
            shape: *shape,
            layout,
            stream: stream.clone(),
            values: ValueSide::new(&layout, stream, slots)?,
            branch: Branch::new(&layout, stream, slots)?,
            quant: QuantRows::load(stream.device())?,
            select: BlockSelect::load(stream.device())?,
            attention: SageAttention::load(stream.device())?,
            qkv: [there(&host[0])?, there(&host[1])?, there(&host[2])?],
            host,
            q_values: room(stream, layout.query_values(), slots)?,
            q_scales: room(stream, problems * keys.rules.granularity.query_groups().count(shape.len), slots)?,
            pooled: stream.allocate(problems * query_blocks * shape.head_dim)?,
            lists: room(stream, problems * query_blocks * shape.kept_blocks(), slots)?,
            out: room(stream, layout.query_values(), slots)?,
            keys,
            turn: Turn::default(),
        })
    }
}

impl Work for Whole {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.out.len());
        let [q, k, v] = self.qkv.each_ref().map(|copies| copies[slot].view());
        let (stream, layout, head_dim) = (&self.stream, &self.layout, self.shape.head_dim);
        let (query_blocks, key_blocks) = self.shape.blocks();

        self.keys.queue(k, slot)?;
        self.values.queue(v, slot)?;
        let rows = Int8Rows {
            values: self.q_values[slot].view_mut(),
            layout: Layout::Rows,
            scales: self.q_scales[slot].view_mut(),
            pooled: Some(PooledRows { means: self.pooled.view_mut(), rows: BLOCKS.0 }),
        };
        self.quant.queries(stream, q, layout, &self.keys.rules, rows)?;
        let (pooled, problems) = ((self.pooled.view(), self.keys.pooled[slot].view()), self.shape.problems());
        let pooled = Pooled { q: pooled.0, k: pooled.1, problems, query_blocks, key_blocks, head_dim };
        self.select.run(stream, pooled, self.shape.density(), self.lists[slot].view_mut())?;
        self.branch.sum(k, v, slot)?;

        let (block_q, block_k) = BLOCKS;
        let operands = Operands {
            q: self.q_values[slot].view(),
            q_scales: self.q_scales[slot].view(),
            k: self.keys.keys(slot),
            k_scales: self.keys.scales[slot].view(),
            values: self.values.values(slot),
            map: Some(Map { lists: self.lists[slot].view(), block_q, block_k, kept: self.shape.kept_blocks() }),
            added: Some(Added { q, state: self.branch.folded(slot), bias: Some(self.branch.bias()), feature: Feature::Softmax }),
        };
        self.attention.run(stream, layout, &self.keys.rules, false, &operands, self.out[slot].view_mut(), None)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let slot = self.turn.last;
        let map = BlockMap::new(&self.layout, BLOCKS.0, BLOCKS.1, self.shape.kept_blocks(), self.lists[slot].to_vec()?)?;
        let [q, k, v] = &self.host;
        let projection = Some(self.branch.projection());
        let operands = host::Operands { qkv: [q, k, v], shape: &self.shape, map: Some(&map), projection };
        let out = to_f32(&self.out[slot].to_vec()?);
        Ok(operands.check(&out, rows, bound, "f64 sparse-linear attention under the device's map"))
    }
}
