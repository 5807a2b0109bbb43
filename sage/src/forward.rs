//! The door: operands checked once, heads prepared, tasks spread over threads.

use std::ops::Range;

use rayon::prelude::*;
#[cfg(target_arch = "x86_64")]
use turbowan_cuda::host::Isa;
use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::{AttnShape, BlockMap, Element, Error as OperandError};

use crate::host::panels::{Keys, Layout, Queries, Tiles, Values};
use crate::host::task::Head;
use crate::host::{Kernel, TILE_K, TILE_Q, portable::Portable};
use crate::quantise::{base_2_scale, mean_row, quantise_rows, query_factor, read_head, smooth};
use crate::{Error, Sage, Smoothing, ValuePrecision};

/// Output and log-sum-exp of attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attended {
    /// Output, `f32`, in the shape's layout.
    pub out: Vec<f32>,
    /// Natural log-sum-exp of the scaled scores of the unsmoothed keys, `[batch, heads, query_len]`; minus infinity for a
    /// row that sees no key. With [`ValuePrecision::Int8`] it sums the rounded probabilities.
    pub lse: Vec<f32>,
}

/// INT8 attention of `q` to `k` and `v`; the output is `f32` in the shape's layout.
///
/// Under `map` each query block sees the listed key blocks alone; under `causal` query `i` sees keys up to `i`. A row that
/// sees no key gives zeros. A value that is not finite makes "not a number" of the rows that share its scale (queries) or
/// of its whole head (keys, values).
///
/// # Errors
/// When an operand does not fit `shape`, the map was made for another shape, causal lengths differ, or a setting cannot
/// be walked.
pub fn forward<T: Element>(
    q: &[T],
    k: &[T],
    v: &[T],
    shape: &AttnShape,
    map: Option<&BlockMap>,
    causal: bool,
    sage: &Sage,
) -> Result<Vec<f32>, Error> {
    Ok(attend(&Problem { q, k, v, shape, map, causal, sage, keeps_lse: false })?.out)
}

/// [`forward`] with the log-sum-exp of every row.
///
/// # Errors
/// As [`forward`].
pub fn forward_with_lse<T: Element>(
    q: &[T],
    k: &[T],
    v: &[T],
    shape: &AttnShape,
    map: Option<&BlockMap>,
    causal: bool,
    sage: &Sage,
) -> Result<Attended, Error> {
    attend(&Problem { q, k, v, shape, map, causal, sage, keeps_lse: true })
}

fn attend<T: Element>(problem: &Problem<'_, T>) -> Result<Attended, Error> {
    let Problem { shape, sage, .. } = problem;
    sage.check()?;
    OperandError::expect_len("queries", problem.q, shape.query_values())?;
    OperandError::expect_len("keys", problem.k, shape.key_values())?;
    OperandError::expect_len("values", problem.v, shape.key_values())?;
    if problem.causal && shape.query_len != shape.key_len {
        return Err(Error::CausalLengths { query_len: shape.query_len, key_len: shape.key_len });
    }
    if let Some(map) = problem.map {
        check_map(map, shape)?;
    }
    Ok(match sage.isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => match crate::host::avx512::Avx512::detect() {
            Some(kernel) => problem.run(kernel),
            None => problem.run(Portable),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => match crate::host::avx2::Avx2::detect() {
            Some(kernel) => problem.run(kernel),
            None => problem.run(Portable),
        },
        _ => problem.run(Portable),
    })
}

fn check_map(map: &BlockMap, shape: &AttnShape) -> Result<(), Error> {
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(map.block_q()), shape.key_len.div_ceil(map.block_k()));
    let found_heads = map.lists().len() / (map.query_blocks() * map.kept());
    if (map.query_blocks(), map.key_blocks(), found_heads) == (query_blocks, key_blocks, shape.problems()) {
        return Ok(());
    }
    let (found_q, found_k) = (map.query_blocks(), map.key_blocks());
    Err(Error::MapShape { found_q, found_k, found_heads, query_blocks, key_blocks, heads: shape.problems() })
}

struct Problem<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    shape: &'a AttnShape,
    map: Option<&'a BlockMap>,
    causal: bool,
    sage: &'a Sage,
    keeps_lse: bool,
}

/// A third of a head's preparation.
enum Part {
    Queries(Queries),
    Keys(Keys, Vec<f32>),
    Values(Values),
}

/// A head ready for its tasks, and its mean key (empty where nothing was subtracted).
struct Prepared {
    head: Head,
    mean: Vec<f32>,
}

