//! The kernel for AVX-512 with VNNI.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes, four a lane, and adds them exactly in 32 bits. Queries are stored with
//! 128 added, so each accumulator starts from minus 128 times the sum of its key's values. Lanes are keys while scores
//! are made and channels while values are weighed, so no sum ever crosses lanes.
//!
//! Registers: scores, 4 rows x 64 keys = 16 accumulators; weighing, 6 rows x 64 channels = 24.

use std::arch::x86_64::*;

use turbowan_cuda::host::Isa;

use super::panels::Layout;
use super::portable::EXP2;
use super::{INT8_ONE, IntegerPanel, Kernel, KeyPanel, LOWEST, PerRow, QueryPanel, ROW_GROUP, RowStats, Running, TILE_K, Weights};

/// Proof that the machine has AVX-512 F, BW, VL, DQ and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The proof, where the machine gives it.
    pub fn detect() -> Option<Self> {
        Isa::Avx512.is_available().then_some(Self(()))
    }
}

/// Lanes of a register.
const LANES: usize = 16;
/// Registers across a tile's keys, and across a strip's channels.
const WIDE: usize = 4;
/// Channels of a strip.
const STRIP: usize = LANES * WIDE;
/// Rows that are weighed at once.
const ROWS: usize = 6;

impl Kernel for Avx512 {
    const LAYOUT: Layout = Layout::Quads;

    fn score(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, floor: &PerRow, weights: &mut Weights, stats: &mut RowStats) {
        // SAFETY: `self` proves the features; `panels` made the operands with the lengths that `score` asserts.
        unsafe { score::<false>(queries, keys, floor, weights, stats) }
    }

    fn score_integers(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, weights: &mut Weights, stats: &mut RowStats) {
        // SAFETY: as above.
        unsafe { score::<true>(queries, keys, &[LOWEST; super::TILE_Q], weights, stats) }
    }

    fn merge(self, running: &mut Running, tile: &RowStats) {
        // SAFETY: `self` proves the features.
        unsafe { merge(running, tile) }
    }

    fn weigh(self, weights: &Weights, values: &[f32], rows: usize, dim: usize, running: &Running, out: &mut [f32]) {
        // SAFETY: `self` proves the features; lengths are asserted inside.
        unsafe { weigh(weights, values, rows, dim, running, out) }
    }

    fn weigh_integers(self, weights: &Weights, values: IntegerPanel<'_>, rows: usize, running: &Running, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { weigh_integers(weights, values, rows, running, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn merge(running: &mut Running, tile: &RowStats) {
    super::merge(running, tile);
}

/// `2^x` for `x <= 0`: a polynomial on the distance to the nearest integer, then the exponent. Minus infinity gives 0.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp2(x: __m512) -> __m512 {
    let r = _mm512_reduce_ps::<8>(x);
    let n = _mm512_sub_ps(x, r);
    let [c1, c2, c3, c4, c5] = EXP2;
    let p = _mm512_fmadd_ps(_mm512_set1_ps(c5), r, _mm512_set1_ps(c4));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c3));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c2));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c1));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0));
    _mm512_scalef_ps(p, n)
}

/// Reduces four registers at once; every 128-bit lane of the result holds the four results in order.
macro_rules! reduce_four {
    ($rows:expr, $op:ident, $unpacklo:ident, $unpackhi:ident) => {{
        let [a, b, c, d] = $rows;
        let ab = $op($unpacklo(a, b), $unpackhi(a, b));
        let cd = $op($unpacklo(c, d), $unpackhi(c, d));
        (ab, cd)
    }};
}

