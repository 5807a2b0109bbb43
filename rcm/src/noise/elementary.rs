//! Logarithm, sine and cosine from sums, products, quotients and square roots alone, which IEEE 754 defines to the last bit.
//!
//! A system's maths library may differ from another's in the last bit; these may not. Their own error is below 2 units in
//! the last place of an f64, far below the f32 that noise is rounded to.

use std::f64::consts::{FRAC_PI_2, LN_2, SQRT_2};

/// `ln u` for `u` in `(0, 1]`, normal numbers only.
///
/// `u = 2^e m` with `m` in `[1/sqrt 2, sqrt 2)`; `ln m = 2 atanh s` with `s = (m - 1)/(m + 1)`, as a series in `s^2 < 0.0295`.
pub(super) fn ln(u: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const TERMS: u32 = 13;
    debug_assert!(u > 0.0 && u <= 1.0 && u.is_normal());
    let bits = u.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & MANTISSA) | (1023 << 52));
    if m >= SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = (1..TERMS).rev().fold(0.0, |sum, k| (sum + 1.0 / f64::from(2 * k + 1)) * z);
    exponent as f64 * LN_2 + (2.0 * s + 2.0 * s * series)
}

/// `(sin, cos)` of `turns` whole turns, for `turns` in `[0, 1)`.
///
/// The quadrant is split off exactly, so that the series sees an angle in `[-pi/4, pi/4]`.
pub(super) fn sin_cos_turns(turns: f64) -> (f64, f64) {
    debug_assert!((0.0..1.0).contains(&turns));
    let quarters = turns * 4.0;
    let quadrant = (quarters + 0.5).floor();
    let angle = (quarters - quadrant) * FRAC_PI_2;
    let z = angle * angle;
    // sin a = a (1 - z/(2*3) (1 - z/(4*5) (...))), cos a = 1 - z/(1*2) (1 - z/(3*4) (...)).
    let sin = angle * (1..=9).rev().fold(1.0, |rest, k| 1.0 - z / f64::from(2 * k * (2 * k + 1)) * rest);
    let cos = (1..=9).rev().fold(1.0, |rest, k| 1.0 - z / f64::from((2 * k - 1) * 2 * k) * rest);
    match quadrant as u8 % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_to_two_units_in_the_last_place() {
        let mut u = 1.0f64;
        while u > 1e-17 {
            let want = u.ln();
            assert!((ln(u) - want).abs() <= 2.0 * f64::EPSILON * want.abs().max(1e-3), "ln {u}: got {}, want {want}", ln(u));
            u *= 0.9987;
        }
        assert_eq!(ln(1.0), 0.0);
        assert!((ln(2f64.powi(-53)) + 53.0 * LN_2).abs() < 1e-14);
    }

    #[test]
    fn sine_and_cosine_are_right_all_around_the_circle() {
        for step in 0..10_000 {
            let turns = f64::from(step) / 10_000.0;
            let (sin, cos) = sin_cos_turns(turns);
            let (want_sin, want_cos) = (turns * std::f64::consts::TAU).sin_cos();
            assert!((sin - want_sin).abs() < 1e-15 && (cos - want_cos).abs() < 1e-15, "{turns} turns");
        }
        assert_eq!(sin_cos_turns(0.25), (1.0, 0.0));
        assert_eq!(sin_cos_turns(0.5), (0.0, -1.0));
    }
}
