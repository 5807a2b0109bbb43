//! What the attention operations share: heads drawn from a seed, maps, and one head at a time for the oracles.

use turbowan_cuda::{AttnShape, BlockMap, HeadLayout};
use turbowan_reference::attention::Head;
use turbowan_reference::inputs::Seeded;

use crate::verify::{Fault, Kind};

/// Queries, keys and values of a shape.
pub(super) struct Heads {
    pub(super) shape: AttnShape,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

impl Heads {
    /// Heads of a kind. Large values are large, large queries are 30: scores of 10^8 would leave softmax one key.
    pub(super) fn draw(kind: Kind, shape: AttnShape, seed: u64) -> Self {
        let draw = |kind: Kind, len: usize, seed| kind.values(shape.problems() * len, shape.head_dim, seed);
        let (mut q, k) = match kind {
            Kind::Large => (draw(Kind::Plain, shape.query_len, seed), draw(Kind::Plain, shape.key_len, seed + 1)),
            kind => (draw(kind, shape.query_len, seed), draw(kind, shape.key_len, seed + 1)),
        };
        if kind == Kind::Large {
            q.iter_mut().for_each(|q| *q *= 30.0);
        }
        Self { shape, q, k, v: draw(kind, shape.key_len, seed + 2) }
    }

    /// Rows of one head, in order.
    pub(super) fn queries<T: Copy>(&self, values: &[T], problem: usize) -> Vec<T> {
        let rows = (0..self.shape.query_len).map(|row| self.shape.query_offset(problem, row));
        rows.flat_map(|at| values[at..at + self.shape.head_dim].to_vec()).collect()
    }

    /// Rows of one head, in order.
    pub(super) fn keys<T: Copy>(&self, values: &[T], problem: usize) -> Vec<T> {
        let rows = (0..self.shape.key_len).map(|row| self.shape.key_offset(problem, row));
        rows.flat_map(|at| values[at..at + self.shape.head_dim].to_vec()).collect()
    }

    /// One head's rows.
    pub(super) fn head(&self, problem: usize) -> [Vec<f32>; 3] {
        [self.queries(&self.q, problem), self.keys(&self.k, problem), self.keys(&self.v, problem)]
    }

    /// The query rows of all heads, one head after the other, in the shape's own layout.
    pub(super) fn in_layout(&self, heads: &[f64]) -> Vec<f64> {
        placed(heads, self.shape.query_len, self.shape.head_dim, |problem, row| self.shape.query_offset(problem, row))
    }

    /// The same of key rows.
    pub(super) fn keys_in_layout(&self, heads: &[f64]) -> Vec<f64> {
        placed(heads, self.shape.key_len, self.shape.head_dim, |problem, row| self.shape.key_offset(problem, row))
    }
}

/// Rows of heads of `len`, each where `offset` says.
fn placed(heads: &[f64], len: usize, dim: usize, offset: impl Fn(usize, usize) -> usize) -> Vec<f64> {
    let mut out = vec![0.0; heads.len()];
    for (index, row) in heads.chunks(dim).enumerate() {
        out[offset(index / len, index % len)..][..dim].copy_from_slice(row);
    }
    out
}

/// A shape behind heads of zeros: whole heads where a head's rows lie together, whole samples where heads are mixed.
#[derive(Clone, Copy)]
pub(super) struct AfterZeros {
    /// With those of zeros.
    pub(super) shape: AttnShape,
    own: usize,
}

impl AfterZeros {
    /// `own` behind `lead` heads or samples.
    pub(super) fn new(own: &AttnShape, lead: usize) -> Self {
        let shape = match own.layout {
            HeadLayout::Bhld => AttnShape { heads: lead + own.heads, ..*own },
            HeadLayout::Blhd => AttnShape { batch: lead + own.batch, ..*own },
        };
        Self { shape, own: own.problems() }
    }

    /// How much of an operand lies before the `values` of it that are the shape's own.
    pub(super) fn behind(&self, values: usize) -> usize {
        (self.shape.problems() - self.own) * (values / self.own)
    }
}

/// A head of the oracle.
pub(super) fn head_of<'a>([query, key, value]: [&'a [f32]; 3], head_dim: usize) -> Head<'a> {
    Head { query, key, value, head_dim }
}

/// `[1, heads, query, dim]` against `key` rows; `tokens_first` has the heads of a token side by side.
pub(super) fn shape_of(heads: usize, query: usize, key: usize, dim: usize, tokens_first: bool) -> Result<AttnShape, Fault> {
    let shape = AttnShape::cross(1, heads, query, key, dim)?;
    Ok(if tokens_first { shape.with_layout(HeadLayout::Blhd) } else { shape })
}

/// A map that keeps `kept` key blocks of each query block, drawn from a seed.
pub(super) fn drawn_map(shape: &AttnShape, (block_q, block_k): (usize, usize), kept: usize, seed: u64) -> Result<BlockMap, Fault> {
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(block_q), shape.key_len.div_ceil(block_k));
    let mut random = Seeded::new(seed);
    let mut lists = Vec::new();
    for _ in 0..shape.problems() * query_blocks {
        let mut order: Vec<u32> = (0..key_blocks as u32).collect();
        for place in 0..kept {
            let other = place + random.below(key_blocks - place);
            order.swap(place, other);
        }
        order[..kept].sort_unstable();
        lists.extend_from_slice(&order[..kept]);
    }
    Ok(BlockMap::new(shape, block_q, block_k, kept, lists)?)
}

/// A head's kept blocks as the oracle takes them, `[query blocks, key blocks]`.
pub(super) fn kept_blocks(map: &BlockMap, problem: usize) -> Vec<bool> {
    let mut kept = vec![false; map.query_blocks() * map.key_blocks()];
    for block in 0..map.query_blocks() {
        map.list(problem, block).iter().for_each(|key| kept[block * map.key_blocks() + *key as usize] = true);
    }
    kept
}
