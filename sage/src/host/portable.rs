//! The kernel in plain Rust over fixed-size lanes: any machine, and NEON through the compiler.

use super::panels::Layout;
use super::{INT8_ONE, IntegerPanel, Kernel, KeyPanel, PerRow, QueryPanel, RowStats, Running, TILE_K, Weights, merge};

/// Coefficients of `2^r - 1` on `[-1/2, 1/2]`, minimax in relative error with `2^0 = 1` exact, from `r` to `r^5`:
/// 9.2e-8 before rounding, 2e-7 after.
#[allow(clippy::approx_constant, reason = "a fitted coefficient near ln 2, not ln 2")]
pub(crate) const EXP2: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];

/// `2^x` for `x <= 0` within 2e-7 of its value; 0 below -126.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(-126.0);
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let [c1, c2, c3, c4, c5] = EXP2;
    let poly = ((((c5 * r + c4) * r + c3) * r + c2) * r + c1) * r + 1.0;
    let value = poly * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    if x < -126.0 { 0.0 } else { value }
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

/// Keys, or channels, that one step works on.
const LANES: usize = 16;

/// Base-2 scores of one row against the tile.
#[inline(always)]
fn scores(queries: &QueryPanel<'_>, keys: &KeyPanel<'_>, row: usize) -> [f32; TILE_K] {
    let mut scores = [0.0; TILE_K];
    let query = queries.values[row * queries.dim * 2..][..queries.dim * 2].as_chunks::<4>().0;
    let panel_bytes = LANES * queries.dim * 2;
    for (panel, scores) in keys.values.chunks_exact(panel_bytes).zip(scores.chunks_exact_mut(LANES)) {
        let mut sums = [0i32; LANES];
        for (pair, keys) in query.iter().zip(panel.as_chunks::<64>().0) {
            let (first, second) = pair_of(pair);
            for (sum, key) in sums.iter_mut().zip(keys.as_chunks::<4>().0) {
                let (a, b) = pair_of(key);
                *sum += first * a + second * b;
            }
        }
        scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum as f32);
    }
    let seen = keys.seen.map_or(TILE_K as u32, |seen| seen[row]);
    for (lane, score) in scores.iter_mut().enumerate() {
        *score = *score * keys.scale[lane] * queries.scale[row] + keys.bias[lane];
        if lane as u32 >= seen {
            *score = f32::NEG_INFINITY;
        }
    }
    scores
}

#[inline(always)]
fn pair_of(bytes: &[i8; 4]) -> (i32, i32) {
    let [a, b, c, d] = bytes.map(|byte| byte as u8);
    (i16::from_ne_bytes([a, b]).into(), i16::from_ne_bytes([c, d]).into())
}

/// The integers of a tile's weights, `[TILE_Q, TILE_K]`.
fn integers(weights: &mut Weights) -> &mut [i16] {
    // SAFETY: the array is twice as large and aligned to 64; every bit pattern is an `i16`, and an `f32`.
    unsafe { std::slice::from_raw_parts_mut(weights.0.as_mut_ptr().cast::<i16>(), weights.0.len()) }
}

impl Kernel for Portable {
    const LAYOUT: Layout = Layout::Pairs;

    fn score(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, floor: &PerRow, weights: &mut Weights, stats: &mut RowStats) {
        for (row, floor) in floor.iter().enumerate().take(queries.rows) {
            let scores = scores(queries, &keys, row);
            let highest = scores.iter().fold(*floor, |highest, score| highest.max(*score));
            let (to, mut sum) = (&mut weights.0[row * TILE_K..][..TILE_K], 0.0);
            for (to, score) in to.iter_mut().zip(scores) {
                *to = exp2(score - highest);
                sum += *to;
            }
            (stats.highest[row], stats.sum[row]) = (highest, sum);
        }
    }

    fn score_integers(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, weights: &mut Weights, stats: &mut RowStats) {
        for row in 0..queries.rows {
            let scores = scores(queries, &keys, row);
            let highest = scores.iter().fold(super::LOWEST, |highest, score| highest.max(*score));
            let (to, mut sum) = (&mut integers(weights)[row * TILE_K..][..TILE_K], 0);
            for (to, score) in to.iter_mut().zip(scores) {
                let weight = (exp2(score - highest) * INT8_ONE).round_ties_even() as i32;
                *to = weight as i16;
                sum += weight;
            }
            (stats.highest[row], stats.sum[row]) = (highest, sum as f32);
        }
    }

    fn merge(self, running: &mut Running, tile: &RowStats) {
        merge(running, tile);
    }

    fn weigh(self, weights: &Weights, values: &[f32], rows: usize, dim: usize, running: &Running, out: &mut [f32]) {
        for (strip, values) in values.as_chunks::<{ LANES * TILE_K }>().0.iter().enumerate() {
            for row in 0..rows {
                let mut sums = [0f32; LANES];
                for (weight, values) in weights.0[row * TILE_K..][..TILE_K].iter().zip(values.as_chunks::<LANES>().0) {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                }
                let out = &mut out[row * dim + strip * LANES..][..LANES];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *out * running.alpha[row] + sum * running.beta[row]);
            }
        }
    }

    fn weigh_integers(self, weights: &Weights, values: IntegerPanel<'_>, rows: usize, running: &Running, out: &mut [f32]) {
        let (dim, scales) = (values.scale.len(), values.scale.as_chunks::<LANES>().0);
        // SAFETY: the array is twice as large and aligned to 64; every bit pattern is an `i16`.
        let weights = unsafe { std::slice::from_raw_parts(weights.0.as_ptr().cast::<i16>(), weights.0.len()) };
        for (strip, (values, scales)) in values.values.as_chunks::<{ LANES * TILE_K * 2 }>().0.iter().zip(scales).enumerate() {
            for row in 0..rows {
                let mut sums = [0i32; LANES];
                let pairs = weights[row * TILE_K..][..TILE_K].as_chunks::<2>().0;
                for ([first, second], values) in pairs.iter().zip(values.as_chunks::<{ LANES * 4 }>().0) {
                    for (sum, value) in sums.iter_mut().zip(values.as_chunks::<4>().0) {
                        let (a, b) = pair_of(value);
                        *sum += i32::from(*first) * a + i32::from(*second) * b;
                    }
                }
                let out = &mut out[row * dim + strip * LANES..][..LANES];
                for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                    *out = *out * running.alpha[row] + sum as f32 * scale * running.beta[row];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twice the polynomial's error and three roundings.
    const EXP2_ERROR: f64 = 2e-7;

    #[test]
    fn exp2_keeps_its_bound_and_its_ends() {
        let mut x = -126.0f32;
        while x <= 0.0 {
            let want = f64::from(x).exp2();
            assert!((f64::from(exp2(x)) / want - 1.0).abs() <= EXP2_ERROR, "2^{x} = {}, want {want}", exp2(x));
            x += 0.003_1;
        }
        assert_eq!((exp2(0.0), exp2(-1.0), exp2(f32::NEG_INFINITY), exp2(-1e30)), (1.0, 0.5, 0.0, 0.0));
    }
}
