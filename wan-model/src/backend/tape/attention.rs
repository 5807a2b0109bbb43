//! Attention on a tape: dense, to itself and to a prompt, and sparse-linear.
//!
//! Dense attention keeps its output and the logarithms of the denominators, sparse-linear attention its map as well;
//! scores are worked out again.

use std::sync::Arc;

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, HeadLayout, Rounding};
use turbowan_sla::{Attend, Projection, Saved, SparseLinear, attend_backward, attend_into};

use super::record::{Gradients, Operation, Slot, Variable};
use super::{Tape, TapeProjection, TapeTensor};
use crate::attention::{Attention, Sparsity};
use crate::backend::Heads;
use crate::{Error, Result};

impl Tape {
    pub(super) fn self_attention(
        &self,
        qkv: [&TapeTensor; 3],
        heads: Heads,
        how: &Attention,
        projection: Option<&TapeProjection>,
    ) -> Result<TapeTensor> {
        let rows = self.values(qkv[0]).len() / qkv[0].width;
        let shape = heads.self_shape(rows)?;
        match (how, projection) {
            (Attention::Original, _) => self.dense(qkv, shape),
            (Attention::Sla(sparsity), Some(projection)) => self.sparse_linear(qkv, shape, sparsity, *projection),
            (Attention::Sla(_), None) => Err(refused("sparse-linear attention without its projection")),
            (Attention::Sage | Attention::SageSla(_), _) => Err(refused("INT8 attention")),
        }
    }

    pub(super) fn cross_attention(&self, qkv: [&TapeTensor; 3], heads: Heads, text_batch: usize) -> Result<TapeTensor> {
        let [q, k, _] = qkv.map(|x| self.values(x).len() / x.width);
        // Samples that share their keys are one longer sample.
        let samples = text_batch.max(1);
        let shape = AttnShape::cross(samples, heads.heads, q / samples, k / samples, heads.head_dim)?;
        self.dense(qkv, shape.with_layout(HeadLayout::Blhd))
    }

    /// Softmax attention over all keys.
    pub(super) fn dense(&self, qkv: [&TapeTensor; 3], shape: AttnShape) -> Result<TapeTensor> {
        let (width, slots) = (qkv[0].width, qkv.map(|x| self.slot(x)));
        let qkv = qkv.map(|x| self.values(x));
        let [q, k, v] = &qkv;
        let mut lse = vec![0.0; shape.problems() * shape.query_len];
        let mut out = vec![0.0; shape.query_values()];
        attend_into(q, k, v, &shape, &Attend::default(), &mut out, Some(&mut lse))?;
        Ok(self.result(out, width, &slots, |variable, out| Dense { qkv, slots, shape, kept: Arc::clone(out), lse, out: variable }))
    }

    fn sparse_linear(
        &self,
        qkv: [&TapeTensor; 3],
        shape: AttnShape,
        sparsity: &Sparsity,
        projection: TapeProjection,
    ) -> Result<TapeTensor> {
        let width = qkv[0].width;
        let [q, k, v] = qkv.map(|x| self.slot(x));
        let slots = [q, k, v, self.parameter_slot(projection.weight), self.parameter_slot(projection.bias)];
        let operands = qkv.map(|x| self.values(x));
        let projection = [projection.weight, projection.bias].map(|index| self.parameters().values_of(index));
        let [q, k, v] = &operands;
        let (out, saved) = operation(sparsity, &projection).forward_saved(q, k, v, &shape)?;
        let sparsity = *sparsity;
        Ok(self.result(out, width, &slots, |out, _| Sparse { qkv: operands, projection, slots, shape, sparsity, saved, out }))
    }
}

fn refused(found: &str) -> Error {
    let must = "original or sla: a network learns in floating point".to_owned();
    Error::Setting { what: "attention of a network that learns", found: found.to_owned(), must }
}

/// The operation for a projection's `[weight, bias]`.
fn operation<'a>(sparsity: &Sparsity, [weight, bias]: &'a [Arc<Vec<f32>>; 2]) -> SparseLinear<'a> {
    SparseLinear {
        density: sparsity.density,
        block_q: sparsity.block_q,
        block_k: sparsity.block_k,
        features: sparsity.features,
        projection: Projection { weight, bias },
        outer: Rounding::None,
        inner: sparsity.inner,
        isa: Isa::detect(),
    }
}

/// Softmax attention over all keys.
#[derive(Debug)]
struct Dense {
    qkv: [Arc<Vec<f32>>; 3],
    slots: [Slot; 3],
    shape: AttnShape,
    kept: Arc<Vec<f32>>,
    lse: Vec<f32>,
    out: Variable,
}

impl Operation for Dense {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(grad) = gradients.take(self.out) else { return Ok(()) };
        let [q, k, v] = &self.qkv;
        let of_operands = attend_backward([q, k, v], &self.shape, &Attend::default(), (&self.kept, &self.lse), &grad)?;
        self.slots.into_iter().zip(of_operands).for_each(|(slot, gradient)| gradients.add(tape, slot, gradient));
        Ok(())
    }
}

/// Sparse-linear attention.
#[derive(Debug)]
struct Sparse {
    qkv: [Arc<Vec<f32>>; 3],
    projection: [Arc<Vec<f32>>; 2],
    /// Of queries, keys, values, the projection's weight and its bias.
    slots: [Slot; 5],
    shape: AttnShape,
    sparsity: Sparsity,
    saved: Saved,
    out: Variable,
}

impl Operation for Sparse {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(grad) = gradients.take(self.out) else { return Ok(()) };
        let [q, k, v] = &self.qkv;
        let g = operation(&self.sparsity, &self.projection).backward(q, k, v, &self.shape, &self.saved, &grad)?;
        self.slots.into_iter().zip([g.q, g.k, g.v, g.weight, g.bias]).for_each(|(slot, gradient)| gradients.add(tape, slot, gradient));
        Ok(())
    }
}