#[inline]
#[target_feature(enable = "avx512f")]
fn max_of_rows(rows: [__m512; ROW_GROUP]) -> __m512 {
    let (ab, cd) = reduce_four!(rows, _mm512_max_ps, _mm512_unpacklo_ps, _mm512_unpackhi_ps);
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    let all = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    let all = _mm512_max_ps(all, _mm512_shuffle_f32x4::<0b01_00_11_10>(all, all));
    _mm512_max_ps(all, _mm512_shuffle_f32x4::<0b10_11_00_01>(all, all))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum_of_rows(rows: [__m512; ROW_GROUP]) -> __m512 {
    let (ab, cd) = reduce_four!(rows, _mm512_add_ps, _mm512_unpacklo_ps, _mm512_unpackhi_ps);
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    let all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    let all = _mm512_add_ps(all, _mm512_shuffle_f32x4::<0b01_00_11_10>(all, all));
    _mm512_add_ps(all, _mm512_shuffle_f32x4::<0b10_11_00_01>(all, all))
}

/// Probabilities of a tile, four rows at a time, from product to store without leaving the registers.
///
/// # Safety
/// The features that `Avx512` proves.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn score<const INTEGERS: bool>(
    queries: &QueryPanel<'_>,
    keys: KeyPanel<'_>,
    floor: &PerRow,
    weights: &mut Weights,
    stats: &mut RowStats,
) {
    let dim = queries.dim;
    assert!(queries.rows <= super::TILE_Q && queries.rows.is_multiple_of(ROW_GROUP) && queries.values.len() >= queries.rows * dim);
    assert!(keys.values.len() == TILE_K * dim && keys.scale.len() == TILE_K && keys.bias.len() == TILE_K);
    assert!(keys.correction.len() == TILE_K && dim.is_multiple_of(4));
    for first in (0..queries.rows).step_by(ROW_GROUP) {
        // SAFETY: all loads and stores lie inside the lengths asserted above; `first + 4 <= rows <= TILE_Q`.
        unsafe {
            let mut scores = scaled(products(queries, &keys, first), queries, &keys, first);
            if let Some(seen) = keys.seen {
                for (row, scores) in scores.iter_mut().enumerate() {
                    hide(scores, seen[first + row]);
                }
            }
            let highest = max_of_rows(scores.map(|s| _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]))));
            let floor = _mm512_broadcast_f32x4(_mm_loadu_ps(floor.as_ptr().add(first)));
            let highest = _mm512_max_ps(highest, floor);
            _mm_storeu_ps(stats.highest.as_mut_ptr().add(first), _mm512_castps512_ps128(highest));
            let highest = [
                _mm512_permute_ps::<0x00>(highest),
                _mm512_permute_ps::<0x55>(highest),
                _mm512_permute_ps::<0xAA>(highest),
                _mm512_permute_ps::<0xFF>(highest),
            ];
            let mut totals = [_mm512_setzero_ps(); ROW_GROUP];
            for (row, total) in totals.iter_mut().enumerate() {
                let p = scores[row].map(|score| exp2(_mm512_sub_ps(score, highest[row])));
                let start = (first + row) * TILE_K;
                *total = match INTEGERS {
                    true => store_integers(p, weights.0.as_mut_ptr().cast::<u8>().add(start)),
                    false => store(p, weights.0.as_mut_ptr().add(start)),
                };
            }
            _mm_storeu_ps(stats.sum.as_mut_ptr().add(first), _mm512_castps512_ps128(sum_of_rows(totals)));
        }
    }
}

/// Exact sums of four rows against the tile.
///
/// # Safety
/// `first + 4 <= rows`, lengths as [`score`] asserts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn products(queries: &QueryPanel<'_>, keys: &KeyPanel<'_>, first: usize) -> [[__m512i; WIDE]; ROW_GROUP] {
    // SAFETY: inside the lengths that the caller promises.
    unsafe {
        let correction = keys.correction.as_ptr();
        let mut sums = [[0, 1, 2, 3].map(|j| _mm512_loadu_si512(correction.add(j * LANES).cast())); ROW_GROUP];
        let query = queries.values.as_ptr().add(first * queries.dim);
        for step in 0..queries.dim / 4 {
            let key = keys.values.as_ptr().add(step * TILE_K * 4);
            let lanes = [0, 1, 2, 3].map(|j| _mm512_loadu_si512(key.add(j * 64).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let four = _mm512_set1_epi32(query.add(row * queries.dim + step * 4).cast::<i32>().read_unaligned());
                for (sum, lanes) in sums.iter_mut().zip(lanes) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, lanes);
                }
            }
        }
        sums
    }
}

