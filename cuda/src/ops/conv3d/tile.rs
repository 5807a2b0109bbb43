//! The register tile: a few pixels of a line times a panel of output channels.

use crate::host::Isa;

/// Pixels and output channels of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileShape {
    /// Pixels at most.
    pub rows: usize,
    /// Output channels.
    pub cols: usize,
}

impl TileShape {
    /// Tile values of the largest tile.
    pub const MOST: usize = 14 * 32;

    pub fn of(isa: Isa) -> Self {
        match isa {
            // 28 sums, 2 weights and 1 pixel fill 31 of 32 registers
            Isa::Avx512 => Self { rows: 14, cols: 32 },
            // 12 sums, 2 weights and 1 pixel fill 15 of 16 registers
            Isa::Avx2 => Self { rows: 6, cols: 16 },
            Isa::Neon => Self { rows: 8, cols: 8 },
            Isa::Scalar => Self { rows: 4, cols: 8 },
        }
    }
}

/// A stretch of the sum: pixels and weights of one line of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// First value of the first pixel.
    pub pixels: *const f32,
    /// First weight of the panel for it.
    pub weights: *const f32,
}

/// What all segments of a tile have in common.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Pixels of the tile.
    pub rows: usize,
    /// Values from one pixel of the tile to the next.
    pub pixel_stride: usize,
    /// Products that a segment adds.
    pub depth: usize,
    /// Whether only the first half of the panel's columns is wanted.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there a panel is one vector's worth"))]
    pub is_narrow: bool,
    /// Whether `sums` is overwritten instead of added to.
    pub is_first: bool,
}

/// `sums[row, col] += sum over segments and depth of pixels[row * stride + d] * weights[d, col]`.
///
/// # Safety
/// `isa` runs on this machine. `extent.rows` is between 1 and the tile's. Every segment's pixels can be read from
/// `0 .. (rows - 1) * pixel_stride + depth`, its weights from `0 .. depth * cols`; `sums` holds `rows * cols` values,
/// and pointers to weights and sums lie on cache lines.
pub(super) unsafe fn multiply(isa: Isa, segments: &[Segment], extent: Extent, sums: *mut f32) {
    macro_rules! by_rows {
        ($module:ident, $vectors:literal, [$($rows:literal)*]) => {
            match extent.rows {
                // SAFETY: the caller's promise, passed on.
                $($rows => unsafe { $module::tile::<$rows, $vectors>(segments, extent, sums) },)*
                rows => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if extent.is_narrow => by_rows!(avx512, 1, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => by_rows!(avx512, 2, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if extent.is_narrow => by_rows!(avx2, 1, [1 2 3 4 5 6]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => by_rows!(avx2, 2, [1 2 3 4 5 6]),
        _ => by_rows!(plain, 8, [1 2 3 4 5 6 7 8]),
    }
}

/// The tile in vector registers: `$vectors` of a panel's two vectors of columns for each pixel.
#[cfg(target_arch = "x86_64")]
macro_rules! x86_tile {
    ($module:ident, $features:literal, $lanes:literal, $vector:ty, $zero:ident, $load:ident, $store:ident, $splat:ident, $fmadd:ident) => {
        mod $module {
            use super::{Extent, Segment};
            use std::arch::x86_64::*;

            /// # Safety
            /// As [`multiply`](super::multiply), with `extent.rows == ROWS`.
            #[target_feature(enable = $features)]
            pub unsafe fn tile<const ROWS: usize, const VECTORS: usize>(segments: &[Segment], extent: Extent, sums: *mut f32) {
                let at = |row: usize, vector: usize| (row * 2 + vector) * $lanes;
                let mut held: [[$vector; VECTORS]; ROWS] = [[$zero(); VECTORS]; ROWS];
                if !extent.is_first {
                    for (row, held) in held.iter_mut().enumerate() {
                        for (vector, held) in held.iter_mut().enumerate() {
                            // SAFETY: `sums` holds `ROWS` rows of two vectors.
                            *held = unsafe { $load(sums.add(at(row, vector))) };
                        }
                    }
                }
                for segment in segments {
                    let (mut pixels, mut weights) = (segment.pixels, segment.weights);
                    for _ in 0..extent.depth {
                        // SAFETY: a step of the segment's depth: a row of the panel and a value of each pixel, readable by
                        // the caller's promise.
                        unsafe {
                            let panel: [$vector; VECTORS] = std::array::from_fn(|vector| $load(weights.add(vector * $lanes)));
                            for (row, held) in held.iter_mut().enumerate() {
                                let pixel = $splat(*pixels.add(row * extent.pixel_stride));
                                for (held, panel) in held.iter_mut().zip(panel) {
                                    *held = $fmadd(pixel, panel, *held);
                                }
                            }
                            pixels = pixels.add(1);
                            weights = weights.add(2 * $lanes);
                        }
                    }
                }
                for (row, held) in held.iter().enumerate() {
                    for (vector, held) in held.iter().enumerate() {
                        // SAFETY: as for loading.
                        unsafe { $store(sums.add(at(row, vector)), *held) };
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_tile!(avx512, "avx512f", 16, __m512, _mm512_setzero_ps, _mm512_load_ps, _mm512_store_ps, _mm512_set1_ps, _mm512_fmadd_ps);
#[cfg(target_arch = "x86_64")]
x86_tile!(avx2, "avx2,fma", 8, __m256, _mm256_setzero_ps, _mm256_load_ps, _mm256_store_ps, _mm256_set1_ps, _mm256_fmadd_ps);

/// The tile in plain arrays, for the compiler to put in whatever registers there are.
mod plain {
    use super::{Extent, Segment};

    /// Fused where the base instruction set has it; elsewhere a fused one would be a call.
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
        if cfg!(target_arch = "aarch64") { a.mul_add(b, sum) } else { a * b + sum }
    }

    /// # Safety
    /// As [`multiply`](super::multiply), with `extent.rows == ROWS` and panels of `COLS` columns.
    pub unsafe fn tile<const ROWS: usize, const COLS: usize>(segments: &[Segment], extent: Extent, sums: *mut f32) {
        // SAFETY: `sums` holds that many values, and nothing else refers to them.
        let sums = unsafe { &mut *sums.cast::<[[f32; COLS]; ROWS]>() };
        let mut held = if extent.is_first { [[0.0; COLS]; ROWS] } else { *sums };
        for segment in segments {
            for step in 0..extent.depth {
                // SAFETY: row `step` of the segment's panel, readable by the caller's promise.
                let panel = unsafe { &*segment.weights.add(step * COLS).cast::<[f32; COLS]>() };
                for (row, held) in held.iter_mut().enumerate() {
                    // SAFETY: value `step` of the segment's pixel `row`, readable by the caller's promise.
                    let pixel = unsafe { *segment.pixels.add(row * extent.pixel_stride + step) };
                    for (held, weight) in held.iter_mut().zip(panel) {
                        *held = multiply_add(pixel, *weight, *held);
                    }
                }
            }
        }
        *sums = held;
    }
}
