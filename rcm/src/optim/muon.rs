//! Muon (Jordan et al., 2024): momentum made nearly orthogonal, so that a step moves all directions of a matrix alike.
//!
//! ```text
//! M <- M + (1 - momentum) (G - M)
//! U  = G + momentum (M - G)                                  Nesterov
//! X  = U / |U|,  wide;  five times  X <- a X + (b A + c A^2) X,  A = X X^T
//! W <- W (1 - rate decay) - rate * 0.2 sqrt(max(rows, columns)) X
//! ```
//!
//! The last factor gives an update the root mean square of AdamW's, so that both share a learning rate (Liu et al., 2025). Tensors of more than
//! two axes are matrices `[first axis, all others]`, as convolution kernels are. As `torch.optim.Muon` with `match_rms_adamw`, in f32 where
//! torch iterates in bf16.

use rayon::prelude::*;

/// Settings of Muon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Memory of the momentum, in `[0, 1)`.
    pub momentum: f64,
    /// Newton-Schulz iterations.
    pub iterations: usize,
    /// Share of a parameter that a step at rate 1 takes away.
    pub decay: f64,
}

impl Default for Muon {
    fn default() -> Self {
        Self { momentum: 0.95, iterations: 5, decay: 0.01 }
    }
}

/// Coefficients of the quintic: steep at zero, so that small singular values grow fast; singular values end within about `[0.7, 1.2]`.
const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];

/// Floor of the norm that the update is divided by.
const NORM_FLOOR: f64 = 1e-7;

/// A step's root mean square, as AdamW's usually is.
const MATCHED_RMS: f64 = 0.2;

/// A product of two row-major matrices in f32, whose result does not depend on threads.
pub trait MatrixProduct: Sync {
    /// `out = a b`, with `a` `[rows, inner]`, `b` `[inner, columns]`, `out` `[rows, columns]`.
    fn product(&self, size: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]);
}

/// A portable product, in small blocks that a compiler keeps in registers. `size` is `[rows, inner, columns]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainProduct;

/// Rows and columns of a block.
const BLOCK: [usize; 2] = [4, 8];

/// Rows that one task computes.
const TASK_ROWS: usize = 32;

impl MatrixProduct for PlainProduct {
    fn product(&self, [_, inner, columns]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32]) {
        if inner == 0 || columns == 0 {
            return out.fill(0.0);
        }
        // Panels `[panels, inner, 8]` of `b`, so that a block reads memory in order; the last is filled up with zeros.
        let mut panels = vec![[0.0f32; BLOCK[1]]; columns.div_ceil(BLOCK[1]) * inner];
        for (k, row) in b.chunks(columns).enumerate() {
            for (panel, part) in row.chunks(BLOCK[1]).enumerate() {
                panels[panel * inner + k][..part.len()].copy_from_slice(part);
            }
        }
        let tasks = out.par_chunks_mut(TASK_ROWS * columns).zip(a.par_chunks(TASK_ROWS * inner));
        tasks.for_each(|(out, a)| {
            for (out, a) in out.chunks_mut(BLOCK[0] * columns).zip(a.chunks(BLOCK[0] * inner)) {
                for (panel, b) in panels.chunks(inner).enumerate() {
                    block(panel * BLOCK[1], columns, a, b, out);
                }
            }
        });
    }
}