/// Sums as base-2 scores.
///
/// # Safety
/// As [`products`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scaled(
    sums: [[__m512i; WIDE]; ROW_GROUP],
    queries: &QueryPanel<'_>,
    keys: &KeyPanel<'_>,
    first: usize,
) -> [[__m512; WIDE]; ROW_GROUP] {
    // SAFETY: inside the lengths that the caller promises.
    let (scale, bias) = unsafe {
        (
            [0, 1, 2, 3].map(|j| _mm512_loadu_ps(keys.scale.as_ptr().add(j * LANES))),
            [0, 1, 2, 3].map(|j| _mm512_loadu_ps(keys.bias.as_ptr().add(j * LANES))),
        )
    };
    // Loops, not closures: a nested closure stays a call here, and the scores would go through memory.
    let mut scores = [[_mm512_setzero_ps(); WIDE]; ROW_GROUP];
    for (row, scores) in scores.iter_mut().enumerate() {
        let row_scale = _mm512_set1_ps(queries.scale[first + row]);
        for (j, score) in scores.iter_mut().enumerate() {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[row][j]), scale[j]);
            *score = _mm512_fmadd_ps(scaled, row_scale, bias[j]);
        }
    }
    scores
}

/// Minus infinity for the keys behind the first `seen`.
#[inline]
#[target_feature(enable = "avx512f")]
fn hide(scores: &mut [__m512; WIDE], seen: u32) {
    for (j, scores) in scores.iter_mut().enumerate() {
        let visible = seen.saturating_sub((j * LANES) as u32).min(LANES as u32);
        let mask = ((1u32 << visible) - 1) as __mmask16;
        *scores = _mm512_mask_blend_ps(mask, _mm512_set1_ps(f32::NEG_INFINITY), *scores);
    }
}

/// Stores a row of probabilities; returns their sums.
///
/// # Safety
/// `to` has room for a row of the tile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(p: [__m512; WIDE], to: *mut f32) -> __m512 {
    for (j, p) in p.into_iter().enumerate() {
        // SAFETY: inside the row.
        unsafe { _mm512_storeu_ps(to.add(j * LANES), p) };
    }
    _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]))
}

/// Stores a row of probabilities as integers up to 255; returns the integers' sums.
///
/// # Safety
/// `to` has room for a row of the tile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_integers(p: [__m512; WIDE], to: *mut u8) -> __m512 {
    let n = p.map(|p| _mm512_cvtps_epi32(_mm512_mul_ps(p, _mm512_set1_ps(INT8_ONE))));
    for (j, n) in n.into_iter().enumerate() {
        // SAFETY: inside the row.
        unsafe { _mm_storeu_si128(to.add(j * LANES).cast(), _mm512_cvtepi32_epi8(n)) };
    }
    _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(n[0], n[1]), _mm512_add_epi32(n[2], n[3])))
}

/// # Safety
/// The features that `Avx512` proves.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn weigh(weights: &Weights, values: &[f32], rows: usize, dim: usize, running: &Running, out: &mut [f32]) {
    assert!(values.len() == TILE_K * dim && out.len() >= rows * dim && rows <= super::TILE_Q && dim.is_multiple_of(STRIP));
    for (strip, values) in values.chunks_exact(TILE_K * STRIP).enumerate() {
        let mut row = 0;
        // SAFETY: `row + R <= rows` in every call, and strips end at `dim`.
        unsafe {
            while row + ROWS <= rows {
                weigh_rows::<ROWS>(weights, values, row, dim, strip * STRIP, running, out);
                row += ROWS;
            }
            if row + 4 <= rows {
                weigh_rows::<4>(weights, values, row, dim, strip * STRIP, running, out);
                row += 4;
            }
            if row + 2 <= rows {
                weigh_rows::<2>(weights, values, row, dim, strip * STRIP, running, out);
            }
        }
    }
}

