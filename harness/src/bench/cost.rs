//! What an operation costs, as plain functions of its shape: a rate is arithmetic and not opinion.
//!
//! A multiplication and an addition are two operations, as everybody counts them. Bytes are every operand read once and
//! every result written once: what a perfect cache would move. Operations on single values (norms, softmax, rotation) are
//! not counted: such an op has a rate in bytes alone.

use std::ops::Add;

use serde::Serialize;

/// Operations and bytes of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Cost {
    /// Operations of the dense formula: what the *effective* rate counts.
    pub operations: u64,
    /// Operations that are carried out: fewer where blocks are left out.
    pub actual: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

impl Cost {
    /// A cost whose operations are all carried out.
    pub const fn dense(operations: u64, bytes: u64) -> Self {
        Self { operations, actual: operations, bytes }
    }

    /// A cost of bytes alone.
    pub const fn moved(bytes: u64) -> Self {
        Self::dense(0, bytes)
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { operations: self.operations + other.operations, actual: self.actual + other.actual, bytes: self.bytes + other.bytes }
    }
}

/// How values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    Bf16,
    /// One byte, and a 4-byte scale for every 128 columns of this many rows.
    Int8 {
        /// Rows that share a scale.
        block_rows: usize,
    },
}

impl Format {
    /// Bytes of `[rows, width]`.
    pub const fn bytes(self, rows: usize, width: usize) -> u64 {
        let values = rows as u64 * width as u64;
        match self {
            Self::F32 => 4 * values,
            Self::Bf16 => 2 * values,
            Self::Int8 { block_rows } => values + 4 * rows.div_ceil(block_rows) as u64 * width.div_ceil(128) as u64,
        }
    }
}

/// `y [rows, out] = x [rows, input] . w [out, input]^T`.
pub const fn linear(rows: usize, out: usize, input: usize, x: Format, w: Format, y: Format) -> Cost {
    Cost::dense(2 * rows as u64 * out as u64 * input as u64, x.bytes(rows, input) + w.bytes(out, input) + y.bytes(rows, out))
}

/// Attention of `queries` rows to `keys` rows of every head, of which each row sees `kept` keys; `operand` is the format of
/// queries, keys and values, the output has `out`'s.
pub const fn attention(problems: usize, queries: usize, keys: usize, kept: usize, head_dim: usize, operand: Format, out: Format) -> Cost {
    let pairs = 4 * problems as u64 * queries as u64 * head_dim as u64;
    let kept = if kept < keys { kept } else { keys };
    Cost {
        operations: pairs * keys as u64,
        actual: pairs * kept as u64,
        bytes: operand.bytes(problems * queries, head_dim)
            + 2 * operand.bytes(problems * keys, head_dim)
            + out.bytes(problems * queries, head_dim),
    }
}

/// The linear branch of sparse-linear attention beside its sparse one: keys times values, queries times that, and the
/// projection. It is work that the dense formula does not have, so it counts as carried out alone.
pub const fn linear_branch(problems: usize, queries: usize, keys: usize, head_dim: usize) -> Cost {
    let square = 2 * problems as u64 * head_dim as u64 * head_dim as u64;
    Cost { operations: 0, actual: square * (keys as u64 + 2 * queries as u64), bytes: 0 }
}

/// The rows of that branch where the projection is folded into the product of keys and values: one product.
pub const fn branch_rows(problems: usize, queries: usize, head_dim: usize) -> Cost {
    Cost { operations: 0, actual: 2 * problems as u64 * queries as u64 * head_dim as u64 * head_dim as u64, bytes: 0 }
}

/// The whole branch so: the sums over the keys, the projection of each head's sums, the rows.
pub const fn folded_branch(problems: usize, queries: usize, keys: usize, head_dim: usize) -> Cost {
    branch_rows(problems, queries + keys + head_dim, head_dim)
}

