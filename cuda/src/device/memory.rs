//! Device memory of one buffer: where it lies, which stream it is at home on, and who may touch it.

use std::sync::Arc;

use super::fault::Asked;
use super::stream::{Queue, Stream};
use super::trace::Work;
use super::{driver, emulated, planned};
use crate::Error;

/// Memory of one buffer, shared with the graphs that use it.
pub(super) struct Memory {
    pub(super) place: Place,
    pub(super) stream: Stream,
    pub(super) is_settled: bool,
    /// Its number on the stream.
    serial: u64,
    bytes: usize,
}

pub(super) enum Place {
    Cuda(driver::Memory),
    Emulated(emulated::Memory),
    Planned(planned::Memory),
}

impl Memory {
    pub(super) fn new(stream: &Stream, bytes: usize) -> Result<Arc<Self>, Error> {
        Self::placed(stream, bytes, || {
            Ok(match stream.queue() {
                Queue::Cuda(queue) => Place::Cuda(driver::Memory::new(queue, bytes)?),
                Queue::Emulated => Place::Emulated(emulated::Memory::new(bytes)),
                Queue::Planned(machine) => Place::Planned(planned::Memory::new(machine, bytes)?),
            })
        })
    }

    pub(super) fn zeros(stream: &Stream, bytes: usize) -> Result<Arc<Self>, Error> {
        if !matches!(stream.queue(), Queue::Emulated) {
            let memory = Self::new(stream, bytes)?;
            memory.fill(0, bytes, 0)?;
            return Ok(memory);
        }
        let memory = Self::placed(stream, bytes, || {
            let pages = emulated::Memory::zeros(bytes);
            let pages = pages.ok_or(Error::Size { what: "bytes of a buffer", must: "what the system has addresses for", found: bytes })?;
            Ok(Place::Emulated(pages))
        })?;
        // pages are zeros as they come, but the work is the same as elsewhere
        stream.emulate(Asked::Move("fill"), || || Ok(()))?;
        stream.note(|| Work::Fill { bytes }, &mut std::iter::once(&memory));
        Ok(memory)
    }

    fn placed(stream: &Stream, bytes: usize, place: impl FnOnce() -> Result<Place, Error>) -> Result<Arc<Self>, Error> {
        stream.refuse_capture("an allocation")?;
        stream.device().meet(Asked::Allocation(bytes))?;
        let place = place()?;
        let serial = stream.note_allocation(bytes);
        Ok(Arc::new(Self { place, stream: stream.clone(), is_settled: false, serial, bytes }))
    }

    pub(super) fn address(&self) -> u64 {
        match &self.place {
            Place::Cuda(memory) => memory.address,
            Place::Emulated(memory) => memory.address(),
            Place::Planned(memory) => memory.address,
        }
    }

    /// Whether work on `stream` may touch it.
    pub(super) fn serves(&self, stream: &Stream) -> bool {
        self.stream.is(stream) || (self.is_settled && self.stream.device().is(stream.device()))
    }

    pub(super) fn write(self: &Arc<Self>, from: usize, bytes: &[u8]) -> Result<(), Error> {
        self.stream.refuse_capture("a copy from the host")?;
        match &self.place {
            Place::Cuda(memory) => memory.write(from, bytes)?,
            Place::Emulated(memory) => {
                self.stream.device().meet(Asked::Move("copy from the host"))?;
                memory.write(from, bytes);
            }
            Place::Planned(_) => return self.plan_write(from, bytes.len()),
        }
        self.stream.note(|| Work::FromHost { bytes: bytes.len() }, &mut std::iter::once(self));
        Ok(())
    }

    /// Whether writes need no bytes: a planned device only notes them.
    pub(super) fn is_planned(&self) -> bool {
        matches!(self.place, Place::Planned(_))
    }

    /// A copy from the host to planned memory, which looks at none of its bytes.
    pub(super) fn plan_write(self: &Arc<Self>, from: usize, bytes: usize) -> Result<(), Error> {
        self.stream.refuse_capture("a copy from the host")?;
        if let Place::Planned(memory) = &self.place {
            memory.check(from, bytes);
        }
        self.stream.note(|| Work::FromHost { bytes }, &mut std::iter::once(self));
        Ok(())
    }

    /// Copies to the host; zeros on a planned device.
    pub(super) fn read(self: &Arc<Self>, from: usize, bytes: &mut [u8]) -> Result<(), Error> {
        self.stream.refuse_capture("a copy to the host")?;
        match &self.place {
            Place::Cuda(memory) => memory.read(from, bytes)?,
            Place::Emulated(memory) => {
                self.stream.device().meet(Asked::Move("copy to the host"))?;
                memory.read(from, bytes);
            }
            Place::Planned(memory) => {
                memory.check(from, bytes.len());
                bytes.fill(0);
            }
        }
        self.stream.note(|| Work::ToHost { bytes: bytes.len() }, &mut std::iter::once(self));
        Ok(())
    }

    pub(super) fn fill(self: &Arc<Self>, from: usize, bytes: usize, value: u8) -> Result<(), Error> {
        match &self.place {
            Place::Cuda(memory) => memory.fill(from, bytes, value)?,
            Place::Emulated(_) => {
                self.emulate(Asked::Move("fill"), move |memory| memory.fill(from, bytes, value))?;
            }
            Place::Planned(memory) => memory.check(from, bytes),
        }
        self.stream.note(|| Work::Fill { bytes }, &mut std::iter::once(self));
        Ok(())
    }

    /// Makes a part of emulated memory as it was when it was new: what an arena hands out was never written by its taker.
    pub(super) fn forget(self: &Arc<Self>, from: usize, bytes: usize) -> Result<(), Error> {
        match &self.place {
            Place::Emulated(_) => self.emulate(Asked::Wait("an arena"), move |memory| memory.forget(from, bytes)),
            Place::Cuda(_) | Place::Planned(_) => Ok(()),
        }
    }

    pub(super) fn copy(self: &Arc<Self>, to: usize, source: &Arc<Self>, from: usize, bytes: usize) -> Result<(), Error> {
        if !source.serves(&self.stream) {
            return Err(Error::OtherStream { what: "the source of a copy" });
        }
        match (&self.place, &source.place) {
            (Place::Cuda(memory), Place::Cuda(source)) => memory.copy(to, source, from, bytes)?,
            (Place::Planned(memory), Place::Planned(source)) => {
                memory.check(to, bytes);
                source.check(from, bytes);
            }
            _ => {
                let source = source.clone();
                self.emulate(Asked::Move("copy"), move |memory| {
                    if let Place::Emulated(source) = &source.place {
                        memory.copy(to, source, from, bytes);
                    }
                })?;
            }
        }
        self.stream.note(|| Work::Copy { bytes }, &mut [self, source].into_iter());
        Ok(())
    }

    /// Does something with emulated memory, now or in the replay of a graph.
    fn emulate(self: &Arc<Self>, asked: Asked, work: impl Fn(&emulated::Memory) + Send + 'static) -> Result<(), Error> {
        self.stream.emulate(asked, || {
            let this = self.clone();
            move || {
                if let Place::Emulated(memory) = &this.place {
                    work(memory);
                }
                Ok(())
            }
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stream.note_free(self.serial, self.bytes);
    }
}
