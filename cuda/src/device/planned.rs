//! The side of the runtime that executes nothing: addresses without memory, and what a kernel would need of a chip.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::arena::ARENA_ALIGNMENT;
use super::trace::{Lists, Trace};
use super::{Chip, KernelFile, launch, locked};
use crate::Error;

/// Registers of a block on every chip from 8.0 on, and the unit in which a warp is given them (CUDA programming guide,
/// technical specifications per compute capability).
const BLOCK_REGISTERS: u32 = 65_536;
const WARP_REGISTERS_UNIT: u32 = 256;

/// The first address: no process has memory there.
const FIRST_ADDRESS: u64 = 1 << 60;

/// Hands out addresses, counts what they stand for, and keeps the lists of all streams.
pub(super) struct Machine {
    next: AtomicU64,
    in_use: AtomicU64,
    streams: Mutex<Vec<Lists>>,
}

impl Machine {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(FIRST_ADDRESS), in_use: AtomicU64::new(0), streams: Mutex::default() })
    }

    /// The lists of a new stream, which are kept when the stream has gone.
    pub(super) fn stream(&self) -> Lists {
        let lists = Lists::default();
        lists.begin();
        locked(&self.streams).push(lists.clone());
        lists
    }

    /// What each stream was asked for, in the order in which they were made.
    pub(super) fn work(&self) -> Vec<Trace> {
        locked(&self.streams).iter().map(Lists::all).collect()
    }

    /// Bytes of all living memory.
    pub(super) fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Relaxed)
    }
}

/// A range of addresses that no other memory of the device ever has.
pub(super) struct Memory {
    machine: Arc<Machine>,
    pub(super) address: u64,
    bytes: usize,
}

impl Memory {
    /// # Errors
    /// [`Error::OutOfMemory`] once 2^60 bytes have been asked for.
    pub(super) fn new(machine: &Arc<Machine>, bytes: usize) -> Result<Self, Error> {
        let unit = ARENA_ALIGNMENT as u64;
        // a line between neighbours: the end of one is not the start of another
        let taken = (bytes as u64 / unit).saturating_add(2).saturating_mul(unit);
        let next = |next: u64| next.checked_add(taken).filter(|end| *end <= 2 * FIRST_ADDRESS);
        let address = machine.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let address = address.map_err(|_| Error::OutOfMemory { bytes })?;
        machine.in_use.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Self { machine: machine.clone(), address, bytes })
    }

    /// Whether an access stays inside: one that does not is a fault of this crate, as it is on other devices.
    pub(super) fn check(&self, from: usize, bytes: usize) {
        assert!(from <= self.bytes && bytes <= self.bytes - from, "bytes {from}+{bytes} of {}", self.bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.machine.in_use.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// What a block of one kernel may and does take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// Threads that its registers leave room for.
    pub(super) threads: u32,
    /// Static shared memory in bytes.
    pub(super) shared_bytes: u32,
}

impl Needs {
    /// What the build knows of a kernel: ptxas' words where there was an nvcc, otherwise that the emulator has it.
    ///
    /// # Errors
    /// [`Error::WrongChip`], or [`Error::NoSuchKernel`].
    pub(super) fn of(file: &'static KernelFile, kernel: &'static str, chip: &Chip) -> Result<Self, Error> {
        let unknown = Self { threads: chip.limits.threads, shared_bytes: 0 };
        let missing = Error::NoSuchKernel { file: file.name, kernel };
        let Some(compiled) = &file.compiled else {
            let known = launch::emulated_kernels();
            return if known.is_empty() || known.iter().any(|name| name == kernel) { Ok(unknown) } else { Err(missing) };
        };
        let capability = chip.capability;
        let code = compiled.code_for(capability);
        let code = code.ok_or_else(|| Error::WrongChip { file: file.name, chips: compiled.chips.join(", "), capability })?;
        let mut usages = compiled.usage.iter().filter(|usage| usage.kernel == kernel).peekable();
        usages.peek().ok_or(missing)?;
        // what the driver will make of PTX is not known before
        let usage = usages.find(|usage| usage.chip == code);
        Ok(usage.map_or(unknown, |usage| Self { threads: threads(usage.registers, chip), shared_bytes: usage.shared_bytes }))
    }
}

/// Threads of a block, in whole warps, whose registers fit.
fn threads(registers: u32, chip: &Chip) -> u32 {
    let a_warp = (registers.max(1) * 32).next_multiple_of(WARP_REGISTERS_UNIT);
    (BLOCK_REGISTERS / a_warp * 32).min(chip.limits.threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Compiled, Limits, Usage};

    fn chip(capability: (u32, u32)) -> Chip {
        let limits = Limits::of(capability);
        Chip { name: "chip".to_owned(), capability, multiprocessors: 1, memory_bytes: 1 << 30, l2_bytes: 0, driver: None, limits }
    }

    const USAGE: Usage = Usage { kernel: "wide", chip: "sm_90a", registers: 168, stack_bytes: 0, spill_bytes: 0, shared_bytes: 1024 };
    static COMPILED: KernelFile = KernelFile {
        name: "file",
        compiled: Some(Compiled {
            fatbin: &[],
            release: (13, 0),
            chips: &["sm_90a"],
            ptx: Some("compute_90"),
            usage: &[USAGE],
            instructions: &[],
        }),
    };

    #[test]
    fn a_kernels_needs_are_those_that_ptxas_told() {
        let of = |kernel, capability| Needs::of(&COMPILED, kernel, &chip(capability));
        // 168 registers of 32 lanes are 21 units of 256, and 12 such warps fill a block's 65,536
        assert_eq!(of("wide", (9, 0)), Ok(Needs { threads: 384, shared_bytes: 1024 }));
        assert_eq!(of("wide", (12, 0)), Ok(Needs { threads: 1024, shared_bytes: 0 }));
        assert_eq!(of("narrow", (9, 0)), Err(Error::NoSuchKernel { file: "file", kernel: "narrow" }));
        assert!(matches!(of("wide", (8, 0)), Err(Error::WrongChip { capability: (8, 0), .. })));
        assert_eq!(threads(16, &chip((9, 0))), 1024);
        assert_eq!(threads(255, &chip((9, 0))), 256);
    }

    #[test]
    fn addresses_are_apart_and_never_used_again() {
        let machine = Machine::new();
        let mut end = 0;
        for bytes in [0, 1, 255, 256, 257, 1 << 40] {
            let memory = Memory::new(&machine, bytes).unwrap();
            assert_eq!((memory.address % 256, machine.in_use()), (0, bytes as u64));
            assert!(memory.address > end, "{bytes}");
            end = memory.address + bytes as u64;
        }
        assert_eq!(machine.in_use(), 0);
        assert_eq!(Memory::new(&machine, 1 << 60).map(drop), Err(Error::OutOfMemory { bytes: 1 << 60 }));
        assert!(Memory::new(&machine, 1).is_ok());
    }
}
