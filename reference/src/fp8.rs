//! The 8-bit float e4m3 (1 sign, 4 exponent bits of bias 7, 3 mantissa bits), in its "fn" form: no infinity, the
//! single pattern `S.1111.111` is not a number, the largest value is 448, subnormals step by `2^-9`.
//!
//! Encoding rounds to nearest, ties to even, and saturates (`cvt.rn.satfinite.e4m3x2.f32` of PTX); a value that is
//! not a number stays one.

/// Largest finite magnitude.
pub const MAX: f64 = 448.0;

/// The pattern nearest to `value`.
pub fn encode(value: f64) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | 0x7F;
    }
    let magnitude = value.abs().min(MAX);
    if magnitude == 0.0 {
        return sign;
    }
    // The binade decides the step: 2^(e - 3), never finer than the subnormals' 2^-9.
    let exponent = (magnitude.log2().floor() as i32).clamp(-6, 8);
    let exponent = if magnitude < 2f64.powi(exponent) && exponent > -6 { exponent - 1 } else { exponent };
    let steps = (magnitude / 2f64.powi(exponent - 3)).round_ties_even() as u32;
    // `steps` counts mantissa steps, hidden bit included; 16 carries into the next binade by itself.
    let code = if steps < 8 { steps } else { ((exponent + 7) as u32) * 8 + (steps - 8) };
    sign | code.min(0x7E) as u8
}

/// The value of a pattern.
pub fn decode(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 0xF), f64::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * 2f64.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

/// `value` as e4m3 keeps it.
pub fn round(value: f64) -> f64 {
    decode(encode(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_survives_a_round_trip() {
        for code in 0..=255u8 {
            match decode(code) {
                value if value.is_nan() => assert_eq!(encode(value) & 0x7F, 0x7F),
                value => assert_eq!(encode(value), code, "{value}"),
            }
        }
    }

    #[test]
    fn a_value_goes_to_the_nearest_neighbour_and_a_tie_to_the_even_one() {
        for code in 0..0x7Eu8 {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = (low + high) / 2.0;
            assert_eq!(encode(middle), if code % 2 == 0 { code } else { code + 1 }, "between {low} and {high}");
            assert_eq!(encode(middle - (high - low) * 1e-6), code);
            assert_eq!(encode(middle + (high - low) * 1e-6), code + 1);
        }
    }

    #[test]
    fn too_large_saturates() {
        assert_eq!((encode(449.0), encode(1e30), encode(-f64::INFINITY)), (0x7E, 0x7E, 0xFE));
    }
}
