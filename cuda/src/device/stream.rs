//! Work in order: streams, events, and the recording of a graph.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::arena_run::Slots;
use super::buffer::Buffer;
use super::fault::Asked;
use super::graph::{Capture, Graph};
use super::memory::Memory;
use super::trace::{Lists, Trace, Work};
use super::{Device, Runner, driver, locked, planned};
use crate::Error;
use crate::host::aligned::Plain;

/// A queue of work on a device. Clones are the same stream. The emulator does each piece of work before it returns; a
/// planned device does none.
#[derive(Clone)]
pub struct Stream {
    inner: Arc<Inner>,
}

struct Inner {
    device: Device,
    queue: Queue,
    capture: Mutex<Option<Capture>>,
    lists: Lists,
    /// The arena that allocations are taken from.
    slots: Mutex<Option<Slots>>,
    /// Allocations so far.
    allocations: AtomicU64,
}

pub(super) enum Queue {
    Cuda(Arc<driver::Queue>),
    Emulated,
    Planned(Arc<planned::Machine>),
}

impl Stream {
    pub(super) fn new(device: &Device) -> Result<Self, Error> {
        let queue = match &device.inner.runner {
            Runner::Cuda(context) => Queue::Cuda(driver::Queue::new(context)?),
            Runner::Emulated(..) => Queue::Emulated,
            Runner::Planned(machine) => Queue::Planned(machine.clone()),
        };
        let lists = if let Queue::Planned(machine) = &queue { machine.stream() } else { Lists::default() };
        Ok(Self {
            inner: Arc::new(Inner {
                device: device.clone(),
                queue,
                capture: Mutex::default(),
                lists,
                slots: Mutex::default(),
                allocations: AtomicU64::new(0),
            }),
        })
    }

    /// The device that the work runs on.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Memory for `len` values, which are not set.
    ///
    /// # Errors
    /// [`Error::Capturing`], [`Error::OutOfMemory`], [`Error::ArenaDeparture`] in a run of an [`super::Arena`], or what the
    /// driver says.
    pub fn allocate<T: Plain>(&self, len: usize) -> Result<Buffer<T>, Error> {
        Buffer::new(self, len)
    }

    /// Memory for `len` values whose bytes are zero. The emulator's takes pages only where it is touched, so it may be larger
    /// than the machine's memory.
    ///
    /// # Errors
    /// As [`Stream::allocate`], and [`Error::Size`] where the system has not so many addresses.
    pub fn zeros<T: Plain>(&self, len: usize) -> Result<Buffer<T>, Error> {
        Buffer::zeros(self, len)
    }

    /// Memory with a copy of `values`.
    ///
    /// # Errors
    /// As [`Stream::allocate`].
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer<T>, Error> {
        let mut buffer = self.allocate(values.len())?;
        buffer.view_mut().write(values)?;
        Ok(buffer)
    }

    /// Memory with `len` values that are made for it: a planned device, which would not look at them, makes none.
    ///
    /// # Errors
    /// As [`Stream::allocate`], and [`Error::Length`] when `make` makes another number of them.
    pub fn upload_made<T: Plain>(&self, len: usize, make: impl FnOnce() -> Vec<T>) -> Result<Buffer<T>, Error> {
        let mut buffer = self.allocate(len)?;
        buffer.view_mut().write_made(make)?;
        Ok(buffer)
    }

