//! Convolutions on a tape: they keep their window, and pack their weight once for as long as it does not change.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::conv3d::gradient::{InputGradient, weight_gradient};
use turbowan_cuda::ops::conv3d::{Conv3d, ConvShape, ConvThen};

use super::super::Tape;
use super::super::record::{Gradients, Operation, Slot, Variable};
use super::{TapeFrame, TapeFrames};
use crate::Result;
use crate::backend::vae::FrameSize;

/// A convolution: which part of which parameters its weight and bias are. Clones share what was packed.
#[derive(Debug, Clone)]
pub struct TapeConvolution {
    shape: ConvShape,
    weight: usize,
    bias: usize,
    part: usize,
    packed: Arc<Mutex<Option<Packed>>>,
}

/// The weight in the orders in which products read it, and the values that it was packed from.
#[derive(Debug, Clone)]
struct Packed {
    weight: Arc<Vec<f32>>,
    bias: Arc<Vec<f32>>,
    forward: Arc<Conv3d>,
    backward: Option<Arc<InputGradient>>,
}

impl TapeConvolution {
    pub(super) fn new(shape: ConvShape, weight: usize, bias: usize, part: usize) -> Self {
        Self { shape, weight, bias, part, packed: Arc::default() }
    }

    /// What is packed of the parameters as they are now, `backward` too where it is asked for.
    fn packed(&self, tape: &Tape, needs_backward: bool) -> Result<Packed> {
        let (weight, bias) = {
            let parameters = tape.parameters();
            (parameters.values_of(self.weight), parameters.values_of(self.bias))
        };
        let mut kept = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = kept.take().filter(|kept| Arc::ptr_eq(&kept.weight, &weight) && Arc::ptr_eq(&kept.bias, &bias));
        let own = &weight[self.part * self.shape.weight_values()..][..self.shape.weight_values()];
        let mut packed = match fresh {
            Some(packed) => packed,
            None => {
                let own_bias = &bias[self.part * self.shape.output..][..self.shape.output];
                let forward = Arc::new(Conv3d::pack(self.shape, own, own_bias, Rounding::None)?);
                Packed { weight: Arc::clone(&weight), bias, forward, backward: None }
            }
        };
        if needs_backward && packed.backward.is_none() {
            packed.backward = Some(Arc::new(InputGradient::pack(self.shape, own)?));
        }
        *kept = Some(packed.clone());
        Ok(packed)
    }
}

impl TapeFrames {
    pub(super) fn convolved(
        &self,
        window: &[Option<&TapeFrame>],
        layer: &TapeConvolution,
        residual: Option<TapeFrame>,
    ) -> Result<TapeFrame> {
        let (tape, shape) = (&self.tape, layer.shape);
        let Some(first) = window.iter().flatten().next() else {
            return Err(turbowan_cuda::Error::Size { what: "frames of a window", must: "at least 1", found: 0 }.into());
        };
        let (input, images) = (first.size, first.values().len() / first.size.values());
        for frame in window.iter().flatten() {
            turbowan_cuda::Error::expect_len("frame of a window", frame.values(), images * input.values())?;
        }
        let [height, width] = shape.output_size([input.height, input.width]);
        let size = FrameSize { height, width, channels: shape.output };
        let residual_slot = residual.as_ref().map_or(Slot::Constant, |residual| tape.slot(&residual.rows));
        let then = if residual.is_some() { ConvThen::Add } else { ConvThen::Store };
        let mut out = match &residual {
            Some(residual) => residual.values().to_vec(),
            None => vec![0.0; images * size.values()],
        };
        turbowan_cuda::Error::expect_len("residual", &out, images * size.values())?;
        let convolution = layer.packed(tape, false)?.forward;
        out.par_chunks_mut(size.values()).enumerate().try_for_each(|(image, out)| {
            let own = image * input.values()..(image + 1) * input.values();
            let frames: Vec<_> = window.iter().map(|frame| frame.map(|frame| &frame.values()[own.clone()])).collect();
            convolution.run(&frames, [input.height, input.width], then, out)
        })?;
        let window: Vec<_> = window.iter().map(|frame| frame.map(|frame| (tape.values(&frame.rows), tape.slot(&frame.rows)))).collect();
        let mut slots = vec![residual_slot, tape.parameter_slot(layer.weight), tape.parameter_slot(layer.bias)];
        slots.extend(window.iter().flatten().map(|(_, slot)| *slot));
        let layer = layer.clone();
        let rows =
            tape.result(out, size.channels, &slots, |out, _| Convolve { window, images, input, layer, residual: residual_slot, out });
        Ok(TapeFrame { size, rows })
    }
}

/// `out = residual + convolution of the window`.
#[derive(Debug)]
struct Convolve {
    window: Vec<Option<(Arc<Vec<f32>>, Slot)>>,
    images: usize,
    input: FrameSize,
    layer: TapeConvolution,
    residual: Slot,
    out: Variable,
}

impl Operation for Convolve {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.take(self.out) else { return Ok(()) };
        let (shape, layer, size) = (self.layer.shape, &self.layer, [self.input.height, self.input.width]);
        if [layer.weight, layer.bias].into_iter().any(|index| tape.parameter_slot(index).is_wanted()) {
            let frames: Vec<_> = self.window.iter().map(|frame| frame.as_ref().map(|(values, _)| &values[..])).collect();
            let mut bias = vec![0.0; shape.output];
            let own = layer.part * shape.weight_values()..(layer.part + 1) * shape.weight_values();
            let mut unwanted = Vec::new();
            tape.with_gradient(layer.weight, |dw| {
                let dw = if dw.is_empty() {
                    unwanted.resize(shape.weight_values(), 0.0);
                    &mut unwanted[..]
                } else {
                    &mut dw[own]
                };
                weight_gradient(&shape, &frames, self.images, size, &dy, dw, &mut bias)
            })?;
            tape.with_gradient(layer.bias, |db| {
                if let Some(db) = db.get_mut(layer.part * shape.output..(layer.part + 1) * shape.output) {
                    db.iter_mut().zip(&bias).for_each(|(db, sum)| *db += sum);
                }
            });
        }
        let wanted: Vec<bool> = self.window.iter().map(|frame| frame.as_ref().is_some_and(|(_, slot)| slot.is_wanted())).collect();
        if wanted.contains(&true) {
            let packed = layer.packed(tape, true)?;
            let len = self.images * self.input.values();
            // A frame may lie in the window twice under one variable; each place has its own gradient, added in turn.
            let mut parts: Vec<Option<Vec<f32>>> = wanted.iter().map(|wanted| wanted.then(|| vec![0.0; len])).collect();
            let mut views: Vec<_> = parts.iter_mut().map(|part| part.as_deref_mut()).collect();
            if let Some(backward) = &packed.backward {
                backward.run(&dy, self.images, size, &mut views)?;
            }
            for (part, frame) in parts.into_iter().zip(&self.window) {
                if let (Some(part), Some((_, slot))) = (part, frame) {
                    gradients.add(tape, *slot, part);
                }
            }
        }
        gradients.add(tape, self.residual, dy);
        Ok(())
    }
}
