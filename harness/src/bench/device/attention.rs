//! Attention and the choice of key blocks on a device.

use std::time::Duration;

use half::{bf16, f16};
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_reference::sla as truth;
use turbowan_sage::device::{Added, Feature, Format, Keys, Map as DeviceMap, Operands, SageAttention, Values};
use turbowan_sage::{Sage as Rules, quantise_keys, quantise_queries, quantise_values};
use turbowan_sla::device::{BlockSelect, Pooled};

use super::branch::Branch;
use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::{Attention, BLOCKS};
use crate::bench::error::Error;
use crate::bench::host::{self, check_lists, random_map, shape_of};
use crate::bench::work::{Check, Work, seeded_rows};

/// The largest value of a channel where the kernel sums in f16.
pub const FP8_LARGEST: f32 = 2.25;
/// The largest value of a channel where it sums in f32.
pub const TILED_LARGEST: f32 = 448.0;
/// Keys to which the 8-bit values are padded.
pub const FP8_PAD: usize = 64;

enum DeviceValues {
    F16(Vec<Buffer<f16>>),
    Fp8 { permuted: Vec<Buffer<u8>>, scales: Vec<Buffer<f32>>, padded_len: usize },
    Tiled { tiles: Vec<Buffer<u8>>, scales: Vec<Buffer<f32>> },
}

