//! Softmax attention, one head at a time:
//!
//! ```text
//!   s[i, j] = scale * sum_d q[i, d] k[j, d]            scale = 1 / sqrt(D)
//!   p[i, j] = exp(s[i, j] - lse[i])                    lse[i] = ln sum_j exp(s[i, j]), over the visible keys
//!   o[i, d] = sum_j p[i, j] v[j, d]
//! ```
//!
//! Vaswani et al., "Attention Is All You Need", equation 1. Inputs are `f32`, every sum and every exponential is
//! `f64`. A row that sees no key has output 0 and a log-sum-exp of minus infinity.

/// Which keys a query row may see.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// Every key.
    None,
    /// Key `j` is visible to query `i` when `j <= i`.
    Causal,
    /// Key `j` is visible to query `i` when `kept[i / block_q][j / block_k]` holds.
    Blocks {
        /// Query rows a block.
        block_q: usize,
        /// Key rows a block.
        block_k: usize,
        /// `[ceil(query_len / block_q), ceil(key_len / block_k)]`, row-major.
        kept: &'a [bool],
    },
}

impl Mask<'_> {
    /// Whether query `row` sees `key` among `key_len` keys.
    pub fn shows(&self, row: usize, key: usize, key_len: usize) -> bool {
        match *self {
            Self::None => true,
            Self::Causal => key <= row,
            Self::Blocks { block_q, block_k, kept } => kept[row / block_q * key_len.div_ceil(block_k) + key / block_k],
        }
    }
}

/// One head: queries `[query_len, head_dim]`, keys and values `[key_len, head_dim]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Queries.
    pub query: &'a [f32],
    /// Keys.
    pub key: &'a [f32],
    /// Values.
    pub value: &'a [f32],
    /// Channels a row.
    pub head_dim: usize,
}

impl Head<'_> {
    /// Query rows.
    pub fn query_len(&self) -> usize {
        self.query.len() / self.head_dim
    }

    /// Key rows.
    pub fn key_len(&self) -> usize {
        self.key.len() / self.head_dim
    }

    /// `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// What attention gives for a list of query rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Attended {
    /// Outputs, `[rows, head_dim]`.
    pub out: Vec<f64>,
    /// Natural logarithm of the sum of exponentials of the scaled scores, `[rows]`.
    pub lse: Vec<f64>,
}

impl Attended {
    /// The log-sum-exp in base 2, `log2 sum_j 2^(s log2 e)`, which is what GPU kernels keep: natural times `log2 e`.
    pub fn lse_base2(&self) -> Vec<f64> {
        self.lse.iter().map(|lse| lse * std::f64::consts::LOG2_E).collect()
    }
}

/// Attention of every query row.
pub fn attend(head: Head<'_>, mask: Mask<'_>) -> Attended {
    let rows: Vec<usize> = (0..head.query_len()).collect();
    attend_rows(head, mask, &rows)
}

/// Attention of the query rows listed in `rows`: how a long sequence is checked without its whole product.
pub fn attend_rows(head: Head<'_>, mask: Mask<'_>, rows: &[usize]) -> Attended {
    let (width, scale) = (head.head_dim, head.scale());
    let mut attended = Attended { out: Vec::with_capacity(rows.len() * width), lse: Vec::with_capacity(rows.len()) };
    for &row in rows {
        let query = &head.query[row * width..][..width];
        let scores: Vec<f64> = head
            .key
            .chunks_exact(width)
            .enumerate()
            .map(|(key, values)| match mask.shows(row, key, head.key_len()) {
                true => scale * dot(query, values),
                false => f64::NEG_INFINITY,
            })
            .collect();
        let (out, lse) = weigh(&scores, head.value, width);
        attended.out.extend(out);
        attended.lse.push(lse);
    }
    attended
}

/// `count` distinct query rows spread over `0..len` by a seed, ascending; all of them when `count >= len`.
pub fn sample_rows(len: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut random = crate::inputs::Seeded::new(seed);
    let mut rows = std::collections::BTreeSet::new();
    while rows.len() < count.min(len) {
        rows.insert(random.below(len));
    }
    rows.into_iter().collect()
}

/// Softmax of natural-log `scores` applied to `value` rows; returns the output row and its natural log-sum-exp.
pub(crate) fn weigh(scores: &[f64], value: &[f32], width: usize) -> (Vec<f64>, f64) {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; width];
    if highest == f64::NEG_INFINITY {
        return (out, highest);
    }
    let mut sum = 0.0;
    for (score, row) in scores.iter().zip(value.chunks_exact(width)) {
        let weight = (score - highest).exp();
        sum += weight;
        if weight > 0.0 {
            out.iter_mut().zip(row).for_each(|(out, v)| *out += weight * f64::from(*v));
        }
    }
    out.iter_mut().for_each(|out| *out /= sum);
    (out, highest + sum.ln())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::normal;

    #[test]
    fn one_key_returns_its_value() {
        let value = normal(8, 3);
        let head = Head { query: &normal(24, 1), key: &normal(8, 2), value: &value, head_dim: 8 };
        let attended = attend(head, Mask::None);
        for row in attended.out.chunks(8) {
            assert!(row.iter().zip(&value).all(|(got, want)| (got - f64::from(*want)).abs() < 1e-12));
        }
    }

    #[test]
    fn equal_scores_average_the_values_and_the_lse_counts_them() {
        let value = normal(5 * 4, 3);
        let head = Head { query: &[0.0; 4], key: &normal(20, 2), value: &value, head_dim: 4 };
        let attended = attend(head, Mask::None);
        let mean: f64 = value.chunks(4).map(|row| f64::from(row[1])).sum::<f64>() / 5.0;
        assert!((attended.out[1] - mean).abs() < 1e-12);
        assert!((attended.lse[0] - 5f64.ln()).abs() < 1e-12);
        assert!((attended.lse_base2()[0] - 5f64.log2()).abs() < 1e-12);
    }

    #[test]
    fn causal_is_what_the_lower_triangle_of_one_row_blocks_says() {
        let (q, k, v) = (normal(28, 1), normal(28, 2), normal(28, 3));
        let head = Head { query: &q, key: &k, value: &v, head_dim: 4 };
        let kept: Vec<bool> = (0..49).map(|cell| cell % 7 <= cell / 7).collect();
        assert_eq!(attend(head, Mask::Causal), attend(head, Mask::Blocks { block_q: 1, block_k: 1, kept: &kept }));
    }

    #[test]
    fn a_row_that_sees_nothing_is_zero() {
        let (q, k, v) = (normal(8, 1), normal(8, 2), normal(8, 3));
        let head = Head { query: &q, key: &k, value: &v, head_dim: 4 };
        let attended = attend(head, Mask::Blocks { block_q: 1, block_k: 2, kept: &[true, false] });
        assert_eq!(&attended.out[4..], &[0.0; 4]);
        assert_eq!(attended.lse[1], f64::NEG_INFINITY);
    }

    #[test]
    fn sampled_rows_are_rows_of_the_whole() {
        let (q, k, v) = (normal(68, 1), normal(36, 2), normal(36, 3));
        let head = Head { query: &q, key: &k, value: &v, head_dim: 4 };
        let rows = sample_rows(17, 5, 9);
        assert_eq!(rows.len(), 5);
        let (all, some) = (attend(head, Mask::None), attend_rows(head, Mask::None, &rows));
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(some.out[index * 4..][..4], all.out[row * 4..][..4]);
        }
    }
}
