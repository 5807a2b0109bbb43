//! Linear layers on a tape.
//!
//! A layer that ends in an activation keeps what the activation was given, a gated one what the gate multiplied.

use std::sync::Arc;

use turbowan_cuda::ops::elementwise::gradient::{Activation, add_gated, add_gated_gradient};
use turbowan_cuda::ops::gemm::gradient::{bias_gradient, input_gradient, weight_gradient};
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, Then, gemm};

use super::parameters::Side;
use super::record::{Gradients, Operation, Slot, Variable};
use super::{Tape, TapeTensor};
use crate::Result;
use crate::backend::Pointwise;

/// A linear layer: which parameters its weight and bias are.
#[derive(Debug, Clone, Copy)]
pub struct TapeLinear {
    pub(super) weight: usize,
    pub(super) bias: Option<usize>,
    pub(super) out: usize,
    pub(super) input: usize,
}

impl Tape {
    pub(super) fn linear_of(&self, x: &TapeTensor, layer: &TapeLinear, then: Pointwise) -> Result<TapeTensor> {
        let read = self.read(x, layer);
        let activation = match then {
            Pointwise::None => None,
            Pointwise::Gelu => Some(Activation::Gelu),
            Pointwise::GeluErf => Some(Activation::GeluErf),
            Pointwise::Silu => Some(Activation::Silu),
        };
        let z = self.product(&read)?;
        let (values, kept) = match activation {
            None => (z, None),
            Some(activation) => {
                let mut y = vec![0.0; z.len()];
                activation.apply(&z, &mut y)?;
                (y, Some((activation, z)))
            }
        };
        Ok(self.result(values, layer.out, &read.slots(self), |out, _| Linear { read, kept, out }))
    }

    pub(super) fn project_onto(&self, x: &TapeTensor, layer: &TapeLinear, residual: &mut TapeTensor) -> Result<()> {
        let read = self.read(x, layer);
        let slots = read.slots(self);
        let change = |residual: &mut [f32]| self.multiply(&read, Then::Add, residual);
        self.in_place(residual, &slots, change, |residual| Project { read: read.clone(), residual })
    }

    pub(super) fn project_gated_onto(
        &self,
        x: &TapeTensor,
        layer: &TapeLinear,
        gate: &TapeTensor,
        residual: &mut TapeTensor,
    ) -> Result<()> {
        let read = self.read(x, layer);
        let (gates, gate_slot) = (self.values(gate), self.slot(gate));
        let rows_per_gate = (read.rows() * layer.out).checked_div(gates.len()).unwrap_or(0);
        let y = Arc::new(self.product(&read)?);
        let slots: Vec<_> = read.slots(self).into_iter().chain([gate_slot]).collect();
        let change = |residual: &mut [f32]| Ok(add_gated(residual, &y, &gates, rows_per_gate, layer.out)?);
        self.in_place(residual, &slots, change, |residual| Gated {
            read: read.clone(),
            gate: Arc::clone(&gates),
            gate_slot,
            rows_per_gate,
            y: Arc::clone(&y),
            residual,
        })
    }

    fn read(&self, x: &TapeTensor, layer: &TapeLinear) -> Read {
        Read { x: self.values(x), x_slot: self.slot(x), layer: *layer }
    }

    /// `x W^T + b`.
    fn product(&self, read: &Read) -> Result<Vec<f32>> {
        let mut out = vec![0.0; read.rows() * read.layer.out];
        self.multiply(read, Then::Store, &mut out)?;
        Ok(out)
    }

    fn multiply(&self, read: &Read, then: Then<'_>, out: &mut [f32]) -> Result<()> {
        let layer = &read.layer;
        let bias = layer.bias.map(|index| self.parameters().values_of(index));
        let epilogue = Epilogue { bias: bias.as_ref().map(|bias| bias.as_slice()), then, ..Epilogue::PLAIN };
        Ok(gemm(&read.x[..], read.rows(), &*self.packed(layer, Side::Forward)?, &epilogue, out)?)
    }

