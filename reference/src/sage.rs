//! INT8 SageAttention in the order of its equations, one head at a time.
//!
//! ```text
//!   k'     = k - mean_j k[j]                               smooth-K: softmax does not see it
//!   q8     = round(q / sq),  k8 = round(k' / sk)           one scale a group of rows
//!   s      = (q8 . k8) sq sk / sqrt(D)                     the integer sum is exact
//!   o      = softmax(s) v                                  v in f32, or both factors in e4m3
//! ```
//!
//! Zhang et al., "SageAttention" (2410.02367), section 4, and "SageAttention2" (2411.10958), sections 3.1 and 3.3;
//! SpargeAttn's quantiser is the one that SageSLA uses. The quantisers are `f32` on purpose: they are the official
//! arithmetic, operation by operation, because an INT8 value that differs by one is another value. Attention over what
//! they give is `f64`.

use crate::attention::{Attended, Mask, weigh};
use crate::fp8;

/// Number formats that a stored intermediate is rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Kept as it is.
    F32,
    /// Nearest bf16, ties to even.
    Bf16,
    /// Nearest f16, ties to even.
    F16,
}

impl Stored {
    /// `value` as this format keeps it.
    pub fn round(self, value: f32) -> f32 {
        // A format of `digits` significant bits, whose smallest normal is 2^low: round to a multiple of the last place.
        let (digits, low, largest) = match self {
            Self::F32 => return value,
            Self::Bf16 => (8, -126, f64::from(f32::MAX)),
            Self::F16 => (11, -14, 65504.0),
        };
        if value == 0.0 || !value.is_finite() {
            return value;
        }
        let exponent = ((value.to_bits() >> 23 & 0xFF) as i32 - 127).max(low);
        let place = 2f64.powi(exponent - digits + 1);
        let rounded = (f64::from(value) / place).round_ties_even() * place;
        if rounded.abs() > largest { f32::INFINITY.copysign(value) } else { rounded as f32 }
    }
}

/// How a group of rows becomes INT8; `a` is the largest magnitude in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `scale = a / 127`; `x / scale`, half away from zero (Triton, per block). An all-zero group has scale 0 and values 0.
    HalfAway,
    /// `scale = a / 127 + 1e-7`; `x / scale`, half away from zero (Triton per thread, SpargeAttn).
    HalfAwayEpsilon,
    /// `scale = b / 127` with `b = max(a, 1e-7)`; `x * (127 * (1 / b))`, half to even, saturating (CUDA `cvt.rni.sat`; the
    /// kernel's `127 / b` is built with fast division, which is a product with the reciprocal).
    HalfEven,
}

impl Rule {
    /// The scale of a group whose largest magnitude is `amax`.
    pub fn scale(self, amax: f32) -> f32 {
        match self {
            Self::HalfAway => amax / 127.0,
            Self::HalfAwayEpsilon => amax / 127.0 + 1e-7,
            Self::HalfEven => amax.max(1e-7) / 127.0,
        }
    }

    /// One value of a group with this scale and largest magnitude.
    pub fn round(self, value: f32, amax: f32) -> i8 {
        let scale = self.scale(amax);
        match self {
            Self::HalfEven => (value * (127.0 * (1.0 / amax.max(1e-7)))).round_ties_even().clamp(-128.0, 127.0) as i8,
            _ if scale == 0.0 => 0,
            _ => {
                let steps = value / scale;
                (steps + if steps >= 0.0 { 0.5 } else { -0.5 }).trunc() as i8
            }
        }
    }
}

/// Group of `row` when `rows` consecutive rows share a scale.
pub fn group_of_block(row: usize, rows: usize) -> usize {
    row / rows
}

/// Group of a query `row`, one scale a thread: 8 in each `warp` rows, rows that are equal modulo 8 together.
pub fn query_group_of_thread(row: usize, warp: usize) -> usize {
    row / warp * 8 + row % 8
}

/// Group of a key `row`, one scale a thread: 4 in each `warp` rows, neighbours in pairs modulo 8 together.
pub fn key_group_of_thread(row: usize, warp: usize) -> usize {
    row / warp * 4 + row % 8 / 2
}

/// Mean row of `rows` (`[len, width]`), summed in `f64`, stored as `stored`.
pub fn mean_row(rows: &[f32], width: usize, stored: Stored) -> Vec<f32> {
    let len = (rows.len() / width) as f64;
    let sum_of = |channel: usize| rows.iter().skip(channel).step_by(width).map(|v| f64::from(*v)).sum::<f64>();
    (0..width).map(|channel| stored.round((sum_of(channel) / len) as f32)).collect()
}

/// `rows - mean`, each difference stored as `stored`.
pub fn subtract_row(rows: &[f32], mean: &[f32], stored: Stored) -> Vec<f32> {
    rows.iter().zip(mean.iter().cycle()).map(|(value, mean)| stored.round(value - mean)).collect()
}

