//! Operations of single values that no product takes along: a sampler's step, the gate of a feed-forward layer, a gated
//! sum. The functions here are the host twins of the kernels, bit for bit.

pub mod device;

use crate::host::math;
use crate::{Error, Rounding};

/// `x = scale * (x + factor * v)`, then with noise `x += f64(weight * noise)`.
///
/// Every operation rounds once: those of `x` to f64, the product of weight and noise to f32. It is a step of a sampler
/// towards or along a velocity `v`, as the official scripts compute it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combine {
    /// Of `v`.
    pub factor: f64,
    /// Of the sum of both; 1 leaves it.
    pub scale: f64,
    /// Of the noise.
    pub weight: f32,
}

impl Combine {
    /// The step on the host.
    ///
    /// # Errors
    /// [`Error::Length`] when the operands' lengths differ.
    pub fn apply(&self, x: &mut [f64], v: &[f32], noise: Option<&[f32]>) -> Result<(), Error> {
        Error::expect_len("velocity", v, x.len())?;
        for (x, v) in x.iter_mut().zip(v) {
            *x = self.scale * (*x + self.factor * f64::from(*v));
        }
        if let Some(noise) = noise {
            Error::expect_len("noise", noise, x.len())?;
            x.iter_mut().zip(noise).for_each(|(x, noise)| *x += f64::from(self.weight * noise));
        }
        Ok(())
    }
}

/// `up = up * gelu(gate)` on bf16 values, GELU in its tanh form, one bf16 tensor operation after the other.
///
/// # Errors
/// [`Error::Length`] when the lengths differ.
pub fn gelu_gate(gate: &[f32], up: &mut [f32]) -> Result<(), Error> {
    Error::expect_len("gate", gate, up.len())?;
    up.iter_mut().zip(gate).for_each(|(up, gate)| *up = Rounding::Bf16.apply(*up * stepwise_gelu(*gate)));
    Ok(())
}

fn stepwise_gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let round = |value| Rounding::Bf16.apply(value);
    let cube = round(round(x * x) * x);
    let inner = round(SQRT_2_OVER_PI * round(x + round(0.044_715 * cube)));
    let tanh = round(1.0 - 2.0 / (math::exp(2.0 * inner) + 1.0));
    round(round(0.5 * x) * round(1.0 + tanh))
}

/// `x = bf16(x + bf16(gate * y))` on bf16 values; without a gate `bf16(x + y)`. `gate` is `[groups, width]`, row `r` of
/// group `r / rows_per_gate`.
///
/// # Errors
/// [`Error::Length`] or [`Error::Size`] when the operands do not fit.
pub fn residual_gate(x: &mut [f32], y: &[f32], gate: Option<(&[f32], usize)>, width: usize) -> Result<(), Error> {
    Error::expect_len("summand", y, x.len())?;
    if width == 0 {
        return Err(Error::Size { what: "width of a gated sum", must: "at least 1", found: 0 });
    }
    if let Some((gate, rows_per_gate)) = gate {
        if rows_per_gate == 0 {
            return Err(Error::Size { what: "rows that share a gate", must: "at least 1", found: 0 });
        }
        Error::expect_len("gate", gate, (x.len() / width).div_ceil(rows_per_gate) * width)?;
    }
    let round = |value| Rounding::Bf16.apply(value);
    for (row, (x, y)) in x.chunks_exact_mut(width).zip(y.chunks_exact(width)).enumerate() {
        for (column, (x, y)) in x.iter_mut().zip(y).enumerate() {
            let y = gate.map_or(*y, |(gate, rows)| round(gate[row / rows * width + column] * y));
            *x = round(*x + y);
        }
    }
    Ok(())
}
