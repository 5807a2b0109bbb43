//! The device runtime: a GPU found at run time, and under the same names the emulator and a device that only plans.
//!
//! ```
//! use turbowan_cuda::device::{Device, EmulatorOptions};
//!
//! # fn main() -> Result<(), turbowan_cuda::Error> {
//! let device = match Device::open(0).or_else(|_| Device::emulated(EmulatorOptions::default())) {
//!     Ok(device) => device,
//!     Err(why) => return Ok(println!("{why}")),
//! };
//! let stream = device.stream()?;
//! let buffer = stream.upload(&[1.0f32, 2.0, 3.0])?;
//! assert_eq!(buffer.view().slice(1..3)?.to_vec()?, [2.0, 3.0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Who outlives whom
//!
//! Memory is allocated on a stream and freed in the order of that stream, so what is queued there earlier finds it alive.
//! A launch takes its operands as borrowed views, refuses memory of another stream, and refuses a parameter that points
//! into none of its operands. Memory that several streams read is first settled ([`Buffer::settle`]); a graph keeps the
//! memory of everything it recorded.

mod arena;
mod arena_run;
mod buffer;
mod chip;
mod driver;
mod emulated;
mod fault;
mod file;
mod graph;
mod launch;
mod memory;
pub mod params;
mod planned;
mod stream;
mod tensor_map;
mod trace;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use arena::{ARENA_ALIGNMENT, MemoryEvent, MemoryPlan};
pub use arena_run::Arena;
pub use buffer::{Buffer, Operand, Settled, View, ViewMut};
pub use chip::{Chip, Limits};
pub use emulated::{Copies, EmulatorOptions, Schedule, emulated_kernels};
pub use fault::Fault;
pub use file::{Compiled, KernelFile, OpKernel, Usage};
pub use graph::{Graph, Node};
pub use launch::{FIRST_BLOCK, Kernel, Launch, Params};
pub use stream::{Event, Stream};
pub use tensor_map::{Swizzle, TensorMap, Tiling};
pub use trace::{Moved, Total, Touched, Trace, Work, totals};

use crate::Error;
use fault::{Asked, Faults};

/// A GPU, the emulator, or a device that only plans. Clones are the same device.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    chip: Chip,
    runner: Runner,
    /// Loaded kernel files by their address: each is one static of its crate.
    modules: Mutex<HashMap<usize, Arc<driver::Module>>>,
}

#[derive(Clone)]
enum Runner {
    Cuda(Arc<driver::Context>),
    Emulated(EmulatorOptions, Arc<Faults>),
    Planned(Arc<planned::Machine>),
}