/// Up to four rows and eight columns, beginning at column `from`.
fn block(from: usize, columns: usize, a: &[f32], b: &[[f32; BLOCK[1]]], out: &mut [f32]) {
    let mut sums = [[0.0f32; BLOCK[1]]; BLOCK[0]];
    let inner = b.len();
    let rows = a.len() / inner;
    if rows == BLOCK[0] {
        let (a0, rest) = a.split_at(inner);
        let (a1, rest) = rest.split_at(inner);
        let (a2, a3) = rest.split_at(inner);
        for ((((b, a0), a1), a2), a3) in b.iter().zip(a0).zip(a1).zip(a2).zip(a3) {
            for (sums, a) in sums.iter_mut().zip([a0, a1, a2, a3]) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
    } else {
        for (sums, a) in sums.iter_mut().zip(a.chunks(inner)) {
            for (b, a) in b.iter().zip(a) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
    }
    let width = BLOCK[1].min(columns - from);
    for (out, sums) in out.chunks_mut(columns).zip(&sums) {
        out[from..from + width].copy_from_slice(&sums[..width]);
    }
}

impl Muon {
    /// One update of a tensor of two axes or more.
    pub(super) fn step(
        &self,
        rate: f64,
        shape: &[usize],
        values: &mut [f32],
        gradient: &[f32],
        momentum: &mut [f32],
        product: &impl MatrixProduct,
    ) {
        let rows = shape[0];
        if values.is_empty() {
            return;
        }
        let columns = values.len() / rows;
        let (memory, new) = (self.momentum as f32, (1.0 - self.momentum) as f32);
        momentum.iter_mut().zip(gradient).for_each(|(m, g)| *m += new * (g - *m));
        let update: Vec<f32> = momentum.iter().zip(gradient).map(|(m, g)| g + memory * (m - g)).collect();
        let update = orthogonalised([rows, columns], update, self.iterations, product);
        let keep = (1.0 - rate * self.decay) as f32;
        let size = (rate * MATCHED_RMS * (rows.max(columns) as f64).sqrt()) as f32;
        values.iter_mut().zip(&update).for_each(|(value, update)| *value = *value * keep - size * update);
    }
}

/// The nearest matrix whose singular values are alike, roughly: Newton-Schulz on `matrix` `[rows, columns]`.
pub fn orthogonalised([rows, columns]: [usize; 2], matrix: Vec<f32>, iterations: usize, product: &impl MatrixProduct) -> Vec<f32> {
    let is_tall = rows > columns;
    let (short, long) = (rows.min(columns), rows.max(columns));
    let mut x = if is_tall { transposed(rows, columns, &matrix) } else { matrix };
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(NORM_FLOOR);
    x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    let [a, b, c] = QUINTIC;
    let (mut gram, mut square, mut next) = (vec![0.0; short * short], vec![0.0; short * short], vec![0.0; short * long]);
    for _ in 0..iterations {
        product.product([short, long, short], &x, &transposed(short, long, &x), &mut gram);
        product.product([short, short, short], &gram, &gram, &mut square);
        square.iter_mut().zip(&gram).for_each(|(square, gram)| *square = b * gram + c * *square);
        product.product([short, short, long], &square, &x, &mut next);
        x.iter_mut().zip(&next).for_each(|(x, next)| *x = a * *x + next);
    }
    if is_tall { transposed(columns, rows, &x) } else { x }
}

fn transposed(rows: usize, columns: usize, matrix: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    for (r, row) in matrix.chunks(columns).enumerate() {
        for (c, value) in row.iter().enumerate() {
            out[c * rows + r] = *value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Stream;

    #[test]
    fn the_product_is_that_of_the_definition_at_ragged_sizes() {
        let mut noise = Stream::new(1);
        for [rows, inner, columns] in [[1, 1, 1], [4, 3, 8], [5, 7, 9], [67, 33, 20], [3, 0, 2]] {
            let (a, b) = (noise.normals(rows * inner), noise.normals(inner * columns));
            let mut got = vec![f32::NAN; rows * columns];
            PlainProduct.product([rows, inner, columns], &a, &b, &mut got);
            for (i, got) in got.iter().enumerate() {
                let (r, c) = (i / columns, i % columns);
                let want: f64 = (0..inner).map(|k| f64::from(a[r * inner + k]) * f64::from(b[k * columns + c])).sum();
                // 33 products of normals, each sum rounded to f32.
                assert!((f64::from(*got) - want).abs() < 1e-5, "{rows}x{inner}x{columns} at {i}: got {got}, want {want}");
            }
        }
    }
}
