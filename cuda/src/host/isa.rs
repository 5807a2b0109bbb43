//! Instruction sets, found once at run time.

use std::sync::OnceLock;

use crate::Error;

/// The widest instruction set that host loops may use on this machine.
///
/// `TURBOWAN_ISA=scalar|avx2|avx512|neon` lowers the choice (never raises it above what the machine has), so that
/// every path can be tested on a machine that has a wider one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, any machine.
    Scalar,
    /// Armv8 NEON.
    Neon,
    /// AVX2 + FMA + F16C.
    Avx2,
    /// AVX-512 F/BW/VL/DQ with VNNI.
    Avx512,
}

impl Isa {
    /// What this process uses, decided at the first call.
    pub fn detect() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| {
            let best = Self::best();
            match std::env::var("TURBOWAN_ISA").as_deref() {
                Ok("scalar") => Self::Scalar,
                Ok("avx2") if best >= Self::Avx2 => Self::Avx2,
                _ => best,
            }
        })
    }

    /// Every instruction set that this machine can run, widest last: what tests walk through.
    pub fn available() -> Vec<Self> {
        [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512].into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        let best = Self::best();
        match self {
            Self::Scalar => true,
            Self::Neon => best == Self::Neon,
            Self::Avx2 | Self::Avx512 => best >= self,
        }
    }

    /// This set where the machine has it, else [`Isa::Scalar`].
    pub fn or_scalar(self) -> Self {
        if self.is_available() { self } else { Self::Scalar }
    }

    /// Checks that this machine can run it.
    ///
    /// # Errors
    /// [`Error::MissingIsa`] when it cannot.
    pub fn demand(self) -> Result<(), Error> {
        if self.is_available() { Ok(()) } else { Err(Error::MissingIsa(self)) }
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            _ => Self::Scalar,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn best() -> Self {
        Self::Neon
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn best() -> Self {
        Self::Scalar
    }
}
