//! The emulator's side of the runtime: how it is to run, and memory that it may write to.

use std::sync::atomic::{AtomicU8, Ordering};

/// In which order the emulator gives the threads of a block their turns. A kernel is right only if it is right in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// A warp runs to its next warp-wide operation, then the next warp has its turn.
    #[default]
    RoundRobin,
    /// A warp runs ahead until it must wait for another.
    Greedy,
    /// As greedy, the last warp and the last lane first.
    Reversed,
    /// After each warp-wide operation a warp drawn from the seed.
    Shuffled,
}

/// When the emulator carries out an asynchronous copy or product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// As soon as it is issued.
    #[default]
    Eager,
    /// As late as the program allows.
    Deferred,
}

/// How an emulated device runs its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Order of the threads.
    pub schedule: Schedule,
    /// Time of asynchronous copies.
    pub copies: Copies,
    /// Seed of [`Schedule::Shuffled`].
    pub seed: u64,
    /// The compute capability that it stands for: it limits shared memory, and launchers choose kernels by it.
    pub capability: (u32, u32),
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self { schedule: Schedule::default(), copies: Copies::default(), seed: 0, capability: (8, 0) }
    }
}

impl EmulatorOptions {
    /// Every schedule with every time of copies: a test of a kernel walks through all eight.
    pub fn all() -> Vec<Self> {
        let schedules = [Schedule::RoundRobin, Schedule::Greedy, Schedule::Reversed, Schedule::Shuffled];
        let of = |schedule| [Copies::Eager, Copies::Deferred].map(|copies| Self { schedule, copies, seed: 1, ..Self::default() });
        schedules.into_iter().flat_map(of).collect()
    }

    /// The same for another chip.
    #[must_use]
    pub fn for_capability(self, capability: (u32, u32)) -> Self {
        Self { capability, ..self }
    }
}

/// Kernels that this program can run on the emulator, by name; none in a build without it.
pub fn emulated_kernels() -> Vec<String> {
    super::launch::emulated_kernels()
}

/// What new memory holds: not a number in every floating-point format, so that a value nobody wrote is seen.
const NEVER_WRITTEN: u8 = 0xFF;

/// As device memory, it starts on a boundary of 256 bytes.
#[repr(C, align(256))]
struct Line([AtomicU8; 256]);

/// Host memory in the place of device memory. Kernels write to it through its address, hence the atomic bytes.
pub(super) struct Memory {
    lines: Box<[Line]>,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let line = || Line([const { AtomicU8::new(NEVER_WRITTEN) }; 256]);
        // an empty buffer has an address too
        Self { lines: (0..bytes.div_ceil(256).max(1)).map(|_| line()).collect() }
    }

    pub(super) fn address(&self) -> u64 {
        self.lines.as_ptr().expose_provenance() as u64
    }

    fn bytes(&self, from: usize, count: usize) -> impl Iterator<Item = &AtomicU8> {
        self.lines[from / 256..].iter().flat_map(|line| &line.0).skip(from % 256).take(count)
    }

    pub(super) fn write(&self, from: usize, bytes: &[u8]) {
        self.bytes(from, bytes.len()).zip(bytes).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
    }

    pub(super) fn read(&self, from: usize, bytes: &mut [u8]) {
        self.bytes(from, bytes.len()).zip(bytes).for_each(|(at, byte)| *byte = at.load(Ordering::Relaxed));
    }

    pub(super) fn fill(&self, from: usize, count: usize, value: u8) {
        self.bytes(from, count).for_each(|to| to.store(value, Ordering::Relaxed));
    }

    /// Copies from other memory, or from a part of its own, as if all had been read before any is written.
    pub(super) fn copy(&self, to: usize, source: &Self, from: usize, count: usize) {
        let mut bytes = vec![0; count];
        source.read(from, &mut bytes);
        self.write(to, &bytes);
    }
}