    /// The weight as a product reads it, packed once for as long as it does not change.
    fn packed(&self, layer: &TapeLinear, side: Side) -> Result<Arc<PackedMatrix>> {
        if let Some(packed) = self.parameters().packed(layer.weight, side) {
            return Ok(packed);
        }
        let values = self.parameters().values_of(layer.weight);
        let packed = Arc::new(match side {
            Side::Forward => PackedMatrix::pack(&values[..], layer.out, layer.input)?,
            Side::Backward => PackedMatrix::pack_transposed(&values, layer.out, layer.input)?,
        });
        self.parameters().keep_packed(layer.weight, side, &values, Arc::clone(&packed));
        Ok(packed)
    }
}

/// What a layer read.
#[derive(Debug, Clone)]
struct Read {
    x: Arc<Vec<f32>>,
    x_slot: Slot,
    layer: TapeLinear,
}

impl Read {
    fn rows(&self) -> usize {
        self.x.len() / self.layer.input
    }

    fn slots(&self, tape: &Tape) -> [Slot; 3] {
        let bias = self.layer.bias.map_or(Slot::Constant, |index| tape.parameter_slot(index));
        [self.x_slot, tape.parameter_slot(self.layer.weight), bias]
    }

    /// Gradients of input, weight and bias for that of `x W^T + b`.
    fn backward(&self, tape: &Tape, gradients: &mut Gradients, dy: &[f32]) -> Result<()> {
        let [x_slot, weight, bias] = self.slots(tape);
        let rows = self.rows();
        if let Slot::Parameter(index) = bias {
            tape.with_gradient(index, |db| bias_gradient(dy, db))?;
        }
        if let Slot::Parameter(index) = weight {
            tape.with_gradient(index, |dw| weight_gradient(dy, &self.x, rows, dw))?;
        }
        if x_slot.is_wanted() {
            let packed = tape.packed(&self.layer, Side::Backward)?;
            gradients.write(tape, x_slot, self.x.len(), |adds, dx| Ok(input_gradient(dy, rows, &packed, adds, dx)?))?;
        }
        Ok(())
    }
}

/// `out = f(x W^T + b)`.
#[derive(Debug)]
struct Linear {
    read: Read,
    kept: Option<(Activation, Vec<f32>)>,
    out: Variable,
}

impl Operation for Linear {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(mut dy) = gradients.take(self.out) else { return Ok(()) };
        if let Some((activation, z)) = &self.kept {
            activation.gradient(z, &mut dy)?;
        }
        self.read.backward(tape, gradients, &dy)
    }
}

/// `residual += x W^T + b`.
#[derive(Debug)]
struct Project {
    read: Read,
    residual: Variable,
}

impl Operation for Project {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.take(self.residual) else { return Ok(()) };
        self.read.backward(tape, gradients, &dy)?;
        gradients.put(self.residual, dy);
        Ok(())
    }
}

/// `residual += gate * y`, `y = x W^T + b`.
#[derive(Debug)]
struct Gated {
    read: Read,
    gate: Arc<Vec<f32>>,
    gate_slot: Slot,
    rows_per_gate: usize,
    y: Arc<Vec<f32>>,
    residual: Variable,
}

impl Operation for Gated {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(dx) = gradients.take(self.residual) else { return Ok(()) };
        let mut dgate = self.gate_slot.is_wanted().then(|| vec![0.0; self.gate.len()]);
        let dy = add_gated_gradient(&dx, &self.y, &self.gate, self.rows_per_gate, self.read.layer.out, dgate.as_deref_mut())?;
        gradients.put(self.residual, dx);
        if let Some(dgate) = dgate {
            gradients.add(tape, self.gate_slot, dgate);
        }
        self.read.backward(tape, gradients, &dy)
    }
}
