//! Learning rates over the steps of a run.

use std::f64::consts::PI;

/// How the rate falls after it has been held.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Decay {
    /// Not at all.
    #[default]
    Constant,
    /// In a straight line.
    Linear,
    /// By half a cosine.
    Cosine,
}

/// A rate that rises in a straight line over `warm_up` steps, holds until step `hold`, then falls to `floor` at step `end`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// Steps of the rise: step `s < warm_up`, from 0, has the share `(s + 1) / warm_up` of the peak.
    pub warm_up: u64,
    /// First step of the fall.
    pub hold: u64,
    /// The step at which the floor is reached; past it the rate stays there.
    pub end: u64,
    /// Share of the peak that the fall ends at.
    pub floor: f64,
    /// The fall.
    pub decay: Decay,
}

impl LearningRate {
    /// rCM's student, 1.3B (`rcm/configs/experiments/rcm/wan2pt1_t2v.py`); 1e-6 for 14B.
    pub const STUDENT: Self = Self::constant(2e-6);

    /// rCM's critic, 1.3B (the same file); 1e-7 for 14B.
    pub const CRITIC: Self = Self::constant(4e-7);

    /// Sparse-linear alignment (`rcm/configs/experiments/sla/wan2pt1_t2v.py`).
    pub const ALIGNMENT: Self = Self::constant(1e-5);

    /// One rate throughout.
    pub const fn constant(peak: f64) -> Self {
        Self { peak, warm_up: 0, hold: 0, end: 0, floor: 1.0, decay: Decay::Constant }
    }

    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let rise = if step < self.warm_up { (step + 1) as f64 / self.warm_up as f64 } else { 1.0 };
        // How far the fall has gone, from 0 to 1.
        let gone = match step {
            step if step < self.hold => 0.0,
            step if step >= self.end => 1.0,
            step => (step - self.hold) as f64 / (self.end - self.hold) as f64,
        };
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => self.floor + (1.0 - self.floor) * (1.0 - gone),
            Decay::Cosine => self.floor + (1.0 - self.floor) * 0.5 * (1.0 + (PI * gone).cos()),
        };
        self.peak * rise * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_holds_and_falls() {
        let linear = LearningRate { peak: 2.0, warm_up: 4, hold: 10, end: 20, floor: 0.1, decay: Decay::Linear };
        for (step, want) in [(0, 0.5), (2, 1.5), (3, 2.0), (10, 2.0), (15, 1.1), (20, 0.2), (1000, 0.2)] {
            assert!((linear.at(step) - want).abs() < 1e-12, "step {step}: {}", linear.at(step));
        }
        let cosine = LearningRate { decay: Decay::Cosine, ..linear };
        for (step, want) in [(10, 2.0), (15, 1.1), (20, 0.2)] {
            assert!((cosine.at(step) - want).abs() < 1e-12);
        }
        assert!(cosine.at(12) > linear.at(12) && cosine.at(18) < linear.at(18));
        let constant = LearningRate { decay: Decay::Constant, ..linear };
        assert_eq!((constant.at(0), constant.at(500)), (0.5, 2.0));
        assert_eq!(LearningRate::constant(3.0).at(7), 3.0);
    }
}
