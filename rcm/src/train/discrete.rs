//! The step of discrete-time consistency (dCM).

use super::{Batch, Metrics, Term, TrigNet, noised};
use crate::error::{Error, positive};
use crate::loss::{LossScale, squared_error};
use crate::noise::Stream;
use crate::time::{FlowTime, TrigTime};
use crate::trainable::{Trainable, VelocityNet};

/// The student's clean estimate is pulled to its own, `skip` of the teacher's Euler steps further on:
///
/// ```text
/// s_k    = 1 - (v + k / intervals),  k = 0..skip,  v uniform;   u_k = shift(s_k)
/// x_0    = cos t_0 x0 + sin t_0 noise;   x_{k+1} = x_k - (t_k - t_{k+1}) F_teacher(x_k, t_k)
/// loss   = scale * sum (x0_student(x_0, t_0) - sg(x0_student(x_skip, t_skip)))^2
/// ```
///
/// `v` is uniform in `(0, 1 - skip / intervals)`, so that every step is whole. `Default` is the official grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiscreteConsistency {
    /// Intervals of the grid.
    pub intervals: usize,
    /// Intervals that the teacher walks, in `1..=intervals`.
    pub skip: usize,
    /// Shift of the grid towards noise.
    pub shift: f64,
    /// How values become a loss.
    pub scale: LossScale,
}

impl Default for DiscreteConsistency {
    fn default() -> Self {
        Self { intervals: 48, skip: 1, shift: 5.0, scale: LossScale::Sum(100.0) }
    }
}

impl DiscreteConsistency {
    /// Times of the `skip + 1` points, each one a sample, for the samples' `v`.
    ///
    /// # Errors
    /// [`Error::Steps`] unless `skip` is in `1..=intervals`, [`Error::OutOfRange`] unless `shift` is finite and above zero.
    pub fn grid(&self, starts: &[f64]) -> Result<Vec<Vec<TrigTime>>, Error> {
        if self.skip == 0 || self.skip > self.intervals {
            return Err(Error::Steps { steps: self.skip, most: self.intervals });
        }
        positive("shift", self.shift)?;
        let time = |start: f64, k: usize| {
            let share = 1.0 - (start + k as f64 / self.intervals as f64);
            Ok(FlowTime::new(share.clamp(0.0, 1.0))?.shifted(self.shift)?.trig())
        };
        (0..=self.skip).map(|k| starts.iter().map(|start| time(*start, k)).collect()).collect()
    }

    /// One step of the student, with a teacher guided by `guidance`. Draws: `v`, noise.
    ///
    /// # Errors
    /// As [`DiscreteConsistency::grid`]; [`Error::BatchLength`], [`Error::ConditionLength`], [`Error::OutputLength`], or a network's.
    pub fn step<S, T>(
        &self,
        student: &mut S,
        teacher: &mut T,
        batch: Batch<'_, S::Condition>,
        guidance: f64,
        noise: &mut Stream,
    ) -> Result<Metrics, S::Error>
    where
        S: Trainable,
        T: VelocityNet<Error = S::Error, Condition = S::Condition>,
    {
        let (samples, len) = batch.size()?;
        let room = 1.0 - self.skip as f64 / self.intervals as f64;
        let starts: Vec<f64> = noise.uniforms(samples).into_iter().map(|v| room * v).collect();
        let grid = self.grid(&starts)?;
        let epsilon = noise.normals(samples * len);
        let noisy = noised(batch.latents, &epsilon, &grid[0]);
        let mut walked = noisy.clone();
        let mut teacher = TrigNet(teacher);
        for pair in grid.windows(2) {
            let [now, next] = [&pair[0], &pair[1]];
            let path = teacher.predict_guided(&walked, now, [batch.condition, batch.negative], guidance)?.velocity;
            let step = |i: usize| now[i / len].radians() - next[i / len].radians();
            walked.iter_mut().zip(&path).enumerate().for_each(|(i, (x, path))| *x -= step(i) * path);
        }
        let mut student = TrigNet(student);
        let target = student.predict(&walked, &grid[self.skip], batch.condition)?.clean;
        let (own, saved) = student.predict_saved(&noisy, &grid[0], batch.condition)?;
        let loss = squared_error(&own.clean, &target, &vec![1.0; samples], self.scale);
        student.backward_clean(saved, &grid[0], &loss.gradient)?;
        Ok(Metrics::new(Term::DiscreteConsistency, &loss))
    }
}
