//! The innermost product: a few rows times a few columns, all of it in registers.
//!
//! ```text
//! acc[i, j] (+)= sum_k a[k, i] * b[k, j]        i < rows, j < COLS
//! ```
//!
//! `a` is interleaved by row (`rows` words for each k) and `b` by column (a panel of a [`PackedMatrix`]): both are read
//! from start to end. The sum over k is one chain of additions in the order of k, so a result does not depend on the
//! place of its tile.
//!
//! [`PackedMatrix`]: super::PackedMatrix

use super::panel::Panel;
use crate::host::Isa;

/// Rows and columns of the register tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileShape {
    pub rows: usize,
    pub cols: usize,
}

impl TileShape {
    /// The tile that fills the registers of an instruction set.
    pub fn of(isa: Isa) -> Self {
        let (rows, cols) = match isa {
            Isa::Scalar => (4, 8),
            Isa::Neon => (8, 8),
            Isa::Avx2 => (6, 16),
            Isa::Avx512 => (12, 32),
        };
        Self { rows, cols }
    }
}

/// Multiplies one tile. `acc` is `[rows, TileShape::cols]`; it is overwritten when `is_first`, else added to.
///
/// The caller has checked that this machine has `isa`.
pub(crate) fn multiply(isa: Isa, rows: usize, depth: usize, a: &[f32], b: Panel<'_>, acc: &mut [f32], is_first: bool) {
    let shape = TileShape::of(isa);
    assert!(rows >= 1 && rows <= shape.rows && a.len() >= rows * depth && acc.len() >= rows * shape.cols);
    assert!(b.holds(depth, shape.cols));
    match isa {
        // SAFETY: the caller checked the instruction set; the lengths are checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { super::x86::multiply_avx512(rows, depth, a.as_ptr(), b, acc.as_mut_ptr(), is_first) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { super::x86::multiply_avx2(rows, depth, a.as_ptr(), b, acc.as_mut_ptr(), is_first) },
        _ => {
            macro_rules! by_rows {
                ($($count:literal)*) => { match rows {
                    $($count => portable::<$count>(depth, a, b, acc, is_first),)*
                    _ => unreachable!("a tile has 1 to 8 rows here"),
                } };
            }
            by_rows!(1 2 3 4 5 6 7 8);
        }
    }
}

/// Columns of the tile in plain Rust.
const PORTABLE_COLS: usize = 8;

/// The product in plain Rust, shaped so that the compiler keeps the tile in vector registers.
fn portable<const ROWS: usize>(depth: usize, a: &[f32], b: Panel<'_>, acc: &mut [f32], is_first: bool) {
    let mut sum = [[0.0f32; PORTABLE_COLS]; ROWS];
    let (a, _) = a[..depth * ROWS].as_chunks::<ROWS>();
    let mut step = |a: &[f32; ROWS], b: &[f32; PORTABLE_COLS]| {
        for (sum, a) in sum.iter_mut().zip(a) {
            for (sum, b) in sum.iter_mut().zip(b) {
                // A fused product is one instruction on aarch64 and a library call on an x86 without FMA.
                *sum = if cfg!(target_arch = "aarch64") { a.mul_add(*b, *sum) } else { *sum + a * b };
            }
        }
    };
    match b {
        Panel::F32(values) => a.iter().zip(values.as_chunks::<PORTABLE_COLS>().0).for_each(|(a, b)| step(a, b)),
        Panel::Bf16(words) => {
            for (a, words) in a.chunks(2).zip(words.as_chunks::<PORTABLE_COLS>().0) {
                step(&a[0], &words.map(|word| f32::from_bits(word << 16)));
                if let Some(a) = a.get(1) {
                    step(a, &words.map(|word| f32::from_bits(word & 0xffff_0000)));
                }
            }
        }
    }
    for (acc, sum) in acc.as_chunks_mut::<PORTABLE_COLS>().0.iter_mut().zip(&sum) {
        for (acc, sum) in acc.iter_mut().zip(sum) {
            *acc = if is_first { *sum } else { *acc + sum };
        }
    }
}
