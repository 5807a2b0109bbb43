//! The text encoder's operations on a tape.

use std::sync::Arc;

use turbowan_cuda::ops::bias_attention::gradient::{BiasShape, bias_attention_gradient};
use turbowan_cuda::ops::elementwise::gradient::gelu_gate_gradient;
use turbowan_cuda::ops::gather::{check_ids, gradient::embedding_gradient};

use super::record::{Gradients, Operation, Slot, Variable};
use super::{Tape, TapeTensor};
use crate::Result;
use crate::backend::host::{Host, HostTensor};
use crate::backend::text::TextBackend;
use crate::checkpoint::TensorView;

/// The same operation without a record.
const HOST: Host = Host { rounding: turbowan_cuda::Rounding::None };

impl Tape {
    /// A copy for the host's operations; a prompt's rows are few.
    fn on_host(&self, x: &TapeTensor) -> HostTensor {
        HostTensor { width: x.width, values: self.values(x).to_vec() }
    }
}

impl TextBackend for Tape {
    /// Rows of the parameter `name`; the table in the file is not read.
    fn embed(&self, name: &str, _table: TensorView<'_>, ids: &[u32]) -> Result<TapeTensor> {
        let index = self.find(name)?;
        let table = self.parameters().values_of(index);
        let width = self.parameters().at(index).shape().iter().skip(1).product::<usize>();
        check_ids(ids, table.len().checked_div(width).unwrap_or(0))?;
        let values = ids.iter().flat_map(|id| table[*id as usize * width..][..width].iter().copied()).collect();
        let slot = self.parameter_slot(index);
        Ok(self.result(values, width, &[slot], |out, _| Embed { ids: ids.to_vec(), width, values: table.len(), slot, out }))
    }

    fn position_bias(&self, table: &TapeTensor, buckets: &[usize]) -> Result<TapeTensor> {
        let (slot, values) = (self.slot(table), self.values(table).len());
        let bias = HOST.position_bias(&self.on_host(table), buckets)?;
        let heads = table.width;
        let operation = |out, _: &_| PositionBias { buckets: buckets.to_vec(), heads, values, slot, out };
        Ok(self.result(bias.values, bias.width, &[slot], operation))
    }

    fn rms_norm(&self, x: &TapeTensor, weight: &TapeTensor, eps: f32) -> Result<TapeTensor> {
        self.rms_normed(x, weight, eps)
    }

    fn gelu_gate(&self, gate: &TapeTensor, up: &TapeTensor) -> Result<TapeTensor> {
        let out = HOST.gelu_gate(&self.on_host(gate), &self.on_host(up))?.rows;
        let slots = [gate, up].map(|x| self.slot(x));
        let [gate, up] = [gate, up].map(|x| self.values(x));
        Ok(self.result(out.values, out.width, &slots, |out, _| Gate { gate, up, slots, out }))
    }

    fn relative_attention(&self, qkv: [&TapeTensor; 3], bias: &TapeTensor, keys: usize) -> Result<TapeTensor> {
        let [q, k, v] = qkv.map(|x| self.on_host(x));
        let host_bias = self.on_host(bias);
        let out = HOST.relative_attention([&q, &k, &v], &host_bias, keys)?.rows;
        let heads = host_bias.rows();
        let shape = BiasShape { rows: out.rows(), keys, heads, head_dim: out.width / heads };
        let [q, k, v] = qkv;
        let slots = [q, k, v, bias].map(|x| self.slot(x));
        let operands = [q, k, v, bias].map(|x| self.values(x));
        Ok(self.result(out.values, out.width, &slots, |out, _| Relative { shape, operands, slots, out }))
    }
}

/// Rows of a table.
#[derive(Debug)]
struct Embed {
    ids: Vec<u32>,
    width: usize,
    values: usize,
    slot: Slot,
    out: Variable,
}

impl Operation for Embed {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.take(self.out) else { return Ok(()) };
        gradients.write(tape, self.slot, self.values, |_, sum| Ok(embedding_gradient(&self.ids, &dy, self.width, sum)?))
    }
}

/// `out[h, i] = table[buckets[i], h]`.
#[derive(Debug)]
struct PositionBias {
    buckets: Vec<usize>,
    heads: usize,
    values: usize,
    slot: Slot,
    out: Variable,
}

impl Operation for PositionBias {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.take(self.out) else { return Ok(()) };
        gradients.write(tape, self.slot, self.values, |_, sum| {
            for (head, dy) in dy.chunks_exact(self.buckets.len()).enumerate() {
                self.buckets.iter().zip(dy).for_each(|(bucket, dy)| sum[bucket * self.heads + head] += dy);
            }
            Ok(())
        })
    }
}

/// `out = up * gelu(gate)`.
#[derive(Debug)]
struct Gate {
    gate: Arc<Vec<f32>>,
    up: Arc<Vec<f32>>,
    slots: [Slot; 2],
    out: Variable,
}

impl Operation for Gate {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(mut gradient) = gradients.take(self.out) else { return Ok(()) };
        let of_gate = gelu_gate_gradient(&self.gate, &self.up, &mut gradient)?;
        let [gate, up] = self.slots;
        gradients.add(tape, gate, of_gate);
        gradients.add(tape, up, gradient);
        Ok(())
    }
}

/// Attention with a bias for every distance.
#[derive(Debug)]
struct Relative {
    shape: BiasShape,
    /// Queries, keys, values, bias.
    operands: [Arc<Vec<f32>>; 4],
    slots: [Slot; 4],
    out: Variable,
}

impl Operation for Relative {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(grad) = gradients.take(self.out) else { return Ok(()) };
        let [q, k, v, bias] = &self.operands;
        let g = bias_attention_gradient(self.shape, [q, k, v], bias, &grad)?;
        self.slots.into_iter().zip([g.q, g.k, g.v, g.bias]).for_each(|(slot, gradient)| gradients.add(tape, slot, gradient));
        Ok(())
    }
}
