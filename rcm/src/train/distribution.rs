//! Which noise levels a loss is taken at.

use crate::error::{Error, in_range, positive};
use crate::noise::Stream;
use crate::time::FlowTime;

/// The law of the times that are drawn, one a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Law {
    /// `ln sigma` is normal.
    LogNormal { mean: f64, deviation: f64 },
    /// `u` is uniform, then shifted.
    Uniform { shift: f64 },
}

/// A distribution of times. Draws are clamped to a range of the rectified-flow clock, the whole of it unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeDistribution {
    law: Law,
    range: [f64; 2],
}

impl TimeDistribution {
    /// rCM's consistency term: `ln sigma ~ N(0.7, 1.6)`. (`p_G` of mean -0.8, times `sqrt(20)` for 20 latent frames.)
    pub const CONSISTENCY: Self = Self::raw(Law::LogNormal { mean: 0.7, deviation: 1.6 });

    /// Sparse-linear alignment: `ln sigma ~ N(1.5, 1.6)`.
    pub const ALIGNMENT: Self = Self::raw(Law::LogNormal { mean: 1.5, deviation: 1.6 });

    /// rCM's distribution-matching term, critic and simulation (`p_D`): uniform, shifted by 5.
    pub const MATCHING: Self = Self::raw(Law::Uniform { shift: 5.0 });

    const fn raw(law: Law) -> Self {
        Self { law, range: [0.0, 1.0] }
    }

    /// `ln sigma ~ N(mean, deviation^2)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless both are finite and `deviation` is not negative.
    pub fn log_normal(mean: f64, deviation: f64) -> Result<Self, Error> {
        in_range("time mean", mean, f64::MIN, f64::MAX, "finite")?;
        in_range("time deviation", deviation, 0.0, f64::MAX, "finite and at least 0")?;
        Ok(Self::raw(Law::LogNormal { mean, deviation }))
    }

    /// `u` uniform in `(0, 1)`, then moved towards noise by `shift`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `shift` is finite and above zero.
    pub fn uniform_shift(shift: f64) -> Result<Self, Error> {
        Ok(Self::raw(Law::Uniform { shift: positive("shift", shift)? }))
    }

    /// `u = shift(sigmoid(z))` with `z ~ N(mean, deviation^2)`: how rectified-flow teachers are trained.
    ///
    /// The logit of `u` is `ln sigma`, and a shift multiplies `sigma`: so this is log-normal with mean `mean + ln shift`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], as the other two.
    pub fn logit_normal_shift(mean: f64, deviation: f64, shift: f64) -> Result<Self, Error> {
        Self::log_normal(mean + positive("shift", shift)?.ln(), deviation)
    }

    /// The same law with draws clamped to `[low, high]`, shares of noise.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `0 <= low <= high <= 1`.
    pub fn clamped(self, low: f64, high: f64) -> Result<Self, Error> {
        in_range("highest time", high, 0.0, 1.0, "in [0, 1]")?;
        in_range("lowest time", low, 0.0, high, "between 0 and the highest time")?;
        Ok(Self { range: [low, high], ..self })
    }

    /// One draw of the stream: `count` times.
    pub fn draw(&self, count: usize, noise: &mut Stream) -> Vec<FlowTime> {
        let clamped = |share: f64| FlowTime::clamped(share, self.range);
        match self.law {
            // u = sigma / (1 + sigma), written so that a large sigma does not overflow.
            Law::LogNormal { mean, deviation } => {
                noise.exact_normals(count).into_iter().map(|z| clamped(1.0 / (1.0 + (-(mean + deviation * z)).exp()))).collect()
            }
            Law::Uniform { shift } => noise.uniforms(count).into_iter().map(|u| clamped(shift * u / (1.0 + (shift - 1.0) * u))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 100_000;

    /// Shares of draws below each of some times.
    fn below(distribution: TimeDistribution, times: &[f64]) -> Vec<f64> {
        let draws = distribution.draw(COUNT, &mut Stream::new(3));
        let share = |time: &f64| draws.iter().filter(|draw| draw.share() < *time).count() as f64 / COUNT as f64;
        times.iter().map(share).collect()
    }

    /// Five standard errors of a share near one half.
    const BOUND: f64 = 0.008;

    #[test]
    fn quantiles_are_those_of_the_law() {
        // A standard normal is below -1, 0, 1 with these probabilities.
        let normal = [0.158_655, 0.5, 0.841_345];
        let at = |log_sigma: f64| 1.0 / (1.0 + (-log_sigma).exp());
        for (mean, deviation) in [(0.7, 1.6), (1.5, 1.6), (0.0, 1.0)] {
            let times = [-1.0, 0.0, 1.0].map(|z: f64| at(mean + z * deviation));
            for (got, want) in below(TimeDistribution::log_normal(mean, deviation).unwrap(), &times).iter().zip(normal) {
                assert!((got - want).abs() < BOUND, "ln sigma of mean {mean}: share {got}, want {want}");
            }
        }
        for share in [0.1, 0.5, 0.9] {
            let got = below(TimeDistribution::MATCHING, &[FlowTime::new(share).unwrap().shifted(5.0).unwrap().share()])[0];
            assert!((got - share).abs() < BOUND, "uniform: share {got}, want {share}");
        }
    }

    #[test]
    fn a_shifted_logit_normal_is_a_shifted_sigmoid() {
        let got = TimeDistribution::logit_normal_shift(0.3, 0.8, 3.0).unwrap().draw(100, &mut Stream::new(1));
        for (got, z) in got.iter().zip(Stream::new(1).exact_normals(100)) {
            let want = FlowTime::new(1.0 / (1.0 + (-(0.3 + 0.8 * z)).exp())).unwrap().shifted(3.0).unwrap();
            assert!((got.share() - want.share()).abs() < 1e-15);
        }
    }

    #[test]
    fn draws_are_clamped_and_what_has_no_meaning_is_refused() {
        let clamped = TimeDistribution::log_normal(0.0, 50.0).unwrap().clamped(0.02, 0.98).unwrap();
        let draws = clamped.draw(1000, &mut Stream::new(2));
        assert!(draws.iter().all(|draw| (0.02..=0.98).contains(&draw.share())));
        assert!(draws.iter().any(|draw| draw.share() == 0.02) && draws.iter().any(|draw| draw.share() == 0.98));
        assert!(TimeDistribution::log_normal(f64::NAN, 1.0).is_err());
        assert!(TimeDistribution::log_normal(0.0, -1.0).is_err());
        assert!(TimeDistribution::uniform_shift(0.0).is_err());
        assert!(TimeDistribution::MATCHING.clamped(0.5, 0.4).is_err());
        assert!(TimeDistribution::MATCHING.clamped(0.5, 1.1).is_err());
    }
}
