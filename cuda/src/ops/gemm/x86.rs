//! The register tiles of x86: 6 x 16 with AVX2 and FMA, 12 x 32 with AVX-512.
//!
//! For each k the tile loads a row of the panel once, broadcasts one value of `a` for each row and does
//! `rows x 2` fused multiply-adds. A panel in bf16 is widened by a shift (low halves) and a mask (high halves), or read as
//! it is where `a` is bf16 too and the machine multiplies pairs of them.

use std::arch::x86_64::*;

use super::panel::Panel;

/// Dispatches on the number of rows and on the storage, so that both are constants inside the loop.
macro_rules! by_rows_and_storage {
    ($tile:ident, $rows:expr, $panel:expr, $depth:expr, $a:expr, $acc:expr, $is_first:expr, $($count:literal)*) => {
        match ($rows, $panel) {
            $(
                // SAFETY: the caller's promise is that of the tile.
                ($count, Panel::F32(b)) => unsafe { $tile::<$count, false>($depth, $a, $acc, $is_first, b.as_ptr().cast()) },
                // SAFETY: as above.
                ($count, Panel::Bf16(b)) => unsafe { $tile::<$count, true>($depth, $a, $acc, $is_first, b.as_ptr()) },
            )*
            (rows, _) => unreachable!("no tile of {rows} rows"),
        }
    };
}

/// # Safety
/// The machine has AVX-512 F; `a` holds `rows * depth` values, `b` `depth * 32` columns, `acc` `rows * 32` values.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_avx512(rows: usize, depth: usize, a: *const f32, b: Panel<'_>, acc: *mut f32, is_first: bool) {
    by_rows_and_storage!(tile_avx512, rows, b, depth, a, acc, is_first, 1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As [`multiply_avx512`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512<const ROWS: usize, const BF16: bool>(
    depth: usize,
    mut a: *const f32,
    acc: *mut f32,
    is_first: bool,
    mut b: *const u32,
) {
    let mut sum = [[_mm512_setzero_ps(); 2]; ROWS];
    let high_half = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
    for row in 0..ROWS {
        // SAFETY: a prefetch of an address inside `acc`.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(acc.add(row * 32).cast());
            _mm_prefetch::<_MM_HINT_T0>(acc.add(row * 32 + 16).cast());
        }
    }
    // SAFETY: `b` and `a` advance through what the caller promised.
    unsafe {
        if BF16 {
            for k in 0..depth.div_ceil(2) {
                let words = [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(16).cast())];
                b = b.add(32);
                add_row_avx512(&mut sum, a, words.map(|words| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))));
                if 2 * k + 1 < depth {
                    add_row_avx512(&mut sum, a.add(ROWS), words.map(|words| _mm512_castsi512_ps(_mm512_and_si512(words, high_half))));
                }
                a = a.wrapping_add(2 * ROWS);
            }
        } else {
            for _ in 0..depth {
                add_row_avx512(&mut sum, a, [_mm512_loadu_ps(b.cast()), _mm512_loadu_ps(b.add(16).cast())]);
                b = b.add(32);
                a = a.add(ROWS);
            }
        }
    }
    for (row, sum) in sum.iter().enumerate() {
        for (half, sum) in sum.iter().enumerate() {
            // SAFETY: inside the `ROWS * 32` values of `acc`.
            unsafe {
                let at = acc.add(row * 32 + half * 16);
                _mm512_storeu_ps(at, if is_first { *sum } else { _mm512_add_ps(_mm512_loadu_ps(at), *sum) });
            }
        }
    }
}

/// Adds one k: `ROWS` values of `a` times a row of columns.
///
/// # Safety
/// The machine has the features, and `a` holds `ROWS` values.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_row_avx512<const ROWS: usize>(sum: &mut [[__m512; 2]; ROWS], a: *const f32, columns: [__m512; 2]) {
    for (row, sum) in sum.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let value = unsafe { _mm512_set1_ps(*a.add(row)) };
        sum[0] = _mm512_fmadd_ps(value, columns[0], sum[0]);
        sum[1] = _mm512_fmadd_ps(value, columns[1], sum[1]);
    }
}

/// # Safety
/// The machine has AVX2 and FMA; `a` holds `rows * depth` values, `b` `depth * 16` columns, `acc` `rows * 16` values.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_avx2(rows: usize, depth: usize, a: *const f32, b: Panel<'_>, acc: *mut f32, is_first: bool) {
    by_rows_and_storage!(tile_avx2, rows, b, depth, a, acc, is_first, 1 2 3 4 5 6);
}

