//! The int8 tiles of x86: 12 x 32 with 512-bit VNNI, 6 x 16 with 256-bit VNNI, 6 x 16 with AVX2 alone.
//!
//! The integer sums of a block fill the registers; the `f32` sums lie in the tile's own memory, which stays in L1 and is
//! touched once a block. Without VNNI a pair of columns' bytes is widened to 16 bits as it is loaded and `vpmaddwd` adds
//! two products exactly (`vpmaddubsw` would saturate).

use std::arch::x86_64::*;

use super::tile::{TileColumns, TileRows};

macro_rules! by_rows {
    ($tile:ident, $rows:expr, $columns:expr, $acc:expr, $($count:literal)*) => {
        match $rows.count {
            // SAFETY: the caller's promise is that of the tile.
            $($count => unsafe { $tile::<$count>($rows, $columns, $acc) },)*
            rows => unreachable!("no tile of {rows} rows"),
        }
    };
}

/// # Safety
/// The machine has the features; the operands hold `columns.scales.len()` blocks of a tile with 32 columns, and `acc`
/// the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn multiply_avx512_vnni(rows: TileRows<'_>, columns: TileColumns<'_>, acc: &mut [f32]) {
    by_rows!(tile_avx512_vnni, rows, columns, acc.as_mut_ptr(), 1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As [`multiply_avx512_vnni`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_avx512_vnni<const ROWS: usize>(rows: TileRows<'_>, columns: TileColumns<'_>, acc: *mut f32) {
    let (mut a, mut a_scale) = (rows.words.as_ptr(), rows.scales.as_ptr());
    let (mut b, mut start) = (columns.values.as_ptr(), columns.starts.as_ptr());
    for b_scale in columns.scales {
        // SAFETY: the pointers advance block by block through what the caller promised.
        unsafe {
            let mut sum = [[_mm512_loadu_si512(start.cast()), _mm512_loadu_si512(start.add(16).cast())]; ROWS];
            start = start.add(32);
            for _ in 0..32 {
                let columns = [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(64).cast())];
                b = b.add(128);
                for (row, sum) in sum.iter_mut().enumerate() {
                    let group = _mm512_set1_epi32((*a.add(row)).cast_signed());
                    sum[0] = _mm512_dpbusd_epi32(sum[0], group, columns[0]);
                    sum[1] = _mm512_dpbusd_epi32(sum[1], group, columns[1]);
                }
                a = a.add(ROWS);
            }
            for (row, sum) in sum.iter().enumerate() {
                let scale = _mm512_set1_ps(*a_scale.add(row) * b_scale);
                for (half, sum) in sum.iter().enumerate() {
                    let at = acc.add(row * 32 + half * 16);
                    _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(*sum), scale, _mm512_loadu_ps(at)));
                }
            }
            a_scale = a_scale.add(ROWS);
        }
    }
}

/// # Safety
/// As [`multiply_avx512_vnni`], with 16 columns.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn multiply_avx_vnni(rows: TileRows<'_>, columns: TileColumns<'_>, acc: &mut [f32]) {
    by_rows!(tile_avx_vnni, rows, columns, acc.as_mut_ptr(), 1 2 3 4 5 6);
}

/// # Safety
/// As [`multiply_avx_vnni`].
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn tile_avx_vnni<const ROWS: usize>(rows: TileRows<'_>, columns: TileColumns<'_>, acc: *mut f32) {
    let (mut a, mut a_scale) = (rows.words.as_ptr(), rows.scales.as_ptr());
    let (mut b, mut start) = (columns.values.as_ptr(), columns.starts.as_ptr());
    for b_scale in columns.scales {
        // SAFETY: the pointers advance block by block through what the caller promised.
        unsafe {
            let mut sum = [[_mm256_loadu_si256(start.cast()), _mm256_loadu_si256(start.add(8).cast())]; ROWS];
            start = start.add(16);
            for _ in 0..32 {
                let columns = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())];
                b = b.add(64);
                for (row, sum) in sum.iter_mut().enumerate() {
                    let group = _mm256_set1_epi32((*a.add(row)).cast_signed());
                    sum[0] = _mm256_dpbusd_avx_epi32(sum[0], group, columns[0]);
                    sum[1] = _mm256_dpbusd_avx_epi32(sum[1], group, columns[1]);
                }
                a = a.add(ROWS);
            }
            end_of_block(&sum, a_scale, *b_scale, acc);
            a_scale = a_scale.add(ROWS);
        }
    }
}

/// # Safety
/// As [`multiply_avx512_vnni`], with 16 columns and pairs.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_avx2(rows: TileRows<'_>, columns: TileColumns<'_>, acc: &mut [f32]) {
    by_rows!(tile_avx2, rows, columns, acc.as_mut_ptr(), 1 2 3 4 5 6);
}

/// # Safety
/// As [`multiply_avx2`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const ROWS: usize>(rows: TileRows<'_>, columns: TileColumns<'_>, acc: *mut f32) {
    let (mut a, mut a_scale) = (rows.words.as_ptr(), rows.scales.as_ptr());
    let mut b = columns.values.as_ptr();
    for b_scale in columns.scales {
        // SAFETY: the pointers advance block by block through what the caller promised.
        unsafe {
            let mut sum = [[_mm256_setzero_si256(); 2]; ROWS];
            for _ in 0..64 {
                let bytes = [_mm_loadu_si128(b.cast()), _mm_loadu_si128(b.add(16).cast())];
                let columns = [_mm256_cvtepi8_epi16(bytes[0]), _mm256_cvtepi8_epi16(bytes[1])];
                b = b.add(32);
                for (row, sum) in sum.iter_mut().enumerate() {
                    let pair = _mm256_set1_epi32((*a.add(row)).cast_signed());
                    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(pair, columns[0]));
                    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(pair, columns[1]));
                }
                a = a.add(ROWS);
            }
            end_of_block(&sum, a_scale, *b_scale, acc);
            a_scale = a_scale.add(ROWS);
        }
    }
}

/// Adds the scaled sums of a block to the tile.
///
/// # Safety
/// The machine has AVX2 and FMA; `scales` holds `ROWS` values and `acc` `ROWS * 16`.
#[target_feature(enable = "avx2,fma")]
unsafe fn end_of_block<const ROWS: usize>(sum: &[[__m256i; 2]; ROWS], scales: *const f32, b_scale: f32, acc: *mut f32) {
    for (row, sum) in sum.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = _mm256_set1_ps(*scales.add(row) * b_scale);
            for (half, sum) in sum.iter().enumerate() {
                let at = acc.add(row * 16 + half * 8);
                _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(*sum), scale, _mm256_loadu_ps(at)));
            }
        }
    }
}
