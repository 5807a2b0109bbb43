//! The kernel for AVX2 with FMA.
//!
//! Without VNNI the exact product is `vpmaddwd`: two `i16` a lane, added in 32 bits, on INT8 values widened once when the
//! head is laid out. Lanes are keys while scores are made and channels while values are weighed.
//!
//! Registers: 6 rows x 16 lanes = 12 accumulators in every product.

use std::arch::x86_64::*;

use turbowan_cuda::host::Isa;

use super::panels::Layout;
use super::portable::EXP2;
use super::{INT8_ONE, IntegerPanel, Kernel, KeyPanel, LOWEST, PerRow, QueryPanel, ROW_GROUP, RowStats, Running, TILE_K, TILE_Q, Weights};

/// Proof that the machine has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The proof, where the machine gives it.
    pub fn detect() -> Option<Self> {
        Isa::Avx2.is_available().then_some(Self(()))
    }
}

/// Lanes of a register.
const LANES: usize = 8;
/// Registers across a panel's keys, and across a strip's channels.
const WIDE: usize = 2;
/// Keys of a panel, channels of a strip.
const STRIP: usize = LANES * WIDE;
/// Rows that are multiplied at once.
const ROWS: usize = 6;

/// Calls `$body::<R>` for runs of 6, then 4, then 2 rows.
macro_rules! by_rows {
    ($rows:expr, |$row:ident, $r:ident| $call:expr) => {{
        let mut $row = 0;
        while $row + ROWS <= $rows {
            const $r: usize = ROWS;
            $call;
            $row += ROWS;
        }
        if $row + 4 <= $rows {
            const $r: usize = 4;
            $call;
            $row += 4;
        }
        if $row + 2 <= $rows {
            const $r: usize = 2;
            $call;
        }
    }};
}

impl Kernel for Avx2 {
    const LAYOUT: Layout = Layout::Pairs;

    fn score(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, floor: &PerRow, weights: &mut Weights, stats: &mut RowStats) {
        // SAFETY: `self` proves the features; lengths are asserted inside.
        unsafe {
            products(queries, &keys, weights);
            softmax::<false>(queries.rows, keys.seen, floor, weights, stats);
        }
    }

    fn score_integers(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, weights: &mut Weights, stats: &mut RowStats) {
        // SAFETY: as above.
        unsafe {
            products(queries, &keys, weights);
            softmax::<true>(queries.rows, keys.seen, &[LOWEST; TILE_Q], weights, stats);
        }
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

#[target_feature(enable = "avx2,fma")]
fn merge(running: &mut Running, tile: &RowStats) {
    super::merge(running, tile);
}

/// `2^x` for `x <= 0`; 0 below -126.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp2(x: __m256) -> __m256 {
    let clamped = _mm256_max_ps(x, _mm256_set1_ps(-126.0));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped);
    let r = _mm256_sub_ps(clamped, n);
    let [c1, c2, c3, c4, c5] = EXP2;
    let p = _mm256_fmadd_ps(_mm256_set1_ps(c5), r, _mm256_set1_ps(c4));
    let p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c3));
    let p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c2));
    let p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c1));
    let p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0));
    let power = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
    let value = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power));
    _mm256_and_ps(value, _mm256_cmp_ps::<_CMP_GE_OQ>(x, clamped))
}

/// Base-2 scores of every row against the tile, into `weights`.
///
/// # Safety
/// The features that `Avx2` proves.
#[target_feature(enable = "avx2,fma")]
unsafe fn products(queries: &QueryPanel<'_>, keys: &KeyPanel<'_>, weights: &mut Weights) {
    let dim = queries.dim;
    assert!(queries.rows <= TILE_Q && queries.rows.is_multiple_of(ROW_GROUP) && queries.values.len() >= 2 * queries.rows * dim);
    assert!(keys.values.len() == 2 * TILE_K * dim && keys.scale.len() == TILE_K && keys.bias.len() == TILE_K && dim.is_multiple_of(2));
    for panel in 0..TILE_K / STRIP {
        // SAFETY: `row + R <= rows`, and the panel lies inside the tile.
        by_rows!(queries.rows, |row, R| unsafe { product_rows::<R>(queries, keys, panel, row, weights) });
    }
}

