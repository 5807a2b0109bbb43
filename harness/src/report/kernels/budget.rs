//! How long a pass of a hot loop must take on each pipe of a multiprocessor, from the instructions alone.
//!
//! A *prediction*: it knows which instructions there are and how many a clock each pipe takes. It knows nothing of latencies,
//! bank conflicts, waiting for memory, or clocks that drop under load, so that a kernel can be slower. A loop has two budgets:
//! of all its instructions, each once, also those that a branch skips in most passes (tails, the first key of a row), and of
//! the shortest way through it; the truth lies between. A share of the tensor peak is the tensor pipe's clocks over those of the busiest pipe.

use serde::Serialize;

use super::chips::{Limits, Tensor};
use super::sass::Instruction;

/// Instructions of one pass, by pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// All of them.
    pub issued: u32,
    /// Matrix products of warps.
    pub warp_tensor: u32,
    /// Matrix products of warpgroups.
    pub group_tensor: u32,
    /// exp2, rcp, rsqrt.
    pub special: u32,
    /// Conversions between integers and floats.
    pub convert: u32,
    /// f32 and packed f16 arithmetic.
    pub fma: u32,
    /// Integer multiply-add, moves by it included.
    pub imad: u32,
    /// Other integers, compares, selects, packing.
    pub alu: u32,
    /// Shared memory: loads, stores, shuffles, and copies that go there.
    pub shared: u32,
    /// Global memory: loads, stores, copies.
    pub global: u32,
    /// Branches and calls.
    pub branch: u32,
    /// Barriers and waits.
    pub sync: u32,
    /// The uniform datapath, and everything else.
    pub other: u32,
}

/// Clocks of a multiprocessor that one pass of one warp takes on each pipe.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Clocks {
    /// Issue slots.
    pub issue: f64,
    /// Tensor cores.
    pub tensor: f64,
    /// Special functions, with the conversions where they share it.
    pub special: f64,
    /// Conversions, where they do not.
    pub convert: f64,
    /// f32 lanes, integer multiply-add included.
    pub fma: f64,
    /// Integer lanes.
    pub alu: f64,
    /// Shared memory.
    pub shared: f64,
    /// The card's memory, as if no cache held anything; of instructions without products alone.
    pub memory: f64,
}

/// A hot loop's budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Budget {
    /// Instructions of a pass.
    pub counts: Counts,
    /// Clocks of a pass.
    pub clocks: Clocks,
    /// Operations of a pass, a multiplication and an addition being two.
    pub operations: f64,
    /// The busiest pipe.
    pub bound: &'static str,
    /// Predicted share of the tensor peak: that of warpgroups, where the chip has them. Without products it is the share of the
    /// memory's bandwidth.
    pub share_of_peak: f64,
}

/// A pipe of [`Counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipe {
    WarpTensor,
    GroupTensor,
    Special,
    Convert,
    Fma,
    Imad,
    Alu,
    Shared,
    /// A copy from global to shared memory takes time on both.
    Copy,
    Global,
    Branch,
    Sync,
    Other,
}

impl Pipe {
    fn of(instruction: &Instruction) -> Self {
        let root = instruction.root();
        if instruction.is_tensor() {
            return if root.ends_with("GMMA") || root.starts_with("UTC") { Self::GroupTensor } else { Self::WarpTensor };
        }
        match root {
            "MUFU" => Self::Special,
            "I2F" | "F2I" | "F2F" | "FRND" | "I2I" => Self::Convert,
            "FFMA" | "FMUL" | "FADD" | "FFMA2" | "FMUL2" | "FADD2" | "HFMA2" | "HADD2" | "HMUL2" | "FSWZADD" => Self::Fma,
            "IMAD" | "IMUL" | "IDP" => Self::Imad,
            "LDS" | "STS" | "LDSM" | "STSM" | "SHFL" | "ATOMS" | "REDUX" => Self::Shared,
            "LDGSTS" => Self::Copy,
            "LDG" | "STG" | "LD" | "ST" | "LDL" | "STL" | "RED" | "ATOMG" | "ATOM" | "UBLKCP" | "UTMALDG" | "UTMASTG" | "UBLKRED" => {
                Self::Global
            }
            "BRA" | "BRX" | "JMP" | "CALL" | "RET" | "EXIT" | "BSSY" | "BSYNC" | "WARPSYNC" | "BREAK" => Self::Branch,
            "BAR" | "SYNCS" | "DEPBAR" | "LDGDEPBAR" | "WARPGROUP" | "WARPGROUPSET" | "MEMBAR" | "FENCE" | "ERRBAR" | "UTMACMDFLUSH"
            | "USETMAXREG" | "NANOSLEEP" | "YIELD" | "ARRIVES" | "CCTL" => Self::Sync,
            "IADD3" | "IADD" | "LOP3" | "SHF" | "SEL" | "FSEL" | "ISETP" | "FSETP" | "HSETP2" | "FMNMX" | "FMNMX3" | "HMNMX2" | "IMNMX"
            | "VIMNMX" | "VIMNMX3" | "VIADD" | "VIADDMNMX" | "PRMT" | "LEA" | "PLOP3" | "MOV" | "CS2R" | "I2FP" | "F2FP" | "P2R"
            | "R2P" | "POPC" | "FLO" | "BREV" | "IABS" | "VOTE" | "FCHK" | "SGXT" | "BMSK" | "LOP" | "VABSDIFF" => Self::Alu,
            _ => Self::Other,
        }
    }
}

