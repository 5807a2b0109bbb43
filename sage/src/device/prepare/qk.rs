//! Queries and keys from the projections to attention in one pass, on a device: `kernels/qk_prep.cu`.

use half::{bf16, f16};
use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Kernel, Launch, Operand, Stream, View, ViewMut};
use turbowan_cuda::ops::norm::RmsRule;
use turbowan_cuda::ops::rope::device::RopeTurns;

use super::params::QkPrepParams;
use super::rows::PooledRows;
use super::{HeadPlaces, THREADS, TILE_ROWS, code, expect, grouping, pool_rows, setting, sums_len};
use crate::quantise::query_factor;
use crate::{Error, Sage, kernels};

/// Columns of a part of a row's sum of squares: a tile of the product that made the row.
const PART_COLUMNS: usize = 128;
/// Heads that a thread block prepares, one after the other, for one gathering of their turns.
const BLOCK_HEADS: usize = 4;

/// Rows of one projection, and what their norm needs.
#[derive(Debug, Clone, Copy)]
pub struct Projected<'a> {
    /// Rows of `heads * head_dim`, a token each: from the first value of the first to the last of the last.
    pub values: View<'a, bf16>,
    /// Values from a row to the next, a multiple of 8.
    pub stride: usize,
    /// Sums of squares over every 128 columns of each row, as a product's `row_sums` has them: from the first of the first
    /// row to the last of the last.
    pub squares: View<'a, f32>,
    /// Sums from a row's first to the next row's.
    pub squares_stride: usize,
    /// Weight of the norm, `[heads * head_dim]`.
    pub weight: View<'a, f32>,
}

/// Values that lie beside queries and keys, and what becomes of them.
#[derive(Debug)]
pub struct Beside<'a> {
    /// Rows of `heads * head_dim`, as [`Projected::values`].
    pub values: View<'a, bf16>,
    /// Values from a row to the next, a multiple of 8.
    pub stride: usize,
    /// What becomes of them.
    pub to: BesideTo<'a>,
}

/// What attention's values are made of.
#[derive(Debug)]
pub enum BesideTo<'a> {
    /// f16, `[batch, tokens, heads, head_dim]`: those of [`super::QuantValues::f16`].
    F16(ViewMut<'a, f16>),
    /// The largest magnitudes of each channel over every 128 tokens, [`maxima_len`] values, for [`super::MeanKeys::finish`].
    Maxima(ViewMut<'a, f32>),
}

/// Values of the largest magnitudes over every 128 values: `[problems, ceil(key_len / 128), head_dim]`.
pub fn maxima_len(shape: &AttnShape) -> usize {
    shape.problems().saturating_mul(shape.key_len.div_ceil(TILE_ROWS) * shape.head_dim)
}

/// Where prepared queries and keys go. A problem is a head of a sample.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// Normed and turned queries, `[problems, tokens, head_dim]`: for a linear branch, or not stored.
    pub q: Option<ViewMut<'a, bf16>>,
    /// Normed and turned keys, `[problems, tokens, head_dim]`.
    pub k: ViewMut<'a, bf16>,
    /// INT8 queries, `[problems, tokens, head_dim]`.
    pub q_values: ViewMut<'a, i8>,
    /// Their scales, `[problems, groups]`.
    pub q_scales: ViewMut<'a, f32>,
    /// Means of blocks of queries.
    pub q_pooled: Option<PooledRows<'a, bf16>>,
    /// Sums over every 64 keys, [`sums_len`] values, for [`super::MeanKeys::finish`].
    pub k_sums: ViewMut<'a, f32>,
    /// Values that are prepared with them.
    pub v: Option<Beside<'a>>,
}

/// The preparation of queries and keys of a device.
#[derive(Debug)]
pub struct QkPrep {
    d128: Kernel<QkPrepParams>,
    d64: Kernel<QkPrepParams>,
}

