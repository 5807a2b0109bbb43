//! Exact attention backward on a device: `kernels/attend_bwd_dq.cu`, then `kernels/attend_bwd_dkdv.cu`.

use half::bf16;
use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Kernel, KernelFile, Launch, OpKernel, Operand, Stream, View, ViewMut};

use super::inverse_map::InverseMap;
use super::operands::{Blocks, Operands, Scores, Strides, TILE, expect, tile_rows};
use super::params::AttendBackwardParams;
use crate::{Error, kernels};

/// Which kernels each chip takes; `doctor` shows them.
pub const KERNELS: [OpKernel; 4] = [
    OpKernel { op: "gradient of the queries, head dim 128", choose: |_| QueryPass { head_dim: 128, rows: 128 }.kernel() },
    OpKernel { op: "gradient of the queries, head dim 64", choose: |_| QueryPass { head_dim: 64, rows: 128 }.kernel() },
    OpKernel { op: "gradients of keys and values, head dim 128", choose: |_| key_kernel(128) },
    OpKernel { op: "gradients of keys and values, head dim 64", choose: |_| key_kernel(64) },
];

/// One kernel of the queries' gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct QueryPass {
    head_dim: usize,
    /// Queries of a thread block.
    rows: usize,
}

impl QueryPass {
    const ALL: [Self; 4] = [
        Self { head_dim: 128, rows: 128 },
        Self { head_dim: 128, rows: 64 },
        Self { head_dim: 64, rows: 128 },
        Self { head_dim: 64, rows: 64 },
    ];

    fn kernel(self) -> (&'static KernelFile, &'static str) {
        let name = match (self.head_dim, self.rows) {
            (64, 64) => "attend_bwd_dq_d64_rows64",
            (64, _) => "attend_bwd_dq_d64",
            (_, 64) => "attend_bwd_dq_d128_rows64",
            _ => "attend_bwd_dq_d128",
        };
        (&kernels::ATTEND_BWD_DQ, name)
    }

    /// The stages of a tile of keys and one of values; queries, output and its gradient pass through them.
    fn shared_bytes(self) -> u32 {
        let stages = if self.rows == 64 { 2 } else { 3 };
        (stages * 2 * TILE * self.head_dim * size_of::<bf16>()) as u32
    }

    /// Warps of 16 rows.
    fn launch(self, problems: usize, query_len: usize) -> Result<Launch, Error> {
        let blocks = problems.saturating_mul(query_len.div_ceil(self.rows));
        Ok(Launch::linear(blocks, (self.rows * 2) as u32)?.with_shared_bytes(self.shared_bytes()))
    }
}

fn key_kernel(head_dim: usize) -> (&'static KernelFile, &'static str) {
    (&kernels::ATTEND_BWD_DKDV, if head_dim == 64 { "attend_bwd_dkdv_d64" } else { "attend_bwd_dkdv_d128" })
}

/// Eight warps over a tile of keys and one of values, two stages of queries and gradients, and their logarithms and deltas.
fn key_launch(head_dim: usize, problems: usize, key_len: usize) -> Result<Launch, Error> {
    let shared_bytes = 6 * TILE * head_dim * size_of::<bf16>() + 2 * 2 * TILE * size_of::<f32>();
    Ok(Launch::linear(problems.saturating_mul(key_len.div_ceil(TILE)), 256)?.with_shared_bytes(shared_bytes as u32))
}

/// What the forward pass gave.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// As [`super::ExactAttention::run`] wrote it.
    pub out: View<'a, bf16>,
    /// As [`super::ExactAttention::run`] wrote it.
    pub lse: View<'a, f32>,
}

/// Memory that the backward pass works in; what it held is lost.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// `[problems, query_len]`.
    pub delta: ViewMut<'a, f32>,
    /// [`InverseMap::words`] of the map; not read when dense.
    pub inverse: ViewMut<'a, u32>,
}

/// Gradients, in the layouts of what they are gradients of; every value is written.
#[derive(Debug)]
pub struct GradientsMut<'a> {
    /// Of the queries.
    pub q: ViewMut<'a, f32>,
    /// Of the keys.
    pub k: ViewMut<'a, f32>,
    /// Of the values.
    pub v: ViewMut<'a, f32>,
}

/// The backward kernels of a device.
#[derive(Debug)]
pub struct ExactAttentionBackward {
    inverse: InverseMap,
    query_passes: Vec<(QueryPass, Kernel<AttendBackwardParams>)>,
    key_passes: [(usize, Kernel<AttendBackwardParams>); 2],
}

