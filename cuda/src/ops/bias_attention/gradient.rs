//! Gradients of attention with a bias for every distance, on the host.
//!
//! ```text
//! P  = softmax_j( q_i . k_j + bias[j - i + rows - 1] )     dP = do v^T      dS = P (dP - sum_j P dP)
//! dq = dS k      dk = dS^T q      dv = P^T do      dbias[j - i + rows - 1] += dS[i, j]
//! ```
//!
//! A task is a head; its queries go by in blocks of 64, whose weights are worked out again.

use super::super::gemm::matmul;
use crate::Error;
use crate::host::par::{Shared, for_each_task};
use crate::host::vectorised::{self, Vectorised};
use crate::host::{Isa, math};

/// Query rows whose weights are in memory at a time.
const QUERIES: usize = 64;

/// Sizes of one problem: `q`, `k`, `v` are `[rows, heads * head_dim]`, of which the first `keys` rows are seen; the bias
/// is `[heads, rows + keys - 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BiasShape {
    /// Rows of queries, keys and values.
    pub rows: usize,
    /// Rows that are seen as keys.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// Gradients with respect to all that the attention reads, each in the shape of its operand.
#[derive(Debug, Clone, PartialEq)]
pub struct BiasGradients {
    /// Of the queries.
    pub q: Vec<f32>,
    /// Of the keys; zero past those that are seen.
    pub k: Vec<f32>,
    /// Of the values; zero past those that are seen.
    pub v: Vec<f32>,
    /// Of the bias.
    pub bias: Vec<f32>,
}

/// Gradients for `out_gradient [rows, heads * head_dim]`, that of the attention's result.
///
/// # Errors
/// [`Error::Length`] or [`Error::Size`] when an operand does not fit.
pub fn bias_attention_gradient(shape: BiasShape, qkv: [&[f32]; 3], bias: &[f32], out_gradient: &[f32]) -> Result<BiasGradients, Error> {
    let BiasShape { rows, keys, heads, head_dim } = shape;
    for (what, found) in [("heads", heads), ("channels of a head", head_dim)] {
        if found == 0 {
            return Err(Error::Size { what, must: "at least 1", found });
        }
    }
    if keys == 0 || keys > rows {
        return Err(Error::Size { what: "keys that are seen", must: "between 1 and the number of rows", found: keys });
    }
    let values = rows * heads * head_dim;
    for (what, operand) in ["queries", "keys", "values", "output gradient"].into_iter().zip(qkv.into_iter().chain([out_gradient])) {
        Error::expect_len(what, operand, values)?;
    }
    let distances = rows + keys - 1;
    Error::expect_len("position bias", bias, heads * distances)?;

    let zeros = || vec![0.0; values];
    let mut gradients = BiasGradients { q: zeros(), k: zeros(), v: zeros(), bias: vec![0.0; heads * distances] };
    let BiasGradients { q, k, v, bias: d_bias } = &mut gradients;
    let to = [Shared::new(q), Shared::new(k), Shared::new(v)];
    let d_bias = Shared::new(d_bias);
    for_each_task(heads, |head| {
        let pass = Head { shape, qkv, out_gradient, bias: &bias[head * distances..][..distances], at: head * head_dim };
        // SAFETY: every task has its own row.
        let sums = pass.run(unsafe { d_bias.part(head * distances, distances) });
        for (to, sums) in to.iter().zip(&sums) {
            for (row, sums) in sums.chunks_exact(head_dim).enumerate() {
                // SAFETY: every task has its own channels of a row.
                unsafe { to.part(row * heads * head_dim + head * head_dim, head_dim) }.copy_from_slice(sums);
            }
        }
    });
    Ok(gradients)
}

struct Head<'a> {
    shape: BiasShape,
    qkv: [&'a [f32]; 3],
    out_gradient: &'a [f32],
    /// This head's, by distance.
    bias: &'a [f32],
    /// Where the head's channels start.
    at: usize,
}

impl Head<'_> {
    /// `dq [rows, head_dim]`, `dk` and `dv [keys, head_dim]`; adds to `d_bias`.
    fn run(&self, d_bias: &mut [f32]) -> [Vec<f32>; 3] {
        let BiasShape { rows, keys, heads, head_dim } = self.shape;
        let width = heads * head_dim;
        let [q, k, v] = self.qkv.map(|x| &x[self.at..]);
        let grad = &self.out_gradient[self.at..];
        let mut sums = [vec![0.0; rows * head_dim], vec![0.0; keys * head_dim], vec![0.0; keys * head_dim]];
        let [dq, dk, dv] = &mut sums;
        let [mut weights, mut gradient, mut turned] = [(); 3].map(|()| vec![0.0; QUERIES.min(rows) * keys]);
        for first in (0..rows).step_by(QUERIES) {
            let count = QUERIES.min(rows - first);
            let [weights, gradient, turned] = [&mut weights, &mut gradient, &mut turned].map(|block| &mut block[..count * keys]);
            let (q, grad) = (&q[first * width..], &grad[first * width..]);
            let times = |a: &[f32], lda, b: &[f32], ldb, transpose, [m, n, depth]: [usize; 3], beta, c: &mut [f32]| {
                matmul(a, lda, b, ldb, transpose, m, n, depth, 1.0, beta, c, n).expect("shapes were checked");
            };
            times(q, width, k, width, true, [count, keys, head_dim], 0.0, weights);
            times(grad, width, v, width, true, [count, keys, head_dim], 0.0, gradient);
            let last = rows - 1 - first;
            vectorised::run(Isa::detect(), ScoreGradients { weights, gradient, keys, bias: self.bias, last });
            for (row, gradient) in gradient.chunks_exact(keys).enumerate() {
                d_bias[last - row..].iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
            }
            times(gradient, keys, k, width, false, [count, head_dim, keys], 0.0, &mut dq[first * head_dim..][..count * head_dim]);
            transpose(gradient, keys, turned);
            times(turned, count, q, width, false, [keys, head_dim, count], 1.0, dk);
            transpose(weights, keys, turned);
            times(turned, count, grad, width, false, [keys, head_dim, count], 1.0, dv);
        }
        sums
    }
}

