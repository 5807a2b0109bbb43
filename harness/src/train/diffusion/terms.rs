//! Settings of the terms of distillation: every constant of the method.
//!
//! Losses are means where the official ones are sums: at the size of a small model the ratio of the terms is then the official one. (The
//! gradient of the consistency term has a fixed length, that of the matching term grows with the root of a latent's values, 5 thousand
//! here and 2 million there; so the official 100 to 1 becomes 5 to 1.)

use serde::{Deserialize, Serialize};
use turbowan_rcm::loss::LossScale;
use turbowan_rcm::train::{
    Alternation, Consistency, ContinuousConsistency, Derivative, DiscreteConsistency, DistributionMatching, Simulation, TimeDistribution,
};

use super::settings::ExpertName;
use crate::error::Error;

/// A distribution of noise levels, written `"log-normal MEAN DEVIATION"` or `"uniform SHIFT"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TimesSettings {
    /// `ln sigma` is normal.
    LogNormal {
        /// Its mean.
        mean: f64,
        /// Its deviation.
        deviation: f64,
    },
    /// The flow time is uniform, then shifted towards noise.
    Uniform {
        /// The shift.
        shift: f64,
    },
}

impl TimesSettings {
    /// As the method takes it.
    ///
    /// # Errors
    /// Numbers that cannot be.
    pub fn distribution(self) -> Result<TimeDistribution, Error> {
        Ok(match self {
            Self::LogNormal { mean, deviation } => TimeDistribution::log_normal(mean, deviation)?,
            Self::Uniform { shift } => TimeDistribution::uniform_shift(shift)?,
        })
    }
}

impl From<TimesSettings> for String {
    fn from(times: TimesSettings) -> Self {
        match times {
            TimesSettings::LogNormal { mean, deviation } => format!("log-normal {mean} {deviation}"),
            TimesSettings::Uniform { shift } => format!("uniform {shift}"),
        }
    }
}

impl TryFrom<String> for TimesSettings {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.split_whitespace().next(), numbers(&text).as_deref()) {
            (Some("log-normal"), Some([mean, deviation])) => Ok(Self::LogNormal { mean: *mean, deviation: *deviation }),
            (Some("uniform"), Some([shift])) => Ok(Self::Uniform { shift: *shift }),
            _ => Err(format!("{text:?} is no distribution of times: \"log-normal MEAN DEVIATION\" or \"uniform SHIFT\"")),
        }
    }
}

/// The numbers behind the first word.
fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split_whitespace().skip(1).map(|word| word.parse().ok()).collect()
}

/// How values become a loss, written `"sum FACTOR"` or `"mean FACTOR"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ScaleSettings {
    /// Their sum over a sample, times a factor.
    Sum(f64),
    /// Their mean over a sample, times a factor.
    Mean(f64),
}

impl From<ScaleSettings> for String {
    fn from(scale: ScaleSettings) -> Self {
        match scale {
            ScaleSettings::Sum(factor) => format!("sum {factor}"),
            ScaleSettings::Mean(factor) => format!("mean {factor}"),
        }
    }
}

impl TryFrom<String> for ScaleSettings {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.split_whitespace().next(), numbers(&text).as_deref()) {
            (Some("sum"), Some([factor])) if *factor > 0.0 => Ok(Self::Sum(*factor)),
            (Some("mean"), Some([factor])) if *factor > 0.0 => Ok(Self::Mean(*factor)),
            _ => Err(format!("{text:?} is no scale of a loss: \"sum FACTOR\" or \"mean FACTOR\", the factor above 0")),
        }
    }
}

impl From<ScaleSettings> for LossScale {
    fn from(scale: ScaleSettings) -> Self {
        match scale {
            ScaleSettings::Sum(factor) => Self::Sum(factor),
            ScaleSettings::Mean(factor) => Self::Mean(factor),
        }
    }
}

/// Which consistency term a student is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsistencyName {
    /// None: matching alone.
    None,
    /// sCM.
    Continuous,
    /// dCM.
    Discrete,
}

/// How the derivative of sCM is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DerivativeName {
    /// By the network's tangent.
    Exact,
    /// By its tangent in the latent and a difference in time.
    SemiContinuous,
    /// By a difference along the path.
    Discrete,
}

/// The consistency terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsistencySettings {
    /// Which of them.
    pub kind: ConsistencyName,
    /// sCM: noise levels.
    pub times: TimesSettings,
    /// How values become a loss.
    pub scale: ScaleSettings,
    /// sCM: how the derivative is found.
    pub derivative: DerivativeName,
    /// sCM: the difference in radians, where the derivative is one.
    pub difference: f64,
    /// sCM: added to the tangent's norm.
    pub norm_floor: f64,
    /// dCM: intervals of the grid.
    pub intervals: usize,
    /// dCM: intervals that the teacher walks.
    pub skip: usize,
    /// dCM: shift of the grid towards noise.
    pub shift: f64,
}

impl Default for ConsistencySettings {
    fn default() -> Self {
        Self {
            kind: ConsistencyName::None,
            times: TimesSettings::LogNormal { mean: 0.7, deviation: 1.6 },
            scale: ScaleSettings::Mean(5.0),
            derivative: DerivativeName::Discrete,
            difference: 1e-2,
            norm_floor: 0.1,
            intervals: 16,
            skip: 1,
            shift: 5.0,
        }
    }
}

