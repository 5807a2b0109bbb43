//! What a multiprocessor of each chip has: the numbers under occupancy and cycle budgets.
//!
//! Sources: (guide) CUDA C++ programming guide, tables "technical specifications per compute capability" and "throughput of
//! native arithmetic instructions"; (paper) the maker's architecture papers, peak divided by multiprocessors and boost clock;
//! (assumed) neither says it, and the page marks what rests on it.

/// Registers and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multiprocessor {
    /// 32-bit registers (guide).
    pub registers: u32,
    /// Registers are given to a warp in units of this many (guide).
    pub register_unit: u32,
    /// Shared memory in bytes, all blocks together (guide).
    pub shared_bytes: u32,
    /// Shared memory that the system takes of every block (guide).
    pub reserved_bytes: u32,
    /// Threads (guide).
    pub threads: u32,
    /// Blocks (guide).
    pub blocks: u32,
}

/// Lanes a clock; a warp instruction takes `32 / lanes` clocks of its pipe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pipes {
    /// Warp instructions issued a clock: one a scheduler (guide).
    pub issue: f64,
    /// f32 lanes (guide).
    pub fma: f64,
    /// Lanes of integer multiply-add, on the same units (guide).
    pub imad: f64,
    /// Lanes of integers, compares, selects and packing (guide).
    pub alu: f64,
    /// Lanes of exp2, rcp, rsqrt (guide).
    pub special: f64,
    /// Lanes of conversions between integers and floats (guide); with `converts_on_special` they are the special function's.
    pub convert: f64,
    /// Whether conversions take the special function units' time (assumed).
    pub converts_on_special: bool,
    /// Bytes that shared memory reads or writes a clock (guide).
    pub shared: f64,
    /// Bytes of the card's memory a clock: its rate over multiprocessors and boost clock [paper].
    pub memory: f64,
}

/// Tensor operations a clock, a multiplication and an addition being two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tensor {
    /// int8 into s32 (paper).
    pub int8: f64,
    /// f16 and bf16 into f32 (paper).
    pub half_f32: f64,
    /// f16 into f16 (paper).
    pub half_f16: f64,
    /// e4m3 into f32 (paper); none where the chip has no such instruction.
    pub fp8_f32: Option<f64>,
    /// e4m3 into f16 (paper).
    pub fp8_f16: Option<f64>,
    /// Share of those rates that instructions of a warp reach (`mma.sync`), where warpgroups have their own (`wgmma`)
    /// [assumed: 0.62 on 9.0, after published measurements of others].
    pub warp_share: f64,
}

/// One chip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// In nvcc's words.
    pub target: &'static str,
    /// The cards whose numbers these are.
    pub cards: &'static str,
    /// Registers and blocks.
    pub multiprocessor: Multiprocessor,
    /// Lanes.
    pub pipes: Pipes,
    /// Tensor operations.
    pub tensor: Tensor,
    /// What of it is assumed.
    pub assumed: &'static str,
}

const ISSUE: f64 = 4.0;
const SHARED: f64 = 128.0;

/// Chips that kernels are compiled for.
pub const CHIPS: [Limits; 5] = [
    Limits {
        target: "sm_80",
        cards: "A100 80 GB SXM",
        multiprocessor: multiprocessor(164, 2048, 32),
        pipes: Pipes {
            issue: ISSUE,
            fma: 64.0,
            imad: 64.0,
            alu: 64.0,
            special: 16.0,
            convert: 16.0,
            converts_on_special: true,
            shared: SHARED,
            memory: 2039.0 / (108.0 * 1.41),
        },
        tensor: Tensor { int8: 4096.0, half_f32: 2048.0, half_f16: 2048.0, fp8_f32: None, fp8_f16: None, warp_share: 1.0 },
        assumed: "conversions share the special function units",
    },
    Limits {
        target: "sm_86",
        cards: "RTX 3090",
        multiprocessor: multiprocessor(100, 1536, 16),
        pipes: geforce(936.0 / (82.0 * 1.695)),
        tensor: Tensor { int8: 1024.0, half_f32: 256.0, half_f16: 512.0, fp8_f32: None, fp8_f16: None, warp_share: 1.0 },
        assumed: "conversions share the special function units",
    },
    Limits {
        target: "sm_89",
        cards: "RTX 4090 (L40 and L40S: twice its rate of f16 and e4m3 into f32)",
        multiprocessor: multiprocessor(100, 1536, 24),
        pipes: geforce(1008.0 / (128.0 * 2.52)),
        tensor: GEFORCE_TENSOR,
        assumed: "conversions share the special function units",
    },
    Limits {
        target: "sm_90a",
        cards: "H100 and H200 SXM, memory of the H200",
        multiprocessor: multiprocessor(228, 2048, 32),
        pipes: Pipes {
            issue: ISSUE,
            fma: 128.0,
            imad: 64.0,
            alu: 64.0,
            special: 16.0,
            convert: 64.0,
            converts_on_special: false,
            shared: SHARED,
            memory: 4800.0 / (132.0 * 1.83),
        },
        tensor: Tensor { int8: 8192.0, half_f32: 4096.0, half_f16: 4096.0, fp8_f32: Some(8192.0), fp8_f16: Some(8192.0), warp_share: 0.62 },
        assumed: "mma.sync reaches 0.62 of the wgmma rate",
    },
    Limits {
        target: "sm_120a",
        cards: "RTX 5090",
        multiprocessor: multiprocessor(100, 1536, 24),
        pipes: geforce(1792.0 / (170.0 * 2.407)),
        tensor: GEFORCE_TENSOR,
        assumed: "lanes are those of 8.9; conversions share the special function units",
    },
];

