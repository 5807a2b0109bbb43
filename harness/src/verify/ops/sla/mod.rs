//! Sparse-linear attention: softmax attention dense and over a map, the linear branch, both together, and their gradients.
//!
//! An operation whose name ends in `bf16` is one that a kernel has: operands that are bf16 values, heads of 64 or 128
//! channels. Those beside it are the host's alone, for any number of channels and in f32 too.

pub(super) mod attention;
pub(super) mod attention_backward;
pub(super) mod inverse_map;
pub(super) mod linear;
pub(super) mod linear_backward;
pub(super) mod linear_fold;
mod on_device;
pub(super) mod sparse_linear;

use turbowan_cuda::{AttnShape, BlockMap, Rounding};
use turbowan_reference::sla as truth;
use turbowan_sla::FeatureMap;

use super::attention::{Heads, shape_of};
use crate::verify::{Case, Fault, Kind};

/// Query and key rows of a block of the map, where a case does not choose.
const BLOCKS: (usize, usize) = (128, 64);

const FEATURES: [(FeatureMap, truth::FeatureMap); 3] = [
    (FeatureMap::Softmax, truth::FeatureMap::Softmax),
    (FeatureMap::Elu, truth::FeatureMap::Elu),
    (FeatureMap::Relu, truth::FeatureMap::Relu),
];

fn features(choice: usize) -> Result<(FeatureMap, truth::FeatureMap), Fault> {
    FEATURES.get(choice).copied().ok_or(Fault::Case("features are 0, 1 or 2"))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Heads of a case, rounded to bf16 where the operation reads such values.
fn drawn(case: &Case, shape: AttnShape, rounding: Rounding) -> Heads {
    let mut heads = Heads::draw(case.kind, shape, case.seed);
    [&mut heads.q, &mut heads.k, &mut heads.v].into_iter().for_each(|rows| rounding.apply_row(rows));
    heads
}

/// Standard normal gradients of an output, in its layout, that are bf16 values.
fn out_gradient(shape: &AttnShape, seed: u64) -> Vec<f32> {
    let mut gradient = Kind::Plain.values(shape.problems() * shape.query_len, shape.head_dim, seed + 7);
    Rounding::Bf16.apply_row(&mut gradient);
    gradient
}

/// `proj_l`: weights of about `1 / sqrt(D)`, and a bias.
fn projection(dim: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let weight = Kind::Plain.values(dim, dim, seed + 5).into_iter().map(|value| value / (dim as f32).sqrt()).collect();
    (weight, Kind::Plain.values(1, dim, seed + 6))
}

/// One head as the oracle sees it.
fn head_of(shape: &AttnShape) -> truth::Head {
    truth::Head { query_len: shape.query_len, key_len: shape.key_len, dim: shape.head_dim }
}

/// A head's lists as the oracle takes them.
fn lists_of(map: &BlockMap, problem: usize) -> truth::BlockLists {
    let list = |block| map.list(problem, block).iter().map(|key| *key as usize).collect();
    truth::BlockLists { block_q: map.block_q(), block_k: map.block_k(), lists: (0..map.query_blocks()).map(list).collect() }
}

/// The map that keeps everything.
fn whole_map(shape: &AttnShape) -> Result<BlockMap, Fault> {
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(BLOCKS.0), shape.key_len.div_ceil(BLOCKS.1));
    let lists = (0..shape.problems() * query_blocks).flat_map(|_| 0..key_blocks as u32).collect();
    Ok(BlockMap::new(shape, BLOCKS.0, BLOCKS.1, key_blocks, lists)?)
}

/// Whether a map keeps all key blocks in blocks of queries that dense attention has too, so that the two are equal bit for
/// bit: blocks of 64 queries have kernels of their own, whose sums run over other tiles.
fn is_dense(map: &BlockMap, shape: &AttnShape) -> bool {
    map.kept() == map.key_blocks() && (map.block_q().is_multiple_of(128) || shape.query_len <= 64)
}

/// Shape of `sizes` heads, queries, keys and channels.
fn bf16_shape([heads, query, key, dim]: [usize; 4], tokens_first: usize) -> Result<AttnShape, Fault> {
    shape_of(heads, query, key, dim, tokens_first == 1)
}
