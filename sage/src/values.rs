//! Values as e4m3, with one scale a channel, in the layouts that the official fp8 kernels read.

use turbowan_cuda::host::par::{Shared, for_each_task};
use turbowan_cuda::{AttnShape, Element, Error as OperandError};

use crate::quantise::read_head;
use crate::{Error, Sage};

/// Values of every head in e4m3.
#[derive(Debug, Clone, PartialEq)]
pub struct Fp8Values {
    /// Patterns, tokens innermost: `[problems, head_dim, padded_len]`; padding is 0.
    pub transposed: Vec<u8>,
    /// `amax / scale_max` of each channel, `[problems, head_dim]`. A channel of zeros has scale 0.
    pub scales: Vec<f32>,
    /// Tokens a channel, padding included.
    pub padded_len: usize,
}

/// Source token of each place inside a group of 16: the order in which a tensor-core fragment wants them.
pub const TOKEN_ORDER: [usize; 16] = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];

impl Fp8Values {
    /// The patterns with the tokens of every 16 in [`TOKEN_ORDER`]; needs a padded length that 16 divides.
    pub fn permuted(&self) -> Vec<u8> {
        self.transposed.chunks_exact(16).flat_map(|group| TOKEN_ORDER.map(|source| group[source])).collect()
    }
}

/// Quantises values to e4m3 so that the largest of a channel becomes `scale_max` (448, or 2.25 for sums in f16), padding
/// the tokens with zeros to a multiple of `pad`.
///
/// # Errors
/// When the operand does not fit `shape`, `pad` is zero, or `scale_max` is outside `(0, 448]`.
pub fn quantise_values<T: Element>(v: &[T], shape: &AttnShape, scale_max: f32, pad: usize, sage: &Sage) -> Result<Fp8Values, Error> {
    OperandError::expect_len("values", v, shape.key_values())?;
    sage.with_values(crate::ValuePrecision::Fp8 { scale_max }).check()?;
    if pad == 0 {
        return Err(Error::Setting { what: "token padding", must: "at least 1", found: 0.0 });
    }
    let (width, padded_len) = (shape.head_dim, shape.key_len.next_multiple_of(pad));
    let mut transposed = vec![0; shape.problems() * width * padded_len];
    let mut scales = vec![0.0; shape.problems() * width];
    let (shared, shared_scales) = (Shared::new(&mut transposed), Shared::new(&mut scales));
    for_each_task(shape.problems(), |problem| {
        let rows = read_head(v, shape, shape.key_offset(problem, 0), shape.key_len, sage.operands);
        // SAFETY: every problem has its own channels and scales.
        let (codes, scales) =
            unsafe { (shared.part(problem * width * padded_len, width * padded_len), shared_scales.part(problem * width, width)) };
        let amax = channel_amax(&rows, width);
        for (scale, amax) in scales.iter_mut().zip(&amax) {
            *scale = amax / scale_max;
        }
        for (token, row) in rows.chunks_exact(width).enumerate() {
            for (channel, (value, amax)) in row.iter().zip(&amax).enumerate() {
                codes[channel * padded_len + token] = encode_e4m3(value * e4m3_factor(scale_max, *amax));
            }
        }
    });
    Ok(Fp8Values { transposed, scales, padded_len })
}

/// What a channel is multiplied by so that its largest magnitude becomes `scale_max`: a product with the reciprocal, as the
/// official kernels are built with fast division. A channel of zeros stays so.
pub(crate) fn e4m3_factor(scale_max: f32, amax: f32) -> f32 {
    if amax > 0.0 { scale_max * (1.0 / amax) } else { 0.0 }
}

/// Largest magnitude of each channel.
pub(crate) fn channel_amax(rows: &[f32], width: usize) -> Vec<f32> {
    let mut amax = vec![0f32; width];
    for row in rows.chunks_exact(width) {
        amax.iter_mut().zip(row).for_each(|(amax, value)| *amax = amax.max(value.abs()));
    }
    amax
}