    /// Waits until everything queued here is done.
    ///
    /// # Errors
    /// [`Error::Capturing`], or what the driver says, also of work that was queued earlier.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.refuse_capture("waiting for a stream")?;
        match &self.inner.queue {
            Queue::Cuda(queue) => queue.synchronize(),
            Queue::Emulated => self.inner.device.meet(Asked::Wait("waiting for a stream")),
            Queue::Planned(_) => Ok(()),
        }
    }

    /// An event behind everything queued so far.
    ///
    /// # Errors
    /// [`Error::Capturing`], or what the driver says.
    pub fn record(&self) -> Result<Event, Error> {
        self.refuse_capture("an event")?;
        Ok(Event(match &self.inner.queue {
            Queue::Cuda(queue) => Mark::Cuda(driver::Mark::record(queue)?),
            Queue::Emulated => {
                self.inner.device.meet(Asked::Wait("an event"))?;
                Mark::Emulated(Instant::now())
            }
            Queue::Planned(_) => Mark::Planned,
        }))
    }

    /// Makes what is queued here from now on wait for an event of any stream of the device.
    ///
    /// # Errors
    /// [`Error::OtherStream`] for an event of another kind of device, or what the driver says.
    pub fn wait(&self, event: &Event) -> Result<(), Error> {
        self.refuse_capture("waiting for an event")?;
        match (&self.inner.queue, &event.0) {
            (Queue::Cuda(queue), Mark::Cuda(mark)) => queue.wait(mark),
            (Queue::Emulated, Mark::Emulated(_)) | (Queue::Planned(_), Mark::Planned) => Ok(()),
            _ => Err(Error::OtherStream { what: "the event" }),
        }
    }

    /// Records what `work` queues on this stream, without running it, as a graph that can be replayed.
    ///
    /// The work must wait for nothing, and allocate nothing outside of an [`super::Arena`]. Buffers it drops are freed after the recording.
    ///
    /// # Errors
    /// [`Error::Capturing`] inside another recording, what `work` returns, or what the driver says.
    pub fn capture<E: From<Error>>(&self, work: impl FnOnce(&Self) -> Result<(), E>) -> Result<Graph, E> {
        {
            let mut capture = locked(&self.inner.capture);
            if capture.is_some() {
                return Err(Error::Capturing { what: "another recording" }.into());
            }
            if let Queue::Cuda(queue) = &self.inner.queue {
                queue.begin_capture()?;
            }
            *capture = Some(Capture::default());
        }
        let ending = EndCapture { stream: self };
        let done = work(self);
        let graph = ending.finish();
        done?;
        Ok(graph?)
    }

    /// Lists what `work` queues on this stream, on any device: launches with their operands, copies, fills, allocations and
    /// frees. A graph that is replayed is listed work by work; what is recorded is not, since it is not queued.
    ///
    /// # Errors
    /// What `work` returns.
    pub fn trace<R, E>(&self, work: impl FnOnce(&Self) -> Result<R, E>) -> Result<(R, Trace), E> {
        self.inner.lists.begin();
        let list = EndTrace(&self.inner.lists);
        let done = work(self)?;
        Ok((done, list.finish()))
    }

    /// Everything that was queued here since the stream was made, on a planned device; none on one that executes.
    pub fn planned_work(&self) -> Option<Trace> {
        matches!(self.inner.queue, Queue::Planned(_)).then(|| self.inner.lists.all())
    }

    fn end_capture(&self) -> Result<Graph, Error> {
        let capture = locked(&self.inner.capture).take().unwrap_or_default();
        let replay = match &self.inner.queue {
            Queue::Cuda(queue) => Some(queue.end_capture()?),
            Queue::Emulated | Queue::Planned(_) => None,
        };
        Ok(Graph::new(self.clone(), capture, replay))
    }

    pub(super) fn refuse_capture(&self, what: &'static str) -> Result<(), Error> {
        if locked(&self.inner.capture).is_some() { Err(Error::Capturing { what }) } else { Ok(()) }
    }

    /// Notes a piece of work that has been queued and the memory it touches: in the graph that is being recorded, or else
    /// in the list that is being kept.
    pub(super) fn note(&self, work: impl FnOnce() -> Work, memory: &mut dyn Iterator<Item = &Arc<Memory>>) {
        if let Some(capture) = locked(&self.inner.capture).as_mut() {
            capture.works.push(work());
            capture.kept.extend(memory.cloned());
        } else {
            self.inner.lists.work(work);
        }
    }

    /// Runs a piece of the emulator's work now, or keeps it for the replay of the graph that is being recorded.
    pub(super) fn emulate<F>(&self, asked: Asked, work: impl FnOnce() -> F) -> Result<(), Error>
    where
        F: Fn() -> Result<(), Error> + Send + 'static,
    {
        if let Some(capture) = locked(&self.inner.capture).as_mut() {
            let (device, work) = (self.inner.device.clone(), work());
            capture.steps.push(Box::new(move || device.meet(asked).and_then(|()| work())));
            return Ok(());
        }
        self.inner.device.meet(asked)?;
        work()()
    }

    /// Notes new memory and numbers it.
    pub(super) fn note_allocation(&self, bytes: usize) -> u64 {
        let serial = self.inner.allocations.fetch_add(1, Ordering::Relaxed);
        self.inner.lists.allocate(serial, bytes);
        serial
    }

    /// Notes the end of memory.
    pub(super) fn note_free(&self, serial: u64, bytes: usize) {
        self.inner.lists.free(serial, bytes);
    }

    /// The arena that an allocation is to be taken from.
    pub(super) fn slots(&self) -> Option<Slots> {
        locked(&self.inner.slots).clone()
    }

    /// Takes allocations from an arena from now on.
    pub(super) fn take_slots(&self, slots: Slots) -> Result<(), Error> {
        let mut place = locked(&self.inner.slots);
        if place.is_some() {
            return Err(Error::ArenaBusy { with: "another run on its stream" });
        }
        *place = Some(slots);
        Ok(())
    }

    /// Takes allocations from the device again.
    pub(super) fn drop_slots(&self) {
        let slots = locked(&self.inner.slots).take();
        drop(slots);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.inner.device).finish()
    }
}

/// Ends the recording even when the work panics.
struct EndCapture<'a> {
    stream: &'a Stream,
}

impl EndCapture<'_> {
    fn finish(self) -> Result<Graph, Error> {
        let stream = self.stream;
        std::mem::forget(self);
        stream.end_capture()
    }
}

impl Drop for EndCapture<'_> {
    fn drop(&mut self) {
        drop(self.stream.end_capture());
    }
}

/// Ends a list even when the work fails or panics.
struct EndTrace<'a>(&'a Lists);

impl EndTrace<'_> {
    fn finish(self) -> Trace {
        let lists = self.0;
        std::mem::forget(self);
        lists.end()
    }
}

impl Drop for EndTrace<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A point in a stream.
pub struct Event(Mark);

enum Mark {
    Cuda(driver::Mark),
    Emulated(Instant),
    Planned,
}

impl Event {
    /// Waits until the stream has passed it.
    ///
    /// # Errors
    /// What the driver says, also of work that was queued earlier.
    pub fn synchronize(&self) -> Result<(), Error> {
        match &self.0 {
            Mark::Cuda(mark) => mark.synchronize(),
            Mark::Emulated(_) | Mark::Planned => Ok(()),
        }
    }

    /// Milliseconds from this event to a later one, which is waited for; none pass on a planned device.
    ///
    /// # Errors
    /// [`Error::OtherStream`] for events of two kinds of device, or what the driver says.
    pub fn elapsed_ms(&self, later: &Self) -> Result<f32, Error> {
        match (&self.0, &later.0) {
            (Mark::Cuda(from), Mark::Cuda(to)) => from.elapsed_ms(to),
            (Mark::Emulated(from), Mark::Emulated(to)) => Ok(to.saturating_duration_since(*from).as_secs_f32() * 1e3),
            (Mark::Planned, Mark::Planned) => Ok(0.0),
            _ => Err(Error::OtherStream { what: "the later event" }),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event")
    }
}