impl QkPrep {
    /// Loads the kernels.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let file = &kernels::QK_PREP;
        Ok(Self { d128: Kernel::load(device, file, "qk_prep_d128")?, d64: Kernel::load(device, file, "qk_prep_d64")? })
    }

    /// Queues `turned(RMS(x) * weight)` of queries and keys with what follows: queries as `sage` quantises them, from the
    /// rounded rows on the bits of [`super::QuantRows`] and [`super::MeanKeys`]; values that lie beside them pass along. `shape` is that of the self-attention, its
    /// outputs in `[batch, heads, tokens, head_dim]` whatever its layout; `turns` are of its tokens.
    ///
    /// # Errors
    /// [`Error::Setting`] for a head dim that is neither 64 nor 128, queries and keys that differ in length, a stride below a
    /// row, scales over other than 16, 32, 64 or 128 rows, or pooled blocks of other than 64 or 128; [`Error::Operand`] when
    /// an operand does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, the rules of three steps, operands and results")]
    pub fn run(
        &self,
        stream: &Stream,
        (rule, eps): (RmsRule, f32),
        q: Projected<'_>,
        k: Projected<'_>,
        shape: &AttnShape,
        turns: &RopeTurns,
        sage: &Sage,
        out: Prepared<'_>,
    ) -> Result<(), Error> {
        sage.check()?;
        HeadPlaces::new(shape, shape.query_len)?;
        if shape.query_len != shape.key_len {
            return Err(setting("keys of a self-attention", "as many as queries", shape.key_len));
        }
        let Prepared { q: mut q_out, k: mut k_out, mut q_values, mut q_scales, mut q_pooled, mut k_sums, mut v } = out;
        let (problems, tokens, head_dim) = (shape.problems(), shape.query_len, shape.head_dim);
        let (width, rows) = (shape.heads * head_dim, shape.batch * tokens);
        let parts = width.div_ceil(PART_COLUMNS);
        check(&q, rows, width, parts, ["queries", "sums of squares of the queries", "weight of the queries"])?;
        check(&k, rows, width, parts, ["keys", "sums of squares of the keys", "weight of the keys"])?;
        expect("tokens of the rotary grid", turns.tokens(), tokens)?;
        expect("head dim of the rotary grid", turns.head_dim(), head_dim)?;
        let groups = sage.granularity.query_groups();
        let (group_shift, lane_shift) = grouping(groups, sage.granularity.tile().query_block)?;
        expect("turned keys", k_out.len(), shape.key_values())?;
        expect("int8 queries", q_values.len(), shape.query_values())?;
        expect("scales of the queries", q_scales.len(), problems * groups.count(tokens))?;
        expect("sums of keys", k_sums.len(), sums_len(shape))?;
        let [_, height, breadth] = turns.grid();
        let mut params = QkPrepParams {
            q: q.values.address(),
            k: k.values.address(),
            q_squares: q.squares.address(),
            k_squares: k.squares.address(),
            q_weight: q.weight.address(),
            k_weight: k.weight.address(),
            turns: turns.view().address(),
            q_out: std::ptr::null_mut(),
            k_out: k_out.address(),
            q_values: q_values.address(),
            q_scales: q_scales.address(),
            q_pooled: std::ptr::null_mut(),
            k_sums: k_sums.address(),
            v: std::ptr::null(),
            v_out: std::ptr::null_mut(),
            v_maxima: std::ptr::null_mut(),
            tokens: tokens as i64,
            heads: shape.heads as i64,
            q_stride: q.stride as i64,
            k_stride: k.stride as i64,
            v_stride: 0,
            parts: parts as i64,
            q_parts_stride: q.squares_stride as i64,
            k_parts_stride: k.squares_stride as i64,
            q_groups: groups.count(tokens) as i64,
            group_shift,
            lane_shift,
            rule: code(sage.rule),
            pool_rows: TILE_ROWS as u32,
            block_heads: BLOCK_HEADS as u32,
            rounds_twice: (rule == RmsRule::Standard).into(),
            // a grid's axes are at most 128
            height: height as u32,
            breadth: breadth as u32,
            eps,
            factor: query_factor(sage, head_dim),
        };
        let mut operands: Vec<Operand<'_>> = vec![
            q.values.reads("q").aligned(16).of_which(rows * width * size_of::<bf16>()),
            k.values.reads("k").aligned(16).of_which(rows * width * size_of::<bf16>()),
            q.squares.reads("q_squares").aligned(4).of_which(rows * parts * size_of::<f32>()),
            k.squares.reads("k_squares").aligned(4).of_which(rows * parts * size_of::<f32>()),
            q.weight.reads("q_weight").aligned(16),
            k.weight.reads("k_weight").aligned(16),
            turns.view().reads("turns").aligned(8),
            k_out.writes("k_out").aligned(16),
            q_values.writes("q_values").aligned(8),
            q_scales.writes("q_scales").aligned(4),
            k_sums.writes("k_sums").aligned(4),
        ];
        if let Some(q_out) = &mut q_out {
            expect("turned queries", q_out.len(), shape.query_values())?;
            params.q_out = q_out.address();
            operands.push(q_out.writes("q_out").aligned(16));
        }
        if let Some(pooled) = &mut q_pooled {
            expect("means of blocks", pooled.means.len(), problems * tokens.div_ceil(pooled.rows.max(1)) * head_dim)?;
            params.pool_rows = pool_rows(pooled.rows)?;
            params.q_pooled = pooled.means.address();
            operands.push(pooled.means.writes("q_pooled").aligned(2));
        }
        if let Some(Beside { values, stride, to }) = &mut v {
            check_rows(values, *stride, rows, width, "values")?;
            (params.v, params.v_stride) = (values.address(), *stride as i64);
            operands.push(values.reads("v").aligned(16).of_which(rows * width * size_of::<bf16>()));
            match to {
                BesideTo::F16(out) => {
                    expect("f16 values", out.len(), shape.key_values())?;
                    params.v_out = out.address();
                    operands.push(out.writes("v_out").aligned(16));
                }
                BesideTo::Maxima(maxima) => {
                    expect("largest values", maxima.len(), maxima_len(shape))?;
                    params.v_maxima = maxima.address();
                    operands.push(maxima.writes("v_maxima").aligned(4));
                }
            }
        }
        let kernel = if head_dim == 64 { &self.d64 } else { &self.d128 };
        Ok(kernel.launch(stream, launch(shape)?, &params, &operands)?)
    }
}

