//! Exact attention forward on a device: `kernels/attend_fwd.cu`, and on compute capability 9.0, for 128 queries a block,
//! `kernels/attend_fwd_wgmma.cu`.
//!
//! Self-attention, dense or over a block map, and cross-attention over any number of text tokens are one kernel.

use half::bf16;
use turbowan_cuda::device::{Device, Kernel, KernelFile, Launch, OpKernel, Operand, Stream, ViewMut};
use turbowan_cuda::{AttnShape, HeadLayout};

use super::operands::{Blocks, Operands, Output, QueryNorm, Scores, Strides, TILE, expect, size, tile_rows};
use super::params::AttendParams;
use crate::{Error, kernels};

/// Which kernel each chip takes; `doctor` shows them.
pub const KERNELS: [OpKernel; 2] = [
    OpKernel { op: "exact attention, head dim 128", choose: |capability| Variant::of(capability, 128, 128).kernel() },
    OpKernel { op: "exact attention, head dim 64", choose: |capability| Variant::of(capability, 64, 128).kernel() },
];

/// One kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    head_dim: usize,
    /// Queries of a thread block.
    rows: usize,
    /// Whether it is on wgmma; else it is on mma.sync.
    is_wide: bool,
}

impl Variant {
    fn of(capability: (u32, u32), head_dim: usize, rows: usize) -> Self {
        Self { head_dim, rows, is_wide: capability == (9, 0) && rows == 128 }
    }

    /// All kernels of a chip.
    fn all(capability: (u32, u32)) -> [Self; 4] {
        [(128, 128), (128, 64), (64, 128), (64, 64)].map(|(head_dim, rows)| Self::of(capability, head_dim, rows))
    }

    fn kernel(self) -> (&'static KernelFile, &'static str) {
        let name = match (self.is_wide, self.head_dim, self.rows) {
            (true, 64, _) => "attend_fwd_wgmma_d64",
            (true, ..) => "attend_fwd_wgmma_d128",
            (_, 64, 64) => "attend_fwd_d64_rows64",
            (_, 64, _) => "attend_fwd_d64",
            (_, _, 64) => "attend_fwd_d128_rows64",
            _ => "attend_fwd_d128",
        };
        (if self.is_wide { &kernels::ATTEND_FWD_WGMMA } else { &kernels::ATTEND_FWD }, name)
    }

    /// On mma.sync the stages of a tile of keys and one of values; the queries pass through the last. On wgmma barriers, the
    /// queries, and three stages of two tiles of each.
    fn shared_bytes(self) -> u32 {
        let tile = TILE * self.head_dim * size_of::<bf16>();
        let bytes = match (self.is_wide, self.rows) {
            (true, _) => 1024 + 2 * tile + 3 * 4 * tile,
            (_, 64) => 2 * 2 * tile,
            _ => 3 * 2 * tile,
        };
        bytes as u32
    }

    /// On mma.sync warps of 16 rows, on wgmma three warpgroups.
    fn threads(self) -> u32 {
        if self.is_wide { 384 } else { (self.rows * 2) as u32 }
    }

    /// Block `problem * tiles + tile` has one tile of one problem.
    fn launch(self, problems: usize, query_len: usize) -> Result<Launch, Error> {
        let blocks = problems.saturating_mul(query_len.div_ceil(self.rows));
        Ok(Launch::linear(blocks, self.threads())?.with_shared_bytes(self.shared_bytes()))
    }
}

/// The exact attention kernels of a device.
#[derive(Debug)]
pub struct ExactAttention {
    capability: (u32, u32),
    kernels: Vec<(Variant, Kernel<AttendParams>)>,
}