impl Budget {
    /// The budget of instructions on a chip; none where a product is of a kind that the chip's table does not have.
    pub fn of(instructions: &[&Instruction], chip: &Limits) -> Option<Self> {
        let (mut counts, mut clocks, mut operations) = (Counts::default(), Clocks::default(), 0.0);
        let (mut imad_lanes, mut memory_bytes) = (0.0, 0.0);
        for instruction in instructions {
            counts.issued += 1;
            let pipe = Pipe::of(instruction);
            match pipe {
                Pipe::WarpTensor | Pipe::GroupTensor => {
                    let product = Product::of(&instruction.name)?;
                    let is_group = pipe == Pipe::GroupTensor;
                    // four warps issue the product of a warpgroup together
                    let of_warp = product.operations() / if is_group { 4.0 } else { 1.0 };
                    let rate = product.rate(&chip.tensor)? * if is_group { 1.0 } else { chip.tensor.warp_share };
                    operations += of_warp;
                    clocks.tensor += of_warp / rate;
                    if is_group {
                        counts.group_tensor += 1;
                        // its right side is read from shared memory, and the left one where it has no registers
                        let left = if instruction.is_left_shared { product.left_bytes() } else { 0.0 };
                        clocks.shared += (product.right_bytes() + left) / 4.0 / chip.pipes.shared;
                    } else {
                        counts.warp_tensor += 1;
                    }
                }
                Pipe::Special => counts.special += 1,
                Pipe::Convert => counts.convert += 1,
                Pipe::Fma => counts.fma += 1,
                Pipe::Imad => {
                    counts.imad += 1;
                    imad_lanes += 1.0;
                }
                Pipe::Alu => counts.alu += 1,
                Pipe::Shared => {
                    counts.shared += 1;
                    clocks.shared += access_bytes(instruction) / chip.pipes.shared;
                }
                Pipe::Copy => {
                    counts.shared += 1;
                    counts.global += 1;
                    clocks.shared += access_bytes(instruction) / chip.pipes.shared;
                    memory_bytes += access_bytes(instruction);
                }
                Pipe::Global => {
                    counts.global += 1;
                    memory_bytes += access_bytes(instruction);
                }
                Pipe::Branch => counts.branch += 1,
                Pipe::Sync => counts.sync += 1,
                Pipe::Other => counts.other += 1,
            }
        }
        let lanes = |count: u32, lanes: f64| f64::from(count) * 32.0 / lanes;
        clocks.issue = f64::from(counts.issued) / chip.pipes.issue;
        clocks.special = lanes(counts.special, chip.pipes.special);
        let convert = lanes(counts.convert, chip.pipes.convert);
        if chip.pipes.converts_on_special {
            clocks.special += convert;
        } else {
            clocks.convert = convert;
        }
        clocks.fma = lanes(counts.fma, chip.pipes.fma) + imad_lanes * 32.0 / chip.pipes.imad;
        clocks.alu = lanes(counts.alu, chip.pipes.alu);
        let has_products = counts.warp_tensor + counts.group_tensor > 0;
        if !has_products {
            clocks.memory = memory_bytes / chip.pipes.memory;
        }
        let (bound, busiest) = clocks.busiest();
        if busiest == 0.0 {
            return None;
        }
        let peak_clocks = clocks.memory + clocks.tensor * if counts.group_tensor > 0 { 1.0 } else { chip.tensor.warp_share };
        Some(Self { counts, clocks, operations, bound, share_of_peak: peak_clocks / busiest })
    }
}

