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

/// Attention over the kept keys, or over all of them where there is no map.
pub fn sparse_attention(q: &[f64], k: &[f64], v: &[f64], head: Head, lists: Option<&BlockLists>, scale: f64, is_causal: bool) -> Sparse {
    let mut sparse = Sparse { out: Vec::with_capacity(q.len()), lse: Vec::with_capacity(head.query_len) };
    for (query, q) in q.chunks(head.dim).enumerate() {
        let kept: Vec<usize> =
            (0..head.key_len).filter(|key| (!is_causal || *key <= query) && lists.is_none_or(|lists| lists.keeps(query, *key))).collect();
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

/// Gradients for `out_gradient` = d loss / d o_s; the map counts as a constant.
pub fn sparse_backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    out_gradient: &[f64],
    head: Head,
    lists: &BlockLists,
    scale: f64,
) -> SparseGradients {
    let dim = head.dim;
    let forward = sparse_attention(q, k, v, head, Some(lists), scale, false);
    let mut gradients = SparseGradients { q: vec![0.0; q.len()], k: vec![0.0; k.len()], v: vec![0.0; v.len()] };
    for query in 0..head.query_len {
        let (q, grad) = (row(q, query, dim), row(out_gradient, query, dim));
        let delta = dot(row(&forward.out, query, dim), grad);
        for key in (0..head.key_len).filter(|key| lists.keeps(query, *key)) {
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
}
