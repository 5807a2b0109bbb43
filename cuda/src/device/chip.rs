//! What a device is and how much of everything a block may ask of it.

/// A device as its driver describes it, or as the emulator was told to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    /// The driver's name, e.g. `NVIDIA H200`.
    pub name: String,
    /// Compute capability, e.g. `(9, 0)`.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Second-level cache in bytes.
    pub l2_bytes: u64,
    /// CUDA version of the driver, none for the emulator.
    pub driver: Option<(u32, u32)>,
    /// What a block may ask for.
    pub limits: Limits,
}

/// What a launch may ask of a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Shared memory of a block, static and dynamic together, in bytes.
    pub shared_bytes: u32,
    /// Threads of a block.
    pub threads: u32,
}

impl Limits {
    /// The largest grid: x, y, z.
    pub const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
    /// The largest block: x, y, z.
    pub const BLOCK: [u32; 3] = [1024, 1024, 64];

    /// Limits of a compute capability, from the tables of the CUDA programming guide. An unknown one is taken for the
    /// smallest.
    pub fn of(capability: (u32, u32)) -> Self {
        let kib = match capability {
            (8, 0 | 7) => 163,
            (9..=11, _) => 227,
            _ => 99,
        };
        Self { shared_bytes: kib * 1024, threads: 1024 }
    }

    /// Limits of a chip in nvcc's words, e.g. `sm_90a`.
    pub fn of_target(target: &str) -> Self {
        let digits: u32 = target.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(0);
        Self::of((digits / 10, digits % 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_that_of_the_programming_guide() {
        for (target, kib) in [("sm_80", 163), ("sm_86", 99), ("sm_89", 99), ("sm_90a", 227), ("sm_100a", 227), ("sm_120a", 99)] {
            assert_eq!(Limits::of_target(target).shared_bytes, kib * 1024, "{target}");
        }
    }
}
