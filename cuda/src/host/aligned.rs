//! Buffers that start on a cache line, for panels that vector loads walk through.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest vector.
pub const LINE_BYTES: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

mod sealed {
    /// A number for which every bit pattern is a value.
    ///
    /// # Safety
    /// The type has no padding, no invalid bit pattern, and an alignment that divides 64.
    pub unsafe trait Plain: Copy + Send + Sync + 'static {}
    // SAFETY: primitive numbers have neither padding nor invalid bit patterns.
    unsafe impl Plain for f32 {}
    // SAFETY: as above.
    unsafe impl Plain for u32 {}
    // SAFETY: as above.
    unsafe impl Plain for i32 {}
    // SAFETY: as above.
    unsafe impl Plain for i8 {}
    // SAFETY: as above.
    unsafe impl Plain for u8 {}
    // SAFETY: as above.
    unsafe impl Plain for u16 {}
    // SAFETY: as above.
    unsafe impl Plain for u64 {}
    // SAFETY: as above.
    unsafe impl Plain for i64 {}
    // SAFETY: as above.
    unsafe impl Plain for f64 {}
    // SAFETY: a transparent `u16`, of which every pattern is a number or NaN.
    unsafe impl Plain for half::bf16 {}
    // SAFETY: as above.
    unsafe impl Plain for half::f16 {}
}
pub use sealed::Plain;

/// A growable row of numbers whose first one lies on a cache line. New values are zero.
#[derive(Clone)]
pub struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0; LINE_BYTES]); (len * size_of::<T>()).div_ceil(LINE_BYTES)], len, kind: PhantomData }
    }

    /// At least `len` values, growing when there are fewer; what was there may stay.
    pub fn at_least(&mut self, len: usize) -> &mut [T] {
        if len > self.len {
            self.lines.resize((len * size_of::<T>()).div_ceil(LINE_BYTES), Line([0; LINE_BYTES]));
            self.len = len;
        }
        &mut self[..len]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }
}

impl<T> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.len)
    }
}

impl<T: Plain> Default for Aligned<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `lines` holds at least `len * size_of::<T>()` initialised bytes, aligned to 64, and `T: Plain`
        // takes every bit pattern.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_lies_on_a_cache_line_and_growth_keeps_what_was_there() {
        let mut values = Aligned::<f32>::zeroed(3);
        values[2] = 7.0;
        assert_eq!(values.at_least(1000)[..4], [0.0, 0.0, 7.0, 0.0]);
        assert_eq!(values.as_ptr() as usize % LINE_BYTES, 0);
        assert_eq!(values.len(), 1000);
        assert_eq!(values.bytes(), 4032);
    }
}
