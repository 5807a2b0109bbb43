//! Kernels and their launches, checked before the call.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use super::buffer::Operand;
use super::emulated::{Copies, EmulatorOptions, Schedule};
use super::fault::Asked;
use super::memory::Memory;
use super::planned::Needs;
use super::stream::{Queue, Stream};
use super::trace::{Touched, Work};
use super::{Device, KernelFile, Limits, Runner, driver, locked};
use crate::Error;
use crate::host::par::for_each_task;

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks: x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block: x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

impl Launch {
    /// `blocks` blocks of `threads` threads, without dynamic shared memory.
    ///
    /// # Errors
    /// [`Error::Size`] when there are none, or more than 2^31 - 1.
    pub fn linear(blocks: usize, threads: u32) -> Result<Self, Error> {
        let limit = Limits::GRID[0];
        let x = u32::try_from(blocks).ok().filter(|x| (1..=limit).contains(x));
        let x = x.ok_or(Error::Size { what: "blocks of a launch", must: "from 1 to 2^31 - 1", found: blocks })?;
        Ok(Self { grid: [x, 1, 1], block: [threads, 1, 1], shared_bytes: 0 })
    }

    /// The same with dynamic shared memory.
    #[must_use]
    pub fn with_shared_bytes(self, shared_bytes: u32) -> Self {
        Self { shared_bytes, ..self }
    }

    /// Threads of a block.
    pub fn threads(&self) -> u64 {
        self.block.iter().map(|side| u64::from(*side)).product()
    }

    /// Blocks.
    pub fn blocks(&self) -> u64 {
        // three sides at most 2^31, 2^16 and 2^16 once checked
        self.grid.iter().fold(1, |blocks, side| blocks.saturating_mul(u64::from(*side)))
    }

    /// Checks it against a chip and against what one kernel takes.
    ///
    /// # Errors
    /// [`Error::Launch`] with the number that is too large; an empty grid or block is one whose limit is zero.
    pub fn check(&self, kernel: &'static str, limits: &Limits, threads: u32, static_shared_bytes: u32) -> Result<(), Error> {
        let at_most = |what, found: u64, limit: u64| {
            if found <= limit { Ok(()) } else { Err(Error::Launch { kernel, what, found, limit }) }
        };
        if self.blocks() == 0 || self.threads() == 0 {
            return Err(Error::Size { what: "blocks and threads of a launch", must: "at least one", found: 0 });
        }
        for (what, side, limit) in [
            ("the grid's x", self.grid[0], Limits::GRID[0]),
            ("the grid's y", self.grid[1], Limits::GRID[1]),
            ("the grid's z", self.grid[2], Limits::GRID[2]),
            ("the block's x", self.block[0], Limits::BLOCK[0]),
            ("the block's y", self.block[1], Limits::BLOCK[1]),
            ("the block's z", self.block[2], Limits::BLOCK[2]),
        ] {
            at_most(what, side.into(), limit.into())?;
        }
        at_most("threads of a block", self.threads(), threads.min(limits.threads).into())?;
        let shared = u64::from(self.shared_bytes) + u64::from(static_shared_bytes);
        at_most("shared memory of a block in bytes", shared, limits.shared_bytes.into())
    }
}

/// The parameter struct of a kernel, passed by value.
///
/// # Safety
/// The type has C layout, is what the kernel of its name takes, and `addresses` visits every pointer in it.
pub unsafe trait Params: Copy + 'static {
    /// Shows the name and the value of each pointer; a null one means an operand that is left out.
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64));
}

/// A kernel, loaded for a device.
pub struct Kernel<P> {
    device: Device,
    name: &'static str,
    code: Code,
    params: PhantomData<fn(P)>,
}

enum Code {
    Cuda(driver::Function),
    Emulated(Arc<CStr>, EmulatorOptions),
    Planned(Needs),
}

impl<P: Params> Kernel<P> {
    /// Loads `name` of a kernel file.
    ///
    /// # Errors
    /// [`Error::NoKernels`], [`Error::WrongChip`], [`Error::DriverTooOld`], what the driver says, or [`Error::Emulator`]
    /// when the emulator has no such kernel. A planned device takes kernels that the build has no machine code for, and
    /// tells one that is not there by [`Error::NoSuchKernel`].
    pub fn load(device: &Device, file: &'static KernelFile, name: &'static str) -> Result<Self, Error> {
        let code = match &device.inner.runner {
            Runner::Cuda(context) => Code::Cuda(driver::Function::find(&device.module(context, file)?, name)?),
            Runner::Planned(_) => Code::Planned(Needs::of(file, name, device.chip())?),
            Runner::Emulated(options, _) => {
                if !emulated_kernels().iter().any(|known| known == name) {
                    return Err(Error::Emulator { kernel: name, message: format!("kernels/{}.cu has no such kernel", file.name) });
                }
                let symbol = CString::new(name).map_err(|_| Error::Emulator { kernel: name, message: "a zero in the name".into() })?;
                Code::Emulated(symbol.into(), *options)
            }
        };
        Ok(Self { device: device.clone(), name, code, params: PhantomData })
    }

