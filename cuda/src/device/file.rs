//! Kernel files as the build embedded them.

/// One `kernels/*.cu`.
#[derive(Debug)]
pub struct KernelFile {
    /// The file's name without its extension.
    pub name: &'static str,
    /// Machine code, where the build had an nvcc.
    pub compiled: Option<Compiled>,
}

/// What nvcc made of a kernel file.
#[derive(Debug)]
pub struct Compiled {
    /// Machine code for every chip, and PTX.
    pub fatbin: &'static [u8],
    /// CUDA release of the compiler, e.g. `(13, 0)`.
    pub release: (u32, u32),
    /// Chips with machine code, e.g. `sm_90a`.
    pub chips: &'static [&'static str],
    /// The PTX that later chips compile, e.g. `compute_89`.
    pub ptx: Option<&'static str>,
    /// What each kernel needs on each chip.
    pub usage: &'static [Usage],
    /// Chip, or `all`, and instructions that its code is meant to contain.
    pub instructions: &'static [(&'static str, &'static [&'static str])],
}

/// What one kernel needs on one chip, as ptxas said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The kernel.
    pub kernel: &'static str,
    /// The chip, e.g. `sm_90a`.
    pub chip: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread in bytes.
    pub stack_bytes: u32,
    /// Bytes that are stored to and loaded from local memory for want of registers.
    pub spill_bytes: u32,
    /// Static shared memory of a block in bytes.
    pub shared_bytes: u32,
}

impl Compiled {
    /// The machine code or PTX that a chip would run; none when the file is not for it.
    ///
    /// Machine code runs on its own capability and on later ones of the same major number, that of an `a` chip on that
    /// chip alone; PTX runs on every chip from its own on.
    pub fn code_for(&self, capability: (u32, u32)) -> Option<&'static str> {
        let wanted = capability.0 * 10 + capability.1;
        let runs = |target: &&&str| {
            let number = target.trim_start_matches("sm_");
            let of = number.trim_end_matches('a').parse::<u32>().unwrap_or(u32::MAX);
            if number.ends_with('a') { of == wanted } else { of / 10 == capability.0 && of <= wanted }
        };
        let number = |target: &&str| target.trim_start_matches("sm_").trim_end_matches('a').parse::<u32>().unwrap_or(0);
        let native = self.chips.iter().filter(runs).copied().max_by_key(number);
        let has_ptx = |ptx: &&str| ptx.trim_start_matches("compute_").parse().is_ok_and(|of: u32| of <= wanted);
        native.or(self.ptx.filter(has_ptx))
    }
}

/// An operation, and the kernel that a chip takes for it: what `turbowan doctor` shows and what launchers load.
#[derive(Debug, Clone, Copy)]
pub struct OpKernel {
    /// The operation, in a few words.
    pub op: &'static str,
    /// The kernel file and the kernel's name for a compute capability.
    pub choose: fn((u32, u32)) -> (&'static KernelFile, &'static str),
}

/// Puts the kernel files of a crate, built by its `build.rs`, where it stands: one `pub static` a file, and `ALL`.
#[macro_export]
macro_rules! embed_kernels {
    () => {
        include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_runs_its_own_code_or_an_earlier_minor_or_ptx() {
        let all = Compiled {
            fatbin: &[],
            release: (13, 0),
            chips: &["sm_80", "sm_89", "sm_90a", "sm_120a"],
            ptx: Some("compute_89"),
            usage: &[],
            instructions: &[],
        };
        let want = [
            ((7, 5), None),
            ((8, 0), Some("sm_80")),
            ((8, 6), Some("sm_80")),
            ((8, 9), Some("sm_89")),
            ((9, 0), Some("sm_90a")),
            ((10, 0), Some("compute_89")),
            ((12, 0), Some("sm_120a")),
            ((12, 1), Some("compute_89")),
        ];
        for (capability, code) in want {
            assert_eq!(all.code_for(capability), code, "{capability:?}");
        }
        let hopper = Compiled { chips: &["sm_90a"], ptx: None, ..all };
        assert_eq!(hopper.code_for((9, 0)), Some("sm_90a"));
        assert_eq!(hopper.code_for((10, 0)), None);
    }
}
