//! The two clocks of a diffusion run, as two types that cannot be mixed up.
//!
//! | clock | noisy latent | range | noise level `sigma` |
//! |---|---|---|---|
//! | [`TrigTime`] `t` (TrigFlow) | `cos t * x0 + sin t * noise` | `[0, pi/2]` | `tan t` |
//! | [`FlowTime`] `u` (rectified flow) | `(1 - u) * x0 + u * noise` | `[0, 1]` | `u / (1 - u)` |
//!
//! Equal `sigma` gives `u = sin t / (cos t + sin t)`. All conversions are in f64.

use std::f64::consts::FRAC_PI_2;

use crate::error::{Error, in_range, positive};

/// A TrigFlow time in `[0, pi/2]`, in radians: 0 is clean, `pi/2` is pure noise.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct TrigTime(f64);

/// A rectified-flow time in `[0, 1]`: the share of noise; 0 is clean, 1 is pure noise.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct FlowTime(f64);

impl TrigTime {
    /// The end of every run: no noise left.
    pub const CLEAN: Self = Self(0.0);

    /// The beginning of every run: no latent left.
    pub const NOISE: Self = Self(FRAC_PI_2);

    /// A time known to be in `[0, pi/2]`.
    pub(crate) const fn trusted(radians: f64) -> Self {
        Self(radians)
    }

    /// A time in radians.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `radians` is in `[0, pi/2]`.
    pub fn new(radians: f64) -> Result<Self, Error> {
        in_range("TrigFlow time", radians, 0.0, FRAC_PI_2, "in [0, pi/2]").map(Self)
    }

    /// The time at which the noise level is `sigma`: `atan(sigma)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `sigma` is finite and above zero.
    pub fn from_sigma(sigma: f64) -> Result<Self, Error> {
        positive("sigma_max", sigma).map(|sigma| Self(sigma.atan()))
    }

    /// Radians.
    pub fn radians(self) -> f64 {
        self.0
    }

    /// The less noisy of two times.
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// The time `step` radians nearer to clean, for a difference in time. It may lie below 0 by as much as `step`: networks and their
    /// coefficients are smooth there.
    pub(crate) fn before(self, step: f64) -> Self {
        Self(self.0 - step)
    }

    /// Noise level `tan t`.
    pub fn sigma(self) -> f64 {
        self.0.tan()
    }

    /// The same noise level on the rectified-flow clock: `sin t / (cos t + sin t)`.
    pub fn flow(self) -> FlowTime {
        let (sin, cos) = self.0.sin_cos();
        FlowTime(sin / (cos + sin))
    }
}

impl FlowTime {
    /// The end of every run: no noise left.
    pub const CLEAN: Self = Self(0.0);

    /// Timesteps of the training clock: what one unit of `u` is to the network.
    pub const TRAIN_TIMESTEPS: f64 = 1000.0;

    /// The nearest share of noise to `share` in `[low, high]`, a range in `[0, 1]`.
    pub(crate) fn clamped(share: f64, [low, high]: [f64; 2]) -> Self {
        Self(share.clamp(low, high))
    }

    /// A share of noise.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `share` is in `[0, 1]`.
    pub fn new(share: f64) -> Result<Self, Error> {
        in_range("rectified-flow time", share, 0.0, 1.0, "in [0, 1]").map(Self)
    }

    /// The time at which the noise level is `sigma`: `sigma / (1 + sigma)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `sigma` is finite and above zero.
    pub fn from_sigma(sigma: f64) -> Result<Self, Error> {
        positive("sigma_max", sigma).map(|sigma| Self(sigma / (sigma + 1.0)))
    }

    /// Share of noise in `[0, 1]`.
    pub fn share(self) -> f64 {
        self.0
    }

    /// The time on the training clock, unrounded: `1000 u`.
    pub fn timestep(self) -> f64 {
        Self::TRAIN_TIMESTEPS * self.0
    }

    /// Noise level `u / (1 - u)`; infinite at 1.
    pub fn sigma(self) -> f64 {
        self.0 / (1.0 - self.0)
    }

    /// The same noise level on the TrigFlow clock: `atan2(u, 1 - u)`.
    pub fn trig(self) -> TrigTime {
        TrigTime(self.0.atan2(1.0 - self.0))
    }

    /// Time moved towards noise: `s u / (1 + (s - 1) u)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `shift` is finite and above zero.
    pub fn shifted(self, shift: f64) -> Result<Self, Error> {
        let shift = positive("shift", shift)?;
        Ok(Self((shift * self.0 / (1.0 + (shift - 1.0) * self.0)).clamp(0.0, 1.0)))
    }