impl ConsistencySettings {
    /// The term, if there is one.
    ///
    /// # Errors
    /// Numbers that cannot be; a grid for one of two experts, which it cannot be cut for.
    pub fn term(&self, expert: ExpertName, boundary: f64) -> Result<Option<Consistency>, Error> {
        let scale = self.scale.into();
        match self.kind {
            ConsistencyName::None => Ok(None),
            ConsistencyName::Continuous => {
                if !(self.difference > 0.0 && self.difference < 1.0) {
                    return Err(Error::flag("consistency.difference", "above 0 and below 1 radian"));
                }
                let derivative = match self.derivative {
                    DerivativeName::Exact => Derivative::Exact,
                    DerivativeName::SemiContinuous => Derivative::SemiContinuous(self.difference),
                    DerivativeName::Discrete => Derivative::Discrete(self.difference),
                };
                let times = expert.clamped(self.times.distribution()?, boundary)?;
                Ok(Some(Consistency::Continuous(ContinuousConsistency { times, scale, derivative, norm_floor: self.norm_floor })))
            }
            ConsistencyName::Discrete if expert != ExpertName::Only => {
                Err(Error::flag("consistency.kind", "the grid of \"discrete\" spans both experts; take \"continuous\" for one of them"))
            }
            ConsistencyName::Discrete => {
                let (intervals, skip, shift) = (self.intervals, self.skip, self.shift);
                let term = DiscreteConsistency { intervals, skip, shift, scale };
                // What is out of range is told now, not at the first step.
                term.grid(&[0.0])?;
                Ok(Some(Consistency::Discrete(term)))
            }
        }
    }
}

/// The matching term and its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchingSettings {
    /// Whether there is one: without it there is no critic.
    pub on: bool,
    /// Noise levels at which critic and teacher are compared.
    pub times: TimesSettings,
    /// Whether simulations stop at the sampler's times (1.5, 1.4 and 1.0 radians); drawn from `times` otherwise.
    pub fixed_times: bool,
    /// How the student's values become a loss.
    pub scale: ScaleSettings,
    /// How the critic's values become a loss.
    pub critic_scale: ScaleSettings,
    /// Iterations of consistency alone before the critic begins.
    pub warm_up: u64,
    /// One iteration of this many is the student's.
    pub student_every: u64,
    /// Fewest steps of a simulation: the same as the most for one count alone.
    pub least_steps: usize,
    /// Most steps of a simulation.
    pub most_steps: usize,
}

impl Default for MatchingSettings {
    fn default() -> Self {
        Self {
            on: true,
            times: TimesSettings::LogNormal { mean: 0.0, deviation: 1.6 },
            fixed_times: true,
            scale: ScaleSettings::Mean(1.0),
            critic_scale: ScaleSettings::Mean(1.0),
            warm_up: 0,
            student_every: 2,
            least_steps: 1,
            most_steps: 4,
        }
    }
}

impl MatchingSettings {
    /// The term, if there is one.
    ///
    /// # Errors
    /// Numbers that cannot be; an expert that no simulation reaches.
    pub fn term(&self, expert: ExpertName, boundary: f64) -> Result<Option<DistributionMatching>, Error> {
        if !self.on {
            return Ok(None);
        }
        if expert == ExpertName::Low {
            let reason = "a simulation begins in noise, where the low-noise expert is not at home; set on = false and take \"continuous\" consistency";
            return Err(Error::flag("matching.on", reason));
        }
        let times = self.times.distribution()?;
        let simulation = if self.fixed_times { Simulation::official_fixed() } else { Simulation::Drawn(expert.clamped(times, boundary)?) };
        let most = match &simulation {
            Simulation::Fixed(times) => times.len() + 1,
            Simulation::Drawn(_) => usize::MAX,
        };
        if self.most_steps > most {
            return Err(Error::flag("matching.most_steps", format!("the fixed times are for at most {most} steps")));
        }
        Ok(Some(DistributionMatching { times, simulation, scale: self.scale.into(), critic_scale: self.critic_scale.into() }))
    }

    /// The turns.
    ///
    /// # Errors
    /// Numbers that cannot be.
    pub fn alternation(&self) -> Result<Alternation, Error> {
        let Self { warm_up, student_every, least_steps, most_steps, .. } = *self;
        let alternation = Alternation { warm_up, student_every, least_steps, most_steps };
        alternation.phase(0, true)?;
        Ok(alternation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_as_they_are_written_and_what_they_cannot_be_is_told() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Both {
            times: TimesSettings,
            scale: ScaleSettings,
        }
        for (times, scale) in [
            (TimesSettings::LogNormal { mean: -0.8, deviation: 1.6 }, ScaleSettings::Sum(100.0)),
            (TimesSettings::Uniform { shift: 5.0 }, ScaleSettings::Mean(0.25)),
        ] {
            let both = Both { times, scale };
            assert_eq!(toml::from_str::<Both>(&toml::to_string(&both).unwrap()), Ok(both));
        }
        for (times, scale, named) in [
            ("normal 0 1", "sum 1", "normal 0 1"),
            ("uniform 1 2", "sum 1", "uniform 1 2"),
            ("uniform 1", "mean", "mean"),
            ("uniform 1", "sum -1", "-1"),
        ] {
            let refused = toml::from_str::<Both>(&format!("times = \"{times}\"\nscale = \"{scale}\"\n")).unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
        // What reads well may still be no law.
        assert!(TimesSettings::LogNormal { mean: 0.0, deviation: -1.0 }.distribution().is_err());
    }
}