/// Quantises `rows` (`[len, width]`) times `factor`; `group[row]` is below `groups`. Returns INT8 rows and scales.
pub fn quantise(rows: &[f32], width: usize, factor: f32, group: &[usize], groups: usize, rule: Rule) -> (Vec<i8>, Vec<f32>) {
    let scaled: Vec<f32> = rows.iter().map(|value| value * factor).collect();
    let mut amax = vec![0f32; groups];
    for (row, group) in scaled.chunks_exact(width).zip(group) {
        amax[*group] = row.iter().fold(amax[*group], |amax, value| amax.max(value.abs()));
    }
    let values = scaled.chunks_exact(width).zip(group).flat_map(|(row, group)| row.iter().map(|v| rule.round(*v, amax[*group])));
    (values.collect(), amax.iter().map(|amax| rule.scale(*amax)).collect())
}

/// Values in e4m3, one scale a channel, as `x * (scale_max * (1 / amax))` in `f32`; a channel of zeros has scale 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Fp8Values {
    /// Patterns in token order, `[width, padded_len]`; padding is 0.
    pub transposed: Vec<u8>,
    /// `amax / scale_max` of each channel.
    pub scales: Vec<f32>,
    /// Tokens a row of `transposed`.
    pub padded_len: usize,
}

/// Quantises `value` (`[len, width]`) to e4m3; rows of the result are padded to a multiple of `pad` tokens.
pub fn quantise_values(value: &[f32], width: usize, scale_max: f32, pad: usize) -> Fp8Values {
    let len = value.len() / width;
    let padded_len = len.next_multiple_of(pad);
    let (mut transposed, mut scales) = (vec![0; width * padded_len], Vec::with_capacity(width));
    for channel in 0..width {
        let column = || value.iter().skip(channel).step_by(width);
        let amax = column().fold(0f32, |amax, v| amax.max(v.abs()));
        scales.push(amax / scale_max);
        if amax > 0.0 {
            for (code, v) in transposed[channel * padded_len..].iter_mut().zip(column()) {
                *code = fp8::encode(f64::from(v * (scale_max * (1.0 / amax))));
            }
        }
    }
    Fp8Values { transposed, scales, padded_len }
}

/// Source token of each place inside a group of 16, in the layout that the official fp8 kernels read values in.
pub const TOKEN_ORDER: [usize; 16] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];

/// `transposed` with the tokens of every 16 in [`TOKEN_ORDER`]; its length is a multiple of 16.
pub fn permute_tokens(transposed: &[u8]) -> Vec<u8> {
    transposed.chunks_exact(16).flat_map(|group| TOKEN_ORDER.map(|source| group[source])).collect()
}

/// INT8 queries and keys with the scale of each row.
#[derive(Debug, Clone, Copy)]
pub struct Int8Head<'a> {
    /// INT8 queries, `[query_len, width]`.
    pub query: &'a [i8],
    /// Scale of each query row.
    pub query_scale: &'a [f32],
    /// INT8 keys, `[key_len, width]`.
    pub key: &'a [i8],
    /// Scale of each key row.
    pub key_scale: &'a [f32],
    /// Channels a row.
    pub width: usize,
    /// What else multiplies a score: `1 / sqrt(D)`, or `ln 2` where `log2(e) / sqrt(D)` is inside the query scales.
    pub scale: f64,
}

