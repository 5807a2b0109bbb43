//! Number formats that activations and weights come in, and the rounding an operation stores with.

use half::{bf16, f16};

/// A floating-point format that every host operation reads by widening to `f32`.
pub trait Element: Copy + Send + Sync + 'static {
    /// The value as `f32`, exact.
    fn widen(self) -> f32;
    /// The nearest value of this format, ties to even.
    fn narrow(value: f32) -> Self;
    /// Widens a row; both slices have one length.
    fn widen_row(from: &[Self], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
    }
}

impl Element for f32 {
    fn widen(self) -> f32 {
        self
    }
    fn narrow(value: f32) -> Self {
        value
    }
    fn widen_row(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Element for bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

impl Element for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }
}

/// How an operation rounds what it stores.
///
/// The official pipeline keeps activations in bf16. On the host they stay in `f32` storage and are rounded to the
/// nearest bf16 wherever the official code would store one, so one code path serves both arithmetics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// Keep the `f32` result.
    #[default]
    None,
    /// Round to the nearest bf16, ties to even.
    Bf16,
}

impl Rounding {
    /// `value` as this rounding stores it.
    #[inline]
    pub fn apply(self, value: f32) -> f32 {
        match self {
            Self::None => value,
            Self::Bf16 => nearest_bf16(value),
        }
    }

    /// Rounds a row in place.
    pub fn apply_row(self, row: &mut [f32]) {
        if self == Self::Bf16 {
            for value in row {
                *value = nearest_bf16(*value);
            }
        }
    }
}

/// The bf16 nearest to `value`, ties to even, as `f32`; without a branch, so that loops over it vectorise.
#[inline(always)]
fn nearest_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // a value that is not a number must stay one: rounding up could carry it into infinity
    let kept = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    f32::from_bits(kept & 0xFFFF_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_agrees_with_the_half_crate_on_every_upper_half() {
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let want = bf16::from_f32(value).to_f32();
                assert_eq!(Rounding::Bf16.apply(value).to_bits(), want.to_bits(), "{value} ({:08x})", value.to_bits());
            }
        }
    }
}
