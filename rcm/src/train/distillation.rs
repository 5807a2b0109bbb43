//! rCM: consistency and distribution matching in turns with a critic.

use super::{Alternation, Batch, ContinuousConsistency, DiscreteConsistency, DistributionMatching, Metrics, Phase};
use crate::noise::Stream;
use crate::trainable::{Trainable, VelocityNet};

/// How a student is held to its teacher's paths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Consistency {
    /// sCM.
    Continuous(ContinuousConsistency),
    /// dCM.
    Discrete(DiscreteConsistency),
}

/// The method: which terms, whose turn, how strongly the teacher is guided. `Default` is the official setting of the 1.3B model.
///
/// Student and critic start from the teacher's weights. Without a consistency term (DMD alone) the warm-up should be 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Distillation {
    /// Guidance of the teacher; 1 asks no negative condition.
    pub guidance: f64,
    /// The consistency term.
    pub consistency: Option<Consistency>,
    /// The distribution-matching term.
    pub matching: Option<DistributionMatching>,
    /// Turns.
    pub alternation: Alternation,
}

impl Default for Distillation {
    fn default() -> Self {
        Self {
            guidance: 5.0,
            consistency: Some(Consistency::Continuous(ContinuousConsistency::default())),
            matching: Some(DistributionMatching::default()),
            alternation: Alternation::default(),
        }
    }
}

/// The three networks of a distillation.
#[derive(Debug)]
pub struct Networks<'a, S, K, T> {
    /// The few-step model that is made.
    pub student: &'a mut S,
    /// It knows what the student makes: the fake score.
    pub critic: &'a mut K,
    /// Frozen.
    pub teacher: &'a mut T,
}

impl Distillation {
    /// The phase of an iteration, from 0: whose gradients [`Distillation::step`] will add to.
    ///
    /// # Errors
    /// As [`Alternation::phase`].
    pub fn phase(&self, iteration: u64) -> Result<Phase, crate::Error> {
        self.alternation.phase(iteration, self.matching.is_some())
    }

    /// One iteration: forward, losses, backward, into the gradients of the student or the critic as the phase says. The student's terms are
    /// the consistency, then, after the warm-up, the matching; they draw in that order.
    ///
    /// # Errors
    /// Those of the terms and of [`Distillation::phase`].
    pub fn step<S, K, T>(
        &self,
        networks: Networks<'_, S, K, T>,
        batch: Batch<'_, S::Condition>,
        iteration: u64,
        noise: &mut Stream,
    ) -> Result<Vec<Metrics>, S::Error>
    where
        S: Trainable,
        K: Trainable<Error = S::Error, Condition = S::Condition>,
        T: VelocityNet<Error = S::Error, Condition = S::Condition>,
    {
        let Networks { student, critic, teacher } = networks;
        let mut metrics = Vec::with_capacity(2);
        match (self.phase(iteration)?, &self.matching) {
            (Phase::Critic { simulation_steps, .. }, Some(matching)) => {
                metrics.push(matching.critic_step((student, critic), batch, simulation_steps, noise)?);
            }
            (Phase::Student { simulation_steps, .. }, matching) => {
                match &self.consistency {
                    Some(Consistency::Continuous(term)) => {
                        let warm_up = self.alternation.tangent(iteration);
                        metrics.push(term.step(student, teacher, batch, self.guidance, warm_up, noise)?);
                    }
                    Some(Consistency::Discrete(term)) => metrics.push(term.step(student, teacher, batch, self.guidance, noise)?),
                    None => {}
                }
                if let (Some(matching), Some(steps)) = (matching, simulation_steps) {
                    metrics.push(matching.student_step((student, critic, teacher), batch, self.guidance, steps, noise)?);
                }
            }
            // Without a matching term there is no critic and every phase is the student's.
            (Phase::Critic { .. }, None) => {}
        }
        Ok(metrics)
    }
}
