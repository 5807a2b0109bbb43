//! Which key blocks each query block attends to.
//!
//! ```text
//! k'     = k - mean_L(k)                                  smooth-k, for the map alone
//! q̄_i    = mean of the query rows of block i              over the rows that exist
//! k̄_j    = mean of the rows of k' of block j
//! score  = q̄_i · k̄_j                                      no scale, no softmax: both keep the order
//! map_i  = the blocks j of the largest scores, as many as the density says
//! ```
//!
//! Where two scores are equal the block of the lower index goes first, and a score that is not a number counts as the
//! largest (as `torch.topk` has it, which leaves the order of equal scores open).

use turbowan_cuda::host::Isa;
use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::{AttnShape, BlockMap, Rounding};

use crate::lanes::{self, Kernel, LANE_GROUP, Lanes};
use crate::product::{Product, Spread, Start};
use crate::rows::HeadRows;
use crate::{Density, Error};

/// Query blocks whose scores one task works out.
const QUERY_BLOCKS_A_TASK: usize = 32;

/// The map that keeps the share `density` of the key blocks for each query block.
///
/// With [`Rounding::Bf16`] the mean, the smoothed keys, the pooled rows and the scores are rounded to bf16, as the
/// official code does on bf16 operands; sums are `f32` either way.
///
/// # Errors
/// When an operand's length does not fit `shape` or a block side is zero.
pub fn block_map(
    q: &[f32],
    k: &[f32],
    shape: &AttnShape,
    (block_q, block_k): (usize, usize),
    density: Density,
    rounding: Rounding,
) -> Result<BlockMap, Error> {
    let scores = pooled_scores(q, k, shape, (block_q, block_k), rounding)?;
    let key_blocks = shape.key_len.div_ceil(block_k);
    let kept = density.blocks(key_blocks);
    let mut lists = vec![0u32; scores.len() / key_blocks * kept];
    let shared = Shared::new(&mut lists);
    for_each_task(shape.problems(), |problem| {
        let query_blocks = shape.query_len.div_ceil(block_q);
        let mut order = Vec::with_capacity(key_blocks);
        for block in problem * query_blocks..(problem + 1) * query_blocks {
            // SAFETY: every query block has its own list.
            let list = unsafe { shared.part(block * kept, kept) };
            keep_largest(&scores[block * key_blocks..][..key_blocks], &mut order, list);
        }
    });
    Ok(BlockMap::new(shape, block_q, block_k, kept, lists)?)
}