impl Int8Head<'_> {
    /// Natural scores of query `row`; minus infinity where the mask hides a key.
    fn scores(&self, row: usize, mask: Mask<'_>) -> Vec<f64> {
        let query = &self.query[row * self.width..][..self.width];
        let keys = self.key.chunks_exact(self.width).zip(self.key_scale).enumerate();
        keys.map(|(key, (values, key_scale))| match mask.shows(row, key, self.key_scale.len()) {
            true => {
                let sum: i32 = query.iter().zip(values).map(|(q, k)| i32::from(*q) * i32::from(*k)).sum();
                f64::from(sum) * f64::from(self.query_scale[row]) * f64::from(*key_scale) * self.scale
            }
            false => f64::NEG_INFINITY,
        })
        .collect()
    }

    /// Attention with exact probabilities and values (`[key_len, width]`).
    pub fn attend(&self, value: &[f32], mask: Mask<'_>) -> Attended {
        let mut attended = Attended { out: Vec::new(), lse: Vec::new() };
        for row in 0..self.query_scale.len() {
            let (out, lse) = weigh(&self.scores(row, mask), value, self.width);
            attended.out.extend(out);
            attended.lse.push(lse);
        }
        attended
    }

    /// Attention with e4m3 probabilities and values, as the fp8 kernels do it: in steps of `key_step` keys, with `m` the
    /// largest base-2 score so far, `p = 2^(s - m + 8.807)` is rounded to e4m3 for the product and left alone in the
    /// denominator.
    pub fn attend_fp8(&self, value: &Fp8Values, key_step: usize, mask: Mask<'_>) -> Vec<f64> {
        /// `log2(448)`, as the official kernels write it.
        const OFFSET: f64 = 8.807;
        let mut out = Vec::new();
        for row in 0..self.query_scale.len() {
            let scores: Vec<f64> = self.scores(row, mask).iter().map(|s| s * std::f64::consts::LOG2_E).collect();
            let (mut highest, mut sum, mut acc) = (f64::MIN, 0.0, vec![0.0; self.width]);
            for (step, scores) in scores.chunks(key_step).enumerate() {
                let now = scores.iter().copied().fold(highest, f64::max);
                let fade = (highest - now).exp2();
                highest = now;
                sum *= fade;
                acc.iter_mut().for_each(|acc| *acc *= fade);
                for (index, score) in scores.iter().enumerate() {
                    let weight = (score - now + OFFSET).exp2();
                    sum += weight;
                    let (weight, token) = (fp8::round(weight), step * key_step + index);
                    for (channel, acc) in acc.iter_mut().enumerate() {
                        *acc += weight * fp8::decode(value.transposed[channel * value.padded_len + token]);
                    }
                }
            }
            let scaled = acc.iter().zip(&value.scales).map(|(acc, scale)| if sum > 0.0 { acc / sum * f64::from(*scale) } else { 0.0 });
            out.extend(scaled);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{Head, attend};
    use crate::inputs::{Kind, normal, rows};
    use crate::metrics::{Bound, Verdict};

    #[test]
    fn rounding_to_a_format_keeps_its_values_and_splits_ties_to_even() {
        assert_eq!(Stored::Bf16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(Stored::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(Stored::F16.round(65519.0), 65504.0);
        assert_eq!(Stored::F16.round(65520.0), f32::INFINITY);
        assert_eq!(Stored::F16.round(2f32.powi(-25) * 1.01), 2f32.powi(-24));
        assert_eq!(Stored::F16.round(2f32.powi(-25)), 0.0);
    }

    #[test]
    fn a_group_of_zeros_is_zero_and_the_largest_value_is_127() {
        for rule in [Rule::HalfAway, Rule::HalfAwayEpsilon, Rule::HalfEven] {
            assert_eq!(rule.round(0.0, 0.0), 0);
            assert_eq!((rule.round(3.0, 3.0), rule.round(-3.0, 3.0)), (127, -127));
        }
        assert_eq!((Rule::HalfAway.round(0.5, 127.0), Rule::HalfEven.round(0.5, 127.0)), (1, 0));
    }

    /// Queries and keys each carry rounding noise of about 1/254 of their largest value, near 1/70 of a typical one.
    const INT8_SCORES: Bound = Bound::relative_l2(0.02);
    /// e4m3 keeps 3 bits: up to 1/16 of each probability and of each value, averaged over the keys.
    const FP8_PRODUCT: Bound = Bound::relative_l2(0.05);

    #[test]
    fn smoothed_int8_attention_is_near_the_exact_one_where_keys_are_biased() {
        let (q, k, v) = (normal(30 * 64, 1), rows(Kind::Biased, 70, 64, 2), normal(70 * 64, 3));
        let mean = mean_row(&k, 64, Stored::F32);
        let smooth = subtract_row(&k, &mean, Stored::F32);
        let query_groups: Vec<usize> = (0..30).map(|row| query_group_of_thread(row, 32)).collect();
        let key_groups: Vec<usize> = (0..70).map(|row| key_group_of_thread(row, 64)).collect();
        let (q8, qs) = quantise(&q, 64, 1.0, &query_groups, 8, Rule::HalfAwayEpsilon);
        let (k8, ks) = quantise(&smooth, 64, 1.0, &key_groups, 8, Rule::HalfAwayEpsilon);
        let query_scale: Vec<f32> = query_groups.iter().map(|group| qs[*group]).collect();
        let key_scale: Vec<f32> = key_groups.iter().map(|group| ks[*group]).collect();
        let head = Int8Head { query: &q8, query_scale: &query_scale, key: &k8, key_scale: &key_scale, width: 64, scale: 0.125 };
        let want = attend(Head { query: &q, key: &k, value: &v, head_dim: 64 }, Mask::None).out;
        Verdict::of(&head.attend(&v, Mask::None).out, &want, INT8_SCORES).demand("f32 values");
        let fp8 = quantise_values(&v, 64, 448.0, 64);
        Verdict::of(&head.attend_fp8(&fp8, 64, Mask::None), &want, FP8_PRODUCT).demand("fp8 values");
    }
}