/// A block for every 128 tokens of every [`BLOCK_HEADS`] heads, with the turns of the tokens.
fn launch(shape: &AttnShape) -> Result<Launch, Error> {
    let tiles = shape.batch.saturating_mul(shape.query_len.div_ceil(TILE_ROWS));
    let blocks = tiles.saturating_mul(shape.heads.div_ceil(BLOCK_HEADS));
    let shared_bytes = TILE_ROWS * shape.head_dim / 2 * size_of::<[f32; 2]>();
    Ok(Launch::linear(blocks, THREADS)?.with_shared_bytes(shared_bytes as u32))
}

fn check(x: &Projected<'_>, rows: usize, width: usize, parts: usize, [values, squares, weight]: [&'static str; 3]) -> Result<(), Error> {
    check_rows(&x.values, x.stride, rows, width, values)?;
    if x.squares_stride < parts {
        return Err(setting("stride of sums of squares", "at least a row's sums", x.squares_stride));
    }
    expect(squares, x.squares.len(), (rows - 1).saturating_mul(x.squares_stride) + parts)?;
    expect(weight, x.weight.len(), width)
}

fn check_rows(values: &View<'_, bf16>, stride: usize, rows: usize, width: usize, what: &'static str) -> Result<(), Error> {
    if stride < width || !stride.is_multiple_of(8) {
        return Err(setting("stride of rows", "a multiple of 8, at least a row", stride));
    }
    expect(what, values.len(), (rows - 1).saturating_mul(stride) + width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_every_head_has_a_block_that_fits_every_chip() {
        let blocks = |batch, heads, len, dim| launch(&AttnShape::new(batch, heads, len, dim).unwrap()).unwrap();
        assert_eq!(
            (blocks(1, 12, 32_760, 128).blocks(), blocks(2, 40, 75_600, 128).blocks(), blocks(1, 1, 1, 64).blocks()),
            (256 * 3, 2 * 591 * 10, 1)
        );
        // with the 19 KiB that are the kernel's own
        assert_eq!(blocks(1, 12, 32_760, 128).shared_bytes, 64 << 10);
        assert_eq!(blocks(1, 12, 32_760, 64).shared_bytes, 32 << 10);
        assert!(launch(&AttnShape::new(1 << 40, 40, 75_600, 128).unwrap()).is_err());
    }
}
