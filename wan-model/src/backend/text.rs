//! The operations that the text encoder adds to a transformer's.

use super::Backend;
use crate::Result;
use crate::checkpoint::TensorView;

/// The fused operations of a umT5 encoder; its linear layers are [`Backend`]'s.
pub trait TextBackend: Backend {
    /// Rows `ids` of the tensor `name`, a table of `[rows, width]` values that may stay in its file; rounded as
    /// activations are. The caller has checked that the table has those rows.
    fn embed(&self, _name: &str, table: TensorView<'_>, ids: &[u32]) -> Result<Self::Tensor> {
        let width = table.shape.iter().skip(1).product::<usize>();
        let row_bytes = width * table.dtype.bytes();
        let mut values = Vec::with_capacity(ids.len() * width);
        for id in ids {
            let row = TensorView { bytes: &table.bytes[*id as usize * row_bytes..][..row_bytes], ..table };
            values.extend(row.to_f32());
        }
        self.upload(values, width)
    }

    /// `bias[h, i] = table[buckets[i], h]` of a table `[buckets, heads]`.
    fn position_bias(&self, table: &Self::Tensor, buckets: &[usize]) -> Result<Self::Tensor>;

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