/// The scores that the map is chosen by, `[batch * heads, query blocks, key blocks]`.
///
/// # Errors
/// As [`block_map`].
pub fn pooled_scores(
    q: &[f32],
    k: &[f32],
    shape: &AttnShape,
    (block_q, block_k): (usize, usize),
    rounding: Rounding,
) -> Result<Vec<f32>, Error> {
    turbowan_cuda::Error::expect_len("queries", q, shape.query_values())?;
    turbowan_cuda::Error::expect_len("keys", k, shape.key_values())?;
    if block_q == 0 || block_k == 0 {
        return Err(turbowan_cuda::Error::Size { what: "block side", must: "at least 1", found: 0 }.into());
    }
    let (dim, isa) = (shape.head_dim, Isa::detect());
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(block_q), shape.key_len.div_ceil(block_k));
    let queries = |problem| HeadRows::queries(q, shape, problem);
    let keys = |problem| HeadRows::keys(k, shape, problem);

    let pooled_q = pool(queries, shape, shape.query_len, block_q, None, rounding, isa);
    let pooled_k = smooth_pooled_keys(keys, shape, block_k, rounding, isa);

    // k̄ᵀ [head_dim, key blocks] of every head, so that key blocks lie in the lanes
    let lanes = key_blocks.next_multiple_of(LANE_GROUP);
    let mut transposed = vec![0.0f32; shape.problems() * dim * lanes];
    let shared = Shared::new(&mut transposed);
    for_each_task(shape.problems(), |problem| {
        // SAFETY: every head has its own part.
        let to = unsafe { shared.part(problem * dim * lanes, dim * lanes) };
        for (block, row) in pooled_k[problem * key_blocks * dim..][..key_blocks * dim].chunks_exact(dim).enumerate() {
            to[block..].iter_mut().step_by(lanes).zip(row).for_each(|(to, value)| *to = *value);
        }
    });

    let mut scores = vec![0.0f32; shape.problems() * query_blocks * key_blocks];
    let shared = Shared::new(&mut scores);
    let parts = query_blocks.div_ceil(QUERY_BLOCKS_A_TASK);
    for_each_task(shape.problems() * parts, |task| {
        let (problem, first) = (task / parts, task % parts * QUERY_BLOCKS_A_TASK);
        let rows = QUERY_BLOCKS_A_TASK.min(query_blocks - first);
        let mut tile = vec![0.0f32; rows * lanes];
        Product {
            rows,
            terms: dim,
            lanes,
            a: Spread::rows(&pooled_q[(problem * query_blocks + first) * dim..][..rows * dim], dim),
            b: &transposed[problem * dim * lanes..][..dim * lanes],
            b_stride: lanes,
            c: &mut tile,
            c_stride: lanes,
            start: Start::Zero,
        }
        .run(isa);
        for (row, tile) in tile.chunks_exact(lanes).enumerate() {
            // SAFETY: every query block has its own row of scores.
            let to = unsafe { shared.part((problem * query_blocks + first + row) * key_blocks, key_blocks) };
            to.copy_from_slice(&tile[..key_blocks]);
            rounding.apply_row(to);
        }
    });
    Ok(scores)
}

/// `k̄ [batch * heads, key blocks, head_dim]`.
fn smooth_pooled_keys<'a>(
    keys: impl Fn(usize) -> HeadRows<'a> + Sync + Copy,
    shape: &AttnShape,
    block_k: usize,
    rounding: Rounding,
    isa: Isa,
) -> Vec<f32> {
    let (dim, key_len) = (shape.head_dim, shape.key_len);
    let mut pooled = pool(keys, shape, key_len, block_k, None, Rounding::None, isa);
    let head_values = key_len.div_ceil(block_k) * dim;
    let mut means = Vec::with_capacity(shape.problems() * dim);
    for pooled in pooled.chunks_exact(head_values) {
        let mut mean = vec![0.0f64; dim];
        for (block, pooled) in pooled.chunks_exact(dim).enumerate() {
            let rows = block_k.min(key_len - block * block_k) as f64;
            mean.iter_mut().zip(pooled).for_each(|(mean, pooled)| *mean += rows * f64::from(*pooled));
        }
        means.extend(mean.into_iter().map(|sum| rounding.apply((sum / key_len as f64) as f32)));
    }
    match rounding {
        // the mean of k - mean is the mean of k, less the mean: no second pass over the keys
        Rounding::None => {
            for (pooled, mean) in pooled.chunks_exact_mut(head_values).zip(means.chunks_exact(dim)) {
                for row in pooled.chunks_exact_mut(dim) {
                    row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
                }
            }
            pooled
        }
        Rounding::Bf16 => pool(keys, shape, key_len, block_k, Some(&means), rounding, isa),
    }
}

/// Means over blocks of rows, `[batch * heads, blocks, head_dim]`, of the rows less `mean [batch * heads, head_dim]`.
fn pool<'a>(
    rows_of: impl Fn(usize) -> HeadRows<'a> + Sync,
    shape: &AttnShape,
    len: usize,
    block: usize,
    mean: Option<&[f32]>,
    rounding: Rounding,
    isa: Isa,
) -> Vec<f32> {
    let (dim, blocks) = (shape.head_dim, len.div_ceil(block));
    let mut pooled = vec![0.0f32; shape.problems() * blocks * dim];
    let shared = Shared::new(&mut pooled);
    for_each_task(shape.problems() * blocks, |task| {
        let (problem, first) = (task / blocks, task % blocks * block);
        let rows = rows_of(problem);
        let sum = RowSum {
            values: rows.from(first),
            stride: rows.stride,
            rows: block.min(len - first),
            mean: mean.map(|mean| &mean[problem * dim..][..dim]),
            rounding,
            // SAFETY: every block has its own row.
            out: unsafe { shared.part(task * dim, dim) },
        };
        // SAFETY: the kernel works on its own slices.
        unsafe { lanes::run(isa, sum) };
    });
    pooled
}

