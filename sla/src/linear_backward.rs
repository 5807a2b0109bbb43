//! Gradients of the linear branch and its projection, added to those of the sparse branch.
//!
//! With `g` = d loss / d (o_l Wᵀ + b), `n` the numerator and `d` the denominator of a row:
//!
//! ```text
//! dW = gᵀ o_l        db = Σ g           go = g W
//! dn = go / d        dd = -(go · o_l) / d
//! dφ(q) = dn Hᵀ + dd z                  dH = φ(q)ᵀ dn      dz = Σ dd φ(q)
//! dφ(k) = v dHᵀ + dz                    dv = φ(k) dH
//! ```
//!
//! Sums over queries are kept apart by chunks that the shape alone decides and added in order.

use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::host::{Aligned, Isa};
use turbowan_cuda::{AttnShape, Rounding};

use crate::FeatureMap;
use crate::features::PullBack;
use crate::gradients::Gradients;
use crate::lanes::{self, LANE_GROUP};
use crate::linear::{AddRows, Divide, KeyState, Projection, TILE_ROWS, add_chunks, chunk_rows, feature_tile, multiply};
use crate::product::{Product, Spread, Start};
use crate::rows::HeadRows;

/// Adds the gradients of the linear branch to `gradients.{q, k, v}` and writes those of the projection.
#[allow(clippy::too_many_arguments, reason = "the operands of the forward pass and one more")]
pub(crate) fn linear_backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttnShape,
    features: FeatureMap,
    projection: Projection<'_>,
    out_gradient: &[f32],
    isa: Isa,
    gradients: &mut Gradients,
) {
    let dim = shape.head_dim;
    let lanes = dim.next_multiple_of(LANE_GROUP);
    let state = KeyState::of(k, v, shape, features, Rounding::None, isa);
    let mut weight = vec![0.0; dim * lanes];
    for (to, from) in weight.chunks_exact_mut(lanes).zip(projection.weight.chunks_exact(dim)) {
        to[..dim].copy_from_slice(from);
    }
    let pass = Pass { shape, features, isa, dim, lanes };
    let sums = pass.queries(q, out_gradient, &state, &weight, Shared::new(&mut gradients.q));
    pass.keys(k, v, &sums, Shared::new(&mut gradients.k), Shared::new(&mut gradients.v));

    let mut total = vec![0.0; (dim + 1) * lanes];
    for head in sums.chunks_exact(pass.sum_values()) {
        total.iter_mut().zip(&head[(dim + 1) * lanes..]).for_each(|(total, value)| *total += value);
    }
    gradients.weight = total[..dim * lanes].chunks_exact(lanes).flat_map(|row| &row[..dim]).copied().collect();
    gradients.bias = total[dim * lanes..][..dim].to_vec();
}

struct Pass<'a> {
    shape: &'a AttnShape,
    features: FeatureMap,
    isa: Isa,
    dim: usize,
    lanes: usize,
}

thread_local! {
    static SCRATCH: std::cell::RefCell<[Aligned<f32>; 5]> = std::cell::RefCell::default();
}

