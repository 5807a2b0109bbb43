//! One attention problem on the host: operands that are bf16 values, their oracle, and the same on a device.

use std::fmt;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::{AttnShape, BlockMap, Error, Rounding};
use turbowan_reference::inputs::{Kind, rows};
use turbowan_reference::sla as oracle;
use turbowan_sla::device::{Map, Operands, Scores};

use crate::bf16s;

#[derive(Clone)]
pub struct Case {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub shape: AttnShape,
    pub map: Option<BlockMap>,
    pub scores: Scores,
    /// Keys and values of the first sample alone are uploaded, for all.
    pub shares_keys: bool,
}

pub fn shape(heads: usize, query_len: usize, key_len: usize, head_dim: usize) -> AttnShape {
    AttnShape::cross(1, heads, query_len, key_len, head_dim).unwrap()
}

/// Seeded rows of bf16 values.
pub fn draw(kind: Kind, count: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut values = rows(kind, count, width, seed);
    Rounding::Bf16.apply_row(&mut values);
    values
}

impl Case {
    pub fn of(kind: Kind, shape: AttnShape) -> Self {
        let draw = |len: usize, seed| draw(kind, shape.problems() * len, shape.head_dim, seed);
        let (q, k, v) = (draw(shape.query_len, 1), draw(shape.key_len, 2), draw(shape.key_len, 3));
        Self { q, k, v, shape, map: None, scores: Scores::default(), shares_keys: false }
    }

    pub fn causal(mut self) -> Self {
        self.scores.is_causal = true;
        self
    }

    /// The same queries under a causal mask, over as many keys.
    pub fn causal_as_square(mut self) -> Self {
        let values = self.q.len();
        self.shape = AttnShape { key_len: self.shape.query_len, ..self.shape };
        self.k.truncate(values);
        self.v.truncate(values);
        self.causal()
    }

    /// Queries and keys, and values, some times larger.
    pub fn scaled(mut self, of_scores: f32, of_values: f32) -> Self {
        for (rows, factor) in [(&mut self.q, of_scores), (&mut self.k, of_scores), (&mut self.v, of_values)] {
            rows.iter_mut().for_each(|value| *value *= factor);
            Rounding::Bf16.apply_row(rows);
        }
        self
    }

    /// A map that keeps `kept` key blocks, others for every query block.
    pub fn mapped(mut self, block_q: usize, block_k: usize, kept: usize) -> Self {
        let (query_blocks, key_blocks) = (self.shape.query_len.div_ceil(block_q), self.shape.key_len.div_ceil(block_k));
        let list = |row: usize| {
            let mut list: Vec<u32> = (0..key_blocks as u32).collect();
            list.rotate_left(row * 2 % key_blocks);
            let step = key_blocks.div_ceil(kept);
            let (mut near, far): (Vec<_>, Vec<_>) = list.into_iter().enumerate().partition(|(at, _)| at % step == 0);
            near.extend(far);
            let mut list: Vec<u32> = near.into_iter().take(kept).map(|(_, block)| block).collect();
            list.sort_unstable();
            list
        };
        let lists = (0..self.shape.problems() * query_blocks).flat_map(list).collect();
        self.map = Some(BlockMap::new(&self.shape, block_q, block_k, kept, lists).unwrap());
        self
    }

    pub fn head(&self) -> oracle::Head {
        oracle::Head { query_len: self.shape.query_len, key_len: self.shape.key_len, dim: self.shape.head_dim }
    }

    pub fn scale(&self) -> f64 {
        self.scores.scale.map_or(self.head().scale(), f64::from)
    }

    /// The rows of one problem.
    pub fn of_queries(&self, values: &[f32], problem: usize) -> Vec<f64> {
        self.gather(values, self.shape.query_len, |row| self.shape.query_offset(problem, row))
    }

    pub fn of_keys(&self, values: &[f32], problem: usize) -> Vec<f64> {
        self.gather(values, self.shape.key_len, |row| self.shape.key_offset(problem, row))
    }

    fn gather(&self, values: &[f32], len: usize, offset: impl Fn(usize) -> usize) -> Vec<f64> {
        (0..len).flat_map(|row| &values[offset(row)..][..self.shape.head_dim]).map(|value| f64::from(*value)).collect()
    }

    pub fn lists(&self, problem: usize) -> Option<oracle::BlockLists> {
        self.map.as_ref().map(|map| {
            let list = |block| map.list(problem, block).iter().map(|key| *key as usize).collect();
            let lists = (0..map.query_blocks()).map(list).collect();
            oracle::BlockLists { block_q: map.block_q(), block_k: map.block_k(), lists }
        })
    }

    /// Output in the shape's layout, and logarithms.
    pub fn oracle(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut out, mut lse) = (vec![0.0; self.shape.query_values()], Vec::new());
        for problem in 0..self.shape.problems() {
            let (q, k, v) = (self.of_queries(&self.q, problem), self.of_keys(&self.k, problem), self.of_keys(&self.v, problem));
            let lists = self.lists(problem);
            let want = oracle::sparse_attention(&q, &k, &v, self.head(), lists.as_ref(), self.scale(), self.scores.is_causal);
            for (row, values) in want.out.chunks(self.shape.head_dim).enumerate() {
                out[self.shape.query_offset(problem, row)..][..values.len()].copy_from_slice(values);
            }
            lse.extend(want.lse);
        }
        (out, lse)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttnShape { batch, heads, query_len, key_len, head_dim, layout } = self.shape;
        let map = self.map.as_ref().map(|map| (map.block_q(), map.block_k(), map.kept()));
        write!(f, "{batch}x{heads}x{query_len}x{key_len}x{head_dim} {layout:?} map {map:?} {:?}", self.scores)
    }
}

/// A case's operands on a device.
pub struct Uploaded {
    q: Buffer<bf16>,
    k: Buffer<bf16>,
    v: Buffer<bf16>,
    lists: Option<Buffer<u32>>,
}

impl Uploaded {
    pub fn new(stream: &Stream, case: &Case) -> Result<Self, Error> {
        let samples = if case.shares_keys { case.shape.batch } else { 1 };
        let keys = |rows: &[f32]| stream.upload(&bf16s(&rows[..rows.len() / samples]));
        Ok(Self {
            q: stream.upload(&bf16s(&case.q))?,
            k: keys(&case.k)?,
            v: keys(&case.v)?,
            lists: case.map.as_ref().map(|map| stream.upload(map.lists())).transpose()?,
        })
    }

    pub fn operands(&self, case: &Case) -> Operands<'_> {
        let map = case.map.as_ref().zip(self.lists.as_ref()).map(|(map, lists)| Map {
            lists: lists.view(),
            block_q: map.block_q(),
            block_k: map.block_k(),
            kept: map.kept(),
        });
        Operands { q: self.q.view(), k: self.k.view(), v: self.v.view(), map }
    }
}