impl<T: Element> Problem<'_, T> {
    fn run<K: Kernel>(&self, kernel: K) -> Attended {
        let shape = self.shape;
        let lse_values = if self.keeps_lse { shape.problems() * shape.query_len } else { 0 };
        let mut attended = Attended { out: vec![0.0; shape.query_values()], lse: vec![0.0; lse_values] };
        let (out, lse) = (Shared::new(&mut attended.out), Shared::new(&mut attended.lse));
        let chunks = self.chunks();
        // As few heads at a time as keep every thread busy: what is prepared stays small and near.
        let threads = rayon::current_num_threads();
        let at_once = (16 * threads).div_ceil(chunks.len()).max(threads).min(shape.problems());
        for first in (0..shape.problems()).step_by(at_once) {
            let heads = self.prepare(K::LAYOUT, first..(first + at_once).min(shape.problems()));
            for_each_task(heads.len() * chunks.len(), |task| {
                let (problem, chunk) = (first + task / chunks.len(), &chunks[task % chunks.len()]);
                let prepared = &heads[problem - first];
                let visible = self.visible(&prepared.head.keys.tiles, problem, chunk.block);
                let outcome = prepared.head.attend(kernel, chunk.rows.clone(), &visible, self.causal);
                for (index, row) in chunk.rows.clone().enumerate() {
                    let from = &outcome.out[index * shape.head_dim..][..shape.head_dim];
                    // SAFETY: every row of every problem belongs to one task.
                    unsafe { out.part(shape.query_offset(problem, row), shape.head_dim) }.copy_from_slice(from);
                    if self.keeps_lse {
                        let natural = self.natural_lse(outcome.lse[index], problem, row, &prepared.mean);
                        // SAFETY: as above.
                        let to = unsafe { lse.part(problem * shape.query_len + row, 1) };
                        to.fill(natural);
                    }
                }
            });
        }
        attended
    }

    /// Query rows in tasks: blocks of the map, in runs of at most [`TILE_Q`].
    fn chunks(&self) -> Vec<Chunk> {
        let (len, block_rows) = (self.shape.query_len, self.map.map_or(self.shape.query_len, BlockMap::block_q));
        let blocks = (0..len).step_by(block_rows).enumerate();
        let runs = blocks.flat_map(|(block, start)| {
            let end = (start + block_rows).min(len);
            (start..end).step_by(TILE_Q).map(move |first| Chunk { block, rows: first..(first + TILE_Q).min(end) })
        });
        runs.collect()
    }

    /// Runs of key tiles that a query block sees.
    fn visible(&self, tiles: &Tiles, problem: usize, block: usize) -> Vec<Range<usize>> {
        match self.map {
            Some(map) => map.list(problem, block).iter().map(|block| tiles.of_block(*block as usize)).collect(),
            None => vec![tiles.of_block(0)],
        }
    }

    fn prepare(&self, layout: Layout, problems: Range<usize>) -> Vec<Prepared> {
        let (first, count) = (problems.start, problems.len());
        let parts: Vec<Part> =
            (0..3 * count).into_par_iter().with_max_len(1).map(|part| self.part(layout, first + part / 3, part % 3)).collect();
        let mut heads = Vec::with_capacity(count);
        let mut parts = parts.into_iter();
        while let (Some(Part::Queries(queries)), Some(Part::Keys(keys, mean)), Some(Part::Values(values))) =
            (parts.next(), parts.next(), parts.next())
        {
            let tiles_per_step = match self.sage.values {
                ValuePrecision::Fp8 { .. } => (self.sage.granularity.tile().key_block / TILE_K).max(1),
                _ => 1,
            };
            let head = Head { queries, keys, values, head_dim: self.shape.head_dim, precision: self.sage.values, tiles_per_step };
            heads.push(Prepared { head, mean });
        }
        heads
    }

    fn part(&self, layout: Layout, problem: usize, part: usize) -> Part {
        let (shape, sage, width) = (self.shape, self.sage, self.shape.head_dim);
        let isa = sage.isa;
        let tiles = Tiles::new(shape.key_len, self.map.map_or(shape.key_len, BlockMap::block_k));
        let key_rows = |from| read_head(from, shape, shape.key_offset(problem, 0), shape.key_len, sage.operands);
        match part {
            0 => {
                let rows = read_head(self.q, shape, shape.query_offset(problem, 0), shape.query_len, sage.operands);
                let groups = sage.granularity.query_groups();
                Part::Queries(Queries::new(quantise_rows(isa, &rows, width, query_factor(sage, width), groups, sage.rule), groups, width))
            }
            1 => {
                let mut rows = key_rows(self.k);
                let mut mean = Vec::new();
                if sage.smoothing != Smoothing::None {
                    mean = mean_row::<T>(isa, &rows, width, sage.operands);
                    smooth::<T>(sage, &mut rows, &mean);
                }
                let groups = sage.granularity.key_groups();
                let factor = if sage.folds_scale { 1.0 } else { base_2_scale(width) };
                Part::Keys(Keys::new(layout, &quantise_rows(isa, &rows, width, 1.0, groups, sage.rule), groups, width, factor, tiles), mean)
            }
            _ => Part::Values(Values::new(isa, layout, key_rows(self.v), width, sage.values, tiles)),
        }
    }

    /// Natural log-sum-exp of the unsmoothed scores: each of them is larger by the query times the mean key.
    fn natural_lse(&self, base_2: f32, problem: usize, row: usize, mean: &[f32]) -> f32 {
        let query = &self.q[self.shape.query_offset(problem, row)..][..self.shape.head_dim];
        let shift: f32 = query.iter().zip(mean).map(|(q, mean)| self.sage.operands.apply(q.widen()) * mean).sum();
        base_2 * std::f32::consts::LN_2 + shift / (self.shape.head_dim as f32).sqrt()
    }
}

/// A run of query rows, at most [`TILE_Q`], inside one block of the map.
struct Chunk {
    block: usize,
    rows: Range<usize>,
}
