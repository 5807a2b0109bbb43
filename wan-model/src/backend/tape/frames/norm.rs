//! The autoencoder's norm on a tape: it keeps its input, and works out the rest again.

use std::sync::Arc;

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::norm::channel_gradient::channel_norm_gradient;
use turbowan_cuda::ops::norm::{ChannelNormThen, channel_norm};

use super::super::record::{Gradients, Operation, Slot, Variable};
use super::super::{Tape, TapeTensor};
use super::{TapeFrame, TapeFrames};
use crate::Result;

impl TapeFrames {
    pub(super) fn normed(&self, x: &TapeFrame, gamma: usize, then: ChannelNormThen) -> Result<TapeFrame> {
        let tape = &self.tape;
        let (values, slot, width) = (tape.values(&x.rows), tape.slot(&x.rows), x.size.channels);
        let weight = tape.parameters().values_of(gamma);
        let mut out = vec![0.0; values.len()];
        channel_norm(&values, width, &weight, then, Rounding::None, &mut out)?;
        let slots = [slot, tape.parameter_slot(gamma)];
        let rows: TapeTensor = tape.result(out, width, &slots, |out, _| Norm { x: values, slot, gamma, width, then, out });
        Ok(TapeFrame { size: x.size, rows })
    }
}

/// `out = then(x / |x| sqrt(C) gamma)`.
#[derive(Debug)]
struct Norm {
    x: Arc<Vec<f32>>,
    slot: Slot,
    gamma: usize,
    width: usize,
    then: ChannelNormThen,
    out: Variable,
}

impl Operation for Norm {
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()> {
        let Some(mut gradient) = gradients.take(self.out) else { return Ok(()) };
        let gamma = tape.parameters().values_of(self.gamma);
        let mut of_gamma = vec![0.0; self.width];
        channel_norm_gradient(&self.x, self.width, &gamma, self.then, &mut gradient, &mut of_gamma)?;
        gradients.add(tape, tape.parameter_slot(self.gamma), of_gamma);
        gradients.add(tape, self.slot, gradient);
        Ok(())
    }
}
