//! Sums, SiLU and modulation on a tape.

use std::sync::Arc;

use turbowan_cuda::ops::elementwise::gradient::Activation;

use super::record::{Gradients, Operation, Slot, Source, Variable};
use super::{Tape, TapeTensor};
use crate::Result;

impl Tape {
    pub(super) fn silu_of(&self, x: &TapeTensor) -> TapeTensor {
        let (values, slot) = (self.values(x), self.slot(x));
        let out = values.iter().map(|v| v / (1.0 + (-v).exp())).collect();
        self.result(out, x.width, &[slot], |out, _| Silu { x: values, slot, out })
    }

    pub(super) fn add_onto(&self, a: &mut TapeTensor, b: &TapeTensor) -> Result<()> {
        let (values, summand) = (self.values(b), self.slot(b));
        let change = |a: &mut [f32]| {
            turbowan_cuda::Error::expect_len("summand", &values, a.len())?;
            a.iter_mut().zip(&*values).for_each(|(a, b)| *a += b);
            Ok(())
        };
        self.in_place(a, &[summand], change, |sum| Add { summand, sum })
    }

    pub(super) fn modulation_of(&self, table: &TapeTensor, e: &TapeTensor) -> Result<Vec<TapeTensor>> {
        let (table_values, e_values) = (self.values(table), self.values(e));
        let (width, chunks) = (table.width, table_values.len() / table.width);
        let is_shared = e.width == width;
        let batch = e_values.len() / e.width;
        turbowan_cuda::Error::expect_len("modulation", &e_values, batch * if is_shared { width } else { chunks * width })?;
        let slots = [table, e].map(|x| self.slot(x));
        let chunk = |index: usize| {
            let row = &table_values[index * width..(index + 1) * width];
            let start = if is_shared { 0 } else { index * width };
            let values = e_values.chunks_exact(e.width).flat_map(|e| e[start..start + width].iter().zip(row).map(|(e, m)| m + e));
            let operation = |out, _: &_| Chunk { width, index, start, e_width: e.width, batch, values: table_values.len(), slots, out };
            self.result(values.collect(), width, &slots, operation)
        };
        Ok((0..chunks).map(chunk).collect())
    }
}

/// `out = x / (1 + exp(-x))`.
#[derive(Debug)]
struct Silu {
    x: Arc<Vec<f32>>,
    slot: Slot,
    out: Variable,
}

impl Operation for Silu {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(mut gradient) = gradients.take(self.out) else { return Ok(()) };
        Activation::Silu.gradient(&self.x, &mut gradient)?;
        gradients.add(tape, self.slot, gradient);
        Ok(())
    }
}

/// `sum += summand`.
#[derive(Debug)]
struct Add {
    summand: Slot,
    sum: Variable,
}

impl Operation for Add {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        if let (true, Some(gradient)) = (self.summand.is_wanted(), gradients.take(self.sum)) {
            gradients.add(tape, self.summand, gradient.clone());
            gradients.put(self.sum, gradient);
        }
        Ok(())
    }
}

/// `out [batch, width] = table[index] + e[.., start .. start + width]`.
#[derive(Debug)]
struct Chunk {
    width: usize,
    index: usize,
    start: usize,
    e_width: usize,
    batch: usize,
    /// Of the whole table.
    values: usize,
    /// Of the table and of `e`.
    slots: [Slot; 2],
    out: Variable,
}

impl Operation for Chunk {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(gradient) = gradients.take(self.out) else { return Ok(()) };
        let (width, [table, e]) = (self.width, self.slots);
        let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        gradients.write(tape, table, self.values, |_, sum| {
            let row = &mut sum[self.index * width..][..width];
            gradient.chunks_exact(width).for_each(|gradient| add(row, gradient));
            Ok(())
        })?;
        gradients.write(tape, e, self.batch * self.e_width, |_, sum| {
            let rows = sum.chunks_exact_mut(self.e_width).zip(gradient.chunks_exact(width));
            rows.for_each(|(row, gradient)| add(&mut row[self.start..], gradient));
            Ok(())
        })
    }
}

/// Values of rows, copied out.
pub(super) fn copied(x: &TapeTensor, tape: &Tape) -> Vec<f32> {
    match &x.source {
        Source::Rows { values, .. } => values.to_vec(),
        Source::Parameter(_) => tape.values(x).to_vec(),
    }
}