/// INT8 attention over operands that are quantised already, in the format that the chip prefers; with the linear branch in
/// its end where that is asked for.
pub struct Sage {
    shape: Attention,
    layout: AttnShape,
    rules: Rules,
    stream: Stream,
    kernel: SageAttention,
    host: [Vec<f32>; 3],
    map: Option<BlockMap>,
    lists: Vec<Buffer<u32>>,
    q: Vec<(Buffer<i8>, Buffer<f32>)>,
    k: Vec<(Buffer<i8>, Buffer<f32>)>,
    values: DeviceValues,
    /// Queries as they are, and the folded sums.
    added: Option<(Vec<Buffer<bf16>>, Branch)>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Sage {
    pub fn new(shape: &Attention, has_branch: bool, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let layout = shape_of(shape)?;
        let mut host = [normal(layout.query_values(), 1), normal(layout.key_values(), 2), normal(layout.key_values(), 3)];
        host.iter_mut().for_each(|values| Rounding::Bf16.apply_row(values));
        let map = random_map(shape)?;
        let rules = if map.is_some() { Rules::sagesla(BLOCKS.0, BLOCKS.1) } else { Rules::default() };
        let (q, k) = (quantise_queries(&host[0], &layout, &rules)?, quantise_keys(&host[1], None, &layout, &rules)?);
        let both = |values: &[i8], scales: &[f32]| -> Result<Vec<_>, Error> {
            Ok(copies(stream, values, slots)?.into_iter().zip(copies(stream, scales, slots)?).collect())
        };
        let format = Format::preferred(stream.device().chip().capability);
        let tiled = (format == Format::Tiled).then(|| k.tiled(layout.head_dim));
        let values = match format {
            Format::Tiled => {
                let values = quantise_values(&host[2], &layout, TILED_LARGEST, FP8_PAD, &rules)?;
                let tiles = copies(stream, &values.tiled(layout.head_dim, layout.key_len), slots)?;
                DeviceValues::Tiled { tiles, scales: copies(stream, &values.scales, slots)? }
            }
            Format::Fp8 => {
                let values = quantise_values(&host[2], &layout, FP8_LARGEST, FP8_PAD, &rules)?;
                let (permuted, scales) = (copies(stream, &values.permuted(), slots)?, copies(stream, &values.scales, slots)?);
                DeviceValues::Fp8 { permuted, scales, padded_len: values.padded_len }
            }
            Format::F16 => {
                let halves: Vec<f16> = host[2].iter().map(|value| f16::from_f32(*value)).collect();
                DeviceValues::F16(copies(stream, &halves, slots)?)
            }
        };
        let added = match has_branch {
            true => {
                let mut branch = Branch::new(&layout, stream, slots)?;
                let (k, v) = (stream.upload(&to_bf16(&host[1]))?, stream.upload(&to_bf16(&host[2]))?);
                (0..slots).try_for_each(|slot| branch.sum(k.view(), v.view(), slot))?;
                Some((copies(stream, &to_bf16(&host[0]), slots)?, branch))
            }
            false => None,
        };
        Ok(Self {
            shape: *shape,
            layout,
            rules,
            stream: stream.clone(),
            added,
            kernel: SageAttention::load(stream.device())?,
            lists: map.as_ref().map(|map| copies(stream, map.lists(), slots)).transpose()?.unwrap_or_default(),
            map,
            q: both(&q.values, &q.scales)?,
            k: both(tiled.as_ref().unwrap_or(&k.values), &k.scales)?,
            values,
            host,
            out: room(stream, layout.query_values(), slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Sage {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.out.len());
        let ((q, q_scales), (k, k_scales)) = (&self.q[slot], &self.k[slot]);
        let (k, values) = match &self.values {
            DeviceValues::F16(values) => (Keys::Rows(k.view()), Values::F16(values[slot].view())),
            DeviceValues::Fp8 { permuted, scales, padded_len } => {
                let (permuted, scales, padded_len) = (permuted[slot].view(), scales[slot].view(), *padded_len);
                (Keys::Rows(k.view()), Values::Fp8 { permuted, scales, padded_len })
            }
            DeviceValues::Tiled { tiles, scales } => {
                (Keys::Tiled(k.view()), Values::Tiled { tiles: tiles[slot].view(), scales: scales[slot].view() })
            }
        };
        let map = self.map.as_ref().zip(self.lists.get(slot)).map(|(map, lists)| DeviceMap {
            lists: lists.view(),
            block_q: map.block_q(),
            block_k: map.block_k(),
            kept: map.kept(),
        });
        let added = self.added.as_ref().map(|(q, branch)| Added {
            q: q[slot].view(),
            state: branch.folded(slot),
            bias: Some(branch.bias()),
            feature: Feature::Softmax,
        });
        let operands = Operands { q: q.view(), q_scales: q_scales.view(), k, k_scales: k_scales.view(), values, map, added };
        self.kernel.run(&self.stream, &self.layout, &self.rules, false, &operands, self.out[slot].view_mut(), None)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let out = to_f32(&self.out[self.turn.last].to_vec()?);
        let [q, k, v] = &self.host;
        let projection = self.added.as_ref().map(|(_, branch)| branch.projection());
        let operands = host::Operands { qkv: [q, k, v], shape: &self.shape, map: self.map.as_ref(), projection };
        Ok(operands.check(&out, rows, bound, "f64 attention of the operands before they were quantised"))
    }
}

/// The choice of key blocks from pooled rows.
pub struct Map {
    shape: Attention,
    stream: Stream,
    kernel: BlockSelect,
    host: [Vec<f32>; 2],
    q: Vec<Buffer<bf16>>,
    k: Vec<Buffer<bf16>>,
    lists: Vec<Buffer<u32>>,
    turn: Turn,
}

impl Map {
    pub fn new(shape: &Attention, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let ((queries, keys), problems) = (shape.blocks(), shape.problems());
        let mut host = [normal(problems * queries * shape.head_dim, 1), normal(problems * keys * shape.head_dim, 2)];
        host.iter_mut().for_each(|values| Rounding::Bf16.apply_row(values));
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: BlockSelect::load(stream.device())?,
            q: copies(stream, &to_bf16(&host[0]), slots)?,
            k: copies(stream, &to_bf16(&host[1]), slots)?,
            host,
            lists: room(stream, problems * queries * shape.kept_blocks(), slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Map {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.lists.len());
        let (query_blocks, key_blocks) = self.shape.blocks();
        let (problems, head_dim) = (self.shape.problems(), self.shape.head_dim);
        let pooled = Pooled { q: self.q[slot].view(), k: self.k[slot].view(), problems, query_blocks, key_blocks, head_dim };
        self.kernel.run(&self.stream, pooled, self.shape.density(), self.lists[slot].view_mut())?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let ((queries, keys), dim, kept) = (self.shape.blocks(), self.shape.head_dim, self.shape.kept_blocks());
        let lists = self.lists[self.turn.last].to_vec()?;
        let rows = seeded_rows(queries, rows);
        // scores of pooled rows as they are: pooled by one, and by nothing smoothed
        let mut scores = vec![0.0f64; queries * keys];
        for &row in &rows {
            let q = &self.host[0][row * dim..][..dim];
            for (score, k) in scores[row * keys..][..keys].iter_mut().zip(self.host[1].chunks(dim)) {
                *score = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            }
        }
        debug_assert_eq!(truth::kept_blocks(self.shape.density().share(), keys), kept, "one rule counts the kept blocks");
        Ok(check_lists(&scores, keys, &rows, |row| &lists[row * kept..][..kept], bound))
    }
}