/// `out = mean over rows of (values - mean)`, differences and the result rounded.
struct RowSum<'a> {
    values: &'a [f32],
    stride: usize,
    rows: usize,
    mean: Option<&'a [f32]>,
    rounding: Rounding,
    out: &'a mut [f32],
}

impl Kernel for RowSum<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let dim = self.out.len();
        assert!((self.rows - 1) * self.stride + dim <= self.values.len() && self.mean.is_none_or(|mean| mean.len() >= dim));
        let whole = dim / L::WIDTH * L::WIDTH;
        for channel in (0..whole).step_by(L::WIDTH) {
            // SAFETY: the assertion above covers every row's whole registers.
            unsafe {
                let mut sum = L::splat(0.0);
                for row in 0..self.rows {
                    let mut value = L::load(self.values.as_ptr().add(row * self.stride + channel));
                    if let Some(mean) = self.mean {
                        value = value.sub(L::load(mean.as_ptr().add(channel)));
                        if self.rounding == Rounding::Bf16 {
                            value = value.round_to_bf16();
                        }
                    }
                    sum = sum.add(value);
                }
                let mut mean = sum.div(L::splat(self.rows as f32));
                if self.rounding == Rounding::Bf16 {
                    mean = mean.round_to_bf16();
                }
                mean.store(self.out.as_mut_ptr().add(channel));
            }
        }
        for channel in whole..dim {
            let mut sum = 0.0f32;
            for row in 0..self.rows {
                let value = self.values[row * self.stride + channel];
                sum += self.mean.map_or(value, |mean| self.rounding.apply(value - mean[channel]));
            }
            self.out[channel] = self.rounding.apply(sum / self.rows as f32);
        }
    }
}

/// Writes the indices of the largest scores to `list`, ascending.
fn keep_largest(scores: &[f32], order: &mut Vec<u32>, list: &mut [u32]) {
    let rank = |value: f32| if value.is_nan() { f32::INFINITY } else { value };
    order.clear();
    order.extend(0..scores.len() as u32);
    if list.len() < order.len() {
        order.select_nth_unstable_by(list.len() - 1, |a, b| {
            let (left, right) = (scores[*a as usize], scores[*b as usize]);
            let by_score = rank(right).partial_cmp(&rank(left)).unwrap_or(std::cmp::Ordering::Equal);
            by_score.then(right.is_nan().cmp(&left.is_nan())).then(a.cmp(b))
        });
    }
    list.copy_from_slice(&order[..list.len()]);
    list.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_keep_the_lower_blocks_and_a_score_that_is_no_number_comes_first() {
        let mut list = [0; 2];
        for (scores, want) in [
            ([1.0, 1.0, 1.0, 1.0], [0, 1]),
            ([0.0, 2.0, -0.0, 2.0], [1, 3]),
            ([0.0, -0.0, -1.0, 0.0], [0, 1]),
            ([f32::INFINITY, 3.0, f32::NAN, 5.0], [0, 2]),
        ] {
            keep_largest(&scores, &mut Vec::new(), &mut list);
            assert_eq!(list, want, "{scores:?}");
        }
    }

    #[test]
    fn a_block_side_of_zero_is_refused() {
        let shape = AttnShape::new(1, 1, 4, 4).unwrap();
        let values = [0.0; 16];
        for sides in [(0, 2), (2, 0)] {
            let density = Density::new(0.5).unwrap();
            let refused = block_map(&values, &values, &shape, sides, density, Rounding::None);
            assert!(matches!(refused, Err(Error::Ground(turbowan_cuda::Error::Size { what: "block side", .. }))));
        }
    }
}