/// The nearest e4m3 value, ties to even, saturating at 448; what is not a number stays so.
#[inline(always)]
pub(crate) fn round_e4m3(value: f32) -> f32 {
    /// Adding and taking away `1.5 * 2^(23 - 9)` leaves a multiple of `2^-9`, the step of the subnormals.
    const SUBNORMAL: f32 = 1.5 * 16384.0;
    let bits = value.abs().min(448.0).to_bits();
    // 20 of the 23 mantissa bits go; a carry moves into the next binade by itself.
    let normal = f32::from_bits((bits + 0x7_FFFF + (bits >> 20 & 1)) & !0xF_FFFF);
    let subnormal = (f32::from_bits(bits) + SUBNORMAL) - SUBNORMAL;
    let magnitude = if f32::from_bits(bits) < 0.015_625 { subnormal } else { normal };
    if value.is_nan() { value } else { magnitude.copysign(value) }
}

/// The pattern of the nearest e4m3 value.
pub(crate) fn encode_e4m3(value: f32) -> u8 {
    let rounded = round_e4m3(value);
    let sign = (rounded.to_bits() >> 24) as u8 & 0x80;
    let magnitude = rounded.abs();
    let code = if rounded.is_nan() {
        0x7F
    } else if magnitude < 0.015_625 {
        (magnitude * 512.0) as u8
    } else {
        // f32's exponent has bias 127, e4m3's 7: both sit right above the mantissa.
        ((magnitude.to_bits() >> 20) - (120 << 3)) as u8
    };
    sign | code
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference::fp8;
    use turbowan_reference::inputs::normal;

    #[test]
    fn e4m3_is_the_oracle_s_on_every_scale() {
        for scale in [1e-4f32, 0.003, 0.02, 1.0, 60.0, 300.0] {
            for value in normal(4000, 11).iter().map(|v| v * scale).chain([0.0, -0.0, 448.0, 464.0, 1e9, f32::NAN]) {
                assert_eq!(encode_e4m3(value), fp8::encode(f64::from(value)), "{value}");
                let want = fp8::round(f64::from(value)) as f32;
                assert!(round_e4m3(value) == want || want.is_nan() && round_e4m3(value).is_nan(), "{value}");
            }
        }
        for code in 0..0x7Eu8 {
            let tie = ((fp8::decode(code) + fp8::decode(code + 1)) / 2.0) as f32;
            assert_eq!(encode_e4m3(tie), fp8::encode(f64::from(tie)));
        }
    }

    #[test]
    fn layouts_are_the_oracle_s() {
        let shape = AttnShape::new(1, 2, 70, 24).unwrap();
        let v = normal(shape.key_values(), 3);
        let got = quantise_values(&v, &shape, 2.25, 64, &Sage::default()).unwrap();
        for (problem, head) in v.chunks(70 * 24).enumerate() {
            let want = turbowan_reference::sage::quantise_values(head, 24, 2.25, 64);
            assert_eq!(got.transposed[problem * 24 * 128..][..24 * 128], want.transposed);
            assert_eq!(got.scales[problem * 24..][..24], want.scales);
            assert_eq!(got.permuted()[problem * 24 * 128..][..24 * 128], turbowan_reference::sage::permute_tokens(&want.transposed));
        }
    }

    #[test]
    fn a_scale_that_e4m3_cannot_hold_is_refused() {
        let shape = AttnShape::new(1, 1, 2, 4).unwrap();
        assert!(quantise_values(&[0f32; 8], &shape, 500.0, 64, &Sage::default()).is_err());
        assert!(quantise_values(&[0f32; 8], &shape, 448.0, 0, &Sage::default()).is_err());
        assert!(quantise_values(&[0f32; 7], &shape, 448.0, 64, &Sage::default()).is_err());
    }
}
