//! This project's own noise: every value is a function of (seed, draw, element) and nothing else.
//!
//! ```text
//! (w0, w1, w2, w3) = philox4x32_10(key = seed, counter = (element / 2, draw))
//! a = ((w1 w0 as 64 bits) >> 11 + 1) / 2^53      in (0, 1]
//! b =  (w3 w2 as 64 bits) >> 11      / 2^53      in [0, 1)
//! even element: f32(sqrt(-2 ln a) cos 2 pi b),  odd element: f32(sqrt(-2 ln a) sin 2 pi b)
//! ```
//!
//! All maths is f64 by operations that IEEE 754 defines to the last bit, so that every device, system and number of threads
//! gives the same bytes.

use super::elementary::{ln, sin_cos_turns};
use super::philox::{philox4x32, words};

const UNIT: f64 = 1.0 / (1u64 << 53) as f64;

/// Fills `values` with draw `draw` of `seed`, beginning at element 0.
pub(super) fn fill(seed: u64, draw: u64, values: &mut [f32]) {
    fill_from(seed, draw, 0, values);
}

/// Fills `values` with draw `draw` of `seed`, beginning at element `2 * first_pair`.
pub(super) fn fill_from(seed: u64, draw: u64, first_pair: u64, values: &mut [f32]) {
    for (pair, values) in values.chunks_mut(2).enumerate() {
        let normals = normal_pair(seed, draw, first_pair + pair as u64);
        values.iter_mut().zip(normals).for_each(|(value, normal)| *value = normal as f32);
    }
}

/// Elements `2 * pair` and `2 * pair + 1` of a draw, before they are rounded to f32.
pub(super) fn normal_pair(seed: u64, draw: u64, pair: u64) -> [f64; 2] {
    let ([p0, p1], [d0, d1]) = (words(pair), words(draw));
    let [w0, w1, w2, w3] = philox4x32([p0, p1, d0, d1], words(seed));
    let radius = (-2.0 * ln((bits(w0, w1) + 1) as f64 * UNIT)).sqrt();
    let (sin, cos) = sin_cos_turns(bits(w2, w3) as f64 * UNIT);
    [radius * cos, radius * sin]
}

/// Element `element` of a uniform draw, in the open interval `(0, 1)`: the middles of 2^53 equal parts.
pub(super) fn uniform(seed: u64, draw: u64, element: u64) -> f64 {
    let ([e0, e1], [d0, d1]) = (words(element), words(draw));
    let [w0, w1, ..] = philox4x32([e0, e1, d0, d1], words(seed));
    // Half a part more would round the last middle up to 1.
    ((bits(w0, w1) as f64 + 0.5) * UNIT).min(1.0 - UNIT)
}

/// The upper 53 bits of two words.
fn bits(low: u32, high: u32) -> u64 {
    ((u64::from(high) << 32) | u64::from(low)) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, draw: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        fill(seed, draw, &mut values);
        values
    }

    #[test]
    fn a_value_depends_on_seed_draw_and_element_alone() {
        let long = drawn(7, 3, 1001);
        assert_eq!(drawn(7, 3, 17), long[..17]);
        assert_ne!(drawn(7, 4, 17), long[..17]);
        assert_ne!(drawn(8, 3, 17), long[..17]);
        assert_ne!(drawn(7 | 1 << 40, 3, 17), long[..17]);
    }

    #[test]
    fn the_first_values_never_change() {
        // Written down once: a change here changes every video ever made with a seed.
        let bits: Vec<u32> = drawn(0, 0, 6).iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, FIRST_OF_SEED_0);
    }

    const FIRST_OF_SEED_0: [u32; 6] = [3_201_014_548, 3_198_086_184, 1_068_598_302, 1_051_233_954, 3_193_092_516, 1_069_519_492];

    #[test]
    fn moments_and_tails_are_those_of_a_normal() {
        let values: Vec<f64> = drawn(11, 0, 400_000).into_iter().map(f64::from).collect();
        let moment = |power: i32| values.iter().map(|v| v.powi(power)).sum::<f64>() / values.len() as f64;
        // Five standard errors of each moment at this count.
        for (power, want, bound) in [(1, 0.0, 0.008), (2, 1.0, 0.012), (3, 0.0, 0.031), (4, 3.0, 0.078)] {
            assert!((moment(power) - want).abs() < bound, "moment {power}: {}", moment(power));
        }
        let beyond_three = values.iter().filter(|v| v.abs() > 3.0).count() as f64 / values.len() as f64;
        assert!((beyond_three - 0.0027).abs() < 0.0005, "share beyond three: {beyond_three}");
        let lag = values.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / values.len() as f64;
        assert!(lag.abs() < 0.008, "neighbours correlate: {lag}");
    }
}
