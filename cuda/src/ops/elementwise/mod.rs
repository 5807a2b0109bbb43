//! Operations of single values that no product takes along: a sampler's step, the gate of a feed-forward layer, a gated
//! sum. The functions here are the host twins of the kernels, bit for bit.

pub mod device;
pub mod gradient;

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

/// Frequencies of the customary embedding of times, `10000^(-i / half)` for `i` below `half`.
pub fn time_frequencies(half: usize) -> Vec<f64> {
    (0..half).map(|i| 10_000f64.powf(-(i as f64) / half as f64)).collect()
}

/// `[cos(t w), sin(t w)]` of each time, `[times, 2 * half]`: worked out in f64, rounded to f32. For angles below 2^20.
pub fn sinusoids(times: &[f32], frequencies: &[f64]) -> Vec<f32> {
    let row = |t: &f32| {
        let t = f64::from(*t);
        let cosines = frequencies.iter().map(move |w| cos_sin(t * w).0 as f32);
        cosines.chain(frequencies.iter().map(move |w| cos_sin(t * w).1 as f32))
    };
    times.iter().flat_map(row).collect()
}

/// Cosine and sine by the multiplications and additions of `kernels/sinusoid.cu`.
fn cos_sin(angle: f64) -> (f64, f64) {
    /// 1.5 * 2^52: adding it leaves the nearest integer.
    const NEAREST: f64 = 6_755_399_441_055_744.0;
    /// The first 33 bits of pi / 2, and the rest.
    const QUARTER: f64 = 1.570_796_326_734_125_6;
    const QUARTER_REST: f64 = 6.077_100_506_506_192e-11;
    const SINE: [f64; 6] = [
        1.589_690_995_211_55e-10,
        -2.505_076_025_340_686_3e-8,
        2.755_731_370_707_006_8e-6,
        -0.000_198_412_698_298_579_5,
        0.008_333_333_333_322_49,
        -0.166_666_666_666_666_32,
    ];
    const COSINE: [f64; 6] = [
        -1.135_964_755_778_819_5e-11,
        2.087_572_321_298_175e-9,
        -2.755_731_435_139_066_3e-7,
        2.480_158_728_947_673e-5,
        -0.001_388_888_888_887_411,
        0.041_666_666_666_666_6,
    ];
    let turns = (angle * std::f64::consts::FRAC_2_PI + NEAREST) - NEAREST;
    let r = (angle - turns * QUARTER) - turns * QUARTER_REST;
    let z = r * r;
    let sum = |factors: [f64; 6]| factors[1..].iter().fold(factors[0], |sum, factor| factor + z * sum);
    let (sine, cosine) = (r + r * z * sum(SINE), 1.0 - 0.5 * z + z * z * sum(COSINE));
    match turns as i64 & 3 {
        0 => (cosine, sine),
        1 => (-sine, cosine),
        2 => (-cosine, -sine),
        _ => (sine, -cosine),
    }
}
