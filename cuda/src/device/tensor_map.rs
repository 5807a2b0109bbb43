//! Tensor maps: how the copy engine of 9.0 chips sees a matrix that lies in device memory.
//!
//! A kernel whose parameters hold a [`TensorMap`] copies whole tiles between the matrix and shared memory with one
//! instruction of one thread. What lies outside the matrix arrives as zeros and is not stored.

use super::buffer::View;
use super::driver;
use crate::Error;
use crate::host::aligned::Plain;

/// The most axes that a map has here.
pub(super) const AXES: usize = 3;

/// Values of a tile along one axis.
const TILE_LIMIT: usize = 256;

/// Bytes between neighbours along an axis are below it, by the driver's contract.
const STRIDE_LIMIT: u128 = 1 << 40;

/// Alignment of the matrix and of its strides in bytes, and the piece that tiles are made of.
const CHUNK: u64 = 16;

/// How the 16-byte chunks of a tile's rows are permuted in shared memory, so that eight rows at one depth lie on all banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// They lie in order.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes of the rows that it permutes; 0 without one.
    pub fn row_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }
}

/// How a matrix lies in memory and what its tiles are: two axes or three, the slowest first.
#[derive(Debug, Clone, Copy)]
pub struct Tiling<'a> {
    /// Values along each axis: from 1 to 2^31 - 1.
    pub shape: &'a [usize],
    /// Values from one to the next along every axis but the last, along which they are contiguous. In bytes each is a
    /// multiple of 16 below 2^40.
    pub strides: &'a [usize],
    /// Values of a tile along each axis: from 1 to 256. Along the last axis they fill chunks of 16 bytes, and with a
    /// swizzle exactly its row.
    pub tile: &'a [usize],
    /// The order of chunks in shared memory.
    pub swizzle: Swizzle,
}

/// A matrix as the copy engine sees it, by value in the parameters of a kernel: `tw_tensor_map` of `kernels/tensor_map.h`.
///
/// It borrows nothing: a launch that takes it must have the matrix among its operands, which is checked.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap {
    bits: [u64; 16],
    first: u64,
    last: u64,
    unused: [u64; 6],
}

const _: () = assert!(size_of::<TensorMap>() == 192 && std::mem::offset_of!(TensorMap, first) == 128);

impl TensorMap {
    /// The map of a matrix that starts with the first value of `view`.
    ///
    /// # Errors
    /// [`Error::Size`] when a size, a stride or a tile is not what [`Tiling`] says, [`Error::Misaligned`] when the view
    /// starts at no multiple of 16 bytes, [`Error::Length`] when it is shorter than the matrix, or what the driver says.
    pub fn new<T: Plain>(view: View<'_, T>, tiling: &Tiling<'_>) -> Result<Self, Error> {
        let plan = Plan::new(view.address().addr() as u64, size_of::<T>(), view.len(), tiling)?;
        let bits = if view.is_on_gpu() { driver::encode_tensor_map(&plan)? } else { plan.words() };
        Ok(Self { bits, first: plan.address, last: plan.address + plan.bytes - 1, unused: [0; 6] })
    }

    /// Shows where the matrix begins and where it ends, for [`super::Params::addresses`].
    pub fn addresses(&self, name: &'static str, visit: &mut dyn FnMut(&'static str, u64)) {
        visit(name, self.first);
        visit(name, self.last);
    }
}

/// A map in the engine's own terms: axes from the innermost, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) address: u64,
    /// From the first value to the end of the last.
    pub(super) bytes: u64,
    pub(super) value_bytes: u64,
    pub(super) axes: u32,
    pub(super) sizes: [u64; AXES],
    pub(super) strides: [u64; AXES - 1],
    pub(super) tile: [u32; AXES],
    pub(super) swizzle: Swizzle,
}

