//! Device memory of one buffer: where it lies, which stream it is at home on, and who may touch it.

use std::sync::Arc;

use super::graph::Node;
use super::stream::{Queue, Stream};
use super::{driver, emulated};
use crate::Error;

/// Memory of one buffer, shared with the graphs that use it.
pub(super) struct Memory {
    pub(super) place: Place,
    pub(super) stream: Stream,
    pub(super) is_settled: bool,
}

pub(super) enum Place {
    Cuda(driver::Memory),
    Emulated(emulated::Memory),
}

impl Memory {
    pub(super) fn new(stream: &Stream, bytes: usize) -> Result<Self, Error> {
        stream.refuse_capture("an allocation")?;
        let place = match stream.queue() {
            Queue::Cuda(queue) => Place::Cuda(driver::Memory::new(queue, bytes)?),
            Queue::Emulated => Place::Emulated(emulated::Memory::new(bytes)),
        };
        Ok(Self { place, stream: stream.clone(), is_settled: false })
    }

    pub(super) fn zeros(stream: &Stream, bytes: usize) -> Result<Self, Error> {
        if matches!(stream.queue(), Queue::Cuda(_)) {
            let memory = Arc::new(Self::new(stream, bytes)?);
            memory.fill(0, bytes, 0)?;
            // nothing is being recorded, or there would be no new memory: no graph holds it
            return Arc::into_inner(memory).ok_or(Error::Capturing { what: "an allocation" });
        }
        stream.refuse_capture("an allocation")?;
        let memory = emulated::Memory::zeros(bytes);
        let memory = memory.ok_or(Error::Size { what: "bytes of a buffer", must: "what the system has addresses for", found: bytes })?;
        Ok(Self { place: Place::Emulated(memory), stream: stream.clone(), is_settled: false })
    }

    pub(super) fn address(&self) -> u64 {
        match &self.place {
            Place::Cuda(memory) => memory.address,
            Place::Emulated(memory) => memory.address(),
        }
    }

    /// Whether work on `stream` may touch it.
    pub(super) fn serves(&self, stream: &Stream) -> bool {
        self.stream.is(stream) || (self.is_settled && self.stream.device().is(stream.device()))
    }

    pub(super) fn write(&self, from: usize, bytes: &[u8]) -> Result<(), Error> {
        self.stream.refuse_capture("a copy from the host")?;
        match &self.place {
            Place::Cuda(memory) => memory.write(from, bytes),
            Place::Emulated(memory) => {
                memory.write(from, bytes);
                Ok(())
            }
        }
    }

    pub(super) fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), Error> {
        self.stream.refuse_capture("a copy to the host")?;
        match &self.place {
            Place::Cuda(memory) => memory.read(from, bytes),
            Place::Emulated(memory) => {
                memory.read(from, bytes);
                Ok(())
            }
        }
    }

    pub(super) fn fill(self: &Arc<Self>, from: usize, bytes: usize, value: u8) -> Result<(), Error> {
        match &self.place {
            Place::Cuda(memory) => memory.fill(from, bytes, value)?,
            Place::Emulated(_) => self.stream.emulate(|| {
                let this = self.clone();
                move || {
                    if let Place::Emulated(memory) = &this.place {
                        memory.fill(from, bytes, value);
                    }
                    Ok(())
                }
            })?,
        }
        self.stream.note(|| Node { name: "fill", launch: None }, &mut std::iter::once(self));
        Ok(())
    }

    pub(super) fn copy(self: &Arc<Self>, to: usize, source: &Arc<Self>, from: usize, bytes: usize) -> Result<(), Error> {
        if !source.serves(&self.stream) {
            return Err(Error::OtherStream { what: "the source of a copy" });
        }
        match (&self.place, &source.place) {
            (Place::Cuda(memory), Place::Cuda(source)) => memory.copy(to, source, from, bytes)?,
            _ => self.stream.emulate(|| {
                let (this, source) = (self.clone(), source.clone());
                move || {
                    if let (Place::Emulated(memory), Place::Emulated(source)) = (&this.place, &source.place) {
                        memory.copy(to, source, from, bytes);
                    }
                    Ok(())
                }
            })?,
        }
        self.stream.note(|| Node { name: "copy", launch: None }, &mut [self, source].into_iter());
        Ok(())
    }
}
