//! What can go wrong in INT8 attention.

/// INT8 attention was asked for something it cannot do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An operand does not fit the shape.
    #[error(transparent)]
    Operand(#[from] turbowan_cuda::Error),
    /// Causal attention of queries and keys that differ in length.
    #[error("causal attention needs as many queries as keys, found {query_len} and {key_len}")]
    CausalLengths {
        /// Query rows.
        query_len: usize,
        /// Key rows.
        key_len: usize,
    },
    /// A block map made for another shape.
    #[error(
        "the block map has {found_q} x {found_k} blocks over {found_heads} heads, the shape has {query_blocks} x {key_blocks} over {heads}"
    )]
    MapShape {
        /// Query blocks of the map.
        found_q: usize,
        /// Key blocks of the map.
        found_k: usize,
        /// Heads over the batch of the map.
        found_heads: usize,
        /// Query blocks of the shape.
        query_blocks: usize,
        /// Key blocks of the shape.
        key_blocks: usize,
        /// Heads over the batch of the shape.
        heads: usize,
    },
    /// Keys in one form and values in another: kernels read rows of both, or tiles of both.
    #[error("keys in {keys} with values in {values}: both must be in rows, or both in tiles")]
    MixedForms {
        /// Form of the keys.
        keys: &'static str,
        /// Form of the values.
        values: &'static str,
    },
    /// An int8 output of heads that lie one after the other.
    #[error("an int8 output needs the heads of a token side by side (Blhd)")]
    Int8Layout,
    /// A setting lies outside what the operation supports.
    #[error("{what}: {found} is not supported, it must be {must}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// What it must be, in words.
        must: &'static str,
        /// What was given.
        found: f64,
    },
}