/// # Safety
/// As [`multiply_avx2`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const ROWS: usize, const BF16: bool>(
    depth: usize,
    mut a: *const f32,
    acc: *mut f32,
    is_first: bool,
    mut b: *const u32,
) {
    let mut sum = [[_mm256_setzero_ps(); 2]; ROWS];
    let high_half = _mm256_set1_epi32(0xffff_0000u32.cast_signed());
    for row in 0..ROWS {
        // SAFETY: a prefetch of an address inside `acc`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(acc.add(row * 16).cast()) };
    }
    // SAFETY: `b` and `a` advance through what the caller promised.
    unsafe {
        if BF16 {
            for k in 0..depth.div_ceil(2) {
                let words = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(8).cast())];
                b = b.add(16);
                add_row_avx2(&mut sum, a, words.map(|words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))));
                if 2 * k + 1 < depth {
                    add_row_avx2(&mut sum, a.add(ROWS), words.map(|words| _mm256_castsi256_ps(_mm256_and_si256(words, high_half))));
                }
                a = a.wrapping_add(2 * ROWS);
            }
        } else {
            for _ in 0..depth {
                add_row_avx2(&mut sum, a, [_mm256_loadu_ps(b.cast()), _mm256_loadu_ps(b.add(8).cast())]);
                b = b.add(16);
                a = a.add(ROWS);
            }
        }
    }
    for (row, sum) in sum.iter().enumerate() {
        for (half, sum) in sum.iter().enumerate() {
            // SAFETY: inside the `ROWS * 16` values of `acc`.
            unsafe {
                let at = acc.add(row * 16 + half * 8);
                _mm256_storeu_ps(at, if is_first { *sum } else { _mm256_add_ps(_mm256_loadu_ps(at), *sum) });
            }
        }
    }
}

/// Adds one k: `ROWS` values of `a` times a row of columns.
///
/// # Safety
/// The machine has the features, and `a` holds `ROWS` values.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_row_avx2<const ROWS: usize>(sum: &mut [[__m256; 2]; ROWS], a: *const f32, columns: [__m256; 2]) {
    for (row, sum) in sum.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let value = unsafe { _mm256_broadcast_ss(&*a.add(row)) };
        sum[0] = _mm256_fmadd_ps(value, columns[0], sum[0]);
        sum[1] = _mm256_fmadd_ps(value, columns[1], sum[1]);
    }
}

/// A tile of bf16 pairs: `acc[i, j] (+)= sum_k a[k, i] * b[k, j]`, two k an instruction.
///
/// # Safety
/// The machine has AVX-512 F and BF16; `a` holds `rows * pairs` words, `b` `pairs * 32`, `acc` `rows * 32` values.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_halves(rows: usize, pairs: usize, a: *const u32, b: *const u32, acc: *mut f32, is_first: bool) {
    macro_rules! by_rows {
        ($($count:literal)*) => { match rows {
            // SAFETY: the caller's promise.
            $($count => unsafe { tile_halves::<$count>(pairs, a, b, acc, is_first) },)*
            _ => unreachable!("no tile of {rows} rows"),
        } };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As [`multiply_halves`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_halves<const ROWS: usize>(pairs: usize, mut a: *const u32, mut b: *const u32, acc: *mut f32, is_first: bool) {
    let mut sum = [[_mm512_setzero_ps(); 2]; ROWS];
    for _ in 0..pairs {
        // SAFETY: `b` and `a` advance `pairs` times through what the caller promised; a vector of bf16 has the size of
        // one of words and takes every bit pattern.
        unsafe {
            let columns: [__m512bh; 2] =
                [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(16).cast())].map(|words| std::mem::transmute(words));
            b = b.add(32);
            for (row, sum) in sum.iter_mut().enumerate() {
                let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32((*a.add(row)).cast_signed()));
                sum[0] = _mm512_dpbf16_ps(sum[0], pair, columns[0]);
                sum[1] = _mm512_dpbf16_ps(sum[1], pair, columns[1]);
            }
            a = a.add(ROWS);
        }
    }
    for (row, sum) in sum.iter().enumerate() {
        for (half, sum) in sum.iter().enumerate() {
            // SAFETY: inside the `ROWS * 32` values of `acc`.
            unsafe {
                let at = acc.add(row * 32 + half * 16);
                _mm512_storeu_ps(at, if is_first { *sum } else { _mm512_add_ps(_mm512_loadu_ps(at), *sum) });
            }
        }
    }
}