impl Clocks {
    /// The pipe that takes the most clocks, and those.
    pub fn busiest(&self) -> (&'static str, f64) {
        // tensor first: of two that are equal it is the one that should be busy
        let pipes = [
            ("tensor", self.tensor),
            ("memory", self.memory),
            ("issue", self.issue),
            ("special functions", self.special),
            ("conversions", self.convert),
            ("f32 lanes", self.fma),
            ("integer lanes", self.alu),
            ("shared memory", self.shared),
        ];
        pipes.into_iter().fold(("tensor", 0.0), |most, pipe| if pipe.1 > most.1 { pipe } else { most })
    }
}

/// Bytes that a warp's access moves.
fn access_bytes(instruction: &Instruction) -> f64 {
    let matrices = |count: f64| count * 128.0;
    match instruction.root() {
        "LDSM" | "STSM" if instruction.has("4") => matrices(4.0),
        "LDSM" | "STSM" if instruction.has("2") => matrices(2.0),
        _ if instruction.has("128") => 512.0,
        _ if instruction.has("64") => 256.0,
        _ if instruction.has("U16") || instruction.has("S16") || instruction.has("16") => 64.0,
        _ if instruction.has("U8") || instruction.has("S8") || instruction.has("8") => 32.0,
        _ => 128.0,
    }
}

/// One matrix product.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Product {
    rows: f64,
    columns: f64,
    depth: f64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Int8,
    Half { is_f32: bool },
    Fp8 { is_f32: bool },
}

impl Product {
    /// `IMMA.16832.S8.S8`, `HMMA.16816.F32.BF16`, `QMMA.16832.F16.E4M3.E4M3`, `IGMMA.64x128x32.S8.S8`.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let root = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        let (rows, columns, depth) = rest.iter().find_map(|part| sides(part))?;
        // without a word for the sum it is in f16
        let is_f32 = rest.contains(&"F32");
        let kind = match root.trim_start_matches("UTC").chars().next()? {
            'I' => Kind::Int8,
            'H' => Kind::Half { is_f32 },
            'Q' => Kind::Fp8 { is_f32 },
            _ => return None,
        };
        Some(Self { rows, columns, depth, kind })
    }

    fn operations(&self) -> f64 {
        2.0 * self.rows * self.columns * self.depth
    }

    /// Bytes of the left side.
    fn left_bytes(&self) -> f64 {
        self.rows * self.depth * self.value_bytes()
    }

    /// Bytes of the right side.
    fn right_bytes(&self) -> f64 {
        self.columns * self.depth * self.value_bytes()
    }

    fn value_bytes(&self) -> f64 {
        if matches!(self.kind, Kind::Half { .. }) { 2.0 } else { 1.0 }
    }

    fn rate(&self, tensor: &Tensor) -> Option<f64> {
        match self.kind {
            Kind::Int8 => Some(tensor.int8),
            Kind::Half { is_f32: true } => Some(tensor.half_f32),
            Kind::Half { is_f32: false } => Some(tensor.half_f16),
            Kind::Fp8 { is_f32: true } => tensor.fp8_f32,
            Kind::Fp8 { is_f32: false } => tensor.fp8_f16,
        }
    }
}

/// `16832` is 16 x 8 x 32, `64x128x32` is itself.
fn sides(part: &str) -> Option<(f64, f64, f64)> {
    let number = |text: &str| text.parse::<u32>().ok().map(f64::from);
    if let [rows, columns, depth] = part.split('x').collect::<Vec<_>>()[..] {
        return Some((number(rows)?, number(columns)?, number(depth)?));
    }
    let depth = part.strip_prefix("168").filter(|depth| matches!(*depth, "4" | "8" | "16" | "32" | "64"));
    depth.map(|depth| Some((16.0, 8.0, number(depth)?))).unwrap_or(None)
}

#[cfg(test)]
mod tests {
    use super::super::chips::limits;
    use super::super::loops::hot_loop;
    use super::super::sass::parse;
    use super::*;

    const SAMPLE: &str = include_str!("sample.sass");