impl ExactAttention {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let load = |variant: Variant| {
            let (file, name) = variant.kernel();
            Ok((variant, Kernel::load(device, file, name)?))
        };
        let capability = device.chip().capability;
        Ok(Self { capability, kernels: Variant::all(capability).into_iter().map(load).collect::<Result<_, Error>>()? })
    }

    /// Queues softmax attention in bf16: probabilities are rounded to bf16, sums are `f32`. `out` is in the shape's layout;
    /// `lse`, `[problems, query_len]`, becomes the base-2 logarithm of each query's denominator. A query that sees no key
    /// (under a map and a causal mask) gives zeros and minus infinity.
    ///
    /// Keys and values may be those of one sample, `[1, heads, key_len, head_dim]`, for all samples of the queries. Scores
    /// times `log2 e` must stay below 2^31.
    ///
    /// # Errors
    /// [`turbowan_cuda::Error::Size`] for a head dim that is neither 64 nor 128 or a map that tiles of 64 do not divide,
    /// [`turbowan_cuda::Error::Length`] when an operand does not fit, [`Error::Causal`], [`Error::Scale`], and as
    /// [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        scores: Scores,
        operands: &Operands<'_>,
        out: ViewMut<'_, bf16>,
        lse: Option<ViewMut<'_, f32>>,
    ) -> Result<(), Error> {
        self.launch(stream, shape, scores, operands, None, Output::Bf16(out), lse)
    }

    /// Queues the same of queries that `norm` is still to be applied to, or to int8 rows: attention between two products. The
    /// norm multiplies scores in `f32`, so that normed queries are never rounded.
    ///
    /// # Errors
    /// As [`Self::run`], and [`turbowan_cuda::Error::Size`] for int8 rows in another layout or of another head dim.
    pub fn run_between(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        operands: &Operands<'_>,
        norm: Option<QueryNorm<'_>>,
        out: Output<'_>,
    ) -> Result<(), Error> {
        self.launch(stream, shape, Scores::default(), operands, norm, out, None)
    }

    #[allow(clippy::too_many_arguments, reason = "a stream, a shape and its rules, operands and results")]
    fn launch(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        scores: Scores,
        operands: &Operands<'_>,
        norm: Option<QueryNorm<'_>>,
        mut out: Output<'_>,
        mut lse: Option<ViewMut<'_, f32>>,
    ) -> Result<(), Error> {
        scores.check(shape)?;
        let (_, factor) = scores.factors(shape)?;
        expect("queries", operands.q.len(), shape.query_values())?;
        let is_shared = shape.batch > 1 && operands.k.len() == shape.key_values() / shape.batch;
        let key_values = if is_shared { operands.k.len() } else { shape.key_values() };
        expect("keys", operands.k.len(), key_values)?;
        expect("values", operands.v.len(), key_values)?;
        match &out {
            Output::Bf16(out) => expect("output", out.len(), shape.query_values())?,
            Output::Int8 { .. } if shape.head_dim != 128 || shape.layout != HeadLayout::Blhd => {
                return Err(size("head dim of int8 rows", "128, the heads of a token side by side", shape.head_dim));
            }
            Output::Int8 { values, scales } => {
                expect("int8 output", values.len(), shape.query_values())?;
                expect("scales of the output", scales.len(), shape.problems() * shape.query_len)?;
            }
        }
        let rows_of_heads = shape.batch * shape.query_len;
        let parts = norm.map_or(0, |norm| norm.squares.len() / rows_of_heads);
        if let Some(norm) = &norm {
            expect("sums of squares of the queries", norm.squares.len(), rows_of_heads * parts.max(1))?;
        }
        if let Some(lse) = &lse {
            expect("logarithms of the denominators", lse.len(), shape.problems() * shape.query_len)?;
        }
        let blocks = operands.map.map(|map| map.blocks(shape)).transpose()?.unwrap_or(Blocks::default());
        let rows = tile_rows(shape.query_len, operands.map.map(|map| map.block_q));
        let variant = Variant::of(self.capability, shape.head_dim, rows);
        let Some((_, kernel)) = self.kernels.iter().find(|(loaded, _)| *loaded == variant) else {
            unreachable!("every head dim and every number of rows was loaded");
        };

        let (queries, keys) = (Strides::of(shape, shape.query_len), Strides::of(shape, shape.key_len));
        let mut params = AttendParams {
            q: operands.q.address().cast(),
            k: operands.k.address().cast(),
            v: operands.v.address().cast(),
            lists: operands.map.map_or(std::ptr::null(), |map| map.lists.address()),
            out: std::ptr::null_mut(),
            lse: lse.as_mut().map_or(std::ptr::null_mut(), ViewMut::address),
            squares: norm.map_or(std::ptr::null(), |norm| norm.squares.address()),
            out_values: std::ptr::null_mut(),
            out_scales: std::ptr::null_mut(),
            parts: parts as i64,
            query_len: shape.query_len as i64,
            key_len: shape.key_len as i64,
            heads: shape.heads as i64,
            query_sample: queries.sample,
            query_head: queries.head,
            query_row: queries.row,
            key_sample: if is_shared { 0 } else { keys.sample },
            key_head: keys.head,
            key_row: keys.row,
            block_q: blocks.q,
            block_k: blocks.k,
            kept: blocks.kept,
            causal: scores.is_causal.into(),
            factor,
            width: (shape.heads * shape.head_dim) as f32,
            eps: norm.map_or(0.0, |norm| norm.eps),
            unused: 0,
        };
        let mut touched: Vec<Operand<'_>> =
            vec![operands.q.reads("q").aligned(16), operands.k.reads("k").aligned(16), operands.v.reads("v").aligned(16)];
        match &mut out {
            Output::Bf16(out) => {
                params.out = out.address().cast();
                touched.push(out.writes("out").aligned(16));
            }
            Output::Int8 { values, scales } => {
                (params.out_values, params.out_scales) = (values.address(), scales.address());
                touched.extend([values.writes("int8 out").aligned(16), scales.writes("out scales").aligned(4)]);
            }
        }
        touched.extend(norm.as_ref().map(|norm| norm.squares.reads("squares").aligned(4)));
        touched.extend(operands.map.as_ref().map(|map| map.lists.reads("block map").aligned(4)));
        touched.extend(lse.as_mut().map(|lse| lse.writes("lse").aligned(4)));
        Ok(kernel.launch(stream, variant.launch(shape.problems(), shape.query_len)?, &params, &touched)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::device::Limits;

    #[test]
    fn shared_memory_is_what_the_kernels_ask_for_and_fits_every_chip() {
        let bytes = |capability| Variant::all(capability).map(Variant::shared_bytes);
        assert_eq!(bytes((8, 9)), [96 << 10, 64 << 10, 48 << 10, 32 << 10]);
        assert_eq!(bytes((9, 0)), [225 << 10, 64 << 10, 113 << 10, 32 << 10]);
        for capability in [(8, 0), (8, 9), (9, 0), (12, 0)] {
            assert!(bytes(capability).iter().all(|bytes| *bytes <= Limits::of(capability).shared_bytes));
        }
    }

    #[test]
    fn every_row_of_every_head_has_a_block() {
        let blocks = |rows, problems, len| Variant::of((9, 0), 128, rows).launch(problems, len).unwrap().blocks();
        assert_eq!((blocks(128, 1, 1), blocks(128, 12, 129), blocks(64, 12, 129)), (1, 24, 36));
        assert_eq!(blocks(128, 40, 75_600), 40 * 591);
        assert!(Variant::of((8, 0), 64, 64).launch(1 << 40, 64).is_err());
    }
}
