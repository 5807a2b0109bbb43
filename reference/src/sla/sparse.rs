//! The sparse branch: exact softmax attention over the keys that the map keeps.
//!
//! ```text
//! s    = q_i · k_j · scale                 over the kept j
//! P    = exp(s - ln Σ exp(s))
//! o_i  = Σ_j P_ij v_j
//! lse  = log2 Σ exp(s)                     base 2, what the backward pass stores
//!
//! dv   = Pᵀ do      dP = do vᵀ      δ_i = o_i · do_i      ds = P (dP - δ)
//! dq   = scale ds k                 dk = scale dsᵀ q
//! ```
//!
//! Source: TurboDiffusion `turbodiffusion/SLA/kernel.py`, `_attn_fwd`, `_attn_bwd_dq`, `_attn_bwd_dkdv`.

use super::{BlockLists, Head, dot};

/// What attention gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparse {
    /// `[query_len, dim]`.
    pub out: Vec<f64>,
    /// Base-2 logarithm of each row's softmax denominator, `[query_len]`.
    pub lse: Vec<f64>,
}

/// Attention over the kept keys, or over all of them where there is no map. A row that sees no key gives zeros, and minus
/// infinity as its logarithm.
pub fn sparse_attention(q: &[f64], k: &[f64], v: &[f64], head: Head, lists: Option<&BlockLists>, scale: f64, is_causal: bool) -> Sparse {
    let mut sparse = Sparse { out: Vec::with_capacity(q.len()), lse: Vec::with_capacity(head.query_len) };
    for (query, q) in q.chunks(head.dim).enumerate() {
        let kept: Vec<usize> = seen(query, head, lists, is_causal).collect();
        if kept.is_empty() {
            sparse.out.extend(vec![0.0; head.dim]);
            sparse.lse.push(f64::NEG_INFINITY);
            continue;
        }
        let scores: Vec<f64> = kept.iter().map(|key| dot(q, row(k, *key, head.dim)) * scale).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; head.dim];
        for (key, score) in kept.iter().zip(&scores) {
            let share = (score - max).exp() / sum;
            out.iter_mut().zip(row(v, *key, head.dim)).for_each(|(out, v)| *out += share * v);
        }
        sparse.out.extend(out);
        sparse.lse.push((max + sum.ln()) / std::f64::consts::LN_2);
    }
    sparse
}

/// The keys that a query attends to.
fn seen<'a>(query: usize, head: Head, lists: Option<&'a BlockLists>, is_causal: bool) -> impl Iterator<Item = usize> + 'a {
    (0..head.key_len).filter(move |key| (!is_causal || *key <= query) && lists.is_none_or(|lists| lists.keeps(query, *key)))
}

/// Gradients of the sparse branch.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseGradients {
    /// `[query_len, dim]`.
    pub q: Vec<f64>,
    /// `[key_len, dim]`.
    pub k: Vec<f64>,
    /// `[key_len, dim]`.
    pub v: Vec<f64>,
}

/// Gradients of [`sparse_attention`] for `out_gradient` = d loss / d o_s; the map counts as a constant.
#[allow(clippy::too_many_arguments, reason = "the operands of the forward pass and one more")]
pub fn sparse_backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    out_gradient: &[f64],
    head: Head,
    lists: Option<&BlockLists>,
    scale: f64,
    is_causal: bool,
) -> SparseGradients {
    let dim = head.dim;
    let forward = sparse_attention(q, k, v, head, lists, scale, is_causal);
    let mut gradients = SparseGradients { q: vec![0.0; q.len()], k: vec![0.0; k.len()], v: vec![0.0; v.len()] };
    for query in 0..head.query_len {
        let (q, grad) = (row(q, query, dim), row(out_gradient, query, dim));
        let delta = dot(row(&forward.out, query, dim), grad);
        for key in seen(query, head, lists, is_causal) {
            let (k, v) = (row(k, key, dim), row(v, key, dim));
            let share = (dot(q, k) * scale - forward.lse[query] * std::f64::consts::LN_2).exp();
            let score_gradient = share * (dot(grad, v) - delta) * scale;
            for channel in 0..dim {
                gradients.v[key * dim + channel] += share * grad[channel];
                gradients.q[query * dim + channel] += score_gradient * k[channel];
                gradients.k[key * dim + channel] += score_gradient * q[channel];
            }
        }
    }
    gradients
}

fn row(rows: &[f64], index: usize, dim: usize) -> &[f64] {
    &rows[index * dim..(index + 1) * dim]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_share_as_the_logistic_function_says() {
        let head = Head { query_len: 1, key_len: 2, dim: 1 };
        let got = sparse_attention(&[1.0], &[0.0, 2.0], &[0.0, 1.0], head, None, 1.0, false);
        assert!((got.out[0] - 1.0 / (1.0 + (-2.0f64).exp())).abs() < 1e-15);
        assert!((got.lse[0] - (1.0 + 2.0f64.exp()).log2()).abs() < 1e-14);
    }

    #[test]
    fn a_causal_first_row_sees_the_first_key_alone() {
        let head = Head { query_len: 2, key_len: 2, dim: 1 };
        let got = sparse_attention(&[1.0, 1.0], &[0.5, 0.5], &[3.0, 5.0], head, None, 1.0, true);
        assert_eq!(got.out, vec![3.0, 4.0]);
    }

    #[test]
    fn a_row_that_sees_no_key_gives_nothing_and_takes_nothing() {
        let head = Head { query_len: 2, key_len: 2, dim: 1 };
        let lists = BlockLists { block_q: 1, block_k: 1, lists: vec![vec![1], vec![1]] };
        let ones = [1.0, 1.0];
        let got = sparse_attention(&ones, &ones, &ones, head, Some(&lists), 1.0, true);
        assert_eq!((got.out, got.lse[0]), (vec![0.0, 1.0], f64::NEG_INFINITY));
        let got = sparse_backward(&ones, &ones, &ones, &ones, head, Some(&lists), 1.0, true);
        assert_eq!((got.q, got.v), (vec![0.0, 0.0], vec![0.0, 1.0]));
    }

    #[test]
    fn causal_gradients_equal_finite_differences() {
        let head = Head { query_len: 5, key_len: 5, dim: 3 };
        let values = |seed| crate::inputs::normal(15, seed).into_iter().map(f64::from).collect::<Vec<_>>();
        let mut operands = [values(1), values(2), values(3)];
        let out_gradient = values(4);
        let [q, k, v] = &operands;
        let got = sparse_backward(q, k, v, &out_gradient, head, None, 0.7, true);
        for (which, gradient) in [got.q, got.k, got.v].iter().enumerate() {
            for (index, gradient) in gradient.iter().enumerate() {
                let mut loss = |step: f64| {
                    operands[which][index] += step;
                    let [q, k, v] = &operands;
                    dot(&sparse_attention(q, k, v, head, None, 0.7, true).out, &out_gradient)
                };
                let (above, below) = (loss(1e-5), loss(-2e-5));
                loss(1e-5);
                // error of a central difference with this step in f64
                assert!((gradient - (above - below) / 2e-5).abs() < 1e-8, "{which} {index}");
            }
        }
    }
}
