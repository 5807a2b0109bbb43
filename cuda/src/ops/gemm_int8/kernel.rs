//! The innermost product of int8: a few rows times a few columns over 128-long blocks of the sum.
//!
//! ```text
//! acc[i, j] = fma( float( sum_{k in block} a[i, k] * b[j, k] ), a_scale[i, block] * b_scale[block], acc[i, j] )
//! ```
//!
//! The inner sum is exact in 32-bit integers and the outer one is one chain of fused multiply-adds in the order of the
//! blocks, so every kernel gives the same bits.
//!
//! Both operands come in groups of consecutive k, interleaved as in the `f32` product. Where the machine multiplies
//! unsigned by signed bytes, a group is four bytes; those of `a` are 128 too large, and the sum is put right by starting
//! it from `-128 * sum_k b[j, k]`, which the panel holds. Elsewhere a group is two values; those of `a` are already
//! widened to 16 bits.

use super::tile::{TileColumns, TileRows};
use crate::host::Isa;
use crate::ops::gemm::tile::TileShape;
use crate::ops::quant::BLOCK;

/// An inner loop of the int8 product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Int8Kernel {
    /// Plain Rust, on any machine.
    Portable,
    /// AVX2 without VNNI: 16-bit products.
    Avx2,
    /// 256-bit VNNI.
    AvxVnni,
    /// 512-bit VNNI.
    Avx512Vnni,
}

impl Int8Kernel {
    /// The fastest one that the process's instruction set allows.
    pub fn detect() -> Self {
        let isa = Isa::detect();
        Self::available().into_iter().rev().find(|kernel| kernel.isa() <= isa).unwrap_or(Self::Portable)
    }

    /// Every one that this machine can run, fastest last: what tests walk through.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni].into_iter().filter(|kernel| kernel.is_available()).collect()
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        self.isa().is_available() && (self != Self::AvxVnni || has_avx_vnni())
    }

    /// The instruction set whose tile it has.
    pub fn isa(self) -> Isa {
        match self {
            Self::Portable => Isa::Scalar,
            Self::Avx2 | Self::AvxVnni => Isa::Avx2,
            Self::Avx512Vnni => Isa::Avx512,
        }
    }

    pub(super) fn shape(self) -> TileShape {
        TileShape::of(self.isa())
    }

    /// Whether it takes groups of four with an unsigned `a`, or else groups of two.
    pub(super) const fn is_vnni(self) -> bool {
        matches!(self, Self::AvxVnni | Self::Avx512Vnni)
    }

    /// Consecutive k that lie together.
    pub(super) const fn group(self) -> usize {
        if self.is_vnni() { 4 } else { 2 }
    }

    /// Groups, and words of a packed row, in a block.
    pub(super) const fn block_words(self) -> usize {
        BLOCK / self.group()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx_vnni() -> bool {
    is_x86_feature_detected!("avxvnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx_vnni() -> bool {
    false
}

/// Multiplies one tile; `acc` is `[rows.count, columns]`, overwritten when `is_first`.
///
/// The caller has checked that this machine has `kernel`.
pub(super) fn multiply(kernel: Int8Kernel, rows: TileRows<'_>, columns: TileColumns<'_>, acc: &mut [f32], is_first: bool) {
    let (shape, blocks) = (kernel.shape(), columns.scales.len());
    assert!(rows.count >= 1 && rows.count <= shape.rows && acc.len() >= rows.count * shape.cols);
    assert!(rows.words.len() >= blocks * kernel.block_words() * rows.count && rows.scales.len() >= blocks * rows.count);
    assert!(columns.values.len() >= blocks * BLOCK * shape.cols);
    assert!(!kernel.is_vnni() || columns.starts.len() >= blocks * shape.cols);
    if is_first {
        acc[..rows.count * shape.cols].fill(0.0);
    }
    match kernel {
        // SAFETY: the caller checked the instruction set; the lengths are checked above.
        #[cfg(target_arch = "x86_64")]
        Int8Kernel::Avx512Vnni => unsafe { super::x86::multiply_avx512_vnni(rows, columns, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Int8Kernel::AvxVnni => unsafe { super::x86::multiply_avx_vnni(rows, columns, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Int8Kernel::Avx2 => unsafe { super::x86::multiply_avx2(rows, columns, acc) },
        _ => match rows.count {
            1 => portable::<1>(rows, columns, acc),
            2 => portable::<2>(rows, columns, acc),
            3 => portable::<3>(rows, columns, acc),
            _ => portable::<4>(rows, columns, acc),
        },
    }
}

/// Columns of the tile in plain Rust.
const PORTABLE_COLS: usize = 8;

fn portable<const ROWS: usize>(rows: TileRows<'_>, columns: TileColumns<'_>, acc: &mut [f32]) {
    const WORDS: usize = Int8Kernel::Portable.block_words();
    let words = rows.words.as_chunks::<ROWS>().0.chunks_exact(WORDS);
    let values = columns.values.as_chunks::<{ 2 * PORTABLE_COLS }>().0.chunks_exact(WORDS);
    let scales = rows.scales.as_chunks::<ROWS>().0.iter().zip(columns.scales);
    for ((words, values), (row_scales, scale)) in words.zip(values).zip(scales) {
        let mut sum = [[0i32; PORTABLE_COLS]; ROWS];
        for (words, values) in words.iter().zip(values) {
            for (sum, word) in sum.iter_mut().zip(words) {
                let (low, high) = (i32::from(*word as i16), i32::from((word >> 16) as i16));
                for (sum, pair) in sum.iter_mut().zip(values.as_chunks::<2>().0) {
                    *sum += low * i32::from(pair[0]) + high * i32::from(pair[1]);
                }
            }
        }
        for ((acc, sum), row_scale) in acc.as_chunks_mut::<PORTABLE_COLS>().0.iter_mut().zip(&sum).zip(row_scales) {
            for (acc, sum) in acc.iter_mut().zip(sum) {
                *acc = (*sum as f32).mul_add(row_scale * scale, *acc);
            }
        }
    }
}
