//! What can go wrong below the models.

use crate::device::MemoryEvent;

/// An operation was asked for something it cannot do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A slice holds another number of values than its shape says.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which operand.
        what: &'static str,
        /// Values that the shape asks for.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// A size lies outside what the operation supports.
    #[error("{what}: {found} is not supported, it must be {must}")]
    Size {
        /// Which size.
        what: &'static str,
        /// What it must be, in words.
        must: &'static str,
        /// What was given.
        found: usize,
    },
    /// This machine lacks an instruction set.
    #[error("this machine has no {0:?} instructions")]
    MissingIsa(crate::host::Isa),
    /// This machine has no CUDA driver.
    #[error("no CUDA driver: libcuda is not on this machine; install the NVIDIA driver, or run on the host")]
    NoDriver,
    /// The driver sees no such device.
    #[error("no CUDA device {ordinal}: the driver sees {found}{}", visible.as_ref().map(|list| format!(" (CUDA_VISIBLE_DEVICES={list})")).unwrap_or_default())]
    NoDevice {
        /// Which one was asked for.
        ordinal: usize,
        /// How many there are.
        found: usize,
        /// What `CUDA_VISIBLE_DEVICES` says, where it is set.
        visible: Option<String>,
    },
    /// The driver is older than what the kernels were compiled with, or than what this program calls.
    #[error("the driver knows CUDA {}.{}, {what} need CUDA {}.{}: install a newer NVIDIA driver", found.0, found.1, needed.0, needed.1)]
    DriverTooOld {
        /// Who needs more.
        what: &'static str,
        /// The driver's CUDA version.
        found: (u32, u32),
        /// The version that would do.
        needed: (u32, u32),
    },
    /// The device is older than any that the kernels run on.
    #[error("{name} is compute capability {}.{}; the kernels need 8.0 or later", capability.0, capability.1)]
    ChipTooOld {
        /// The device.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// The device has no memory left for an allocation.
    #[error("the device has no {bytes} bytes left: free some memory, ask for less, or take a larger device")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The device does nothing any more for this process.
    #[error("{call}: the device is lost ({name}): start the program again, and read the system's log if it comes back")]
    DeviceLost {
        /// What was asked for when it was seen: the driver's function, or the emulator's work.
        call: &'static str,
        /// The driver's name of the error.
        name: String,
    },
    /// A kernel could not be started; the device works on.
    #[error("{kernel}: its launch failed ({name}), and nothing of it ran: try again, and read the system's log if it comes back")]
    LaunchFailed {
        /// The kernel.
        kernel: &'static str,
        /// The driver's name of the error.
        name: String,
    },
    /// Another call of the CUDA driver failed.
    #[error("{call}: {name}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// The driver's name of the error.
        name: String,
    },
    /// The program was built without GPU kernels.
    #[error("kernels/{file}.cu was built without nvcc; run scripts/fetch-nvcc and build again")]
    NoKernels {
        /// The kernel file.
        file: &'static str,
    },
    /// A kernel file has no such kernel.
    #[error("kernels/{file}.cu has no kernel {kernel}")]
    NoSuchKernel {
        /// The kernel file.
        file: &'static str,
        /// The kernel.
        kernel: &'static str,
    },
    /// The kernels of a file do not run on this chip.
    #[error("kernels/{file}.cu is compiled for {chips}, not for compute capability {}.{}", capability.0, capability.1)]
    WrongChip {
        /// The kernel file.
        file: &'static str,
        /// What it was compiled for.
        chips: String,
        /// The device's compute capability.
        capability: (u32, u32),
    },
    /// The program was built without the emulator.
    #[error("this build has no kernel emulator: it needs a C++ compiler, on x86-64 or aarch64")]
    NoEmulator,
    /// The emulator found a fault in a kernel.
    #[error("{kernel} on the emulator: {message}")]
    Emulator {
        /// The kernel.
        kernel: &'static str,
        /// Which block, thread and address, and what happened there.
        message: String,
    },
    /// A launch that the chip cannot take.
    #[error("{kernel}: {what} is {found}, at most {limit} is possible")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// Which number.
        what: &'static str,
        /// What was asked for.
        found: u64,
        /// What the chip takes.
        limit: u64,
    },
    /// A parameter points outside every operand of its launch.
    #[error("{kernel}: its parameter {parameter} points outside the operands of the launch")]
    StrayPointer {
        /// The kernel.
        kernel: &'static str,
        /// The field of the parameter struct.
        parameter: &'static str,
    },
    /// Memory belongs to another stream, or to another device, than the one that it is used on.
    #[error("{what} belongs to another stream: wait for it and settle it, or move it")]
    OtherStream {
        /// Which operand or call.
        what: &'static str,
    },
    /// Memory that starts where a kernel cannot load it.
    #[error("{what} must start at a multiple of {needed} bytes, it starts {found} bytes past one")]
    Misaligned {
        /// Which operand.
        what: &'static str,
        /// The alignment that the kernel needs, in bytes.
        needed: u64,
        /// Bytes past the last multiple.
        found: u64,
    },
    /// A part of a buffer that reaches past its end.
    #[error("{what}: values {from}..{to} of {len}")]
    OutOfRange {
        /// Which access.
        what: &'static str,
        /// First value.
        from: usize,
        /// One past the last.
        to: usize,
        /// Values there are.
        len: usize,
    },
    /// Something that cannot be done while a stream records a graph.
    #[error("{what} is not possible while a graph is captured")]
    Capturing {
        /// The call.
        what: &'static str,
    },
    /// An arena cannot serve a run.
    #[error("the arena's memory is taken by {with}: end that first")]
    ArenaBusy {
        /// By what.
        with: &'static str,
    },
    /// Memory was asked for, or freed, in another order than an arena was planned for.
    #[error(
        "event {at} of the {of} that the arena was planned for is {}, the work came to {}: trace the work anew and plan another arena",
        told(expected),
        told(found)
    )]
    ArenaDeparture {
        /// Events that were as planned.
        at: usize,
        /// Events of the plan.
        of: usize,
        /// The planned one; none at the plan's end.
        expected: Option<MemoryEvent>,
        /// What the work did; none at its end.
        found: Option<MemoryEvent>,
    },
    /// Something that cannot be done with memory of an arena.
    #[error("{what} is not possible for memory of an arena: copy it to a buffer of its own")]
    InArena {
        /// The call.
        what: &'static str,
    },
}

fn told(event: &Option<MemoryEvent>) -> String {
    event.map_or_else(|| "the end".to_owned(), |event| event.to_string())
}

impl Error {
    /// Checks that `values` has `expected` elements.
    ///
    /// # Errors
    /// [`Error::Length`] when it has not.
    pub fn expect_len<T>(what: &'static str, values: &[T], expected: usize) -> Result<(), Self> {
        if values.len() == expected { Ok(()) } else { Err(Self::Length { what, expected, found: values.len() }) }
    }
}
