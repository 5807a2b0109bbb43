//! The times of a few-step run.

use crate::error::Error;
use crate::time::{FlowTime, TrigTime};

/// Where a few-step run stands before each step and at its end: `steps + 1` times, the last one clean.
///
/// On the TrigFlow clock the times are `[atan(sigma_max), mid..., 0]`; a run of `n` steps takes the first `n - 1` mid times.
/// A first time below the first mid time is allowed, as it is in the official scripts: that step then adds noise.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    times: Vec<FlowTime>,
}

impl Schedule {
    /// Mid times of the released models, on the TrigFlow clock in radians.
    pub const MID_TIMES: [f64; 3] = [1.5, 1.4, 1.0];

    /// The released models' schedule for 1 to 4 steps from noise level `sigma_max` (80 for text, 200 for an image).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a `sigma_max` that is not finite and above zero, [`Error::Steps`] for other step counts.
    pub fn few_step(sigma_max: f64, steps: usize) -> Result<Self, Error> {
        Self::with_mid_times(sigma_max, steps, &Self::MID_TIMES)
    }

    /// A schedule with mid times of one's own, on the TrigFlow clock in radians.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a `sigma_max` that is not finite and above zero or a mid time outside `[0, pi/2]`,
    /// [`Error::Steps`] unless `steps` is in `1..=mid.len() + 1`.
    pub fn with_mid_times(sigma_max: f64, steps: usize, mid: &[f64]) -> Result<Self, Error> {
        let most = mid.len() + 1;
        if steps == 0 || steps > most {
            return Err(Error::Steps { steps, most });
        }
        let mut times = vec![TrigTime::from_sigma(sigma_max)?.flow()];
        for radians in &mid[..steps - 1] {
            times.push(TrigTime::new(*radians)?.flow());
        }
        times.push(FlowTime::CLEAN);
        Ok(Self { times })
    }

    /// Network calls in a run.
    pub fn steps(&self) -> usize {
        self.times.len() - 1
    }

    /// All `steps + 1` times, noisy to clean.
    pub fn times(&self) -> &[FlowTime] {
        &self.times
    }

    /// The times between which step `step` moves, `None` past the end.
    pub fn step(&self, step: usize) -> Option<(FlowTime, FlowTime)> {
        Some((*self.times.get(step)?, *self.times.get(step + 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(schedule: &Schedule) -> Vec<f64> {
        schedule.times().iter().map(|t| t.share()).collect()
    }

    #[track_caller]
    fn assert_close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-12, "got {got}, want {want}");
        }
    }

    #[test]
    fn the_recorded_times_come_out() {
        let tail = [0.933781061416858, 0.852895394823775, 0.608979049230431];
        for (sigma, first) in [(80.0, 0.9876543209876543), (200.0, 0.9950248756218906), (1600.0, 0.999375390381012)] {
            for steps in 1..=4 {
                let mut want = vec![first];
                want.extend(&tail[..steps - 1]);
                want.push(0.0);
                assert_close(&shares(&Schedule::few_step(sigma, steps).unwrap()), &want);
            }
        }
    }

    #[test]
    fn other_mid_times_come_out() {
        let got = Schedule::with_mid_times(80.0, 4, &[1.3, 1.0, 0.6]).unwrap();
        assert_close(&shares(&got), &[0.9876543209876543, 0.782708009805053, 0.608979049230431, 0.4062240103969562, 0.0]);
        assert_eq!(Schedule::with_mid_times(80.0, 6, &[1.5, 1.4, 1.2, 1.0, 0.5]).unwrap().steps(), 6);
    }

    #[test]
    fn a_low_sigma_is_allowed_and_starts_below_the_first_mid_time() {
        let times = shares(&Schedule::few_step(3.0, 2).unwrap());
        assert!(times[0] < times[1]);
    }

    #[test]
    fn step_counts_without_times_and_foreign_numbers_are_refused() {
        assert_eq!(Schedule::few_step(80.0, 0), Err(Error::Steps { steps: 0, most: 4 }));
        assert_eq!(Schedule::few_step(80.0, 5), Err(Error::Steps { steps: 5, most: 4 }));
        assert!(Schedule::few_step(f64::NAN, 4).is_err());
        assert!(Schedule::few_step(0.0, 4).is_err());
        assert!(Schedule::with_mid_times(80.0, 2, &[2.0]).is_err());
    }
}
