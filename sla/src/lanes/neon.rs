//! Lanes of Armv8 NEON.

use std::arch::aarch64::*;

use super::Lanes;

/// Four lanes.
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t);

// SAFETY: NEON is part of every aarch64 target this crate is built for.
unsafe impl Lanes for Neon {
    const WIDTH: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: valid for 4 values, by the trait's contract.
        Self(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vdivq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vfmaq_f32(term.0, self.0, factor.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as in `splat`. A comparison with what is not a number is false, so `other` is taken.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vrndnq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, exponent: Self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let n = vminq_f32(vdupq_n_f32(128.0), vmaxq_f32(vdupq_n_f32(-127.0), exponent.0));
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            Self(vmulq_f32(self.0, vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))))
        }
    }
    #[inline(always)]
    unsafe fn where_positive(self, positive: Self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, vdupq_n_f32(0.0)), positive.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round_to_bf16(self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            let kept = vbslq_u32(vceqq_f32(self.0, self.0), rounded, quiet);
            Self(vreinterpretq_f32_u32(vandq_u32(kept, vdupq_n_u32(0xffff_0000))))
        }
    }
}
