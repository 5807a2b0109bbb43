//! Device memory that knows its length and its stream.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::arena::ARENA_ALIGNMENT;
use super::arena_run::{Lease, Slots};
use super::driver;
use super::memory::{Memory, Place};
use super::stream::Stream;
use crate::Error;
use crate::host::aligned::Plain;

/// `len` values in the memory of a device, at home on one stream.
pub struct Buffer<T> {
    memory: Arc<Memory>,
    /// The first value's place in the memory, in values.
    from: usize,
    len: usize,
    /// What ends its life in an arena.
    lease: Option<Lease>,
    kind: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    pub(super) fn new(stream: &Stream, len: usize) -> Result<Self, Error> {
        let bytes = bytes::<T>(len)?;
        match stream.slots() {
            None => Ok(Self::whole(Memory::new(stream, bytes)?, len)),
            Some(slots) => {
                let buffer = Self::leased(&slots, bytes, len)?;
                buffer.memory.forget(buffer.from * size_of::<T>(), bytes)?;
                Ok(buffer)
            }
        }
    }

    pub(super) fn zeros(stream: &Stream, len: usize) -> Result<Self, Error> {
        let bytes = bytes::<T>(len)?;
        match stream.slots() {
            None => Ok(Self::whole(Memory::zeros(stream, bytes)?, len)),
            Some(slots) => {
                let mut buffer = Self::leased(&slots, bytes, len)?;
                buffer.view_mut().fill_bytes(0)?;
                Ok(buffer)
            }
        }
    }

    fn whole(memory: Arc<Memory>, len: usize) -> Self {
        Self { memory, from: 0, len, lease: None, kind: PhantomData }
    }

    fn leased(slots: &Slots, bytes: usize, len: usize) -> Result<Self, Error> {
        const { assert!(ARENA_ALIGNMENT.is_multiple_of(size_of::<T>()), "places in an arena are whole values") };
        let (offset, lease) = slots.take(bytes)?;
        Ok(Self { memory: slots.memory.clone(), from: offset / size_of::<T>(), len, lease: Some(lease), kind: PhantomData })
    }

    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The stream whose work may touch it.
    pub fn stream(&self) -> &Stream {
        &self.memory.stream
    }

    /// All of it, to be read.
    pub fn view(&self) -> View<'_, T> {
        View { memory: &self.memory, from: self.from, len: self.len, kind: PhantomData }
    }

    /// All of it, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { memory: &self.memory, from: self.from, len: self.len, kind: PhantomData }
    }

    /// The values, after everything queued before; zeros on a planned device.
    ///
    /// # Errors
    /// [`Error::Capturing`], or what the driver says.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        self.view().to_vec()
    }

    /// Waits for its stream and makes it read-only, so that every stream of the device may read it: weights are such.
    ///
    /// # Errors
    /// [`Error::Capturing`] while its stream records, or when a graph still uses it; [`Error::InArena`]; or what the driver
    /// says.
    pub fn settle(mut self) -> Result<Settled<T>, Error> {
        if self.lease.is_some() {
            return Err(Error::InArena { what: "settling a buffer" });
        }
        self.memory.stream.refuse_capture("settling a buffer")?;
        let memory = Arc::get_mut(&mut self.memory).ok_or(Error::Capturing { what: "settling a buffer that a graph uses" })?;
        if let Place::Cuda(memory) = &mut memory.place {
            memory.settle()?;
        }
        memory.is_settled = true;
        Ok(Settled(self))
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {} x {}", self.len, std::any::type_name::<T>())
    }
}

/// A buffer that is never written again, for all streams of its device.
#[derive(Debug)]
pub struct Settled<T>(Buffer<T>);

impl<T: Plain> Settled<T> {
    /// All of it.
    pub fn view(&self) -> View<'_, T> {
        self.0.view()
    }

    /// Values.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A part of a buffer, to be read.
pub struct View<'a, T> {
    memory: &'a Arc<Memory>,
    from: usize,
    len: usize,
    kind: PhantomData<T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: Plain> View<'a, T> {
    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Values `range` of these.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn slice(self, range: Range<usize>) -> Result<Self, Error> {
        check("a part of a view", &range, self.len)?;
        Ok(Self { from: self.from + range.start, len: range.len(), ..self })
    }

    /// Where the first value lies, for a kernel's parameters.
    pub fn address(&self) -> *const T {
        std::ptr::with_exposed_provenance(self.start() as usize)
    }

    /// Whether it is memory of a GPU.
    pub(super) fn is_on_gpu(&self) -> bool {
        matches!(self.memory.place, Place::Cuda(_))
    }

    /// What a launch must know of it when its kernel reads it.
    pub fn reads(&self, name: &'static str) -> Operand<'a> {
        let bytes = self.len * size_of::<T>();
        Operand { name, memory: self.memory, address: self.start(), bytes, touched: bytes, is_read: true, is_written: false, alignment: 1 }
    }

    /// The values, after everything queued before on the buffer's stream; zeros on a planned device.
    ///
    /// # Errors
    /// [`Error::Capturing`], or what the driver says.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        let mut values = crate::host::Aligned::<T>::zeroed(self.len).to_vec();
        self.read(&mut values)?;
        Ok(values)
    }

    /// Copies the values to the host, after everything queued before on the buffer's stream; zeros on a planned device.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` has another length, [`Error::Capturing`], or what the driver says.
    pub fn read(&self, values: &mut [T]) -> Result<(), Error> {
        Error::expect_len("a copy to the host", values, self.len)?;
        self.memory.read(self.from * size_of::<T>(), driver::bytes_of_mut(values))
    }

    fn start(&self) -> u64 {
        self.memory.address() + (self.from * size_of::<T>()) as u64
    }
}

