//! Registers of `f32` lanes: every hot loop of this crate is written once over [`Lanes`] and compiled for each
//! instruction set.
//!
//! A loop is a value that implements [`Kernel`]; [`run`] picks the body for an [`Isa`]. Fused multiply-adds differ in
//! the last bit from the plain ones of the scalar body, so results depend on the instruction set (not on threads).

use turbowan_cuda::host::Isa;

#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Lanes that a panel of queries or keys is padded to: a multiple of every register width.
pub(crate) const LANE_GROUP: usize = 16;

/// A register of `f32` lanes.
///
/// # Safety
/// Methods may only be called where the instruction set of the implementor was detected; [`run`] sees to that.
/// Pointers must be valid for [`Lanes::WIDTH`] values; they need no alignment.
pub(crate) unsafe trait Lanes: Copy {
    /// Lanes of a register.
    const WIDTH: usize;
    /// Registers that a product may hold at once: 32, 16, or fewer where lanes are emulated.
    const REGISTERS: usize;

    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once where the machine can.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger of the two; `other` where one of them is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// The nearest integers, ties to even.
    unsafe fn round(self) -> Self;
    /// `self * 2^exponent` for whole exponents from -300 to 127; exactly zero below -126.
    unsafe fn scale_by_power(self, exponent: Self) -> Self;
    /// `positive` in the lanes where `self > 0`, `other` elsewhere.
    unsafe fn where_positive(self, positive: Self, other: Self) -> Self;
    /// The nearest bf16, ties to even; what is not a number stays one.
    unsafe fn round_to_bf16(self) -> Self;

    /// Sum of the lanes.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0f32; LANE_GROUP];
        // SAFETY: the array holds the widest register; the caller has the instruction set.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = Self::WIDTH;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }

    /// Largest of the lanes; lanes that are not numbers are passed over.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANE_GROUP];
        // SAFETY: the array holds the widest register; the caller has the instruction set.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `2^self` for `self <= 127`, within 2 units in the last place; exactly zero below about `2^-126`.
    ///
    /// `2^n * p(f)` with `n` the nearest integer and `p` the degree-6 polynomial of least relative error on
    /// `[-1/2, 1/2]` (1.9e-9). What is not a number stays one.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let x = Self::splat(-200.0).max(self);
            let n = x.round();
            let f = x.sub(n);
            let mut p = Self::splat(1.534_581_2e-4);
            for factor in [1.339_993_1e-3, 9.618_489e-3, 5.550_329e-2, 2.402_264_7e-1, 6.931_472e-1, 1.0] {
                p = p.mul_add(f, Self::splat(factor));
            }
            p.scale_by_power(n)
        }
    }

    /// `e^self` for `self <= 88`, within 2 units in the last place; exactly zero below about `2^-126`.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let log2_e = Self::splat(std::f32::consts::LOG2_E);
            let x = Self::splat(-160.0).max(self);
            let n = x.mul(log2_e).round();
            // x - n ln 2, with ln 2 in two parts, so that the reduced argument is exact to the last bit
            let r = n.mul_add(Self::splat(-0.693_359_4), x);
            let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.0 / 5040.0);
            for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                p = p.mul_add(r, Self::splat(factor));
            }
            p.scale_by_power(n)
        }
    }
}

/// A loop over registers. `run` must be `#[inline(always)]`, and so must what it calls, to be compiled with the
/// registers it is called with.
pub(crate) trait Kernel {
    /// What the loop gives back.
    type Output;

