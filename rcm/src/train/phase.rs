//! Whose turn it is: the student's or the critic's.
//!
//! During the warm-up every iteration is the student's, with consistency alone. After it the student has one iteration of `student_every`,
//! the critic the others. Both count their own iterations, which choose the number of simulation steps.

use crate::error::Error;

/// What an iteration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The student learns.
    Student {
        /// Its iteration, from 0: what the average is told and, modulo the step counts, what the simulation is.
        iteration: u64,
        /// Steps of the simulation; `None` during the warm-up, when distributions are not matched yet.
        simulation_steps: Option<usize>,
    },
    /// The critic learns.
    Critic {
        /// Its iteration, from 0.
        iteration: u64,
        /// Steps of the simulation.
        simulation_steps: usize,
    },
}

/// How student and critic take turns. `Default` is the official setting of the 1.3B model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alternation {
    /// Iterations before the critic begins (`tangent_warmup`); also those over which the tangent is warmed up.
    pub warm_up: u64,
    /// After the warm-up one iteration of this many is the student's (`student_update_freq`): 5, or 10 for the 14B model.
    pub student_every: u64,
    /// Fewest steps of a simulation: 1 officially, the most for simulations of one count.
    pub least_steps: usize,
    /// Most steps of a simulation (`max_simulation_steps_fake`).
    pub most_steps: usize,
}

impl Default for Alternation {
    fn default() -> Self {
        Self { warm_up: 1000, student_every: 5, least_steps: 1, most_steps: 4 }
    }
}

impl Alternation {
    /// The phase of `iteration`, from 0, of a run whose distributions are matched (`has_critic`) or not.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when `student_every` or a number of steps is 0, or there are more steps at least than at most.
    pub fn phase(&self, iteration: u64, has_critic: bool) -> Result<Phase, Error> {
        let least = self.least_steps.min(self.most_steps);
        for (what, value) in [("student_every", self.student_every), ("fewest simulation steps", least as u64)] {
            if value == 0 {
                return Err(Error::OutOfRange { what, value: 0.0, range: "at least 1" });
            }
        }
        if self.least_steps > self.most_steps {
            let (what, range) = ("fewest simulation steps", "at most the most simulation steps");
            return Err(Error::OutOfRange { what, value: self.least_steps as f64, range });
        }
        let counts = (self.most_steps - self.least_steps) as u64 + 1;
        let steps = |iteration: u64| (iteration % counts) as usize + self.least_steps;
        if !has_critic || iteration < self.warm_up {
            return Ok(Phase::Student { iteration, simulation_steps: None });
        }
        let since = iteration - self.warm_up;
        let student = self.warm_up + since / self.student_every;
        if since.is_multiple_of(self.student_every) {
            return Ok(Phase::Student { iteration: student, simulation_steps: Some(steps(student)) });
        }
        let critic = iteration - student - 1;
        Ok(Phase::Critic { iteration: critic, simulation_steps: steps(critic) })
    }

    /// The tangent's warm-up at `iteration`: `min(1, iteration / warm_up)`, 1 without a warm-up.
    pub fn tangent(&self, iteration: u64) -> f64 {
        if iteration >= self.warm_up { 1.0 } else { iteration as f64 / self.warm_up as f64 }
    }
}