    /// The time that [`FlowTime::shifted`] would move here: `u / (s - (s - 1) u)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `shift` is finite and above zero.
    pub fn unshifted(self, shift: f64) -> Result<Self, Error> {
        let shift = positive("shift", shift)?;
        Ok(Self((self.0 / (shift - (shift - 1.0) * self.0)).clamp(0.0, 1.0)))
    }

    /// What the network is told: `1000 u`, as the official scripts round it.
    ///
    /// `u` becomes f32 before the product. With [`TimeRounding::Bf16`] the product becomes bf16, whose spacing is 4 above
    /// 512: the four steps at sigma 80 are then 988, 932, 852 and 608.
    pub fn network(self, rounding: TimeRounding) -> f32 {
        let exact = (f64::from(self.0 as f32) * Self::TRAIN_TIMESTEPS) as f32;
        match rounding {
            TimeRounding::Exact => exact,
            TimeRounding::Bf16 => round_bf16(exact),
        }
    }
}

/// How the time is rounded on its way to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeRounding {
    /// f32: what a run without bf16 sees.
    #[default]
    Exact,
    /// bf16: what the official scripts feed the network. It changes final latents by 10 to 12 %, so it is part of the method.
    Bf16,
}

/// `value` rounded to the nearest bf16 (ties to even), still in f32.
pub fn round_bf16(value: f32) -> f32 {
    if value.is_nan() {
        return value;
    }
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000;
    f32::from_bits(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_clocks_agree_on_sigma_and_convert_back() {
        for sigma in [1e-3, 0.2, 1.0, 14.1, 80.0, 200.0, 1600.0] {
            let trig = TrigTime::from_sigma(sigma).unwrap();
            let flow = trig.flow();
            assert!((trig.sigma() / sigma - 1.0).abs() < 1e-9);
            assert!((flow.sigma() / sigma - 1.0).abs() < 1e-9);
            assert!((flow.share() - FlowTime::from_sigma(sigma).unwrap().share()).abs() < 1e-15);
            assert!((flow.trig().radians() - trig.radians()).abs() < 1e-15);
        }
        assert_eq!(TrigTime::CLEAN.flow(), FlowTime::CLEAN);
        assert_eq!(FlowTime::new(1.0).unwrap().trig().radians(), FRAC_PI_2);
    }

    #[test]
    fn a_shift_moves_towards_noise_and_back_and_keeps_the_ends() {
        let middle = FlowTime::new(0.5).unwrap();
        let moved = middle.shifted(5.0).unwrap();
        assert!((moved.share() - 2.5 / 3.0).abs() < 1e-15);
        assert!((moved.unshifted(5.0).unwrap().share() - 0.5).abs() < 1e-15);
        for end in [0.0, 1.0] {
            assert_eq!(FlowTime::new(end).unwrap().shifted(5.0).unwrap().share(), end);
        }
        assert_eq!(middle.shifted(1.0).unwrap(), middle);
    }

    #[test]
    fn the_network_sees_bf16_times_as_the_scripts_do() {
        let seen: Vec<f32> = [80f64.atan(), 1.5, 1.4, 1.0].map(|t| TrigTime::new(t).unwrap().flow().network(TimeRounding::Bf16)).to_vec();
        assert_eq!(seen, [988.0, 932.0, 852.0, 608.0]);
        let exact = TrigTime::from_sigma(80.0).unwrap().flow().network(TimeRounding::Exact);
        assert_eq!(exact, 987.654_36);
    }

    #[test]
    fn bf16_rounds_ties_to_even_and_keeps_what_is_not_a_number() {
        assert_eq!(round_bf16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round_bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(round_bf16(-2.0), -2.0);
        assert_eq!(round_bf16(f32::MAX), f32::INFINITY);
        assert!(round_bf16(f32::NAN).is_nan());
    }

    #[test]
    fn times_outside_their_range_are_refused() {
        for bad in [-1e-9, 1.6, f64::NAN, f64::INFINITY] {
            assert!(matches!(TrigTime::new(bad), Err(Error::OutOfRange { what: "TrigFlow time", .. })));
            assert!(FlowTime::new(bad).is_err());
        }
        for bad in [0.0, -80.0, f64::NAN, f64::INFINITY] {
            assert!(TrigTime::from_sigma(bad).is_err());
            assert!(FlowTime::CLEAN.shifted(bad).is_err());
        }
    }
}
