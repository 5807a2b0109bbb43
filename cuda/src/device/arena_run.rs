//! An arena that a known sequence of allocations is run in.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::arena::{MemoryEvent, MemoryPlan};
use super::locked;
use super::memory::Memory;
use super::stream::Stream;
use crate::Error;

/// One allocation that serves a planned sequence of them, again and again: what runs in it asks the device for no memory.
///
/// ```
/// use turbowan_cuda::device::{Arena, Device, EmulatorOptions, Stream};
/// use turbowan_cuda::Error;
///
/// # fn main() -> Result<(), Error> {
/// fn step(stream: &Stream) -> Result<Vec<u8>, Error> {
///     let first = stream.upload(&[1u8, 2, 3])?;
///     let mut second = stream.allocate(3)?;
///     second.view_mut().copy_from(first.view())?;
///     second.to_vec()
/// }
/// # let Ok(device) = Device::emulated(EmulatorOptions::default()) else { return Ok(()) };
/// let stream = device.stream()?;
/// let (_, trace) = stream.trace(step)?;
/// let mut arena = Arena::new(&stream, trace.memory()?)?;
/// assert_eq!(arena.run(step)?, [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
pub struct Arena {
    memory: Arc<Memory>,
    progress: Arc<Mutex<Progress>>,
    plan: Arc<MemoryPlan>,
    stream: Stream,
}

/// How far a run has come.
#[derive(Default)]
struct Progress {
    is_running: bool,
    /// The next event of the plan.
    next: usize,
    /// Allocations of this run so far.
    allocations: usize,
    /// Buffers that are alive.
    alive: usize,
    departure: Option<Error>,
}

impl Progress {
    /// Goes past an event, if it is the planned one and all before were.
    fn pass(&mut self, plan: &MemoryPlan, found: Option<MemoryEvent>) -> Result<(), Error> {
        if let Some(departure) = &self.departure {
            return Err(departure.clone());
        }
        let expected = plan.events().get(self.next).copied();
        if expected != found {
            let departure = Error::ArenaDeparture { at: self.next, of: plan.events().len(), expected, found };
            self.departure = Some(departure.clone());
            return Err(departure);
        }
        self.next += usize::from(found.is_some());
        Ok(())
    }
}

impl Arena {
    /// Allocates the arena of a plan on a stream.
    ///
    /// # Errors
    /// As [`Stream::allocate`].
    pub fn new(stream: &Stream, plan: MemoryPlan) -> Result<Self, Error> {
        let memory = Memory::new(stream, plan.arena_bytes())?;
        Ok(Self { memory, progress: Arc::default(), plan: plan.into(), stream: stream.clone() })
    }

    /// The plan.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Runs work whose allocations on the arena's stream are the planned ones, in the planned order and freed in the
    /// planned order; they lie in the arena, also while the stream records a graph.
    ///
    /// Buffers may leave the work; the arena serves no other run while they live. They outlive the arena itself, as does a
    /// graph that was recorded in it. A replay of the graph writes where it was recorded, whatever else lies there by then.
    ///
    /// # Errors
    /// [`Error::ArenaBusy`] while another run goes on or buffers of the last one live, [`Error::ArenaDeparture`] with the
    /// first event that is not the planned one, or what `work` returns.
    pub fn run<R, E: From<Error>>(&mut self, work: impl FnOnce(&Stream) -> Result<R, E>) -> Result<R, E> {
        {
            let mut progress = locked(&self.progress);
            if progress.alive > 0 {
                return Err(Error::ArenaBusy { with: "buffers of its last run" }.into());
            }
            let slots = Slots { memory: self.memory.clone(), progress: self.progress.clone(), plan: self.plan.clone() };
            self.stream.take_slots(slots)?;
            *progress = Progress { is_running: true, ..Progress::default() };
        }
        let running = Running(self);
        let done = work(&self.stream);
        drop(running);
        let done = done?;
        // the end must be the plan's end, and no free may have been out of turn
        let ended = locked(&self.progress).pass(&self.plan, None);
        ended.map(|()| done).map_err(E::from)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena of {} bytes for {} allocations", self.plan.arena_bytes(), self.plan.offsets().len())
    }
}

/// Ends a run even when the work panics.
struct Running<'a>(&'a Arena);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.stream.drop_slots();
        locked(&self.0.progress).is_running = false;
    }
}

/// An arena as its stream knows it during a run.
#[derive(Clone)]
pub(super) struct Slots {
    pub(super) memory: Arc<Memory>,
    progress: Arc<Mutex<Progress>>,
    plan: Arc<MemoryPlan>,
}

impl Slots {
    /// The place of the next allocation: where it starts, and what ends it.
    pub(super) fn take(&self, bytes: usize) -> Result<(usize, Lease), Error> {
        let mut progress = locked(&self.progress);
        progress.pass(&self.plan, Some(MemoryEvent::Allocate { bytes }))?;
        let allocation = progress.allocations;
        progress.allocations += 1;
        progress.alive += 1;
        let lease = Lease { allocation, progress: self.progress.clone(), plan: self.plan.clone() };
        Ok((self.plan.offsets()[allocation], lease))
    }
}

/// The life of one buffer in an arena.
pub(super) struct Lease {
    allocation: usize,
    progress: Arc<Mutex<Progress>>,
    plan: Arc<MemoryPlan>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut progress = locked(&self.progress);
        progress.alive -= 1;
        if progress.is_running {
            // a departure is told to the next allocation, or at the end of the run
            let _ = progress.pass(&self.plan, Some(MemoryEvent::Free { allocation: self.allocation }));
        }
    }
}