impl Pass<'_> {
    /// Values of a head's sums: `dH [D, lanes]`, `dz [lanes]`, `dW [D, lanes]`, `db [lanes]`.
    fn sum_values(&self) -> usize {
        2 * (self.dim + 1) * self.lanes
    }

    /// Adds to `dq`; gives back the sums over the queries of each head.
    fn queries(&self, q: &[f32], out_gradient: &[f32], state: &KeyState, weight: &[f32], dq: Shared<'_, f32>) -> Vec<f32> {
        let Self { shape, isa, dim, lanes, .. } = *self;
        let chunk = chunk_rows(shape.query_len);
        let chunks = shape.query_len.div_ceil(chunk);
        let mut partial = vec![0.0f32; shape.problems() * chunks * self.sum_values()];
        let shared = Shared::new(&mut partial);
        let transposed: Vec<Vec<f32>> = (0..shape.problems()).map(|problem| self.transpose(state.outer(problem))).collect();
        for_each_task(shape.problems() * chunks, |task| {
            let (problem, start) = (task / chunks, task % chunks * chunk);
            let (q, grad) = (HeadRows::queries(q, shape, problem), HeadRows::queries(out_gradient, shape, problem));
            // SAFETY: every chunk has its own sums.
            let sums = unsafe { shared.part(task * self.sum_values(), self.sum_values()) };
            let (state_sums, weight_sums) = sums.split_at_mut((dim + 1) * lanes);
            let (d_outer, d_sum) = state_sums.split_at_mut(dim * lanes);
            let (d_weight, d_bias) = weight_sums.split_at_mut(dim * lanes);
            SCRATCH.with_borrow_mut(|scratch| {
                let [features, branch, grads, numerators, pulled] = scratch.each_mut().map(|buffer| buffer.at_least(TILE_ROWS * lanes));
                let end = shape.query_len.min(start + chunk);
                for first in (start..end).step_by(TILE_ROWS) {
                    let rows = TILE_ROWS.min(end - first);
                    let [features, branch, grads, numerators, pulled] =
                        [&mut *features, &mut *branch, &mut *grads, &mut *numerators, &mut *pulled].map(|tile| &mut tile[..rows * lanes]);
                    self.feature_rows(&q, first, rows, features);
                    copy_rows(&grad, first, lanes, grads);
                    multiply(features, rows, dim, state.outer(problem), lanes, branch, isa);
                    let mut denominators = [0.0f32; TILE_ROWS];
                    let sum = state.sum(problem);
                    let denominators_of = Some(&mut denominators[..]);
                    let divide = Divide { branch, features, sum, lanes, rounding: Rounding::None, denominators: denominators_of };
                    // SAFETY: the kernel works on its own slices.
                    unsafe { lanes::run(isa, divide) };
                    self.gather(grads, branch, rows, d_weight);
                    // SAFETY: as above.
                    unsafe { lanes::run(isa, AddRows { rows: grads, sum: d_bias }) };

                    multiply(grads, rows, dim, weight, lanes, numerators, isa);
                    let mut d_denominators = [0.0f32; TILE_ROWS];
                    for (row, numerators) in numerators.chunks_exact_mut(lanes).enumerate() {
                        let dot: f32 = numerators.iter().zip(&branch[row * lanes..][..lanes]).map(|(a, b)| a * b).sum();
                        d_denominators[row] = -dot / denominators[row];
                        numerators.iter_mut().for_each(|value| *value /= denominators[row]);
                    }
                    self.gather(features, numerators, rows, d_outer);
                    multiply(numerators, rows, dim, &transposed[problem], lanes, pulled, isa);
                    for (row, pulled) in pulled.chunks_exact_mut(lanes).enumerate() {
                        let d = d_denominators[row];
                        pulled.iter_mut().zip(sum).for_each(|(value, z)| *value += d * z);
                        d_sum.iter_mut().zip(&features[row * lanes..][..lanes]).for_each(|(sum, c)| *sum += d * c);
                    }
                    // SAFETY: as above.
                    unsafe { lanes::run(isa, PullBack { features, gradient: &mut *pulled, lanes, map: self.features }) };
                    self.add_rows(pulled, |row| shape.query_offset(problem, first + row), dq);
                }
            });
        });
        add_chunks(partial, self.sum_values(), chunks, Rounding::None)
    }

    /// Adds to `dk` and `dv` from the sums over the queries.
    fn keys(&self, k: &[f32], v: &[f32], sums: &[f32], dk: Shared<'_, f32>, dv: Shared<'_, f32>) {
        let Self { shape, isa, dim, lanes, .. } = *self;
        let tiles = shape.key_len.div_ceil(TILE_ROWS);
        let transposed: Vec<Vec<f32>> = sums.chunks_exact(self.sum_values()).map(|head| self.transpose(&head[..dim * lanes])).collect();
        for_each_task(shape.problems() * tiles, |task| {
            let (problem, first) = (task / tiles, task % tiles * TILE_ROWS);
            let rows = TILE_ROWS.min(shape.key_len - first);
            let (d_outer, rest) = sums[problem * self.sum_values()..][..self.sum_values()].split_at(dim * lanes);
            let d_sum = &rest[..lanes];
            SCRATCH.with_borrow_mut(|scratch| {
                let [features, values, pulled, value_gradient, _] = scratch.each_mut().map(|buffer| buffer.at_least(rows * lanes));
                self.feature_rows(&HeadRows::keys(k, shape, problem), first, rows, features);
                copy_rows(&HeadRows::keys(v, shape, problem), first, lanes, &mut values[..rows * lanes]);
                multiply(values, rows, dim, &transposed[problem], lanes, pulled, isa);
                for pulled in pulled.chunks_exact_mut(lanes).take(rows) {
                    pulled.iter_mut().zip(d_sum).for_each(|(value, d)| *value += d);
                }
                let pulled = &mut pulled[..rows * lanes];
                // SAFETY: the kernel works on its own slices.
                unsafe { lanes::run(isa, PullBack { features, gradient: &mut *pulled, lanes, map: self.features }) };
                self.add_rows(pulled, |row| shape.key_offset(problem, first + row), dk);
                multiply(features, rows, dim, d_outer, lanes, value_gradient, isa);
                self.add_rows(&value_gradient[..rows * lanes], |row| shape.key_offset(problem, first + row), dv);
            });
        });
    }

    fn feature_rows(&self, from: &HeadRows<'_>, first: usize, rows: usize, tile: &mut [f32]) {
        feature_tile(from, first, rows, self.lanes, self.features, Rounding::None, self.isa, tile);
    }

    /// `sum [D, lanes] += aᵀ b`, both `[rows, lanes]`.
    fn gather(&self, a: &[f32], b: &[f32], rows: usize, sum: &mut [f32]) {
        let (lanes, a, start) = (self.lanes, Spread::columns(a, self.lanes), Start::Keep);
        Product { rows: self.dim, terms: rows, lanes, a, b, b_stride: lanes, c: sum, c_stride: lanes, start }.run(self.isa);
    }

    /// `[D, lanes]` with its two axes exchanged.
    fn transpose(&self, matrix: &[f32]) -> Vec<f32> {
        let mut transposed = vec![0.0; self.dim * self.lanes];
        for (row, values) in matrix.chunks_exact(self.lanes).enumerate() {
            for (column, value) in values[..self.dim].iter().enumerate() {
                transposed[column * self.lanes + row] = *value;
            }
        }
        transposed
    }

    /// Adds the rows of `tile [rows, lanes]` to rows of a tensor.
    fn add_rows(&self, tile: &[f32], offset: impl Fn(usize) -> usize, to: Shared<'_, f32>) {
        for (row, tile) in tile.chunks_exact(self.lanes).enumerate() {
            // SAFETY: rows belong to one task each.
            let to = unsafe { to.part(offset(row), self.dim) };
            to.iter_mut().zip(tile).for_each(|(to, value)| *to += value);
        }
    }
}

/// Copies rows to `tile [rows, lanes]`, zero past the channels.
fn copy_rows(from: &HeadRows<'_>, first: usize, lanes: usize, tile: &mut [f32]) {
    for (row, tile) in tile.chunks_exact_mut(lanes).enumerate() {
        let from = from.row(first + row);
        tile[..from.len()].copy_from_slice(from);
        tile[from.len()..].fill(0.0);
    }
}
