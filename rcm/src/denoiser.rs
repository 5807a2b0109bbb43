//! All that this crate knows of a model: something that maps a latent and a time to a velocity.

use crate::error::Error;
use crate::time::{FlowTime, TimeRounding, round_bf16};

/// What a sampler does to a latent. Every operation rounds once per value, in f64 or better left so, so that two homes of a
/// latent give the same numbers.
pub trait Latent: Clone {
    /// Number of values.
    fn len(&self) -> usize;

    /// Whether there are no values.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `self = factor * self`.
    fn scale(&mut self, factor: f64);

    /// `self = self + factor * other`; the product is rounded before the sum.
    fn add_scaled(&mut self, factor: f64, other: &Self);

    /// `self = noise`, value by value; both have one length.
    fn fill(&mut self, noise: &[f32]);

    /// Whether every value is finite.
    fn is_finite(&self) -> bool;
}

impl Latent for Vec<f64> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn scale(&mut self, factor: f64) {
        self.iter_mut().for_each(|value| *value *= factor);
    }

    fn add_scaled(&mut self, factor: f64, other: &Self) {
        debug_assert_eq!(Vec::len(self), Vec::len(other));
        self.iter_mut().zip(other).for_each(|(value, other)| *value += factor * other);
    }

    fn fill(&mut self, noise: &[f32]) {
        debug_assert_eq!(Vec::len(self), noise.len());
        self.iter_mut().zip(noise).for_each(|(value, noise)| *value = f64::from(*noise));
    }

    fn is_finite(&self) -> bool {
        self.iter().all(|value| value.is_finite())
    }
}

/// Which of two experts works: Wan 2.2 has one for high noise and one for low. A model of one network is always `High`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expert {
    /// The expert for noisy times, and the only one of a single-network model.
    High,
    /// The expert for times below the boundary.
    Low,
}

/// Which condition the network is asked under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Branch {
    /// The prompt.
    Conditional,
    /// The negative prompt: asked only under guidance.
    Unconditional,
}

/// One call of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// Step of the run, from 0.
    pub step: usize,
    /// Time on the rectified-flow clock; one for the whole batch.
    pub time: FlowTime,
    /// Expert to ask.
    pub expert: Expert,
    /// Condition to ask under.
    pub branch: Branch,
}

/// Maps a latent and a time to a rectified-flow velocity `v = noise - x0`, so that `x0 = x - u v`.
pub trait Denoiser {
    /// Where latents live.
    type Latent: Latent;
    /// The caller's error, which can hold ours.
    type Error: From<Error>;

    /// The velocity at `latent`, of the latent's length.
    ///
    /// # Errors
    /// Whatever the model meets.
    fn velocity(&mut self, latent: &Self::Latent, call: Call) -> Result<Self::Latent, Self::Error>;
}

impl<D: Denoiser + ?Sized> Denoiser for &mut D {
    type Latent = D::Latent;
    type Error = D::Error;

    fn velocity(&mut self, latent: &Self::Latent, call: Call) -> Result<Self::Latent, Self::Error> {
        (**self).velocity(latent, call)
    }
}

/// A network in single precision, as it sees its inputs.
pub trait Network {
    /// The caller's error, which can hold ours.
    type Error: From<Error>;

    /// The velocity for `latent`; `time` is `1000 u`, one for the whole batch, already rounded.
    ///
    /// # Errors
    /// Whatever the model meets.
    fn forward(&mut self, latent: &[f32], time: f32, call: Call) -> Result<Vec<f32>, Self::Error>;
}

/// Rounding of the latent on its way to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LatentRounding {
    /// f32.
    #[default]
    F32,
    /// f32, then bf16: a run in the official arithmetic.
    Bf16,
}

/// The boundary between a sampler's f64 and a network's arithmetic: `x` goes to f32 (or on to bf16), `1000 u` is rounded as
/// the run says, and the velocity comes back to f64.
#[derive(Debug)]
pub struct AtBoundary<N> {
    /// The network behind the boundary.
    pub network: N,
    /// Rounding of the latent.
    pub latent: LatentRounding,
    /// Rounding of the time.
    pub time: TimeRounding,
}

impl<N: Network> Denoiser for AtBoundary<N> {
    type Latent = Vec<f64>;
    type Error = N::Error;

    fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, N::Error> {
        let input: Vec<f32> = match self.latent {
            LatentRounding::F32 => latent.iter().map(|value| *value as f32).collect(),
            LatentRounding::Bf16 => latent.iter().map(|value| round_bf16(*value as f32)).collect(),
        };
        let velocity = self.network.forward(&input, call.time.network(self.time), call)?;
        Ok(velocity.into_iter().map(f64::from).collect())
    }
}

/// `velocity` if it fits `latent` and is finite.
pub(crate) fn checked<L: Latent>(velocity: L, latent: &L, step: usize) -> Result<L, Error> {
    if velocity.len() != latent.len() {
        return Err(Error::VelocityLength { step, expected: latent.len(), found: velocity.len() });
    }
    if !velocity.is_finite() {
        return Err(Error::NotFinite { step, what: "velocity" });
    }
    Ok(velocity)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Network for Echo {
        type Error = Error;

        fn forward(&mut self, latent: &[f32], time: f32, _: Call) -> Result<Vec<f32>, Error> {
            let mut seen = latent.to_vec();
            seen.push(time);
            Ok(seen)
        }
    }

    #[test]
    fn the_boundary_rounds_latent_and_time_as_the_run_says() {
        let call = Call { step: 0, time: FlowTime::new(0.987654321).unwrap(), expert: Expert::High, branch: Branch::Conditional };
        let latent = vec![1.0 + 1.0 / 256.0, 0.1];
        let exact = AtBoundary { network: Echo, latent: LatentRounding::F32, time: TimeRounding::Exact }.velocity(&latent, call).unwrap();
        assert_eq!(exact, [1.0 + 1.0 / 256.0, f64::from(0.1f32), f64::from(987.654_36_f32)]);
        let rounded = AtBoundary { network: Echo, latent: LatentRounding::Bf16, time: TimeRounding::Bf16 }.velocity(&latent, call).unwrap();
        assert_eq!(rounded, [1.0, f64::from(round_bf16(0.1)), 988.0]);
    }

    #[test]
    fn a_velocity_of_another_length_or_with_nan_is_named() {
        let latent = vec![0.0; 3];
        assert_eq!(checked(vec![0.0; 2], &latent, 4), Err(Error::VelocityLength { step: 4, expected: 3, found: 2 }));
        assert_eq!(checked(vec![0.0, f64::NAN, 0.0], &latent, 1), Err(Error::NotFinite { step: 1, what: "velocity" }));
    }
}