    #[test]
    fn the_samples_loop_is_counted_pipe_by_pipe() {
        let code = parse(SAMPLE);
        let hot = hot_loop(&code["product"]).unwrap();
        let budget = Budget::of(&hot.body, limits("sm_90a").unwrap()).unwrap();
        let want = Counts {
            issued: 16,
            warp_tensor: 3,
            special: 1,
            convert: 1,
            fma: 1,
            alu: 2,
            shared: 3,
            global: 1,
            branch: 2,
            sync: 2,
            other: 1,
            ..Counts::default()
        };
        assert_eq!(budget.counts, want);
        assert_eq!(budget.operations, f64::from(2 * 2 * 16 * 8 * 32 + 2 * 16 * 8 * 16));
        let clocks = budget.clocks;
        assert_eq!((clocks.issue, clocks.special, clocks.convert, clocks.fma, clocks.alu), (4.0, 2.0, 0.5, 0.25, 1.0));
        // two loads of four matrices and a copy of 16 bytes a lane
        assert_eq!(clocks.shared, 12.0);
        assert_eq!(budget.bound, "shared memory");
        // 2 of int8 and one of bf16, at the wgmma rates
        assert!((budget.share_of_peak - 3.0 / 12.0).abs() < 1e-12, "{budget:?}");
        // where conversions share the special function units they add up
        assert_eq!(Budget::of(&hot.body, limits("sm_80").unwrap()).unwrap().clocks.special, 4.0);
    }

    #[test]
    fn what_multiplies_nothing_has_a_share_of_the_memorys_bandwidth() {
        let code = parse(SAMPLE);
        let budget = Budget::of(&code["copy_rows"].iter().collect::<Vec<_>>(), limits("sm_90a").unwrap()).unwrap();
        // 16 bytes a lane in and out
        assert!((budget.clocks.memory - 1024.0 / (4800.0 / (132.0 * 1.83))).abs() < 1e-9, "{budget:?}");
        assert_eq!((budget.bound, budget.share_of_peak, budget.clocks.issue), ("memory", 1.0, 1.0));
        assert!(Budget::of(&[], limits("sm_90a").unwrap()).is_none());
    }

    #[test]
    fn products_are_read_off_their_names() {
        let of = |name| Product::of(name).map(|product| (product.rows, product.columns, product.depth, product.kind));
        assert_eq!(of("IMMA.16832.S8.S8.SAT"), Some((16.0, 8.0, 32.0, Kind::Int8)));
        assert_eq!(of("HMMA.16816.F32.BF16"), Some((16.0, 8.0, 16.0, Kind::Half { is_f32: true })));
        assert_eq!(of("HMMA.1688.F16"), Some((16.0, 8.0, 8.0, Kind::Half { is_f32: false })));
        assert_eq!(of("QMMA.16832.F16.E4M3.E4M3"), Some((16.0, 8.0, 32.0, Kind::Fp8 { is_f32: false })));
        assert_eq!(of("IGMMA.64x128x32.S8.S8"), Some((64.0, 128.0, 32.0, Kind::Int8)));
        assert_eq!(of("HGMMA.64x136x16.F32.BF16"), Some((64.0, 136.0, 16.0, Kind::Half { is_f32: true })));
        assert_eq!(of("QGMMA.64x128x32.F32.E4M3.E4M3"), Some((64.0, 128.0, 32.0, Kind::Fp8 { is_f32: true })));
        assert_eq!(of("DMMA.884"), None);
        // and a chip that lacks the kind has no budget for it
        assert_eq!(Product::of("QMMA.16832.F32.E4M3.E4M3").unwrap().rate(&limits("sm_80").unwrap().tensor), None);
    }

    #[test]
    fn a_warpgroups_product_is_shared_by_four_warps() {
        let at = |name: &str| Instruction { address: 0, name: name.into(), target: None, is_end: false, is_left_shared: false };
        let chip = limits("sm_90a").unwrap();
        let budget = Budget::of(&[&at("IGMMA.64x128x32.S8.S8"), &at("UIADD3")], chip).unwrap();
        // 64 clocks a warpgroup, 16 a warp of it
        assert_eq!((budget.clocks.tensor, budget.counts.group_tensor, budget.share_of_peak), (16.0, 1, 1.0));
        // 4 KiB of the right side
        assert_eq!(budget.clocks.shared, 8.0);
        // and 2 KiB of the left one
        let both = Instruction { is_left_shared: true, ..at("IGMMA.64x128x32.S8.S8") };
        assert_eq!(Budget::of(&[&both], chip).unwrap().clocks.shared, 12.0);
    }
}