/// # Safety
/// `row + R <= TILE_Q`, `out` holds `[row + R, dim]`, `channel + STRIP <= dim`, `values` is one strip of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn weigh_rows<const R: usize>(
    weights: &Weights,
    values: &[f32],
    row: usize,
    dim: usize,
    channel: usize,
    running: &Running,
    out: &mut [f32],
) {
    // SAFETY: inside the lengths that the caller promises.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); WIDE]; R];
        let weight = weights.0.as_ptr().add(row * TILE_K);
        for key in 0..TILE_K {
            let value = values.as_ptr().add(key * STRIP);
            let lanes: [__m512; WIDE] = [
                _mm512_loadu_ps(value),
                _mm512_loadu_ps(value.add(LANES)),
                _mm512_loadu_ps(value.add(2 * LANES)),
                _mm512_loadu_ps(value.add(3 * LANES)),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let p = _mm512_set1_ps(*weight.add(r * TILE_K + key));
                for (sum, lanes) in sums.iter_mut().zip(lanes) {
                    *sum = _mm512_fmadd_ps(p, lanes, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            join(*sums, running.alpha[row + r], running.beta[row + r], out.as_mut_ptr().add((row + r) * dim + channel));
        }
    }
}

/// `out = alpha * out + beta * sums`.
///
/// # Safety
/// `out` points at [`STRIP`] values.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn join(sums: [__m512; WIDE], alpha: f32, beta: f32, out: *mut f32) {
    for (j, sum) in sums.into_iter().enumerate() {
        // SAFETY: inside the strip.
        unsafe {
            let at = out.add(j * LANES);
            let scaled = _mm512_mul_ps(sum, _mm512_set1_ps(beta));
            _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_loadu_ps(at), _mm512_set1_ps(alpha), scaled));
        }
    }
}

/// # Safety
/// The features that `Avx512` proves.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn weigh_integers(weights: &Weights, values: IntegerPanel<'_>, rows: usize, running: &Running, out: &mut [f32]) {
    let dim = values.scale.len();
    assert!(values.values.len() == TILE_K * dim && out.len() >= rows * dim && rows <= super::TILE_Q && dim.is_multiple_of(STRIP));
    let strips = values.values.chunks_exact(TILE_K * STRIP).zip(values.scale.chunks_exact(STRIP));
    for (strip, (values, scale)) in strips.enumerate() {
        let values = IntegerPanel { values, scale };
        let mut row = 0;
        // SAFETY: `row + R <= rows` in every call, and strips end at `dim`.
        unsafe {
            while row + ROWS <= rows {
                weigh_integer_rows::<ROWS>(weights, values, row, dim, strip * STRIP, running, out);
                row += ROWS;
            }
            if row + 4 <= rows {
                weigh_integer_rows::<4>(weights, values, row, dim, strip * STRIP, running, out);
                row += 4;
            }
            if row + 2 <= rows {
                weigh_integer_rows::<2>(weights, values, row, dim, strip * STRIP, running, out);
            }
        }
    }
}

/// # Safety
/// As [`weigh_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn weigh_integer_rows<const R: usize>(
    weights: &Weights,
    values: IntegerPanel<'_>,
    row: usize,
    dim: usize,
    channel: usize,
    running: &Running,
    out: &mut [f32],
) {
    // SAFETY: inside the lengths that the caller promises; `u8` weights take a quarter of the array.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); WIDE]; R];
        let weight = weights.0.as_ptr().cast::<u8>().add(row * TILE_K);
        for step in 0..TILE_K / 4 {
            let value = values.values.as_ptr().add(step * STRIP * 4);
            let lanes: [__m512i; WIDE] = [
                _mm512_loadu_si512(value.cast()),
                _mm512_loadu_si512(value.add(64).cast()),
                _mm512_loadu_si512(value.add(128).cast()),
                _mm512_loadu_si512(value.add(192).cast()),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let four = _mm512_set1_epi32(weight.add(r * TILE_K + step * 4).cast::<i32>().read_unaligned());
                for (sum, lanes) in sums.iter_mut().zip(lanes) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, lanes);
                }
            }
        }
        let scale: [__m512; WIDE] = [0, 1, 2, 3].map(|j| _mm512_loadu_ps(values.scale.as_ptr().add(j * LANES)));
        for (r, sums) in sums.iter().enumerate() {
            let sums = [0, 1, 2, 3].map(|j| _mm512_mul_ps(_mm512_cvtepi32_ps(sums[j]), scale[j]));
            join(sums, running.alpha[row + r], running.beta[row + r], out.as_mut_ptr().add((row + r) * dim + channel));
        }
    }
}
