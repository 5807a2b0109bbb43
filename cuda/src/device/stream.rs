//! Work in order: streams, events, and the recording of a graph.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::buffer::Buffer;
use super::graph::{Capture, Graph, Node};
use super::memory::Memory;
use super::{Device, Runner, driver, locked};
use crate::Error;
use crate::host::aligned::Plain;

/// A queue of work on a device. Clones are the same stream. The emulator does each piece of work before it returns.
#[derive(Clone)]
pub struct Stream {
    inner: Arc<Inner>,
}

struct Inner {
    device: Device,
    queue: Queue,
    capture: Mutex<Option<Capture>>,
}

pub(super) enum Queue {
    Cuda(Arc<driver::Queue>),
    Emulated,
}

impl Stream {
    pub(super) fn new(device: &Device) -> Result<Self, Error> {
        let queue = match &device.inner.runner {
            Runner::Cuda(context) => Queue::Cuda(driver::Queue::new(context)?),
            Runner::Emulated(_) => Queue::Emulated,
        };
        Ok(Self { inner: Arc::new(Inner { device: device.clone(), queue, capture: Mutex::new(None) }) })
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
    /// [`Error::Capturing`], or what the driver says.
    pub fn allocate<T: Plain>(&self, len: usize) -> Result<Buffer<T>, Error> {
        Buffer::new(self, len)
    }

    /// Memory for `len` values whose bytes are zero. The emulator's takes pages only where it is touched, so it may be larger
    /// than the machine's memory.
    ///
    /// # Errors
    /// [`Error::Capturing`], [`Error::Size`] where the system has not so many addresses, or what the driver says.
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

    /// Waits until everything queued here is done.
    ///
    /// # Errors
    /// [`Error::Capturing`], or what the driver says, also of work that was queued earlier.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.refuse_capture("waiting for a stream")?;
        match &self.inner.queue {
            Queue::Cuda(queue) => queue.synchronize(),
            Queue::Emulated => Ok(()),
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
            Queue::Emulated => Mark::Emulated(Instant::now()),
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
            (Queue::Emulated, Mark::Emulated(_)) => Ok(()),
            _ => Err(Error::OtherStream { what: "the event" }),
        }
    }

    /// Records what `work` queues on this stream, without running it, as a graph that can be replayed.
    ///
    /// The work must allocate nothing and wait for nothing. Buffers it drops are freed after the recording.
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

    fn end_capture(&self) -> Result<Graph, Error> {
        let capture = locked(&self.inner.capture).take().unwrap_or_default();
        let replay = match &self.inner.queue {
            Queue::Cuda(queue) => Some(queue.end_capture()?),
            Queue::Emulated => None,
        };
        Ok(Graph::new(self.clone(), capture, replay))
    }

    pub(super) fn refuse_capture(&self, what: &'static str) -> Result<(), Error> {
        if locked(&self.inner.capture).is_some() { Err(Error::Capturing { what }) } else { Ok(()) }
    }

    /// Notes a piece of work and the memory it touches, if a graph is being recorded.
    pub(super) fn note(&self, node: impl FnOnce() -> Node, memory: &mut dyn Iterator<Item = &Arc<Memory>>) {
        if let Some(capture) = locked(&self.inner.capture).as_mut() {
            capture.nodes.push(node());
            capture.kept.extend(memory.cloned());
        }
    }

    /// Runs a piece of the emulator's work now, or keeps it for the replay of the graph that is being recorded.
    pub(super) fn emulate<F>(&self, work: impl FnOnce() -> F) -> Result<(), Error>
    where
        F: Fn() -> Result<(), Error> + Send + 'static,
    {
        if let Some(capture) = locked(&self.inner.capture).as_mut() {
            capture.steps.push(Box::new(work()));
            return Ok(());
        }
        work()()
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

/// A point in a stream.
pub struct Event(Mark);

enum Mark {
    Cuda(driver::Mark),
    Emulated(Instant),
}

impl Event {
    /// Waits until the stream has passed it.
    ///
    /// # Errors
    /// What the driver says, also of work that was queued earlier.
    pub fn synchronize(&self) -> Result<(), Error> {
        match &self.0 {
            Mark::Cuda(mark) => mark.synchronize(),
            Mark::Emulated(_) => Ok(()),
        }
    }

    /// Milliseconds from this event to a later one, which is waited for.
    ///
    /// # Errors
    /// [`Error::OtherStream`] for events of two kinds of device, or what the driver says.
    pub fn elapsed_ms(&self, later: &Self) -> Result<f32, Error> {
        match (&self.0, &later.0) {
            (Mark::Cuda(from), Mark::Cuda(to)) => from.elapsed_ms(to),
            (Mark::Emulated(from), Mark::Emulated(to)) => Ok(to.saturating_duration_since(*from).as_secs_f32() * 1e3),
            _ => Err(Error::OtherStream { what: "the later event" }),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event")
    }
}