impl<T> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View of {} x {} from {}", self.len, std::any::type_name::<T>(), self.from)
    }
}

/// A part of a buffer, to be written.
pub struct ViewMut<'a, T> {
    memory: &'a Arc<Memory>,
    from: usize,
    len: usize,
    kind: PhantomData<&'a mut T>,
}

impl<T: Plain> ViewMut<'_, T> {
    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same values, to be read.
    pub fn as_view(&self) -> View<'_, T> {
        View { memory: self.memory, from: self.from, len: self.len, kind: PhantomData }
    }

    /// The same values for a while.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { memory: self.memory, from: self.from, len: self.len, kind: PhantomData }
    }

    /// Values `range` of these.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn slice(&mut self, range: Range<usize>) -> Result<ViewMut<'_, T>, Error> {
        check("a part of a view", &range, self.len)?;
        Ok(ViewMut { memory: self.memory, from: self.from + range.start, len: range.len(), kind: PhantomData })
    }

    /// Where the first value lies, for a kernel's parameters.
    pub fn address(&mut self) -> *mut T {
        self.as_view().address().cast_mut()
    }

    /// What a launch must know of it when its kernel writes it and needs nothing of what was there.
    pub fn writes(&mut self, name: &'static str) -> Operand<'_> {
        Operand { is_read: false, is_written: true, ..self.as_view().reads(name) }
    }

    /// What a launch must know of it when its kernel reads it and writes it: a residual that is added to, an operation in
    /// place, a sum of atomics.
    pub fn updates(&mut self, name: &'static str) -> Operand<'_> {
        Operand { is_written: true, ..self.as_view().reads(name) }
    }

    /// Copies values from the host and waits until they are there.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` has another length, [`Error::Capturing`], or what the driver says.
    pub fn write(&mut self, values: &[T]) -> Result<(), Error> {
        Error::expect_len("a copy from the host", values, self.len)?;
        self.memory.write(self.from * size_of::<T>(), driver::bytes_of(values))
    }

    /// As [`ViewMut::write`], of values that are made for it: a planned device, which would not look at them, makes none.
    ///
    /// # Errors
    /// As [`ViewMut::write`].
    pub fn write_made(&mut self, make: impl FnOnce() -> Vec<T>) -> Result<(), Error> {
        if self.memory.is_planned() {
            return self.memory.plan_write(self.from * size_of::<T>(), self.len * size_of::<T>());
        }
        self.write(&make())
    }

    /// Queues a fill of all bytes with one value; zero makes every number zero.
    ///
    /// # Errors
    /// What the driver says.
    pub fn fill_bytes(&mut self, value: u8) -> Result<(), Error> {
        self.memory.fill(self.from * size_of::<T>(), self.len * size_of::<T>(), value)
    }

    /// Queues a copy from another buffer, on the stream of this one.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ, [`Error::OtherStream`], or what the driver says.
    pub fn copy_from(&mut self, source: View<'_, T>) -> Result<(), Error> {
        if source.len != self.len {
            return Err(Error::Length { what: "a copy on the device", expected: self.len, found: source.len });
        }
        let size = size_of::<T>();
        self.memory.copy(self.from * size, source.memory, source.from * size, self.len * size)
    }
}

impl<T> fmt::Debug for ViewMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewMut of {} x {} from {}", self.len, std::any::type_name::<T>(), self.from)
    }
}

fn bytes<T>(len: usize) -> Result<usize, Error> {
    len.checked_mul(size_of::<T>()).ok_or(Error::Size { what: "a buffer", must: "less than 2^64 bytes", found: len })
}

fn check(what: &'static str, range: &Range<usize>, len: usize) -> Result<(), Error> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(Error::OutOfRange { what, from: range.start, to: range.end, len })
}

/// Memory that a kernel touches: borrowed for the launch, kept by a graph, and the limit of what the emulator lets the
/// kernel touch.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub(super) name: &'static str,
    pub(super) memory: &'a Arc<Memory>,
    pub(super) address: u64,
    pub(super) bytes: usize,
    pub(super) touched: usize,
    pub(super) is_read: bool,
    pub(super) is_written: bool,
    alignment: u64,
}

impl Operand<'_> {
    /// The kernel needs its first byte at a multiple of `bytes`, a power of two.
    #[must_use]
    pub fn aligned(self, bytes: u64) -> Self {
        Self { alignment: bytes, ..self }
    }

    /// The kernel touches `bytes` of it alone: its rows, between which others lie.
    #[must_use]
    pub fn of_which(self, bytes: usize) -> Self {
        Self { touched: bytes.min(self.bytes), ..self }
    }

    /// Whether a launch on `stream` may have it.
    pub(super) fn check(&self, stream: &Stream) -> Result<(), Error> {
        if !self.memory.serves(stream) {
            return Err(Error::OtherStream { what: self.name });
        }
        if self.address.is_multiple_of(self.alignment) {
            return Ok(());
        }
        Err(Error::Misaligned { what: self.name, needed: self.alignment, found: self.address % self.alignment })
    }

    /// Whether a pointer of the parameters may point there.
    pub(super) fn holds(&self, address: u64) -> bool {
        address >= self.address && (address - self.address < self.bytes as u64 || address == self.address)
    }
}

impl fmt::Debug for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes{}", self.name, self.bytes, if self.is_written { ", written" } else { "" })
    }
}
