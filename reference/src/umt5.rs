//! What a umT5 encoder does beside linear layers and norms, in `f64`.
//!
//! Source: `rcm/utils/umt5.py` (`T5RelativeEmbedding`, `T5Attention`, `T5FeedForward`); Raffel et al., "Exploring the
//! Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1.

/// Bucket of the distance `key - query`, bidirectional.
///
/// Half of the buckets are for keys after the query. Of each half, the first half counts distances one by one, the
/// rest grow by equal ratios up to `max_distance`.
pub fn position_bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let after = if distance > 0 { half } else { 0 };
    let (steps, exact) = (distance.unsigned_abs() as usize, half / 2);
    if steps < exact {
        return after + steps;
    }
    let ratio = (steps as f64 / exact as f64).ln() / (max_distance as f64 / exact as f64).ln();
    after + (exact + (ratio * (half - exact) as f64) as usize).min(half - 1)
}

/// Attention of all rows to the first `keys` rows, without a scale.
///
/// ```text
///   s[i, j] = sum_d q[i, d] k[j, d] + bias[h, j - i + rows - 1]
///   o[i, d] = sum_j exp(s[i, j]) v[j, d] / sum_j exp(s[i, j])          j < keys
/// ```
///
/// `q`, `k`, `v` are `[rows, heads * head_dim]`, `bias` is `[heads, rows + keys - 1]`.
pub fn relative_attention([q, k, v]: [&[f32]; 3], rows: usize, heads: usize, bias: &[f32], keys: usize) -> Vec<f64> {
    let width = q.len() / rows;
    let head_dim = width / heads;
    let mut out = vec![0.0; q.len()];
    for head in 0..heads {
        let row = |x: &'_ [f32], index: usize| -> Vec<f64> {
            x[index * width + head * head_dim..][..head_dim].iter().map(|value| f64::from(*value)).collect()
        };
        for i in 0..rows {
            let query = row(q, i);
            let scores: Vec<f64> = (0..keys)
                .map(|j| {
                    let product: f64 = query.iter().zip(row(k, j)).map(|(q, k)| q * k).sum();
                    product + f64::from(bias[head * (rows + keys - 1) + j + rows - 1 - i])
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (j, weight) in weights.iter().enumerate() {
                for (d, value) in row(v, j).into_iter().enumerate() {
                    out[i * width + head * head_dim + d] += weight / total * value;
                }
            }
        }
    }
    out
}

/// `up * gate/2 * (1 + tanh(sqrt(2/pi) * (gate + 0.044715 gate^3)))`.
pub fn gelu_gate(gate: &[f32], up: &[f32]) -> Vec<f64> {
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    gate.iter().zip(up).map(|(gate, up)| f64::from(*up) * gelu(f64::from(*gate))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_one_by_one_and_then_by_ratios() {
        let bucket = |distance| position_bucket(distance, 32, 128);
        assert_eq!([0, -1, -7, -8, -16, -32, -64].map(bucket), [0, 1, 7, 8, 10, 12, 14]);
        assert_eq!([1, 7, 8, 16, 127, 128, 4000].map(bucket), [17, 23, 24, 26, 31, 31, 31]);
    }

    #[test]
    fn equal_values_pass_through_attention() {
        let (rows, heads, keys) = (5, 2, 3);
        let q: Vec<f32> = (0..rows * 4).map(|i| i as f32 * 0.1).collect();
        let bias: Vec<f32> = (0..heads * (rows + keys - 1)).map(|i| i as f32 * 0.3).collect();
        let out = relative_attention([&q, &q, &[2.5; 20]], rows, heads, &bias, keys);
        assert!(out.iter().all(|value| (value - 2.5).abs() < 1e-12));
    }
}
