//! The host's dense products and quantisers against their oracles, on every instruction set that this machine has.

#![allow(clippy::unwrap_used, reason = "a case that cannot be built fails its test")]

mod gemm;
mod gemm_int8;
mod matmul;
mod quant;

use turbowan_reference::inputs::{Kind, rows};

/// Shapes `rows, out, input` that have broken products somewhere: one row, one column, ragged tiles in every
/// direction, primes, several depth blocks with a short last one.
const SHAPES: [[usize; 3]; 9] =
    [[1, 1, 1], [1, 33, 7], [13, 31, 255], [12, 32, 256], [25, 97, 257], [5, 1, 513], [3, 200, 64], [251, 37, 600], [67, 129, 1031]];

/// Runs `work` on a pool of its own.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Values of a kind, and the bits of results for comparisons that must be exact.
fn input(kind: Kind, count: usize, width: usize, seed: u64) -> Vec<f32> {
    rows(kind, count, width, seed)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
