//! Sparse-linear attention (SLA), forward and backward, one head at a time.
//!
//! With queries `q`, keys `k` and values `v` of one head, row-major `[L, D]`:
//!
//! ```text
//! map   kept blocks of keys for each block of queries      (block_map)
//! o_s   softmax(q kᵀ D^-1/2) v over the kept keys alone    (sparse)
//! o_l   φ(q) (φ(k)ᵀ v) / (1e-5 + φ(q) · Σ φ(k))            (linear), over all keys
//! o     o_s + o_l Wᵀ + b                                   (this file)
//! ```
//!
//! Source: Zhang et al., "SLA: Beyond Sparsity in Diffusion Transformers via Fine-Tunable Sparse-Linear Attention",
//! as TurboDiffusion computes it (`turbodiffusion/SLA/core.py`): the linear branch covers every key, not only those that
//! the map leaves out.

mod block_map;
mod linear;
mod sparse;

pub use block_map::{BlockLists, block_map, kept_blocks, pooled_scores};
pub use linear::{DENOMINATOR_FLOOR, FeatureMap, LinearGradients, linear_backward, linear_branch};
pub use sparse::{Sparse, SparseGradients, sparse_attention, sparse_backward};

/// Shape of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Query rows.
    pub query_len: usize,
    /// Key rows.
    pub key_len: usize,
    /// Channels.
    pub dim: usize,
}

impl Head {
    /// The customary scale of the scores, `D^-1/2`.
    pub fn scale(&self) -> f64 {
        (self.dim as f64).powf(-0.5)
    }
}

/// The linear layer after the linear branch: `y = x Wᵀ + b`.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[D_out, D_in]`, row-major.
    pub weight: &'a [f64],
    /// `[D_out]`.
    pub bias: &'a [f64],
}

impl Projection<'_> {
    /// `rows` times the weight, plus the bias.
    pub fn apply(&self, rows: &[f64]) -> Vec<f64> {
        let dim = self.bias.len();
        let mut out = Vec::with_capacity(rows.len());
        for row in rows.chunks(dim) {
            for (weights, bias) in self.weight.chunks(dim).zip(self.bias) {
                out.push(dot(row, weights) + bias);
            }
        }
        out
    }
}

/// `o = o_s + o_l Wᵀ + b`, `[query_len, dim]`.
pub fn forward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    head: Head,
    lists: &BlockLists,
    feature: FeatureMap,
    projection: Projection<'_>,
) -> Vec<f64> {
    let sparse = sparse_attention(q, k, v, head, Some(lists), head.scale(), false);
    let linear = projection.apply(&linear_branch(q, k, v, head, feature));
    sparse.out.iter().zip(&linear).map(|(s, l)| s + l).collect()
}

/// Gradients of a loss with respect to everything that [`forward`] reads; the block map has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// `[query_len, dim]`.
    pub q: Vec<f64>,
    /// `[key_len, dim]`.
    pub k: Vec<f64>,
    /// `[key_len, dim]`.
    pub v: Vec<f64>,
    /// `[dim, dim]`.
    pub weight: Vec<f64>,
    /// `[dim]`.
    pub bias: Vec<f64>,
}

/// Gradients for `out_gradient` = d loss / d o, `[query_len, dim]`.
#[allow(clippy::too_many_arguments, reason = "the operands of the forward pass and one more")]
pub fn backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    out_gradient: &[f64],
    head: Head,
    lists: &BlockLists,
    feature: FeatureMap,
    projection: Projection<'_>,
) -> Gradients {
    let sparse = sparse_backward(q, k, v, out_gradient, head, Some(lists), head.scale(), false);
    let linear = linear_backward(q, k, v, out_gradient, head, feature, projection);
    let sum = |a: Vec<f64>, b: Vec<f64>| a.into_iter().zip(b).map(|(a, b)| a + b).collect();
    Gradients {
        q: sum(sparse.q, linear.q),
        k: sum(sparse.k, linear.k),
        v: sum(sparse.v, linear.v),
        weight: linear.weight,
        bias: linear.bias,
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::normal;

    const HEAD: Head = Head { query_len: 13, key_len: 13, dim: 5 };

    struct Case {
        q: Vec<f64>,
        k: Vec<f64>,
        v: Vec<f64>,
        weight: Vec<f64>,
        bias: Vec<f64>,
        out_gradient: Vec<f64>,
        lists: BlockLists,
    }

    fn case() -> Case {
        let values = |count, seed| normal(count, seed).into_iter().map(f64::from).collect::<Vec<_>>();
        let rows = HEAD.query_len * HEAD.dim;
        let (q, k) = (values(rows, 1), values(rows, 2));
        let lists = block_map(&q, &k, HEAD, 4, 3, 2);
        Case {
            q,
            k,
            v: values(rows, 3),
            weight: values(HEAD.dim * HEAD.dim, 4),
            bias: values(HEAD.dim, 5),
            out_gradient: values(rows, 6),
            lists,
        }
    }

    impl Case {
        fn loss(&self, feature: FeatureMap) -> f64 {
            let projection = Projection { weight: &self.weight, bias: &self.bias };
            dot(&forward(&self.q, &self.k, &self.v, HEAD, &self.lists, feature, projection), &self.out_gradient)
        }
    }

    /// Error of a central difference with a step of 1e-5 in f64.
    const DIFFERENCE: f64 = 2e-7;

    #[test]
    fn gradients_equal_finite_differences() {
        for feature in FeatureMap::ALL {
            let mut case = case();
            let projection = Projection { weight: &case.weight, bias: &case.bias };
            let got = backward(&case.q, &case.k, &case.v, &case.out_gradient, HEAD, &case.lists, feature, projection);
            type Operand = fn(&mut Case) -> &mut Vec<f64>;
            let operands: [(&str, Operand, Vec<f64>); 5] = [
                ("q", |case| &mut case.q, got.q),
                ("k", |case| &mut case.k, got.k),
                ("v", |case| &mut case.v, got.v),
                ("weight", |case| &mut case.weight, got.weight),
                ("bias", |case| &mut case.bias, got.bias),
            ];
            for (name, operand, gradient) in operands {
                for (index, gradient) in gradient.iter().enumerate() {
                    let step = 1e-5;
                    let original = operand(&mut case)[index];
                    operand(&mut case)[index] = original + step;
                    let above = case.loss(feature);
                    operand(&mut case)[index] = original - step;
                    let below = case.loss(feature);
                    operand(&mut case)[index] = original;
                    let want = (above - below) / (2.0 * step);
                    assert!((gradient - want).abs() < DIFFERENCE * (1.0 + want.abs()), "{feature:?} {name}[{index}]: {gradient} {want}");
                }
            }
        }
    }

    #[test]
    fn the_whole_map_and_a_zero_projection_are_dense_attention() {
        let case = case();
        let (weight, bias) = (vec![0.0; HEAD.dim * HEAD.dim], vec![0.0; HEAD.dim]);
        let whole = block_map(&case.q, &case.k, HEAD, 4, 3, 5);
        let projection = Projection { weight: &weight, bias: &bias };
        let got = forward(&case.q, &case.k, &case.v, HEAD, &whole, FeatureMap::Softmax, projection);
        let want = sparse_attention(&case.q, &case.k, &case.v, HEAD, None, HEAD.scale(), false).out;
        assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-13));
    }
}