impl Device {
    /// Opens a GPU by its number among those that the driver sees.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::NoDevice`], [`Error::DriverTooOld`], [`Error::ChipTooOld`], or what the driver says.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        let context = driver::Context::open(ordinal)?;
        Ok(Self::new(context.chip.clone(), Runner::Cuda(context)))
    }

    /// The emulator as a device: host memory, and kernels compiled for the CPU.
    ///
    /// # Errors
    /// [`Error::NoEmulator`] when this build has none.
    pub fn emulated(options: EmulatorOptions) -> Result<Self, Error> {
        if !cfg!(emulator) {
            return Err(Error::NoEmulator);
        }
        let chip = Chip {
            name: "emulator".to_owned(),
            capability: options.capability,
            multiprocessors: u32::try_from(rayon::current_num_threads()).unwrap_or(u32::MAX),
            memory_bytes: 0,
            l2_bytes: 0,
            driver: None,
            limits: Limits::of(options.capability),
        };
        Ok(Self::new(chip, Runner::Emulated(options, Arc::new(Faults::new(options.fault)))))
    }

    /// A device that takes every allocation, copy and launch through the same checks as the others, and executes nothing:
    /// the code that would run on such a chip tells here what it would do, with no GPU and no memory.
    ///
    /// It lists what is queued ([`Device::planned_work`], [`Stream::trace`]). Buffers have addresses, which are
    /// distinct and aligned as real ones are, and no contents: **what is read back is zeros** of the right length, so code
    /// that decides by values decides by zeros. It takes more than the chip's memory, so that a plan tells how much is
    /// missing. Kernels need no machine code; where the build has it, their registers and shared memory are checked too.
    pub fn planned(chip: Chip) -> Self {
        Self::new(chip, Runner::Planned(planned::Machine::new()))
    }

    fn new(chip: Chip, runner: Runner) -> Self {
        Self { inner: Arc::new(Inner { chip, runner, modules: Mutex::default() }) }
    }

    /// How many GPUs the driver sees.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], or what the driver says.
    pub fn count() -> Result<usize, Error> {
        driver::count()
    }

    /// CUDA version of the driver.
    ///
    /// # Errors
    /// [`Error::NoDriver`] where there is none.
    pub fn driver_version() -> Result<(u32, u32), Error> {
        driver::version()
    }

    /// What the device is and what it can take.
    pub fn chip(&self) -> &Chip {
        &self.inner.chip
    }

    /// Whether this is the emulator.
    pub fn is_emulated(&self) -> bool {
        matches!(self.inner.runner, Runner::Emulated(..))
    }

    /// Whether it only plans.
    pub fn is_planned(&self) -> bool {
        matches!(self.inner.runner, Runner::Planned(_))
    }

    /// Everything that was queued so far on a planned device: a list for each stream, in the order in which they were made,
    /// also of streams that have gone; none on a device that executes.
    pub fn planned_work(&self) -> Option<Vec<Trace>> {
        match &self.inner.runner {
            Runner::Planned(machine) => Some(machine.work()),
            Runner::Cuda(_) | Runner::Emulated(..) => None,
        }
    }

    /// Free and total device memory in bytes; none for the emulator, which takes the host's. On a planned device the total
    /// is its chip's, of which nothing is free once more is in use.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory_bytes(&self) -> Result<Option<(usize, usize)>, Error> {
        match &self.inner.runner {
            Runner::Cuda(context) => context.memory().map(Some),
            Runner::Emulated(..) => Ok(None),
            Runner::Planned(machine) => {
                let total = self.inner.chip.memory_bytes;
                let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
                Ok(Some((bytes(total.saturating_sub(machine.in_use())), bytes(total))))
            }
        }
    }

    /// A new stream: work queued on it runs in order, and beside the work of other streams.
    ///
    /// # Errors
    /// What the driver says.
    pub fn stream(&self) -> Result<Stream, Error> {
        Stream::new(self)
    }

    /// Waits for all streams.
    ///
    /// # Errors
    /// What the driver says, also of work that was queued earlier.
    pub fn synchronize(&self) -> Result<(), Error> {
        match &self.inner.runner {
            Runner::Cuda(context) => context.synchronize(),
            Runner::Emulated(_, faults) => faults.meet(Asked::Wait("waiting for a device")),
            Runner::Planned(_) => Ok(()),
        }
    }

    /// Counts what an emulated device is asked for.
    ///
    /// # Errors
    /// The simulated fault when it is due.
    fn meet(&self, asked: Asked) -> Result<(), Error> {
        match &self.inner.runner {
            Runner::Emulated(_, faults) => faults.meet(asked),
            Runner::Cuda(_) | Runner::Planned(_) => Ok(()),
        }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The machine code of a file, loaded at the first call.
    fn module(&self, context: &Arc<driver::Context>, file: &'static KernelFile) -> Result<Arc<driver::Module>, Error> {
        let compiled = file.compiled.as_ref().ok_or(Error::NoKernels { file: file.name })?;
        let Chip { capability, driver, .. } = self.inner.chip;
        if let Some(found) = driver.filter(|found| found.0 < compiled.release.0) {
            return Err(Error::DriverTooOld { what: "the kernels", found, needed: (compiled.release.0, 0) });
        }
        if compiled.code_for(capability).is_none() {
            return Err(Error::WrongChip { file: file.name, chips: compiled.chips.join(", "), capability });
        }
        let mut modules = locked(&self.inner.modules);
        let key = std::ptr::from_ref(file).addr();
        if let Some(module) = modules.get(&key) {
            return Ok(module.clone());
        }
        let module = driver::Module::load(context, compiled.fatbin)?;
        modules.insert(key, module.clone());
        Ok(module)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.inner.chip).finish()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
