//! Elementary functions in `f32`, without branches, so that loops over them become vector code.
//!
//! Each is plain multiplications and additions (never a fused one), so it gives the same bits in every instruction
//! set. Call them from a loop inside a `#[target_feature]` function to have them in that function's vectors.

/// `e^x` within 2 units in the last place; below -87 it stays at `e^-87`, above 88 at `e^88`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut sum = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + factor;
    }
    sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU in its tanh form, `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`, written as `x * sigmoid(2 u)`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = TWO_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-u))
}

/// GELU in its exact form, `x * Phi(x)`, with `Phi` the standard normal distribution.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    let tail = 0.5 * erfc_of_positive(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// The derivative of [`silu`].
#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let tail = exp(-x);
    let share = 1.0 / (1.0 + tail);
    share + x * share * (tail * share)
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
pub fn gelu_tanh_slope(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = TWO_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    let inner = TWO_SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
    let tail = exp(-u);
    let share = 1.0 / (1.0 + tail);
    share + x * inner * share * (tail * share)
}

/// The derivative of [`gelu_erf`], `Phi(x) + x phi(x)`.
#[inline(always)]
pub fn gelu_erf_slope(x: f32) -> f32 {
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    let tail = 0.5 * erfc_of_positive(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    let share = if x < 0.0 { tail } else { 1.0 - tail };
    share + x * DENSITY_AT_ZERO * exp(-0.5 * x * x)
}

/// `erfc(z)` for `z >= 0`: `t * exp(-z^2 + P(t))` with `t = 1 / (1 + z/2)` (Numerical Recipes, 2nd ed., 6.2),
/// relative error 1.2e-7 before rounding.
#[inline(always)]
fn erfc_of_positive(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut sum = 0.170_872_77;
    for factor in
        [-0.822_152_23, 1.488_515_9, -1.135_204, 0.278_868_07, -0.186_288_06, 0.096_784_18, 0.374_091_96, 1.000_023_7, -1.265_512_2]
    {
        sum = sum * t + factor;
    }
    t * exp(sum - z * z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let (got, want) = (exp(x), f64::from(x).exp());
            assert!((f64::from(got) / want - 1.0).abs() < 2.4e-7, "exp({x}) = {got}, want {want}");
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(1e30) > 1e38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn slopes_are_the_differences_of_the_oracles() {
        use turbowan_reference::{gemm, slope};
        let x = slope::grid(&(0..400).map(|i| i as f32 * 0.061 - 12.2).collect::<Vec<_>>());
        type Case = (fn(f32) -> f32, fn(f64) -> f64);
        let cases: [Case; 3] = [(silu_slope, gemm::silu), (gelu_tanh_slope, gemm::gelu_tanh), (gelu_erf_slope, gemm::gelu_erf)];
        for (got, oracle) in cases {
            for x in &x {
                let want = slope::gradient(&[*x], |x| oracle(f64::from(x[0])))[0];
                // a handful of roundings of values of about 1; far out products of small numbers only shrink
                assert!((f64::from(got(*x)) - want).abs() < 1e-6, "{x}: {} for {want}", got(*x));
            }
            assert!(got(f32::NAN).is_nan());
            assert!((got(100.0) - 1.0).abs() < 1e-6 && got(-100.0).abs() < 1e-6);
        }
    }

    #[test]
    fn activations_keep_nan_and_the_far_ends() {
        for f in [silu, gelu_tanh, gelu_erf] {
            assert!(f(f32::NAN).is_nan());
            assert_eq!(f(0.0), 0.0);
            assert_eq!(f(100.0), 100.0);
            assert!(f(-100.0).abs() < 1e-30);
        }
    }
}
