//! Matrix products and what ends a linear layer, in `f64`.
//!
//! Sources: `torch.nn.functional.linear`, `gelu` and `silu` as `rcm/networks/wan2pt1.py` uses them.

/// `y[r, j] = sum_k x[r, k] * w[j, k] + bias[j]`: a linear layer, `x [rows, input]`, `w [out, input]`.
pub fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, input: usize) -> Vec<f64> {
    let out = weight.len() / input;
    let mut y = Vec::with_capacity(x.len() / input * out);
    for row in x.chunks(input) {
        for (j, weights) in weight.chunks(input).enumerate() {
            let sum: f64 = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            y.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
        }
    }
    y
}

/// `sum_k |x[r, k] * w[j, k]| + |bias[j]|`: what the rounding error of [`linear`] is measured by.
pub fn linear_magnitude(x: &[f32], weight: &[f32], bias: Option<&[f32]>, input: usize) -> Vec<f64> {
    let abs = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    linear(&abs(x), &abs(weight), bias.map(abs).as_deref(), input)
}

/// `x / (1 + e^-x)`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// `x/2 * erfc(-x / sqrt(2))`.
pub fn gelu_erf(x: f64) -> f64 {
    0.5 * x * erfc(-x / std::f64::consts::SQRT_2)
}

/// The complementary error function: its power series near zero, its continued fraction far from it.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        // erf(x) = 2/sqrt(pi) * sum_n (-1)^n x^(2n+1) / (n! (2n+1))
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    // erfc(x) = e^(-x^2) / sqrt(pi) * 1 / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ...))))
    let fraction = (1..200).rev().fold(x, |fraction, n| x + 0.5 * f64::from(n) / fraction);
    (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_tabled_values() {
        // Abramowitz and Stegun, table 7.1
        for (x, erf) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (1.5, 0.966_105_146_5), (2.0, 0.995_322_265_0)] {
            assert!((1.0 - erfc(x) - erf).abs() < 1e-10, "erf({x})");
            assert!((1.0 - erfc(-x) + erf).abs() < 1e-10, "erf(-{x})");
        }
        assert!((erfc(1.999_999) / erfc(2.000_001) - 1.0).abs() < 2e-5, "the two branches meet");
    }

    #[test]
    fn a_linear_layer_by_hand() {
        let y = linear(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 0.5, -1.0], Some(&[10.0, 20.0]), 2);
        assert_eq!(y, [11.0, 18.5, 13.0, 17.5]);
    }
}
