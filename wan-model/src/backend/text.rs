//! The operations that the text encoder adds to a transformer's.

use super::Backend;
use crate::Result;

/// The fused operations of a umT5 encoder; its linear layers are [`Backend`]'s.
pub trait TextBackend: Backend {
    /// `x / sqrt(mean_c(x^2) + eps) * weight`, rounded before the weight and after it.
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f32) -> Result<Self::Tensor>;

    /// `up * gelu(gate)`, GELU in its tanh form.
    fn gelu_gate(&self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Activation>;

    /// Attention of every row to the first `keys` rows, without a scale, with a bias that depends on the distance:
    ///
    /// ```text
    /// out[i] = softmax_j( q[i] . k[j] + bias[h, j - i + rows - 1] ) v[j],   j < keys
    /// ```
    ///
    /// `q`, `k`, `v` are `[rows, heads * head_dim]`, `bias` is `[heads, rows + keys - 1]`.
    fn relative_attention(&self, qkv: [&Self::Tensor; 3], bias: &Self::Tensor, keys: usize) -> Result<Self::Activation>;
}
