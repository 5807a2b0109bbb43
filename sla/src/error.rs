//! What can go wrong in sparse-linear attention.

/// Attention was asked for something it cannot do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An operand does not have the length that the shape says, or a size is out of range.
    #[error(transparent)]
    Ground(#[from] turbowan_cuda::Error),
    /// A block map was made for another shape.
    #[error(
        "the block map has {found:?} blocks of queries and keys and {found_problems} heads, the shape asks for {expected:?} and {expected_problems}"
    )]
    MapShape {
        /// Query and key blocks that the shape asks for.
        expected: (usize, usize),
        /// Query and key blocks of the map.
        found: (usize, usize),
        /// Heads over the batch that the shape has.
        expected_problems: usize,
        /// Heads over the batch that the map has.
        found_problems: usize,
    },
    /// Causal attention needs as many queries as keys and no block map.
    #[error("causal attention needs as many queries as keys and no block map: {query_len} queries, {key_len} keys")]
    Causal {
        /// Query rows.
        query_len: usize,
        /// Key rows.
        key_len: usize,
    },
    /// The scale of the scores must be a positive number.
    #[error("the scale of the scores is {found}, it must be positive and finite")]
    Scale {
        /// What was asked for.
        found: f32,
    },
}