    /// The loop.
    ///
    /// # Safety
    /// As for [`Lanes`]; pointers inside `self` must be valid for what the loop says it reads and writes.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs `kernel` with the registers of `isa`, or without any where this machine lacks them.
///
/// # Safety
/// Pointers inside `kernel` are valid for what it says it reads and writes.
#[inline]
pub(crate) unsafe fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` keeps an instruction set only where it was detected; pointers by the caller.
        Isa::Avx512 => unsafe { x86::on_avx512(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::on_avx2(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of the target; pointers by the caller.
        Isa::Neon => unsafe { kernel.run::<neon::Neon>() },
        // SAFETY: plain lanes need nothing; pointers by the caller.
        _ => unsafe { kernel.run::<plain::Plain>() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Map<'a> {
        values: &'a mut [f32],
        is_base_two: bool,
    }

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for group in self.values.chunks_exact_mut(L::WIDTH) {
                // SAFETY: the group is one register wide.
                unsafe {
                    let x = L::load(group.as_ptr());
                    (if self.is_base_two { x.exp2() } else { x.exp() }).store(group.as_mut_ptr());
                }
            }
        }
    }

    /// Two units in the last place.
    const EXPONENTIAL: f64 = 2.4e-7;

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place_on_every_instruction_set() {
        for isa in Isa::available() {
            for is_base_two in [true, false] {
                let low = if is_base_two { -125.0 } else { -87.0 };
                let xs: Vec<f32> = (0..160_000).map(|step| low * step as f32 / 150_000.0).map(|x| x + 1.0).collect();
                let mut got = xs.clone();
                // SAFETY: the kernel reads and writes its own slice.
                unsafe { run(isa, Map { values: &mut got, is_base_two }) };
                for (x, got) in xs.iter().zip(&got) {
                    let want = if is_base_two { f64::from(*x).exp2() } else { f64::from(*x).exp() };
                    if want > 1.2e-38 {
                        assert!((f64::from(*got) / want - 1.0).abs() < EXPONENTIAL, "{isa:?}: of {x} got {got}, want {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn exponentials_keep_zero_infinity_and_what_is_not_a_number() {
        for isa in Isa::available() {
            for is_base_two in [true, false] {
                let mut values = [0.0f32; LANE_GROUP];
                values[..4].copy_from_slice(&[f32::NEG_INFINITY, -1e30, f32::NAN, 0.0]);
                // SAFETY: the kernel reads and writes its own slice.
                unsafe { run(isa, Map { values: &mut values, is_base_two }) };
                assert_eq!((values[0], values[1], values[3]), (0.0, 0.0, 1.0), "{isa:?}");
                assert!(values[2].is_nan(), "{isa:?}");
            }
        }
    }

    struct RoundToBf16<'a>(&'a mut [f32]);

    impl Kernel for RoundToBf16<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for group in self.0.chunks_exact_mut(L::WIDTH) {
                // SAFETY: the group is one register wide.
                unsafe { L::load(group.as_ptr()).round_to_bf16().store(group.as_mut_ptr()) };
            }
        }
    }

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
        let bits = (0..=u16::MAX).flat_map(|high| [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| u32::from(high) << 16 | low));
        let mut values: Vec<f32> = bits.map(f32::from_bits).collect();
        values.truncate(values.len() / LANE_GROUP * LANE_GROUP);
        let want: Vec<f32> = values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
        for isa in Isa::available() {
            let mut got = values.clone();
            // SAFETY: the kernel reads and writes its own slice.
            unsafe { run(isa, RoundToBf16(&mut got)) };
            assert!(got.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()), "{isa:?}");
        }
    }

    #[test]
    fn lanes_are_summed_and_compared_across() {
        struct Across([f32; LANE_GROUP]);
        impl Kernel for Across {
            type Output = (f32, f32, f32);

            #[inline(always)]
            unsafe fn run<L: Lanes>(self) -> (f32, f32, f32) {
                let mut last = [0.0; LANE_GROUP];
                // SAFETY: both arrays hold the widest register.
                unsafe {
                    let x = L::load(self.0.as_ptr());
                    x.where_positive(L::splat(1.0), L::splat(-1.0)).store(last.as_mut_ptr());
                    (x.sum(), x.largest(), last[0])
                }
            }
        }
        for isa in Isa::available() {
            // SAFETY: the kernel reads its own array.
            let (sum, largest, sign) = unsafe { run(isa, Across(std::array::from_fn(|lane| lane as f32 - 1.0))) };
            let width = largest + 2.0;
            assert_eq!((sum, sign), (width * (width - 3.0) / 2.0, -1.0), "{isa:?}");
        }
    }
}
