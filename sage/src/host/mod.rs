//! INT8 attention on the CPU: the tiles of the GPU kernels, in vectors.
//!
//! A head is prepared once: queries and keys become INT8 ([`crate::quantise`]), keys and values are laid out in tiles of
//! [`TILE_K`] rows so that one vector load brings one channel group of 16 neighbouring keys, or 16 neighbouring channels
//! of one key ([`panels`]). A task then takes [`TILE_Q`] query rows over the visible key tiles ([`task`]):
//!
//! ```text
//!   scores   s = (q8 . k8) * scales + bias      bias is 0, or minus infinity where a tile has no key
//!            m = max(s, floor)                  floor: the largest so far, or nothing for the 8-bit product
//!            p = 2^(s - m), sum p
//!   merge    M' = max(M, m),  alpha = 2^(M - M'),  beta = 2^(m - M'),  l = alpha l + beta sum
//!   weigh    o = alpha o + beta (p . v)
//! ```
//!
//! Each of the three is one function of a [`Kernel`], written once for each instruction set. Nothing of size
//! `query_len * key_len` is ever stored, and a task's result depends on nothing but its rows.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod panels;
pub(crate) mod portable;
pub(crate) mod task;

/// Query rows of a task.
pub(crate) const TILE_Q: usize = 64;
/// Key rows of a tile.
pub(crate) const TILE_K: usize = 64;
/// Rows that every kernel takes at once; a task's rows are padded to a multiple of it.
pub(crate) const ROW_GROUP: usize = 4;
/// Head dims are padded with zero channels to a multiple of this, as the GPU kernels do.
pub(crate) const DIM_STEP: usize = 64;
/// What the largest score is before any key: far below every score, yet finite, so that differences are.
pub(crate) const LOWEST: f32 = -1e30;
/// What a probability of one becomes in the 8-bit product.
pub(crate) const INT8_ONE: f32 = 255.0;

/// One number for each query row of a task.
pub(crate) type PerRow = [f32; TILE_Q];

/// Probabilities of one key tile, `[TILE_Q, TILE_K]`: `f32`, or integers up to 255 as `u8` or `i16` (the kernel's choice).
#[repr(C, align(64))]
pub(crate) struct Weights(pub [f32; TILE_Q * TILE_K]);

/// What scoring a tile leaves besides the probabilities.
pub(crate) struct RowStats {
    /// The score that a probability of one stands for.
    pub highest: PerRow,
    /// Sum of the probabilities; of the rounded ones, in units of 1, when they are integers.
    pub sum: PerRow,
}

/// Running softmax of a task's rows.
pub(crate) struct Running {
    /// Largest score so far, base 2.
    pub highest: PerRow,
    /// Sum of probabilities relative to it.
    pub sum: PerRow,
    /// What the accumulated output is multiplied by before the next tile joins it.
    pub alpha: PerRow,
    /// What the next tile's product is multiplied by.
    pub beta: PerRow,
}

/// INT8 queries of a task as a kernel reads them.
pub(crate) struct QueryPanel<'a> {
    /// `[rows, dim]`, bytes biased by 128 ([`panels::Layout::Quads`]) or `i16` ([`panels::Layout::Pairs`]).
    pub values: &'a [i8],
    /// Scale of each row.
    pub scale: &'a PerRow,
    /// Rows, a multiple of [`ROW_GROUP`].
    pub rows: usize,
    /// Channels, a multiple of [`DIM_STEP`].
    pub dim: usize,
}

/// INT8 keys of one tile as a kernel reads them.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only biased queries need the correction"))]
pub(crate) struct KeyPanel<'a> {
    /// `[dim / 4, TILE_K, 4]` bytes, or `[TILE_K / 16, dim / 2, 16, 2]` of `i16`.
    pub values: &'a [i8],
    /// What an accumulator starts from: minus 128 times the sum of a key's values, which takes the queries' bias away.
    pub correction: &'a [i32],
    /// Scale of each key, softmax scale included.
    pub scale: &'a [f32],
    /// 0 for a key, minus infinity for padding.
    pub bias: &'a [f32],
    /// Under a causal mask, how many keys of the tile each row sees.
    pub seen: Option<&'a [u32; TILE_Q]>,
}

/// INT8 values of one tile as a kernel reads them.
#[derive(Clone, Copy)]
pub(crate) struct IntegerPanel<'a> {
    /// `[dim / strip, TILE_K / n, strip, n]`.
    pub values: &'a [i8],
    /// What each channel is multiplied by, `[dim]`.
    pub scale: &'a [f32],
}

/// The inner loops of one instruction set. A value of an implementing type proves that the machine has it.
pub(crate) trait Kernel: Copy + Send + Sync {
    /// How keys, queries and integer values are laid out.
    const LAYOUT: panels::Layout;

    /// Probabilities in `f32`, relative to the larger of `floor` and each row's largest score.
    fn score(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, floor: &PerRow, weights: &mut Weights, stats: &mut RowStats);

    /// Probabilities as integers up to 255, relative to each row's largest score.
    fn score_integers(self, queries: &QueryPanel<'_>, keys: KeyPanel<'_>, weights: &mut Weights, stats: &mut RowStats);

    /// Joins a tile's statistics to the running ones.
    fn merge(self, running: &mut Running, tile: &RowStats);

    /// `out = alpha * out + beta * (weights . values)` with `f32` values, `[dim / strip, TILE_K, strip]`.
    fn weigh(self, weights: &Weights, values: &[f32], rows: usize, dim: usize, running: &Running, out: &mut [f32]);

    /// The same with integer values, `[dim / strip, TILE_K / n, strip, n]`, each channel of which has a scale.
    fn weigh_integers(self, weights: &Weights, values: IntegerPanel<'_>, rows: usize, running: &Running, out: &mut [f32]);
}

/// The body of [`Kernel::merge`], for each instruction set to compile.
#[inline(always)]
pub(crate) fn merge(running: &mut Running, tile: &RowStats) {
    for row in 0..TILE_Q {
        let highest = running.highest[row].max(tile.highest[row]);
        let alpha = portable::exp2(running.highest[row] - highest);
        let beta = portable::exp2(tile.highest[row] - highest);
        running.sum[row] = running.sum[row] * alpha + tile.sum[row] * beta;
        running.highest[row] = highest;
        running.alpha[row] = alpha;
        running.beta[row] = beta;
    }
}
