//! Lanes without intrinsics, for every machine.

use super::Lanes;

/// Four lanes that the compiler may place in a register.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

// SAFETY: needs no instruction set.
unsafe impl Lanes for Plain {
    const WIDTH: usize = 4;
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: valid for `WIDTH` values by the trait's contract.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: valid for `WIDTH` values by the trait's contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] * factor.0[lane] + term.0[lane]))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        /// `1.5 * 2^23`: what is added to it loses its fraction, ties to even.
        const WHOLE: f32 = 12_582_912.0;
        Self(self.0.map(|x| (x + WHOLE) - WHOLE))
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, exponent: Self) -> Self {
        self.zip(exponent, |x, n| x * f32::from_bits((((n.clamp(-127.0, 128.0) as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn where_positive(self, positive: Self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| if self.0[lane] > 0.0 { positive.0[lane] } else { other.0[lane] }))
    }
    #[inline(always)]
    unsafe fn round_to_bf16(self) -> Self {
        Self(self.0.map(|x| turbowan_cuda::Rounding::Bf16.apply(x)))
    }
}
