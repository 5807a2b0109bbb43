//! A tensor where its file holds it.

use std::ops::Range;
use std::sync::OnceLock;

use super::{Read, byte_len};
use crate::checkpoint::tensor::{Dtype, TensorView};

/// Number format, shape and place of a tensor; the place was checked against the file when this was made.
#[derive(Debug)]
pub(crate) struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Row-major bytes of the file.
    Packed(Range<usize>),
    /// A view with strides (in values), packed when it is first asked for.
    Strided { start: usize, axes: Vec<Axis>, packed: OnceLock<Box<[u8]>> },
}

/// One axis of a view: rows, and values from one to the next.
#[derive(Debug, Clone, Copy)]
struct Axis {
    side: usize,
    stride: usize,
}

impl Stored {
    /// A row-major tensor whose bytes are `range` of a file of `file_len` bytes.
    pub fn packed(dtype: Dtype, shape: Vec<usize>, range: Range<usize>, file_len: usize) -> Read<Self> {
        let expected = byte_len(&shape, dtype.bytes())?;
        if range.start > range.end || range.end > file_len {
            return Err(format!("its bytes {}..{} lie outside the file of {file_len} bytes", range.start, range.end));
        }
        if range.len() != expected {
            return Err(format!("shape {shape:?} of {} needs {expected} bytes, its place has {}", dtype.name(), range.len()));
        }
        Ok(Self { dtype, shape, place: Place::Packed(range) })
    }

    /// A view with `strides` (in values) that begins `offset` values into a storage whose bytes are `storage` of the file.
    ///
    /// The storage was checked against the file. Views that repeat values are refused: a few bytes could stand for any size.
    pub fn strided(dtype: Dtype, shape: Vec<usize>, strides: &[usize], offset: usize, storage: Range<usize>) -> Read<Self> {
        let bytes = byte_len(&shape, dtype.bytes())?;
        let held = storage.len() / dtype.bytes();
        if strides.len() != shape.len() {
            return Err(format!("shape {shape:?} with strides {strides:?}"));
        }
        if bytes == 0 {
            return Ok(Self { dtype, shape, place: Place::Packed(storage.start..storage.start) });
        }
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(offset, |last, (side, stride)| (side - 1).checked_mul(*stride).and_then(|step| last.checked_add(step)));
        if last.is_none_or(|last| last >= held) {
            return Err(format!("offset {offset}, shape {shape:?} and strides {strides:?} reach outside a storage of {held} values"));
        }
        // `last < held` and `held` values fit the file, so none of the products below can overflow.
        let start = storage.start + offset * dtype.bytes();
        if is_row_major(&shape, strides) {
            return Ok(Self { dtype, shape, place: Place::Packed(start..start + bytes) });
        }
        if bytes > storage.len() {
            return Err(format!("shape {shape:?} with strides {strides:?} repeats the {held} values of its storage"));
        }
        let axes = shape.iter().zip(strides).map(|(side, stride)| Axis { side: *side, stride: *stride }).collect();
        Ok(Self { dtype, shape, place: Place::Strided { start, axes, packed: OnceLock::new() } })
    }

    /// Bytes that packing will take beside the file.
    pub fn packing_bytes(&self) -> usize {
        match &self.place {
            Place::Packed(_) => 0,
            Place::Strided { .. } => self.shape.iter().product::<usize>() * self.dtype.bytes(),
        }
    }

    /// The values; `file` is what the tensor was read from.
    pub fn view<'a>(&'a self, file: &'a [u8]) -> TensorView<'a> {
        let bytes = match &self.place {
            Place::Packed(range) => &file[range.clone()],
            Place::Strided { start, axes, packed } => packed.get_or_init(|| self.pack(file, *start, axes)),
        };
        TensorView { dtype: self.dtype, shape: &self.shape, bytes }
    }

    fn pack(&self, file: &[u8], start: usize, axes: &[Axis]) -> Box<[u8]> {
        let width = self.dtype.bytes();
        let mut packed = Vec::with_capacity(self.packing_bytes());
        let mut index = vec![0usize; axes.len()];
        let mut at = 0usize;
        loop {
            let from = start + at * width;
            packed.extend_from_slice(&file[from..from + width]);
            // Count up like an odometer: the last axis turns fastest.
            let mut wheel = axes.len();
            loop {
                if wheel == 0 {
                    return packed.into_boxed_slice();
                }
                wheel -= 1;
                index[wheel] += 1;
                at += axes[wheel].stride;
                if index[wheel] < axes[wheel].side {
                    break;
                }
                at -= axes[wheel].stride * axes[wheel].side;
                index[wheel] = 0;
            }
        }
    }
}

/// Whether values lie in row-major order; the stride of an axis of one row does not matter.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    for (side, stride) in shape.iter().zip(strides).rev() {
        if *side != 1 && *stride != expected {
            return false;
        }
        expected *= side;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_is_packed_in_row_major_order() {
        let file: Vec<u8> = (0..16).collect();
        let view = Stored::strided(Dtype::U8, vec![4, 3], &[1, 4], 2, 0..16).unwrap();
        let want: Vec<u8> = (0..4).flat_map(|row| (0..3).map(move |column| 2 + row + 4 * column)).collect();
        assert_eq!(view.view(&file).bytes, want);
        assert_eq!(view.packing_bytes(), 12);
    }

    #[test]
    fn strides_of_axes_with_one_row_do_not_matter() {
        let view = Stored::strided(Dtype::F32, vec![1, 2, 1], &[999, 1, 7], 1, 8..24).unwrap();
        assert_eq!(view.packing_bytes(), 0);
        assert_eq!(view.view(&[0; 24]).bytes.len(), 8);
    }

    #[test]
    fn views_that_leave_or_repeat_their_storage_are_refused() {
        for (shape, strides, offset) in [
            (vec![5], vec![1], 0),
            (vec![4], vec![1], 1),
            (vec![2], vec![usize::MAX], 0),
            (vec![usize::MAX, 2], vec![1, 1], 0),
            (vec![3, 3], vec![0, 1], 0),
            (vec![2, 2], vec![1], 0),
            (vec![1], vec![1], usize::MAX),
        ] {
            assert!(Stored::strided(Dtype::F32, shape.clone(), &strides, offset, 0..16).is_err(), "{shape:?} {strides:?} {offset}");
        }
    }
}