impl ExactAttentionBackward {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let load = |(file, name)| Kernel::load(device, file, name);
        let query_passes = QueryPass::ALL.into_iter().map(|pass| Ok((pass, load(pass.kernel())?))).collect::<Result<_, Error>>()?;
        let key_passes = [(128, load(key_kernel(128))?), (64, load(key_kernel(64))?)];
        Ok(Self { inverse: InverseMap::load(device)?, query_passes, key_passes })
    }

    /// Queues the gradients of [`super::ExactAttention::run`] for `out_gradient`, the gradient of its output in the same
    /// layout: the map turned round where there is one, then the queries' gradients, then those of keys and values. The
    /// map counts as a constant. Probabilities and gradients of scores are rounded to bf16 before the last products; sums and
    /// results are `f32`. No sum depends on the order in which blocks run.
    ///
    /// # Errors
    /// As [`super::ExactAttention::run`], whose keys may be those of one sample for all: here they may not.
    #[allow(clippy::too_many_arguments, reason = "a stream, a shape and its rules, what was read and given, results")]
    pub fn run(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        scores: Scores,
        operands: &Operands<'_>,
        attended: Attended<'_>,
        out_gradient: View<'_, bf16>,
        workspace: Workspace<'_>,
        gradients: GradientsMut<'_>,
    ) -> Result<(), Error> {
        scores.check(shape)?;
        let (scale, factor) = scores.factors(shape)?;
        let Workspace { mut delta, mut inverse } = workspace;
        let GradientsMut { q: mut dq, k: mut dk, v: mut dv } = gradients;
        for (what, found, expected) in [
            ("queries", operands.q.len(), shape.query_values()),
            ("keys", operands.k.len(), shape.key_values()),
            ("values", operands.v.len(), shape.key_values()),
            ("output", attended.out.len(), shape.query_values()),
            ("logarithms of the denominators", attended.lse.len(), shape.problems() * shape.query_len),
            ("output gradient", out_gradient.len(), shape.query_values()),
            ("deltas", delta.len(), shape.problems() * shape.query_len),
            ("gradient of the queries", dq.len(), shape.query_values()),
            ("gradient of the keys", dk.len(), shape.key_values()),
            ("gradient of the values", dv.len(), shape.key_values()),
        ] {
            expect(what, found, expected)?;
        }
        let mut blocks = Blocks::default();
        if let Some(map) = &operands.map {
            blocks = map.blocks(shape)?;
            self.inverse.run(stream, shape, map, inverse.reborrow())?;
        }

        let (queries, keys) = (Strides::of(shape, shape.query_len), Strides::of(shape, shape.key_len));
        let params = AttendBackwardParams {
            q: operands.q.address().cast(),
            k: operands.k.address().cast(),
            v: operands.v.address().cast(),
            out: attended.out.address().cast(),
            out_gradient: out_gradient.address().cast(),
            lse: attended.lse.address(),
            lists: operands.map.map_or(std::ptr::null(), |map| map.lists.address()),
            inverse: operands.map.map_or(std::ptr::null(), |_| inverse.as_view().address()),
            delta: delta.address(),
            dq: dq.address(),
            dk: dk.address(),
            dv: dv.address(),
            query_len: shape.query_len as i64,
            key_len: shape.key_len as i64,
            heads: shape.heads as i64,
            query_sample: queries.sample,
            query_head: queries.head,
            query_row: queries.row,
            key_sample: keys.sample,
            key_head: keys.head,
            key_row: keys.row,
            block_q: blocks.q,
            block_k: blocks.k,
            kept: blocks.kept,
            causal: scores.is_causal.into(),
            scale,
            factor,
        };
        let mut touched: Vec<Operand<'_>> = vec![
            operands.q.reads("q").aligned(16),
            operands.k.reads("k").aligned(16),
            operands.v.reads("v").aligned(16),
            attended.out.reads("out").aligned(16),
            out_gradient.reads("out gradient").aligned(16),
            attended.lse.reads("lse").aligned(4),
            delta.writes("delta").aligned(4),
            dq.writes("dq").aligned(8),
            dk.writes("dk").aligned(8),
            dv.writes("dv").aligned(8),
        ];
        if let Some(map) = &operands.map {
            touched.extend([map.lists.reads("block map").aligned(4), inverse.as_view().reads("turned block map").aligned(4)]);
        }
        let pass = QueryPass { head_dim: shape.head_dim, rows: tile_rows(shape.query_len, operands.map.map(|map| map.block_q)) };
        for (_, kernel) in self.query_passes.iter().filter(|(loaded, _)| *loaded == pass) {
            kernel.launch(stream, pass.launch(shape.problems(), shape.query_len)?, &params, &touched)?;
        }
        for (head_dim, kernel) in self.key_passes.iter().filter(|(head_dim, _)| *head_dim == shape.head_dim) {
            kernel.launch(stream, key_launch(*head_dim, shape.problems(), shape.key_len)?, &params, &touched)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_cuda::device::Limits;

    #[test]
    fn shared_memory_is_what_the_kernels_ask_for_and_fits_every_chip() {
        assert_eq!(QueryPass::ALL.map(QueryPass::shared_bytes), [96 << 10, 64 << 10, 48 << 10, 32 << 10]);
        assert_eq!([128, 64].map(|dim| key_launch(dim, 1, 1).unwrap().shared_bytes), [97 << 10, 49 << 10]);
        assert!(key_launch(128, 1, 1).unwrap().shared_bytes <= Limits::of((8, 9)).shared_bytes);
    }

    #[test]
    fn every_key_of_every_head_has_a_block() {
        assert_eq!(key_launch(128, 40, 75_600).unwrap().blocks(), 40 * 1182);
        assert!(key_launch(64, 1 << 40, 64).is_err());
        assert_eq!(QueryPass { head_dim: 64, rows: 64 }.launch(12, 129).unwrap().blocks(), 36);
    }
}
