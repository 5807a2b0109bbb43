//! Which key blocks each query block attends to.
//!
//! ```text
//! k'     = k - mean_L(k)                                  smooth-k
//! q̄_i    = mean of the query rows of block i              over the rows that exist
//! k̄_j    = mean of the rows of k' of block j
//! score  = q̄_i · k̄_j                                      no scale, no softmax: both keep the order
//! map_i  = the `kept` blocks j of the largest scores, the lower index first on a tie
//! ```
//!
//! Source: TurboDiffusion `turbodiffusion/SLA/utils.py`, `get_block_map`.

use super::{Head, dot};

/// Lists of kept key blocks, one for each query block, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLists {
    /// Rows of a query block.
    pub block_q: usize,
    /// Rows of a key block.
    pub block_k: usize,
    /// Kept key blocks of each query block.
    pub lists: Vec<Vec<usize>>,
}

impl BlockLists {
    /// Whether query row `query` attends to key row `key`.
    pub fn keeps(&self, query: usize, key: usize) -> bool {
        self.lists[query / self.block_q].contains(&(key / self.block_k))
    }
}

/// Key blocks kept out of `key_blocks` at a share of `ratio`: the product truncated, never none.
pub fn kept_blocks(ratio: f64, key_blocks: usize) -> usize {
    ((ratio * key_blocks as f64) as usize).clamp(1, key_blocks)
}

/// The scores that the map is chosen by, `[ceil(query_len / block_q), ceil(key_len / block_k)]`.
pub fn pooled_scores(q: &[f64], k: &[f64], head: Head, block_q: usize, block_k: usize) -> Vec<f64> {
    let mean = mean_rows(k, head.dim);
    let smooth: Vec<f64> = k.iter().enumerate().map(|(index, value)| value - mean[index % head.dim]).collect();
    let pooled_k: Vec<Vec<f64>> = smooth.chunks(block_k * head.dim).map(|block| mean_rows(block, head.dim)).collect();
    let mut scores = Vec::new();
    for block in q.chunks(block_q * head.dim) {
        let pooled_q = mean_rows(block, head.dim);
        scores.extend(pooled_k.iter().map(|pooled_k| dot(&pooled_q, pooled_k)));
    }
    scores
}

/// The map that keeps `kept` key blocks for each query block.
pub fn block_map(q: &[f64], k: &[f64], head: Head, block_q: usize, block_k: usize, kept: usize) -> BlockLists {
    let scores = pooled_scores(q, k, head, block_q, block_k);
    let lists = scores
        .chunks(head.key_len.div_ceil(block_k))
        .map(|row| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
            order.truncate(kept);
            order.sort_unstable();
            order
        })
        .collect();
    BlockLists { block_q, block_k, lists }
}

fn mean_rows(rows: &[f64], dim: usize) -> Vec<f64> {
    let count = (rows.len() / dim) as f64;
    (0..dim).map(|channel| rows.iter().skip(channel).step_by(dim).sum::<f64>() / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_truncated_and_never_none() {
        assert_eq!(kept_blocks(0.1, 512), 51);
        assert_eq!(kept_blocks(0.1, 3), 1);
        assert_eq!(kept_blocks(1.0, 7), 7);
        assert_eq!(kept_blocks(0.29, 100), 28, "0.29 * 100 is 28.999999999999996 in f64");
    }

    #[test]
    fn a_short_last_block_is_pooled_over_its_own_rows() {
        let head = Head { query_len: 3, key_len: 3, dim: 1 };
        let scores = pooled_scores(&[1.0, 3.0, 5.0], &[0.0, 0.0, 3.0], head, 2, 2);
        assert_eq!(scores, vec![-2.0, 4.0, -5.0, 10.0]);
        assert_eq!(block_map(&[1.0, 3.0, 5.0], &[0.0, 0.0, 3.0], head, 2, 2, 1).lists, vec![vec![1], vec![1]]);
    }

    #[test]
    fn equal_scores_keep_the_lower_block() {
        let head = Head { query_len: 2, key_len: 6, dim: 1 };
        assert_eq!(block_map(&[0.0, 0.0], &[1.0; 6], head, 2, 2, 2).lists, vec![vec![0, 1]]);
    }
}
