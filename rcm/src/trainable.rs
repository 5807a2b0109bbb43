//! All that training knows of a model: it maps noisy latents, times and conditions to velocities, and can do so backwards.
//!
//! Latents are flat f32, `[samples, len]`. A time is `1000 u`, one a sample, in f64: a network rounds it as it pleases. (A finite difference in
//! time of `1e-4` moves `1000 u` by no more than 0.1.) The TrigFlow clock is put around a network by
//! [`TrigNet`](crate::train::TrigNet).

use crate::error::Error;

/// What a batch is conditioned on: one condition a sample.
pub trait Condition: Sized {
    /// Samples of the batch.
    fn samples(&self) -> usize;

    /// This batch, with the samples that `take` marks taken from `other`: how a prompt is dropped. All three have one number of samples.
    fn replaced(&self, other: &Self, take: &[bool]) -> Self;
}

impl<T: Clone> Condition for Vec<T> {
    fn samples(&self) -> usize {
        self.len()
    }

    fn replaced(&self, other: &Self, take: &[bool]) -> Self {
        self.iter().zip(other).zip(take).map(|((own, other), take)| if *take { other.clone() } else { own.clone() }).collect()
    }
}

/// A network that is only asked: a frozen teacher. It predicts the rectified-flow velocity `noise - x0`.
pub trait VelocityNet {
    /// The caller's error, which can hold ours.
    type Error: From<Error>;
    /// What a batch is conditioned on.
    type Condition: Condition;

    /// Velocities at `x` `[samples, len]` and `times` (`1000 u`, one a sample), of the length of `x`. No gradient is kept.
    ///
    /// # Errors
    /// Whatever the model meets.
    fn forward(&mut self, x: &[f32], times: &[f64], condition: &Self::Condition) -> Result<Vec<f32>, Self::Error>;
}

/// A network whose weights learn.
pub trait Trainable: VelocityNet {
    /// What a forward pass leaves behind for the backward pass.
    type Saved;

    /// As [`VelocityNet::forward`], keeping what [`Trainable::backward`] needs.
    ///
    /// # Errors
    /// Whatever the model meets.
    fn forward_saved(&mut self, x: &[f32], times: &[f64], condition: &Self::Condition) -> Result<(Vec<f32>, Self::Saved), Self::Error>;

    /// Adds to the parameters' gradients what a loss whose gradient with respect to the output is `output_gradient` has.
    ///
    /// # Errors
    /// Whatever the model meets.
    fn backward(&mut self, saved: Self::Saved, output_gradient: &[f32]) -> Result<(), Self::Error>;

    /// The output, and its derivative when the input moves along `dx` while times move along `dt`.
    ///
    /// A model with true forward mode overrides this; otherwise it is a central difference ([`central_tangent`]).
    ///
    /// # Errors
    /// Whatever the model meets.
    fn tangent(
        &mut self,
        x: &[f32],
        dx: &[f32],
        times: &[f64],
        dt: &[f64],
        condition: &Self::Condition,
    ) -> Result<(Vec<f32>, Vec<f32>), Self::Error> {
        central_tangent(self, x, dx, times, dt, condition)
    }

    /// Every parameter with its gradient, always in the same order.
    fn parameters(&mut self) -> Vec<Parameter<'_>>;
}

/// One tensor that learns, where it lives.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Unique in the model.
    pub name: &'a str,
    /// Axes, slowest first.
    pub shape: &'a [usize],
    /// Values, row-major.
    pub values: &'a mut [f32],
    /// Gradient of the loss, of the same layout.
    pub gradient: &'a mut [f32],
}

/// A tensor that learns, owned: what a model may keep its parameters in.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedParameter {
    /// Unique in the model.
    pub name: String,
    /// Axes, slowest first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
    /// Gradient of the loss, of the same layout.
    pub gradient: Vec<f32>,
}

impl OwnedParameter {
    /// A parameter whose gradient is zero.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        let gradient = vec![0.0; values.len()];
        Self { name: name.into(), shape: shape.into(), values, gradient }
    }

    /// As optimisers see it.
    pub fn view(&mut self) -> Parameter<'_> {
        Parameter { name: &self.name, shape: &self.shape, values: &mut self.values, gradient: &mut self.gradient }
    }
}

/// A sample's input moves by this root mean square, or its time by this many thousandths, on either side of a central difference.
///
/// The truncation error is about its square; f32 rounding of the output, `6e-8`, is divided by it.
const CENTRAL_STEP: f64 = 1.0 / 256.0;

/// Output and directional derivative of any network from three forward passes, with an error of about `2e-5` relative to the curvature.
///
/// # Errors
/// The network's, or [`Error::OutputLength`].
pub fn central_tangent<N: VelocityNet + ?Sized>(
    net: &mut N,
    x: &[f32],
    dx: &[f32],
    times: &[f64],
    dt: &[f64],
    condition: &N::Condition,
) -> Result<(Vec<f32>, Vec<f32>), N::Error> {
    let len = x.len() / times.len().max(1);
    let steps: Vec<f64> = dx.chunks(len.max(1)).zip(dt).map(|(dx, dt)| step_size(dx, *dt)).collect();
    let mut moved = |sign: f64| {
        let along = x.iter().zip(dx).enumerate();
        let x: Vec<f32> = along.map(|(i, (x, dx))| (f64::from(*x) + sign * steps[i / len] * f64::from(*dx)) as f32).collect();
        let times: Vec<f64> = times.iter().zip(dt).zip(&steps).map(|((time, dt), step)| time + sign * step * dt).collect();
        net.forward(&x, &times, condition)
    };
    let (ahead, behind) = (moved(1.0)?, moved(-1.0)?);
    let output = net.forward(x, times, condition)?;
    for found in [output.len(), ahead.len(), behind.len()] {
        if found != x.len() {
            return Err(Error::OutputLength { expected: x.len(), found }.into());
        }
    }
    let pairs = ahead.iter().zip(&behind).enumerate();
    let slope = pairs.map(|(i, (ahead, behind))| ((f64::from(*ahead) - f64::from(*behind)) / (2.0 * steps[i / len])) as f32).collect();
    Ok((output, slope))
}

/// The step along a sample's direction; 1 for a direction of length zero.
fn step_size(dx: &[f32], dt: f64) -> f64 {
    let mean_square = dx.iter().map(|dx| f64::from(*dx).powi(2)).sum::<f64>() / dx.len().max(1) as f64;
    let length = mean_square.sqrt().max(dt.abs() / 1000.0);
    if length > 0.0 { CENTRAL_STEP / length } else { 1.0 }
}
