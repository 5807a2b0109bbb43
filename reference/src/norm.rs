//! Norms over the channels of a row, in `f64`.
//!
//! Sources: `rcm/networks/wan2pt1.py` (LayerNorm, RMSNorm), `ops/fastnorm` (the padded variance),
//! `rcm/tokenizers/wan2pt1.py` (the norm of the autoencoder).

/// Mean of a row and `1 / sqrt(var + eps)`.
///
/// `var = (sum_c (x_c - mean)^2 + padding * mean^2) / width`. The textbook has `padding = 0`; the official fast kernel
/// also counts the columns that pad a row to a power of two, where `x = 0`.
fn statistics(row: &[f32], padding: usize, eps: f64) -> (f64, f64) {
    let width = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width;
    let squares = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() + padding as f64 * mean * mean;
    (mean, 1.0 / (squares / width + eps).sqrt())
}

/// `y = (x - mean) / sqrt(var + eps)` for every row of `width` channels; `is_padded` chooses the official fast variance.
pub fn layer_norm(x: &[f32], width: usize, is_padded: bool, eps: f64) -> Vec<f64> {
    let padding = if is_padded { width.next_power_of_two() - width } else { 0 };
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(width) {
        let (mean, inverse) = statistics(row, padding, eps);
        out.extend(row.iter().map(|x| (f64::from(*x) - mean) * inverse));
    }
    out
}

/// `y = LN(x) * (1 + scale) + shift`; row `r` takes row `r / rows_per_group` of the tables `[groups, width]`.
pub fn layer_norm_modulate(
    x: &[f32],
    width: usize,
    is_padded: bool,
    eps: f64,
    (shift, scale, rows_per_group): (&[f32], &[f32], usize),
) -> Vec<f64> {
    let mut y = layer_norm(x, width, is_padded, eps);
    for (index, value) in y.iter_mut().enumerate() {
        let at = index / width / rows_per_group * width + index % width;
        *value = *value * (1.0 + f64::from(scale[at])) + f64::from(shift[at]);
    }
    y
}

/// `y = x / sqrt(mean_c(x^2) + eps) * weight`.
pub fn rms_norm(x: &[f32], width: usize, eps: f64, weight: &[f32]) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(width) {
        let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (square + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(x, w)| f64::from(*x) * inverse * f64::from(*w)));
    }
    out
}

/// The autoencoder's norm: `y = x / max(|x|_2, 1e-12) * sqrt(C) * gamma` over the channels of a pixel.
pub fn channel_norm(x: &[f32], width: usize, gamma: &[f32]) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(width) {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        out.extend(row.iter().zip(gamma).map(|(x, g)| f64::from(*x) / length * (width as f64).sqrt() * f64::from(*g)));
    }
    out
}

/// `x / (1 + exp(-x))`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normed_row_has_mean_zero_and_variance_one() {
        let y = layer_norm(&[1.0, 2.0, 3.0, 6.0], 4, false, 0.0);
        assert!(y.iter().sum::<f64>().abs() < 1e-12);
        assert!((y.iter().map(|y| y * y).sum::<f64>() / 4.0 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn padding_counts_the_mean_once_a_column() {
        // mean 2, sum of squares 2, one padded column adds 4: var = 6 / 3
        let y = layer_norm(&[1.0, 2.0, 3.0], 3, true, 0.0);
        assert!((y[2] - 1.0 / 2.0f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn channel_norm_is_rms_norm_without_its_epsilon() {
        let (x, gamma) = ([3.0, -4.0, 0.5, 2.0], [1.0, 2.0, 0.5, -1.0]);
        for (a, b) in channel_norm(&x, 4, &gamma).into_iter().zip(rms_norm(&x, 4, 0.0, &gamma)) {
            assert!((a - b).abs() < 1e-12);
        }
        assert!(channel_norm(&[0.0; 4], 4, &gamma).iter().all(|y| *y == 0.0));
    }
}