const fn geforce(memory: f64) -> Pipes {
    Pipes {
        issue: ISSUE,
        fma: 128.0,
        imad: 64.0,
        alu: 64.0,
        special: 16.0,
        convert: 16.0,
        converts_on_special: true,
        shared: SHARED,
        memory,
    }
}

const GEFORCE_TENSOR: Tensor =
    Tensor { int8: 2048.0, half_f32: 512.0, half_f16: 1024.0, fp8_f32: Some(1024.0), fp8_f16: Some(2048.0), warp_share: 1.0 };

const fn multiprocessor(shared_kib: u32, threads: u32, blocks: u32) -> Multiprocessor {
    Multiprocessor { registers: 65_536, register_unit: 256, shared_bytes: shared_kib * 1024, reserved_bytes: 1024, threads, blocks }
}

/// The limits of a chip; none for one that is not known.
pub fn limits(target: &str) -> Option<&'static Limits> {
    CHIPS.iter().find(|chip| chip.target == target)
}

/// What keeps more blocks off a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
    /// Threads.
    Threads,
    /// The number of blocks itself.
    Blocks,
}

/// Blocks that a multiprocessor holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Occupancy {
    /// Blocks; none where not even one fits.
    pub blocks: u32,
    /// Warps of those blocks.
    pub warps: u32,
    /// Warps that the multiprocessor can hold.
    pub of_warps: u32,
    /// What keeps the next block off.
    pub limited_by: Holder,
}

impl Multiprocessor {
    /// How many blocks of `threads` threads with `registers` registers each and `shared_bytes` of shared memory fit at once.
    pub fn occupancy(&self, threads: u32, registers: u32, shared_bytes: u32) -> Occupancy {
        let warps = threads.div_ceil(32).max(1);
        let of_warp = (registers.max(1) * 32).next_multiple_of(self.register_unit);
        // a scheduler has a quarter of the registers, and warps are dealt out in turn
        let warps_by_registers = self.registers / 4 / of_warp * 4;
        let shared = shared_bytes + self.reserved_bytes;
        let (blocks, limited_by) = [
            (warps_by_registers / warps, Holder::Registers),
            (self.shared_bytes / shared, Holder::Shared),
            (self.threads / (warps * 32), Holder::Threads),
            (self.blocks, Holder::Blocks),
        ]
        .into_iter()
        .min_by_key(|(blocks, _)| *blocks)
        .unwrap_or((0, Holder::Blocks));
        Occupancy { blocks, warps: blocks * warps, of_warps: self.threads / 32, limited_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::device;

    #[test]
    fn occupancy_is_what_the_makers_calculator_says() {
        let of = |target, threads, registers, shared| {
            let held = limits(target).unwrap().multiprocessor.occupancy(threads, registers, shared);
            (held.blocks, held.warps, held.limited_by)
        };
        assert_eq!(of("sm_80", 256, 32, 0), (8, 64, Holder::Registers));
        assert_eq!(of("sm_80", 256, 255, 0), (1, 8, Holder::Registers));
        assert_eq!(of("sm_80", 256, 128, 0), (2, 16, Holder::Registers));
        assert_eq!(of("sm_80", 256, 64, 129 << 10), (1, 8, Holder::Shared));
        assert_eq!(of("sm_89", 128, 168, 48 << 10), (2, 8, Holder::Shared));
        assert_eq!(of("sm_89", 512, 32, 0), (3, 48, Holder::Threads));
        assert_eq!(of("sm_90a", 32, 16, 0), (32, 32, Holder::Blocks));
        // one warpgroup of producers and two of consumers: registers are dealt again at run time, the launch counts 168 of each
        assert_eq!(of("sm_90a", 384, 168, 200 << 10), (1, 12, Holder::Registers));
        assert_eq!(of("sm_90a", 128, 64, 240 << 10).0, 0);
    }

    #[test]
    fn a_block_never_has_more_shared_memory_than_the_launch_allows() {
        for chip in CHIPS {
            let block = device::Limits::of_target(chip.target).shared_bytes;
            let held = chip.multiprocessor.occupancy(128, 32, block);
            assert_eq!((held.blocks, held.limited_by), (1, Holder::Shared), "{}", chip.target);
            assert_eq!(chip.multiprocessor.shared_bytes - chip.multiprocessor.reserved_bytes, block, "{}", chip.target);
        }
    }
}
