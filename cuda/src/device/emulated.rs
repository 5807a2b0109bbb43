//! The emulator's side of the runtime: how it is to run, and memory that it may write to.

use std::sync::atomic::{AtomicU8, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::fault::Fault;

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
    /// Of each launch only these blocks: the first, and how many. A launch over more memory than a machine has can so be
    /// looked at where its offsets are largest, in memory of [`super::Stream::zeros`]. A launch without the first is refused
    /// ([`crate::Error::Size`] of [`super::FIRST_BLOCK`]).
    pub blocks: Option<(u64, u64)>,
    /// What goes wrong with it on purpose.
    pub fault: Option<Fault>,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self { schedule: Schedule::default(), copies: Copies::default(), seed: 0, capability: (8, 0), blocks: None, fault: None }
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

    /// The same with a fault.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// The same for `count` blocks of each launch, from `first` on.
    #[must_use]
    pub fn for_blocks(self, first: u64, count: u64) -> Self {
        Self { blocks: Some((first, count)), ..self }
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
pub(super) struct Line([AtomicU8; 256]);

/// Host memory in the place of device memory. Kernels write to it through its address, hence the atomic bytes.
pub(super) enum Memory {
    Lines(Box<[Line]>),
    /// Pages of zeros that the system gives when they are touched.
    Pages(MmapRaw),
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let line = || Line([const { AtomicU8::new(NEVER_WRITTEN) }; 256]);
        // an empty buffer has an address too
        Self::Lines((0..bytes.div_ceil(256).max(1)).map(|_| line()).collect())
    }

    /// Memory of zeros that takes pages only where it is touched; none where the system has not so many addresses.
    pub(super) fn zeros(bytes: usize) -> Option<Self> {
        let pages = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon().ok()?;
        Some(Self::Pages(pages.into()))
    }

    pub(super) fn address(&self) -> u64 {
        self.all().as_ptr().expose_provenance() as u64
    }

    fn all(&self) -> &[AtomicU8] {
        match self {
            Self::Lines(lines) => {
                // SAFETY: a line is 256 atomic bytes and nothing else, its alignment being its size.
                unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 256) }
            }
            Self::Pages(pages) => {
                // SAFETY: mapped for as long as `pages` lives, readable and writable, and touched as atomic bytes alone.
                unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len()) }
            }
        }
    }

    fn bytes(&self, from: usize, count: usize) -> &[AtomicU8] {
        &self.all()[from..][..count]
    }

    pub(super) fn write(&self, from: usize, bytes: &[u8]) {
        self.bytes(from, bytes.len()).iter().zip(bytes).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
    }

    pub(super) fn read(&self, from: usize, bytes: &mut [u8]) {
        self.bytes(from, bytes.len()).iter().zip(bytes).for_each(|(at, byte)| *byte = at.load(Ordering::Relaxed));
    }

    /// Makes a part as it was when it was new.
    pub(super) fn forget(&self, from: usize, count: usize) {
        self.fill(from, count, NEVER_WRITTEN);
    }

    pub(super) fn fill(&self, from: usize, count: usize, value: u8) {
        self.bytes(from, count).iter().for_each(|to| to.store(value, Ordering::Relaxed));
    }

    /// Copies from other memory, or from a part of its own, as if all had been read before any is written.
    pub(super) fn copy(&self, to: usize, source: &Self, from: usize, count: usize) {
        let mut bytes = vec![0; count];
        source.read(from, &mut bytes);
        self.write(to, &bytes);
    }
}
