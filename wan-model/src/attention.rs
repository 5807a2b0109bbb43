//! The ways a Wan network attends to itself. Each backend puts dense, sage and sla together in its own `attention` room.

use turbowan_cuda::Rounding;
use turbowan_sla::{Density, FeatureMap};

/// How self-attention is computed. Cross-attention is always dense.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attention {
    /// Dense, floating point: `original`.
    Original,
    /// Dense, INT8 SageAttention.
    Sage,
    /// Sparse-linear attention in floating point.
    Sla(Sparsity),
    /// Sparse-linear attention whose sparse branch is INT8 SageAttention.
    SageSla(Sparsity),
}

/// What sparse-linear attention keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sparsity {
    /// Share of key blocks kept for each query block.
    pub density: Density,
    /// Rows of a query block.
    pub block_q: usize,
    /// Rows of a key block.
    pub block_k: usize,
    /// Feature map of the linear branch.
    pub features: FeatureMap,
    /// Arithmetic inside the operation; the official module casts queries, keys and values to bf16 whatever the network uses.
    pub inner: Rounding,
}

impl Sparsity {
    /// The official inference setting: blocks of 128 queries and 64 keys, softmax features, bf16 inside.
    pub fn official(density: Density) -> Self {
        Self { density, block_q: 128, block_k: 64, features: FeatureMap::Softmax, inner: Rounding::Bf16 }
    }
}

/// SLA's projection of the linear branch, one for all heads of a layer: `weight [head_dim, head_dim]`, `bias [head_dim]`.
#[derive(Debug, Clone)]
pub struct SlaProjection {
    /// Weight, `[out, in]`.
    pub weight: Vec<f32>,
    /// Bias.
    pub bias: Vec<f32>,
}
