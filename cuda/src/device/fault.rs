//! Faults that an emulated device meets on purpose, so that what answers them can be tested.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// A fault and when it comes. Counts start at 1 and go over all streams of the device; work of a graph counts when it is
/// replayed. An allocation from a [`super::Arena`] asks the device for nothing and is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One allocation finds no memory: [`Error::OutOfMemory`]. The next one does.
    OutOfMemory {
        /// Which allocation.
        allocation: u64,
    },
    /// One launch fails and does nothing: [`Error::LaunchFailed`]. The next one runs.
    LaunchFailed {
        /// Which launch.
        launch: u64,
    },
    /// One operation, and everything asked for after it, fails: [`Error::DeviceLost`].
    DeviceLost {
        /// Which allocation, launch, copy or fill, all counted together.
        operation: u64,
    },
}

/// Something that a device is asked for.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    Allocation(usize),
    Launch(&'static str),
    /// A copy or a fill.
    Move(&'static str),
    /// To wait, which is no operation but tells of a lost device.
    Wait(&'static str),
}

/// The name that a simulated fault bears in the place of the driver's.
const SIMULATED: &str = "a simulated fault";

/// What an emulated device has been asked for so far.
#[derive(Default)]
pub(super) struct Faults {
    fault: Option<Fault>,
    allocations: AtomicU64,
    launches: AtomicU64,
    operations: AtomicU64,
}

impl Faults {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Counts what is asked for.
    ///
    /// # Errors
    /// The fault when it is due.
    pub(super) fn meet(&self, asked: Asked) -> Result<(), Error> {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed) + 1;
        let operation = match asked {
            Asked::Wait(_) => self.operations.load(Ordering::Relaxed),
            _ => count(&self.operations),
        };
        let call = match asked {
            Asked::Allocation(_) => "an allocation",
            Asked::Launch(name) | Asked::Move(name) | Asked::Wait(name) => name,
        };
        match (self.fault, asked) {
            (Some(Fault::DeviceLost { operation: lost }), _) if operation >= lost.max(1) => {
                Err(Error::DeviceLost { call, name: SIMULATED.to_owned() })
            }
            (Some(Fault::OutOfMemory { allocation }), Asked::Allocation(bytes)) if count(&self.allocations) == allocation => {
                Err(Error::OutOfMemory { bytes })
            }
            (Some(Fault::LaunchFailed { launch }), Asked::Launch(kernel)) if count(&self.launches) == launch => {
                Err(Error::LaunchFailed { kernel, name: SIMULATED.to_owned() })
            }
            _ => Ok(()),
        }
    }
}