    /// The kernel's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Blocks of this shape that a multiprocessor holds at once; one for a device that is no GPU.
    ///
    /// # Errors
    /// What the driver says.
    pub fn blocks_per_multiprocessor(&self, launch: Launch) -> Result<u32, Error> {
        match &self.code {
            Code::Cuda(function) => {
                let threads = u32::try_from(launch.threads()).unwrap_or(u32::MAX);
                function.blocks_per_multiprocessor(threads, launch.shared_bytes)
            }
            Code::Emulated(..) | Code::Planned(_) => Ok(1),
        }
    }

    /// Queues the kernel on a stream, or, while the stream records a graph, records it.
    ///
    /// `operands` is all the memory that it touches. Nothing is allocated, and the host does not wait (the emulator runs
    /// the kernel before it returns, a planned device only lists it).
    ///
    /// # Errors
    /// [`Error::Launch`] or [`Error::Size`] for a shape that the chip cannot take, [`Error::OtherStream`],
    /// [`Error::Misaligned`], [`Error::StrayPointer`], [`Error::Emulator`] for a fault in the kernel,
    /// [`Error::LaunchFailed`], or what the driver says.
    pub fn launch(&self, stream: &Stream, launch: Launch, params: &P, operands: &[Operand<'_>]) -> Result<(), Error> {
        let chip = self.device.chip();
        let (threads, static_shared_bytes) = match &self.code {
            Code::Cuda(function) => (function.threads, function.shared_bytes),
            Code::Emulated(..) => (chip.limits.threads, 0),
            Code::Planned(needs) => (needs.threads, needs.shared_bytes),
        };
        launch.check(self.name, &chip.limits, threads, static_shared_bytes)?;
        if !self.device.is(stream.device()) {
            return Err(Error::OtherStream { what: self.name });
        }
        operands.iter().try_for_each(|operand| operand.check(stream))?;
        let mut stray = None;
        params.addresses(&mut |parameter, address| {
            if address != 0 && !operands.iter().any(|operand| operand.holds(address)) {
                stray = Some(parameter);
            }
        });
        if let Some(parameter) = stray {
            return Err(Error::StrayPointer { kernel: self.name, parameter });
        }
        match (&self.code, stream.queue()) {
            (Code::Cuda(function), Queue::Cuda(queue)) => {
                // SAFETY: `P` is the kernel's parameter struct (`Params`). Each pointer in it starts inside an operand
                // (checked above) that is borrowed for this call, and that is freed only in the order of this stream, or
                // after all streams (`Memory`). How far a kernel reaches from there is its launcher's arithmetic, which
                // the emulator checks on every shape that is tested.
                let queued = unsafe { function.launch(queue, launch, std::ptr::from_ref(params).cast()) };
                queued.map_err(|error| match error {
                    Error::Driver { name, .. } => Error::LaunchFailed { kernel: self.name, name },
                    other => other,
                })?;
            }
            (Code::Emulated(symbol, options), Queue::Emulated) => stream.emulate(Asked::Launch(self.name), || {
                let call = EmulatedLaunch::new(self.name, symbol, *options, chip.limits, launch, params, operands);
                move || call.run()
            })?,
            (Code::Planned(_), Queue::Planned(_)) => {}
            _ => return Err(Error::OtherStream { what: self.name }),
        }
        let touched = |operand: &Operand<'_>| {
            let Operand { name, touched, is_read, is_written, .. } = *operand;
            Touched { name, bytes: touched, is_read, is_written }
        };
        let work = || Work::Launch { kernel: self.name, launch, operands: operands.iter().map(touched).collect() };
        stream.note(work, &mut operands.iter().map(|operand| operand.memory));
        Ok(())
    }
}

impl<P> fmt::Debug for Kernel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel {} on {:?}", self.name, self.device)
    }
}

/// Name of the first block that an emulated device runs, in an error.
pub const FIRST_BLOCK: &str = "first block of a launch";