impl Plan {
    fn new(address: u64, value_bytes: usize, len: usize, tiling: &Tiling<'_>) -> Result<Self, Error> {
        let refuse = |what, must, found| Err(Error::Size { what, must, found });
        let &Tiling { shape, strides, tile, swizzle } = tiling;
        let axes = shape.len();
        if !(2..=AXES).contains(&axes) {
            return refuse("axes of a tensor map", "2 or 3", axes);
        }
        for (what, expected, found) in
            [("strides of a tensor map", axes - 1, strides.len()), ("axes of a tensor map's tile", axes, tile.len())]
        {
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        if let Some(size) = shape.iter().find(|size| !(1..=i32::MAX as usize).contains(*size)) {
            return refuse("values along an axis of a tensor map", "from 1 to 2^31 - 1", *size);
        }
        if let Some(size) = tile.iter().find(|size| !(1..=TILE_LIMIT).contains(*size)) {
            return refuse("values of a tensor map's tile", "from 1 to 256 along each axis", *size);
        }
        for stride in strides {
            let bytes = *stride as u128 * value_bytes as u128;
            if !bytes.is_multiple_of(CHUNK.into()) || bytes >= STRIDE_LIMIT {
                return refuse("a stride of a tensor map", "a multiple of 16 bytes, below 2^40", *stride);
            }
        }
        let row_bytes = tile[axes - 1] * value_bytes;
        if !(row_bytes as u64).is_multiple_of(CHUNK) {
            return refuse("bytes of a row of a tensor map's tile", "a multiple of 16", row_bytes);
        }
        // a narrower row would be padded in a way that the driver's documents do not tell
        if swizzle != Swizzle::None && row_bytes != swizzle.row_bytes() {
            return refuse("bytes of a row of a swizzled tile", "those of the swizzle's row", row_bytes);
        }
        if !address.is_multiple_of(CHUNK) {
            return Err(Error::Misaligned { what: "the matrix of a tensor map", needed: CHUNK, found: address % CHUNK });
        }
        // each product is below 2^31 * 2^40
        let reach = |(size, stride): (&usize, &usize)| (*size as u128 - 1) * *stride as u128;
        let values = shape.iter().zip(strides).map(reach).sum::<u128>() + shape[axes - 1] as u128;
        if values > len as u128 {
            let expected = usize::try_from(values).unwrap_or(usize::MAX);
            return Err(Error::Length { what: "the matrix of a tensor map", expected, found: len });
        }

        let value_bytes = value_bytes as u64;
        let mut plan = Self {
            address,
            bytes: values as u64 * value_bytes,
            value_bytes,
            axes: axes as u32,
            sizes: [1; AXES],
            strides: [0; AXES - 1],
            tile: [1; AXES],
            swizzle,
        };
        for axis in 0..axes {
            plan.sizes[axis] = shape[axes - 1 - axis] as u64;
            plan.tile[axis] = tile[axes - 1 - axis] as u32;
        }
        for axis in 0..axes - 1 {
            plan.strides[axis] = strides[axes - 2 - axis] as u64 * value_bytes;
        }
        Ok(plan)
    }

    /// The emulator's words, as `kernels/tensor_map.h` names them.
    fn words(&self) -> [u64; 16] {
        const MAGIC: u64 = 0x7061_6d72_6f73_6e74;
        let [columns, rows, planes] = self.sizes;
        let [tile_columns, tile_rows, tile_planes] = self.tile.map(u64::from);
        let swizzle = self.swizzle.row_bytes() as u64;
        let [row_stride, plane_stride] = self.strides;
        [
            MAGIC,
            self.address,
            self.value_bytes,
            self.axes.into(),
            swizzle,
            columns,
            rows,
            planes,
            row_stride,
            plane_stride,
            tile_columns,
            tile_rows,
            tile_planes,
            0,
            0,
            0,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: Tiling<'_> = Tiling { shape: &[300, 256], strides: &[256], tile: &[128, 128], swizzle: Swizzle::Bytes128 };

    #[test]
    fn a_plan_counts_axes_from_the_innermost_in_bytes() {
        let plan = Plan::new(4096, 1, 300 * 256, &MATRIX).unwrap();
        assert_eq!((plan.sizes, plan.strides, plan.tile), ([256, 300, 1], [256, 0], [128, 128, 1]));
        assert_eq!((plan.address, plan.bytes, plan.axes), (4096, 300 * 256, 2));
        let cube = Tiling { shape: &[3, 5, 40], strides: &[1000, 48], tile: &[2, 4, 32], swizzle: Swizzle::Bytes64 };
        let plan = Plan::new(0, 2, 3000, &cube).unwrap();
        assert_eq!((plan.sizes, plan.strides, plan.tile), ([40, 5, 3], [96, 2000], [32, 4, 2]));
        // the gap behind the last row is not the matrix's
        assert_eq!(plan.bytes, 2 * (2 * 1000 + 4 * 48 + 40));
        assert_eq!(&plan.words()[3..13], &[3, 64, 40, 5, 3, 96, 2000, 32, 4, 2]);
    }

    #[test]
    fn what_the_engine_cannot_take_is_refused() {
        let len = 300 * 256;
        let size = |tiling: Tiling<'_>| match Plan::new(0, 1, len, &tiling) {
            Err(Error::Size { what, .. } | Error::Length { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(size(Tiling { shape: &[300], ..MATRIX }), "axes of a tensor map");
        assert_eq!(size(Tiling { shape: &[1, 1, 1, 1], ..MATRIX }), "axes of a tensor map");
        assert_eq!(size(Tiling { strides: &[], ..MATRIX }), "strides of a tensor map");
        assert_eq!(size(Tiling { tile: &[128], ..MATRIX }), "axes of a tensor map's tile");
        assert_eq!(size(Tiling { shape: &[0, 256], ..MATRIX }), "values along an axis of a tensor map");
        assert_eq!(size(Tiling { shape: &[1 << 31, 256], ..MATRIX }), "values along an axis of a tensor map");
        assert_eq!(size(Tiling { tile: &[257, 128], ..MATRIX }), "values of a tensor map's tile");
        assert_eq!(size(Tiling { strides: &[264], ..MATRIX }), "a stride of a tensor map");
        assert_eq!(size(Tiling { strides: &[1 << 40], ..MATRIX }), "a stride of a tensor map");
        assert_eq!(size(Tiling { tile: &[128, 24], swizzle: Swizzle::None, ..MATRIX }), "bytes of a row of a tensor map's tile");
        assert_eq!(size(Tiling { tile: &[128, 256], ..MATRIX }), "bytes of a row of a swizzled tile");
        assert_eq!(size(Tiling { tile: &[128, 64], ..MATRIX }), "bytes of a row of a swizzled tile");
        assert_eq!(size(Tiling { shape: &[301, 256], ..MATRIX }), "the matrix of a tensor map");
        let misaligned = Plan::new(8, 1, len, &MATRIX);
        assert!(matches!(misaligned, Err(Error::Misaligned { needed: 16, found: 8, .. })), "{misaligned:?}");
    }

    #[test]
    fn a_matrix_past_two_to_the_31_bytes_has_a_map() {
        let large = Tiling { shape: &[163_840, 20_480], strides: &[20_480], tile: &[256, 64], swizzle: Swizzle::Bytes128 };
        let plan = Plan::new(0, 2, 163_840 * 20_480, &large).unwrap();
        assert_eq!((plan.bytes, plan.strides[0]), (163_840 * 20_480 * 2, 40_960));
    }
}