/// # Safety
/// `row + R <= rows`, `panel` is one of the tile's, lengths as [`products`] asserts.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn product_rows<const R: usize>(queries: &QueryPanel<'_>, keys: &KeyPanel<'_>, panel: usize, row: usize, weights: &mut Weights) {
    let dim = queries.dim;
    // SAFETY: inside the lengths that the caller promises.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); WIDE]; R];
        let query = queries.values.as_ptr().add(2 * row * dim);
        let key = keys.values.as_ptr().add(panel * STRIP * dim * 2);
        for pair in 0..dim / 2 {
            let first = _mm256_loadu_si256(key.add(pair * 64).cast());
            let second = _mm256_loadu_si256(key.add(pair * 64 + 32).cast());
            for (r, sums) in sums.iter_mut().enumerate() {
                let two = _mm256_set1_epi32(query.add(2 * r * dim + pair * 4).cast::<i32>().read_unaligned());
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(two, first));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(two, second));
            }
        }
        for j in 0..WIDE {
            let lane = panel * STRIP + j * LANES;
            let scale = _mm256_loadu_ps(keys.scale.as_ptr().add(lane));
            let bias = _mm256_loadu_ps(keys.bias.as_ptr().add(lane));
            for (r, sums) in sums.iter().enumerate() {
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[j]), scale);
                let score = _mm256_fmadd_ps(scaled, _mm256_set1_ps(queries.scale[row + r]), bias);
                _mm256_storeu_ps(weights.0.as_mut_ptr().add((row + r) * TILE_K + lane), score);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn highest_lane(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_lanes(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
}

/// Turns the scores in `weights` into probabilities. Row `r`'s integers take bytes `128 r` to `128 (r + 1)`, where the
/// scores of row `r / 2` were: those are in registers or used up by then.
///
/// # Safety
/// The features that `Avx2` proves.
#[target_feature(enable = "avx2,fma")]
unsafe fn softmax<const INTEGERS: bool>(
    rows: usize,
    seen: Option<&[u32; TILE_Q]>,
    floor: &PerRow,
    weights: &mut Weights,
    stats: &mut RowStats,
) {
    const VECTORS: usize = TILE_K / LANES;
    assert!(rows <= TILE_Q);
    for row in 0..rows {
        let scores = &mut weights.0[row * TILE_K..][..TILE_K];
        if let Some(seen) = seen {
            scores[(seen[row] as usize).min(TILE_K)..].fill(f32::NEG_INFINITY);
        }
        // SAFETY: loads and stores stay inside the row's `TILE_K` values, or inside the integers' half of the array.
        unsafe {
            let vectors: [__m256; VECTORS] = std::array::from_fn(|j| _mm256_loadu_ps(scores.as_ptr().add(j * LANES)));
            let highest = vectors.into_iter().reduce(|a, b| _mm256_max_ps(a, b)).map_or(LOWEST, |all| highest_lane(all)).max(floor[row]);
            let offset = _mm256_set1_ps(highest);
            stats.highest[row] = highest;
            if INTEGERS {
                let to = weights.0.as_mut_ptr().cast::<i16>().add(row * TILE_K);
                let mut count = _mm256_setzero_si256();
                for pair in 0..VECTORS / 2 {
                    let [low, high] = [vectors[2 * pair], vectors[2 * pair + 1]].map(|s| {
                        let p = exp2(_mm256_sub_ps(s, offset));
                        _mm256_cvtps_epi32(_mm256_mul_ps(p, _mm256_set1_ps(INT8_ONE)))
                    });
                    count = _mm256_add_epi32(count, _mm256_add_epi32(low, high));
                    let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
                    _mm256_storeu_si256(to.add(2 * pair * LANES).cast(), packed);
                }
                stats.sum[row] = sum_lanes(_mm256_cvtepi32_ps(count));
            } else {
                let to = weights.0.as_mut_ptr().add(row * TILE_K);
                let mut total = _mm256_setzero_ps();
                for (j, vector) in vectors.into_iter().enumerate() {
                    let p = exp2(_mm256_sub_ps(vector, offset));
                    total = _mm256_add_ps(total, p);
                    _mm256_storeu_ps(to.add(j * LANES), p);
                }
                stats.sum[row] = sum_lanes(total);
            }
        }
    }
}

/// # Safety
/// The features that `Avx2` proves.
#[target_feature(enable = "avx2,fma")]
unsafe fn weigh(weights: &Weights, values: &[f32], rows: usize, dim: usize, running: &Running, out: &mut [f32]) {
    assert!(values.len() == TILE_K * dim && out.len() >= rows * dim && rows <= TILE_Q && dim.is_multiple_of(STRIP));
    for (strip, values) in values.chunks_exact(TILE_K * STRIP).enumerate() {
        // SAFETY: `row + R <= rows`, and strips end at `dim`.
        by_rows!(rows, |row, R| unsafe { weigh_rows::<R>(weights, values, row, dim, strip * STRIP, running, out) });
    }
}

/// # Safety
/// `row + R <= TILE_Q`, `out` holds `[row + R, dim]`, `channel + STRIP <= dim`, `values` is one strip of a tile.
#[inline]
#[target_feature(enable = "avx2,fma")]
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
        let mut sums = [[_mm256_setzero_ps(); WIDE]; R];
        let weight = weights.0.as_ptr().add(row * TILE_K);
        for key in 0..TILE_K {
            let first = _mm256_loadu_ps(values.as_ptr().add(key * STRIP));
            let second = _mm256_loadu_ps(values.as_ptr().add(key * STRIP + LANES));
            for (r, sums) in sums.iter_mut().enumerate() {
                let p = _mm256_broadcast_ss(&*weight.add(r * TILE_K + key));
                sums[0] = _mm256_fmadd_ps(p, first, sums[0]);
                sums[1] = _mm256_fmadd_ps(p, second, sums[1]);
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
#[target_feature(enable = "avx2,fma")]
unsafe fn join(sums: [__m256; WIDE], alpha: f32, beta: f32, out: *mut f32) {
    for (j, sum) in sums.into_iter().enumerate() {
        // SAFETY: inside the strip.
        unsafe {
            let at = out.add(j * LANES);
            let scaled = _mm256_mul_ps(sum, _mm256_set1_ps(beta));
            _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_loadu_ps(at), _mm256_set1_ps(alpha), scaled));
        }
    }
}

/// # Safety
/// The features that `Avx2` proves.
#[target_feature(enable = "avx2,fma")]
unsafe fn weigh_integers(weights: &Weights, values: IntegerPanel<'_>, rows: usize, running: &Running, out: &mut [f32]) {
    let dim = values.scale.len();
    assert!(values.values.len() == 2 * TILE_K * dim && out.len() >= rows * dim && rows <= TILE_Q && dim.is_multiple_of(STRIP));
    let strips = values.values.chunks_exact(2 * TILE_K * STRIP).zip(values.scale.chunks_exact(STRIP));
    for (strip, (values, scale)) in strips.enumerate() {
        let values = IntegerPanel { values, scale };
        // SAFETY: `row + R <= rows`, and strips end at `dim`.
        by_rows!(rows, |row, R| unsafe { weigh_integer_rows::<R>(weights, values, row, dim, strip * STRIP, running, out) });
    }
}

/// # Safety
/// As [`weigh_rows`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn weigh_integer_rows<const R: usize>(
    weights: &Weights,
    values: IntegerPanel<'_>,
    row: usize,
    dim: usize,
    channel: usize,
    running: &Running,
    out: &mut [f32],
) {
    // SAFETY: inside the lengths that the caller promises; `i16` weights take half of the array.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); WIDE]; R];
        let weight = weights.0.as_ptr().cast::<i16>().add(row * TILE_K);
        for pair in 0..TILE_K / 2 {
            let first = _mm256_loadu_si256(values.values.as_ptr().add(pair * 64).cast());
            let second = _mm256_loadu_si256(values.values.as_ptr().add(pair * 64 + 32).cast());
            for (r, sums) in sums.iter_mut().enumerate() {
                let two = _mm256_set1_epi32(weight.add(r * TILE_K + 2 * pair).cast::<i32>().read_unaligned());
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(two, first));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(two, second));
            }
        }
        let scale: [__m256; WIDE] = [0, 1].map(|j| _mm256_loadu_ps(values.scale.as_ptr().add(j * LANES)));
        for (r, sums) in sums.iter().enumerate() {
            let sums = [0, 1].map(|j| _mm256_mul_ps(_mm256_cvtepi32_ps(sums[j]), scale[j]));
            join(sums, running.alpha[row + r], running.beta[row + r], out.as_mut_ptr().add((row + r) * dim + channel));
        }
    }
}
