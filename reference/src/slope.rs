//! Gradients without knowing how: differences of a function worked out in `f64`.

/// Step of the differences: a power of two, so that values on [`grid`] plus a step are exact in `f32`.
pub const STEP: f32 = 1.0 / 128.0;

/// `x` on a grid of 2^-12, on which a few steps up or down are exact for values below 1024.
pub fn grid(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| (x * 4096.0).round() / 4096.0).collect()
}

/// The derivative of `f` along each coordinate of `at` (on [`grid`]), by the five-point rule
/// `(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h`, whose error is `h^4 f⁽⁵⁾ / 30`: 1e-10 of a fifth derivative.
///
/// # Panics
/// When a value is not on the grid.
pub fn gradient(at: &[f32], f: impl Fn(&[f32]) -> f64) -> Vec<f64> {
    let mut x = at.to_vec();
    (0..at.len())
        .map(|index| {
            let mut value = |steps: f32| {
                x[index] = at[index] + steps * STEP;
                assert_eq!(x[index] - steps * STEP, at[index], "a step from {} is exact", at[index]);
                let value = f(&x);
                x[index] = at[index];
                value
            };
            let (near, far) = (value(1.0) - value(-1.0), value(2.0) - value(-2.0));
            (8.0 * near - far) / (12.0 * f64::from(STEP))
        })
        .collect()
}

/// `sum_i weights_i values_i`: a loss whose gradient with respect to `values` is `weights`.
pub fn weighted(values: &[f64], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value * f64::from(*weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_a_known_function_is_found_to_ten_digits() {
        let at = grid(&[0.3, -1.2, 2.0]);
        let found = gradient(&at, |x| x.iter().map(|x| f64::from(*x).sin()).sum());
        for (found, at) in found.iter().zip(&at) {
            assert!((found - f64::from(*at).cos()).abs() < 1e-9, "{found} at {at}");
        }
    }
}