/// A launch that the emulator can run at any time: its parameters as bytes, its operands kept alive.
struct EmulatedLaunch {
    kernel: &'static str,
    symbol: Arc<CStr>,
    options: EmulatorOptions,
    limits: Limits,
    launch: Launch,
    /// In eight-byte words, as a parameter struct is aligned.
    params: Box<[MaybeUninit<u64>]>,
    params_bytes: usize,
    operands: Vec<KeptOperand>,
}

struct KeptOperand {
    name: CString,
    address: usize,
    bytes: usize,
    is_written: bool,
    _memory: Arc<Memory>,
}

impl EmulatedLaunch {
    fn new<P: Params>(
        kernel: &'static str,
        symbol: &Arc<CStr>,
        options: EmulatorOptions,
        limits: Limits,
        launch: Launch,
        params: &P,
        operands: &[Operand<'_>],
    ) -> Self {
        const { assert!(align_of::<P>() <= 64, "no parameter is aligned to more than a tensor map") };
        let mut words = vec![MaybeUninit::uninit(); size_of::<P>().div_ceil(8)].into_boxed_slice();
        // SAFETY: the words have room for one `P`; bytes between its fields stay what they are, unread.
        unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(params).cast::<u8>(), words.as_mut_ptr().cast(), size_of::<P>()) };
        let operands = operands.iter().map(|operand| KeptOperand {
            name: CString::new(operand.name).unwrap_or_default(),
            address: operand.address as usize,
            bytes: operand.bytes,
            is_written: operand.is_written,
            _memory: operand.memory.clone(),
        });
        let (symbol, operands) = (symbol.clone(), operands.collect());
        Self { kernel, symbol, options, limits, launch, params: words, params_bytes: size_of::<P>(), operands }
    }

    /// Runs all blocks, a share of them at a time on each thread; the fault of the lowest block is told.
    fn run(&self) -> Result<(), Error> {
        // Shares by the grid alone, never by the number of threads, so that a fault is always the same one.
        const SHARES: u64 = 64;
        let (start, blocks) = match self.options.blocks {
            None => (0, self.launch.blocks()),
            Some((first, count)) => {
                let (found, left) = (usize::try_from(first).unwrap_or(usize::MAX), self.launch.blocks().saturating_sub(first));
                if left == 0 {
                    return Err(Error::Size { what: FIRST_BLOCK, must: "one that the launch has", found });
                }
                (first, count.min(left))
            }
        };
        let share = blocks.div_ceil(SHARES).max(1);
        let fault = Mutex::new(None::<(usize, String)>);
        for_each_task(usize::try_from(blocks.div_ceil(share)).unwrap_or(usize::MAX), |task| {
            let first = task as u64 * share;
            if let Err(message) = self.run_blocks(start + first, share.min(blocks - first)) {
                let mut fault = locked(&fault);
                if fault.as_ref().is_none_or(|(earlier, _)| task < *earlier) {
                    *fault = Some((task, message));
                }
            }
        });
        match locked(&fault).take() {
            Some((_, message)) => Err(Error::Emulator { kernel: self.kernel, message }),
            None => Ok(()),
        }
    }

    fn run_blocks(&self, first_block: u64, block_count: u64) -> Result<(), String> {
        let range = |operand: &KeptOperand| ffi::Range {
            start: std::ptr::with_exposed_provenance(operand.address),
            bytes: operand.bytes,
            name: operand.name.as_ptr(),
            writable: operand.is_written.into(),
            reserved: 0,
        };
        let ranges: Vec<_> = self.operands.iter().map(range).collect();
        let options = ffi::Options {
            schedule: match self.options.schedule {
                Schedule::RoundRobin => 0,
                Schedule::Greedy => 1,
                Schedule::Reversed => 2,
                Schedule::Shuffled => 3,
            },
            copies: match self.options.copies {
                Copies::Eager => 0,
                Copies::Deferred => 1,
            },
            seed: self.options.seed,
            first_block,
            block_count,
            ranges: ranges.as_ptr(),
            range_count: ranges.len(),
            shared_limit: self.limits.shared_bytes,
            stack_bytes: 0,
            counts: std::ptr::null_mut(),
        };
        let mut message = [0 as c_char; 1024];
        let (grid, block): ([c_uint; 3], [c_uint; 3]) = (self.launch.grid, self.launch.block);
        // SAFETY: the kernel's name and parameters fit one another (`Params`), the ranges are memory that is kept alive
        // by `self`, and the emulator keeps the kernel inside them; the message is ended by a zero inside its size.
        let fault = unsafe {
            ffi::launch(
                self.symbol.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                self.launch.shared_bytes as usize,
                self.params.as_ptr().cast(),
                self.params_bytes,
                &raw const options,
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if fault == 0 {
            return Ok(());
        }
        // SAFETY: ended by a zero, also when it was cut.
        Err(unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned())
    }
}

/// Names of the kernels that are linked for the emulator.
pub(super) fn emulated_kernels() -> Vec<String> {
    // SAFETY: each name is a string of the program; the list is ended by null.
    let name = |index| unsafe {
        let name = ffi::kernel_name(index);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    (0..).map_while(name).collect()
}

/// `emulator/emulator.h`.
mod ffi {
    use super::{c_char, c_int, c_uint, c_void};

    #[repr(C)]
    pub(super) struct Range {
        pub(super) start: *const c_void,
        pub(super) bytes: usize,
        pub(super) name: *const c_char,
        pub(super) writable: u32,
        pub(super) reserved: u32,
    }

    #[repr(C)]
    pub(super) struct Options {
        pub(super) schedule: u32,
        pub(super) copies: u32,
        pub(super) seed: u64,
        pub(super) first_block: u64,
        pub(super) block_count: u64,
        pub(super) ranges: *const Range,
        pub(super) range_count: usize,
        pub(super) shared_limit: u32,
        pub(super) stack_bytes: u32,
        pub(super) counts: *mut c_void,
    }

    #[cfg(emulator)]
    unsafe extern "C" {
        #[link_name = "tw_emu_launch"]
        pub(super) fn launch(
            kernel: *const c_char,
            grid: *const c_uint,
            block: *const c_uint,
            shared_bytes: usize,
            params: *const c_void,
            params_size: usize,
            options: *const Options,
            message: *mut c_char,
            message_size: usize,
        ) -> c_int;

        #[link_name = "tw_emu_kernel_name"]
        pub(super) fn kernel_name(index: usize) -> *const c_char;
    }

    /// A build without the emulator opens no emulated device, so this is never called.
    #[cfg(not(emulator))]
    #[allow(clippy::too_many_arguments, reason = "the emulator's own signature")]
    pub(super) unsafe fn launch(
        _: *const c_char,
        _: *const c_uint,
        _: *const c_uint,
        _: usize,
        _: *const c_void,
        _: usize,
        _: *const Options,
        _: *mut c_char,
        _: usize,
    ) -> c_int {
        1
    }

    #[cfg(not(emulator))]
    pub(super) unsafe fn kernel_name(_: usize) -> *const c_char {
        std::ptr::null()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(launch: Launch, capability: (u32, u32), threads: u32, shared: u32) -> Option<&'static str> {
        match launch.check("kernel", &Limits::of(capability), threads, shared) {
            Ok(()) => None,
            Err(Error::Launch { what, .. } | Error::Size { what, .. }) => Some(what),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_launch_is_held_to_the_limits_of_chip_and_kernel() {
        let launch = Launch::linear(7, 256).unwrap();
        assert_eq!(refusal(launch, (8, 0), 1024, 0), None);
        assert_eq!(refusal(launch, (8, 0), 128, 0), Some("threads of a block"));
        assert_eq!(refusal(Launch { grid: [1, 65_536, 1], ..launch }, (8, 0), 1024, 0), Some("the grid's y"));
        assert_eq!(refusal(Launch { block: [1, 1, 65], ..launch }, (8, 0), 1024, 0), Some("the block's z"));
        assert_eq!(refusal(Launch { block: [32, 33, 1], ..launch }, (8, 0), 1024, 0), Some("threads of a block"));
        assert_eq!(refusal(Launch { grid: [0, 1, 1], ..launch }, (8, 0), 1024, 0), Some("blocks and threads of a launch"));
        let large = launch.with_shared_bytes(100 * 1024);
        assert_eq!(refusal(large, (8, 0), 1024, 0), None);
        assert_eq!(refusal(large, (8, 9), 1024, 0), Some("shared memory of a block in bytes"));
        assert_eq!(refusal(launch.with_shared_bytes(163 * 1024), (8, 0), 1024, 4), Some("shared memory of a block in bytes"));
    }

    #[test]
    fn a_line_of_blocks_ends_at_two_to_the_31() {
        assert!(matches!(Launch::linear(0, 32), Err(Error::Size { found: 0, .. })));
        assert_eq!(Launch::linear((1 << 31) - 1, 32).unwrap().blocks(), (1 << 31) - 1);
        assert!(Launch::linear(1 << 31, 32).is_err());
    }
}
