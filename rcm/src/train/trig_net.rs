//! A rectified-flow network on the TrigFlow clock, with coefficients in f64.
//!
//! ```text
//! net    = velocity at x_t / (cos t + sin t), time 1000 u, u = sin t / (cos t + sin t)
//! x0     = (x_t - sin t net) / (cos t + sin t)
//! F      = (cos t x_t - x0) / sin t = ((cos t - sin t) x_t + net) / (cos t + sin t)
//! ```
//!
//! The last form is the same number without the division by `sin t`, so that it holds at `t = 0` too. `F` is TrigFlow's velocity: along the
//! path of a diffusion model `dx/dt = F`. (`rcm/utils/denoiser_scaling.py`, `RectifiedFlow_TrigFlowWrapper`.)

use crate::error::Error;
use crate::time::{FlowTime, TrigTime};
use crate::trainable::{Trainable, VelocityNet};

/// What the wrapper multiplies by at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// `c_in = c_skip = 1 / (cos t + sin t)`; also the derivative of `F` by the network's output.
    pub input: f64,
    /// `c_out = -sin t / (cos t + sin t)`: the derivative of `x0` by the network's output.
    pub output: f64,
    /// `c_noise = 1000 u`: the time that the network is told.
    pub time: f64,
    sin: f64,
    cos: f64,
}

impl Coefficients {
    /// The coefficients at `time`.
    pub fn at(time: TrigTime) -> Self {
        let (sin, cos) = time.radians().sin_cos();
        let input = 1.0 / (cos + sin);
        Self { input, output: -sin * input, time: FlowTime::TRAIN_TIMESTEPS * sin * input, sin, cos }
    }
}

/// What a network says of a batch, in f64, `[samples, len]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The clean latent `x0`.
    pub clean: Vec<f64>,
    /// TrigFlow's velocity `F`.
    pub velocity: Vec<f64>,
}

/// A rectified-flow network asked on the TrigFlow clock.
#[derive(Debug)]
pub struct TrigNet<'a, N: ?Sized>(pub &'a mut N);

impl<N: VelocityNet + ?Sized> TrigNet<'_, N> {
    /// Predictions at `noisy` `[samples, len]` and `times`, one a sample.
    ///
    /// # Errors
    /// The network's, or [`Error::OutputLength`].
    pub fn predict(&mut self, noisy: &[f64], times: &[TrigTime], condition: &N::Condition) -> Result<Prediction, N::Error> {
        let (coefficients, input, network_times) = inputs(noisy, times);
        let output = self.0.forward(&input, &network_times, condition)?;
        Ok(prediction(noisy, &coefficients, &output)?)
    }

    /// The prediction under guidance: `unconditional + strength (conditional - unconditional)`. At strength 1 the negative condition is
    /// not asked.
    ///
    /// # Errors
    /// As [`TrigNet::predict`].
    pub fn predict_guided(
        &mut self,
        noisy: &[f64],
        times: &[TrigTime],
        [condition, negative]: [&N::Condition; 2],
        strength: f64,
    ) -> Result<Prediction, N::Error> {
        let mut guided = self.predict(noisy, times, condition)?;
        if strength == 1.0 {
            return Ok(guided);
        }
        let negative = self.predict(noisy, times, negative)?;
        let guide = |with: &mut [f64], without: &[f64]| {
            with.iter_mut().zip(without).for_each(|(with, without)| *with = without + strength * (*with - without));
        };
        guide(&mut guided.clean, &negative.clean);
        guide(&mut guided.velocity, &negative.velocity);
        Ok(guided)
    }
}

