//! One plain loop, compiled once for each instruction set and chosen at run time.
//!
//! A loop over fixed-size lanes needs no intrinsics: the compiler turns `[f32; 16]` arithmetic into whatever registers
//! the enabled features offer. Multiplications and additions are never fused behind our back, so a [`Vectorised`] loop
//! gives the same bits on every instruction set.

use crate::host::Isa;

/// A loop that [`run`] compiles for each instruction set. Implement [`Vectorised::run`] with `#[inline(always)]`.
pub trait Vectorised {
    /// What the loop returns.
    type Output;
    /// The loop.
    fn run(self) -> Self::Output;
}

/// Runs `work` with the instructions of `isa`.
#[inline]
pub fn run<W: Vectorised>(isa: Isa, work: W) -> W::Output {
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` keeps `Isa::Avx512` only where these features were detected.
        Isa::Avx512 => unsafe { avx512(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` keeps `Isa::Avx2` only where these features were detected.
        Isa::Avx2 => unsafe { avx2(work) },
        _ => work.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn avx512<W: Vectorised>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<W: Vectorised>(work: W) -> W::Output {
    work.run()
}
