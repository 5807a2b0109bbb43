//! Lanes of AVX-512 and of AVX2 with FMA.

use std::arch::x86_64::*;

use super::{Kernel, Lanes};

/// Runs a kernel in 512-bit registers.
///
/// # Safety
/// The machine has the features named here; pointers inside `kernel` are valid.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) unsafe fn on_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are enabled here; pointers by the caller.
    unsafe { kernel.run::<Avx512>() }
}

/// Runs a kernel in 256-bit registers.
///
/// # Safety
/// The machine has the features named here; pointers inside `kernel` are valid.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn on_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the features are enabled here; pointers by the caller.
    unsafe { kernel.run::<Avx2>() }
}

/// Bits that make a number that is not one quiet.
const QUIET: i32 = 0x0040_0000;
/// The upper half of a word: what bf16 keeps.
const UPPER: i32 = 0xffff_0000u32 as i32;

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

// SAFETY: every method uses AVX-512 F and DQ alone, as `on_avx512` enables them.
unsafe impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: valid for 16 values and AVX-512 present, by the trait's contract.
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX-512 present, by the trait's contract.
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as in `splat`. The instruction gives its second operand where one is not a number.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, exponent: Self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(exponent.0, _mm512_set1_ps(-126.0));
            Self(_mm512_maskz_scalef_ps(normal, self.0, exponent.0))
        }
    }
    #[inline(always)]
    unsafe fn where_positive(self, positive: Self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps());
            Self(_mm512_mask_blend_ps(mask, other.0, positive.0))
        }
    }
    #[inline(always)]
    unsafe fn round_to_bf16(self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(QUIET));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let kept = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
            Self(_mm512_castsi512_ps(_mm512_and_si512(kept, _mm512_set1_epi32(UPPER))))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

// SAFETY: every method uses AVX2 and FMA alone, as `on_avx2` enables them.
unsafe impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: valid for 8 values and AVX2 present, by the trait's contract.
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX2 present, by the trait's contract.
        Self(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as in `splat`. The instruction gives its second operand where one is not a number.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn scale_by_power(self, exponent: Self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let n = _mm256_min_ps(_mm256_set1_ps(128.0), _mm256_max_ps(_mm256_set1_ps(-127.0), exponent.0));
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))))
        }
    }
    #[inline(always)]
    unsafe fn where_positive(self, positive: Self, other: Self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let mask = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, _mm256_setzero_ps());
            Self(_mm256_blendv_ps(other.0, positive.0, mask))
        }
    }
    #[inline(always)]
    unsafe fn round_to_bf16(self) -> Self {
        // SAFETY: as in `splat`.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(QUIET));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let kept = _mm256_blendv_epi8(rounded, quiet, is_nan);
            Self(_mm256_castsi256_ps(_mm256_and_si256(kept, _mm256_set1_epi32(UPPER))))
        }
    }
}