impl<N: Trainable + ?Sized> TrigNet<'_, N> {
    /// As [`TrigNet::predict`], keeping what a backward pass needs.
    ///
    /// # Errors
    /// As [`TrigNet::predict`].
    pub fn predict_saved(
        &mut self,
        noisy: &[f64],
        times: &[TrigTime],
        condition: &N::Condition,
    ) -> Result<(Prediction, N::Saved), N::Error> {
        let (coefficients, input, network_times) = inputs(noisy, times);
        let (output, saved) = self.0.forward_saved(&input, &network_times, condition)?;
        Ok((prediction(noisy, &coefficients, &output)?, saved))
    }

    /// Backward from a gradient with respect to [`Prediction::clean`].
    ///
    /// # Errors
    /// The network's.
    pub fn backward_clean(&mut self, saved: N::Saved, times: &[TrigTime], gradient: &[f64]) -> Result<(), N::Error> {
        self.0.backward(saved, &scaled(times, gradient, |coefficients| coefficients.output))
    }

    /// Backward from a gradient with respect to [`Prediction::velocity`].
    ///
    /// # Errors
    /// The network's.
    pub fn backward_velocity(&mut self, saved: N::Saved, times: &[TrigTime], gradient: &[f64]) -> Result<(), N::Error> {
        self.0.backward(saved, &scaled(times, gradient, |coefficients| coefficients.input))
    }

    /// `F`, and its derivative while `x_t` moves along `direction` and the time along `time_direction`, one a sample.
    ///
    /// # Errors
    /// The network's, or [`Error::OutputLength`].
    pub fn tangent(
        &mut self,
        noisy: &[f64],
        direction: &[f64],
        times: &[TrigTime],
        time_direction: &[f64],
        condition: &N::Condition,
    ) -> Result<(Vec<f64>, Vec<f64>), N::Error> {
        let (coefficients, input, network_times) = inputs(noisy, times);
        let len = noisy.len() / times.len();
        // With c = 1 / (cos + sin): dc/dt = -(cos - sin) c^2, du/dt = c^2.
        let along = noisy.iter().zip(direction).enumerate();
        let input_direction: Vec<f32> = along
            .map(|(i, (x, dx))| {
                let (c, dt) = (&coefficients[i / len], time_direction[i / len]);
                (c.input * dx - (c.cos - c.sin) * c.input * c.input * dt * x) as f32
            })
            .collect();
        let pairs = coefficients.iter().zip(time_direction);
        let network_direction: Vec<f64> = pairs.map(|(c, dt)| FlowTime::TRAIN_TIMESTEPS * c.input * c.input * dt).collect();
        let (output, slope) = self.0.tangent(&input, &input_direction, &network_times, &network_direction, condition)?;
        if slope.len() != noisy.len() {
            return Err(Error::OutputLength { expected: noisy.len(), found: slope.len() }.into());
        }
        let velocity = prediction(noisy, &coefficients, &output)?.velocity;
        let slopes = slope.iter().enumerate().map(|(i, slope)| {
            let (c, dt) = (&coefficients[i / len], time_direction[i / len]);
            let difference = c.cos - c.sin;
            let numerator = difference * direction[i] - dt / c.input * noisy[i] + f64::from(*slope);
            c.input * numerator - difference * c.input * dt * velocity[i]
        });
        let slopes = slopes.collect();
        Ok((velocity, slopes))
    }
}

/// Coefficients, and what the network is given.
fn inputs(noisy: &[f64], times: &[TrigTime]) -> (Vec<Coefficients>, Vec<f32>, Vec<f64>) {
    let len = noisy.len() / times.len();
    let coefficients: Vec<Coefficients> = times.iter().map(|time| Coefficients::at(*time)).collect();
    let input = noisy.chunks(len).zip(&coefficients).flat_map(|(x, c)| x.iter().map(|x| (c.input * x) as f32)).collect();
    let network_times = coefficients.iter().map(|c| c.time).collect();
    (coefficients, input, network_times)
}

fn prediction(noisy: &[f64], coefficients: &[Coefficients], output: &[f32]) -> Result<Prediction, Error> {
    if output.len() != noisy.len() {
        return Err(Error::OutputLength { expected: noisy.len(), found: output.len() });
    }
    let len = noisy.len() / coefficients.len();
    let each = || noisy.iter().zip(output).enumerate().map(|(i, (x, net))| (&coefficients[i / len], *x, f64::from(*net)));
    let clean = each().map(|(c, x, net)| c.input * x + c.output * net).collect();
    let velocity = each().map(|(c, x, net)| c.input * ((c.cos - c.sin) * x + net)).collect();
    Ok(Prediction { clean, velocity })
}

fn scaled(times: &[TrigTime], gradient: &[f64], factor: impl Fn(Coefficients) -> f64) -> Vec<f32> {
    let len = gradient.len() / times.len();
    let samples = gradient.chunks(len).zip(times).map(|(gradient, time)| (gradient, factor(Coefficients::at(*time))));
    samples.flat_map(|(gradient, factor)| gradient.iter().map(move |g| (factor * g) as f32)).collect()
}
