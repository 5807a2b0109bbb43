//! Norms on a tape. They keep their input; statistics are worked out again.

use std::sync::Arc;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::norm::gradient::{Factor, TableGradients, layer_norm_gradient, rms_norm_gradient};
use turbowan_cuda::ops::norm::{self, LayerNorm, LayerNormRule, Modulation, RmsNorm, RmsRule};

use super::record::{Gradients, Operation, Slot, Variable};
use super::{Tape, TapeRope, TapeTensor};
use crate::Result;
use crate::backend::{Norm, NormRule};

fn layer_norm(width: usize, norm: Norm) -> LayerNorm {
    let rule = match norm.rule {
        NormRule::Standard => LayerNormRule::Standard,
        NormRule::Fast => LayerNormRule::Padded,
    };
    LayerNorm { width, rule, eps: norm.eps, rounding: Rounding::None }
}

/// In `f32` the two rules of RMS norm are one.
pub(super) fn rms_norm(width: usize, eps: f32) -> RmsNorm {
    RmsNorm { width, rule: RmsRule::Standard, eps, rounding: Rounding::None }
}

impl Tape {
    /// `LN(x) * (1 + scale) + shift`.
    pub(super) fn modulated(&self, x: &TapeTensor, norm: Norm, shift: &TapeTensor, scale: &TapeTensor) -> Result<TapeTensor> {
        let norm = layer_norm(x.width, norm);
        let [rows, added, factor] = [x, shift, scale].map(|x| self.values(x));
        let rows_per_group = rows.len().checked_div(added.len()).unwrap_or(0);
        let modulation = Modulation { shift: &added, scale: &factor, rows_per_group };
        let mut out = vec![0.0; rows.len()];
        norm::layer_norm_modulate(&norm, &rows, modulation, Rounding::None, &mut out)?;
        let slots = [x, shift, scale].map(|x| self.slot(x));
        Ok(self.result(out, x.width, &slots, |out, _| LayerNormed {
            norm,
            rows_per_group: Some(rows_per_group),
            x: rows,
            factor,
            slots,
            out,
        }))
    }

    /// `LN(x) * weight + bias`.
    pub(super) fn affine(&self, x: &TapeTensor, norm: Norm, weight: &TapeTensor, bias: &TapeTensor) -> Result<TapeTensor> {
        let norm = layer_norm(x.width, norm);
        let [rows, factor, added] = [x, weight, bias].map(|x| self.values(x));
        let mut out = vec![0.0; rows.len()];
        norm::layer_norm_affine(&norm, &rows, &factor, &added, &mut out)?;
        let slots = [x, bias, weight].map(|x| self.slot(x));
        Ok(self.result(out, x.width, &slots, |out, _| LayerNormed { norm, rows_per_group: None, x: rows, factor, slots, out }))
    }

    /// `x = rotate(RMS(x) * weight)`, in place.
    pub(super) fn rms_rotated(
        &self,
        x: &mut TapeTensor,
        norm: Norm,
        weight: &TapeTensor,
        heads: usize,
        rope: Option<&TapeRope>,
    ) -> Result<()> {
        let norm = rms_norm(x.width, norm.eps);
        let (weight_slot, weight) = (self.slot(weight), self.values(weight));
        // held on to only where it is recorded: otherwise the rows are changed where they lie
        let before = self.is_recording().then(|| self.values(x));
        let change = |x: &mut [f32]| {
            norm::rms_norm(&norm, x, &weight)?;
            Ok(rope.map_or(Ok(()), |rope| rope.table.apply(x, heads, Rounding::None))?)
        };
        self.in_place(x, &[weight_slot], change, |rows| RmsRotated {
            norm,
            x: before.unwrap_or_default(),
            weight: Arc::clone(&weight),
            weight_slot,
            rope: rope.map(|rope| (rope.clone(), heads)),
            rows,
        })
    }

    /// `RMS(x) * weight`.
    pub(super) fn rms_normed(&self, x: &TapeTensor, weight: &TapeTensor, eps: f32) -> Result<TapeTensor> {
        let (norm, rows, factor) = (rms_norm(x.width, eps), self.values(x), self.values(weight));
        let mut out = rows.to_vec();
        norm::rms_norm(&norm, &mut out, &factor)?;
        let slots = [x, weight].map(|x| self.slot(x));
        Ok(self.result(out, x.width, &slots, |out, _| RmsNormed { norm, x: rows, weight: factor, slots, out }))
    }
}

/// `out = LN(x) * factor + added`.
#[derive(Debug)]
struct LayerNormed {
    norm: LayerNorm,
    /// Of tables over samples; none where the factor is a weight.
    rows_per_group: Option<usize>,
    x: Arc<Vec<f32>>,
    factor: Arc<Vec<f32>>,
    /// Of `x`, of what is added, of the factor.
    slots: [Slot; 3],
    out: Variable,
}

impl Operation for LayerNormed {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.take(self.out) else { return Ok(()) };
        let factor = match self.rows_per_group {
            Some(rows_per_group) => Factor::OnePlus { scale: &self.factor, rows_per_group },
            None => Factor::Weight(&self.factor),
        };
        let [mut d_added, mut d_factor] = [(); 2].map(|()| vec![0.0; self.factor.len()]);
        let mut run = |adds, dx: &mut [f32]| {
            let tables = TableGradients { added: &mut d_added, factor: &mut d_factor };
            Ok(layer_norm_gradient(&self.norm, &self.x, factor, &dy, adds, dx, tables)?)
        };
        let [x, added, scale] = self.slots;
        if x.is_wanted() {
            gradients.write(tape, x, self.x.len(), run)?;
        } else {
            run(false, &mut vec![0.0; self.x.len()])?;
        }
        gradients.add(tape, added, d_added);
        gradients.add(tape, scale, d_factor);
        Ok(())
    }
}

/// `x = rotate(RMS(x) * weight)`.
#[derive(Debug)]
struct RmsRotated {
    norm: RmsNorm,
    /// Before the norm.
    x: Arc<Vec<f32>>,
    weight: Arc<Vec<f32>>,
    weight_slot: Slot,
    rope: Option<(TapeRope, usize)>,
    rows: Variable,
}

impl Operation for RmsRotated {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(mut gradient) = gradients.take(self.rows) else { return Ok(()) };
        if let Some((rope, heads)) = &self.rope {
            rope.opposite.apply(&mut gradient, *heads, Rounding::None)?;
        }
        let mut dw = vec![0.0; self.weight.len()];
        rms_norm_gradient(&self.norm, &self.x, &self.weight, &mut gradient, &mut dw)?;
        gradients.put(self.rows, gradient);
        gradients.add(tape, self.weight_slot, dw);
        Ok(())
    }
}

/// `out = RMS(x) * weight`.
#[derive(Debug)]
struct RmsNormed {
    norm: RmsNorm,
    x: Arc<Vec<f32>>,
    weight: Arc<Vec<f32>>,
    slots: [Slot; 2],
    out: Variable,
}

impl Operation for RmsNormed {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(mut gradient) = gradients.take(self.out) else { return Ok(()) };
        let mut dw = vec![0.0; self.weight.len()];
        rms_norm_gradient(&self.norm, &self.x, &self.weight, &mut gradient, &mut dw)?;
        let [x, weight] = self.slots;
        gradients.add(tape, x, gradient);
        gradients.add(tape, weight, dw);
        Ok(())
    }
}