/// Rows of `width` become columns.
fn transpose(rows: &[f32], width: usize, to: &mut [f32]) {
    let count = rows.len() / width;
    for (row, values) in rows.chunks_exact(width).enumerate() {
        values.iter().enumerate().for_each(|(column, value)| to[column * count + row] = *value);
    }
}

/// Turns rows of scores into weights, and rows of `dP` into rows of `dS`.
struct ScoreGradients<'a> {
    /// `[rows, keys]`.
    weights: &'a mut [f32],
    gradient: &'a mut [f32],
    keys: usize,
    bias: &'a [f32],
    /// Where the first row's bias starts; each later row's starts one earlier.
    last: usize,
}

impl Vectorised for ScoreGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { weights, gradient, keys, bias, last } = self;
        for (row, (weights, gradient)) in weights.chunks_exact_mut(keys).zip(gradient.chunks_exact_mut(keys)).enumerate() {
            weights.iter_mut().zip(&bias[last - row..]).for_each(|(score, bias)| *score += bias);
            let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().for_each(|score| *score = math::exp(*score - largest));
            let total: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= total);
            let mean: f32 = weights.iter().zip(&*gradient).map(|(weight, gradient)| weight * gradient).sum();
            gradient.iter_mut().zip(&*weights).for_each(|(gradient, weight)| *gradient = weight * (*gradient - mean));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::inputs::normal;
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::slope::{self, weighted};
    use turbowan_reference::umt5;

    /// Sums of some dozens of products, and differences of them.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(5e-6), cosine: None };

    fn operands(shape: BiasShape) -> ([Vec<f32>; 3], Vec<f32>, Vec<f32>) {
        let values = shape.rows * shape.heads * shape.head_dim;
        let scaled = |len, seed| slope::grid(&normal(len, seed).iter().map(|x| x * 0.5).collect::<Vec<_>>());
        ([1, 2, 3].map(|seed| scaled(values, seed)), scaled(shape.heads * (shape.rows + shape.keys - 1), 4), normal(values, 5))
    }

    #[test]
    fn all_gradients_match_differences_of_the_oracle() {
        for (rows, keys, heads, head_dim) in [(1, 1, 1, 1), (5, 5, 2, 3), (7, 4, 1, 8), (66, 3, 1, 2)] {
            let shape = BiasShape { rows, keys, heads, head_dim };
            let (qkv, bias, grad) = operands(shape);
            let [q, k, v] = qkv.each_ref().map(Vec::as_slice);
            let loss = |qkv: [&[f32]; 3], bias: &[f32]| weighted(&umt5::relative_attention(qkv, rows, heads, bias, keys), &grad);
            let got = bias_attention_gradient(shape, [q, k, v], &bias, &grad).unwrap();
            let case = format!("{shape:?}");
            // one key takes all the weight whatever its score: then the differences are noise of the oracle
            let bound = if keys == 1 { Bound::max_abs(1e-6) } else { CLOSE };
            Verdict::of(&got.q, &slope::gradient(q, |q| loss([q, k, v], &bias)), bound).demand(&case);
            Verdict::of(&got.k, &slope::gradient(k, |k| loss([q, k, v], &bias)), bound).demand(&case);
            Verdict::of(&got.v, &slope::gradient(v, |v| loss([q, k, v], &bias)), CLOSE).demand(&case);
            Verdict::of(&got.bias, &slope::gradient(&bias, |bias| loss([q, k, v], bias)), bound).demand(&case);
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let shape = BiasShape { rows: 130, keys: 99, heads: 4, head_dim: 16 };
        let (qkv, bias, grad) = operands(shape);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bias_attention_gradient(shape, qkv.each_ref().map(Vec::as_slice), &bias, &grad).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let run = |rows, keys, heads, head_dim, bias: usize| {
            let x = [0.0; 24];
            bias_attention_gradient(BiasShape { rows, keys, heads, head_dim }, [&x, &x, &x], &vec![0.0; bias], &x)
        };
        assert!(run(4, 4, 2, 3, 14).is_ok());
        assert!(run(4, 5, 2, 3, 16).is_err());
        assert!(run(4, 0, 2, 3, 6).is_err());
        assert!(run(4, 4, 0, 3, 14).is_err());
        assert!(run(4, 4, 2, 3, 13).is_err());
        assert!(run(3, 3, 2, 3, 10).is_err());
    }
}