/// Scores of pooled queries and keys, and the lists of those kept.
pub const fn block_map(problems: usize, query_blocks: usize, key_blocks: usize, kept: usize, head_dim: usize, pooled: Format) -> Cost {
    let scores = problems as u64 * query_blocks as u64 * key_blocks as u64;
    let read = pooled.bytes(problems * query_blocks, head_dim) + pooled.bytes(problems * key_blocks, head_dim);
    Cost::dense(2 * scores * head_dim as u64, read + 4 * problems as u64 * query_blocks as u64 * kept as u64)
}

/// A convolution that gives `pixels` pixels of `output` channels from as many pixels of `input` channels for each tap in time
/// (frames are read from the cache, so each counts once: `input_pixels`).
pub const fn convolution(pixels: usize, input_pixels: usize, input: usize, output: usize, taps: usize, format: Format) -> Cost {
    let weight = format.bytes(output, input * taps);
    let read = format.bytes(input_pixels, input);
    Cost::dense(2 * pixels as u64 * (input * output * taps) as u64, read + weight + format.bytes(pixels, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT8: Format = Format::Int8 { block_rows: 128 };

    #[test]
    fn a_linear_costs_two_operations_for_each_weight_of_each_row() {
        // the feed-forward's first product of 14B at 720p: 10.7 PFLOP a call over 40 layers, two products and no attention
        let cost = linear(75_600, 13_824, 5120, INT8, INT8, Format::Bf16);
        assert_eq!(cost.operations, 10_701_766_656_000);
        let scales = 4 * (591 * 40 + 108 * 40);
        assert_eq!(cost.bytes, 75_600 * 5120 + 13_824 * 5120 + scales + 2 * 75_600 * 13_824);
        assert_eq!(linear(1, 1, 1, Format::F32, Format::F32, Format::F32), Cost::dense(2, 12));
    }

    #[test]
    fn dense_attention_costs_the_papers_four_products_and_a_sparse_one_its_share() {
        // 1.3B at 480p: 0.198 PFLOP over 30 layers
        let dense = attention(12, 32_760, 32_760, 32_760, 128, Format::Bf16, Format::Bf16);
        assert_eq!(dense.operations, dense.actual);
        assert!((30.0 * dense.operations as f64 / 1e15 - 0.198).abs() < 1e-3);
        let sparse = attention(12, 32_760, 32_760, 51 * 64, 128, Format::Bf16, Format::Bf16);
        assert_eq!((sparse.operations, sparse.bytes), (dense.operations, dense.bytes));
        assert!((sparse.actual as f64 / dense.actual as f64 - 51.0 * 64.0 / 32_760.0).abs() < 1e-12);
        // a last block that is not whole never counts more keys than there are
        assert_eq!(attention(1, 8, 65, 128, 64, Format::F32, Format::F32).actual, 4 * 8 * 65 * 64);
    }

    #[test]
    fn the_linear_branch_is_work_beside_the_formula() {
        let branch = linear_branch(40, 75_600, 75_600, 128);
        assert_eq!(branch.operations, 0);
        // 0.0119 PFLOP a call of 40 layers
        assert!((40.0 * branch.actual as f64 / 1e15 - 0.0119).abs() < 1e-4);
        // folded, the projection is of 128 rows of a head and not of each query
        let folded = folded_branch(40, 75_600, 75_600, 128);
        assert_eq!(branch.actual - folded.actual, branch_rows(40, 75_600 - 128, 128).actual);
    }

    #[test]
    fn a_block_map_and_a_convolution_count_their_products() {
        assert_eq!(block_map(2, 3, 5, 1, 16, Format::Bf16), Cost::dense(2 * 30 * 16, 2 * (6 + 10) * 16 + 4 * 6));
        let conv = convolution(10, 30, 4, 8, 27, Format::F32);
        assert_eq!(conv, Cost::dense(2 * 10 * 4 * 8 * 27, 4 * (30 * 4 + 4 * 8 * 27 + 10 * 8)));
    }
}
