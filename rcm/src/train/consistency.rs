//! The step of continuous-time consistency (sCM).

use super::{Batch, Metrics, Term, TimeDistribution, TrigNet, noised};
use crate::loss::{ConsistencyTerms, LossScale, consistency};
use crate::noise::Stream;
use crate::time::TrigTime;
use crate::trainable::{Trainable, VelocityNet};

/// How the student's derivative along the teacher's path is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Derivative {
    /// By the network's own tangent, in latent and time at once.
    Exact,
    /// `fd_type` 1: the tangent along the latent alone, and a backward difference of this size in time.
    SemiContinuous(f64),
    /// `fd_type` 2: a backward difference of this size along the path: two forward passes, no tangent.
    Discrete(f64),
}

impl Derivative {
    /// The official size of a difference, in radians (`fd_size`).
    ///
    /// In f32 rounding then is about `6e-8 / 1e-4` of the answer's size, and a network in bf16 sees no difference at all: take `1e-2` there.
    pub const OFFICIAL_STEP: f64 = 1e-4;
}

/// The continuous-time consistency term. `Default` is the official setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContinuousConsistency {
    /// Noise levels.
    pub times: TimeDistribution,
    /// How values become a loss: a sum times 100 officially. The tangent is normalised to length 1, so a sum does not grow with a latent.
    pub scale: LossScale,
    /// How the derivative is found.
    pub derivative: Derivative,
    /// Added to the tangent's norm.
    pub norm_floor: f64,
}

impl Default for ContinuousConsistency {
    fn default() -> Self {
        Self { times: TimeDistribution::CONSISTENCY, scale: LossScale::Sum(100.0), derivative: Derivative::Exact, norm_floor: 0.1 }
    }
}

impl ContinuousConsistency {
    /// One step of the student, with a teacher guided by `guidance` and the tangent's warm-up in `[0, 1]`. Draws: times, noise.
    ///
    /// # Errors
    /// [`Error::BatchLength`](crate::Error::BatchLength), [`Error::ConditionLength`](crate::Error::ConditionLength),
    /// [`Error::OutputLength`](crate::Error::OutputLength), or a network's.
    pub fn step<S, T>(
        &self,
        student: &mut S,
        teacher: &mut T,
        batch: Batch<'_, S::Condition>,
        guidance: f64,
        warm_up: f64,
        noise: &mut Stream,
    ) -> Result<Metrics, S::Error>
    where
        S: Trainable,
        T: VelocityNet<Error = S::Error, Condition = S::Condition>,
    {
        let (samples, len) = batch.size()?;
        let times: Vec<TrigTime> = self.times.draw(samples, noise).into_iter().map(|time| time.trig()).collect();
        let epsilon = noise.normals(samples * len);
        let noisy = noised(batch.latents, &epsilon, &times);
        let path = TrigNet(teacher).predict_guided(&noisy, &times, [batch.condition, batch.negative], guidance)?.velocity;
        let mut student = TrigNet(student);
        let slope = self.slope(&mut student, &noisy, &times, &path, batch.condition)?;
        let (own, saved) = student.predict_saved(&noisy, &times, batch.condition)?;
        let terms = ConsistencyTerms {
            noisy: &noisy,
            times: &times,
            student: &own.velocity,
            teacher: &path,
            derivative: &slope,
            warm_up,
            floor: self.norm_floor,
        };
        let loss = consistency(terms, self.scale);
        student.backward_velocity(saved, &times, &loss.gradient)?;
        Ok(Metrics::new(Term::ContinuousConsistency, &loss))
    }

    /// `cos t sin t dF/dt` of the student along `path`.
    fn slope<S: Trainable>(
        &self,
        student: &mut TrigNet<'_, S>,
        noisy: &[f64],
        times: &[TrigTime],
        path: &[f64],
        condition: &S::Condition,
    ) -> Result<Vec<f64>, S::Error> {
        let len = noisy.len() / times.len();
        let product = |time: &TrigTime| time.radians().sin() * time.radians().cos();
        let products: Vec<f64> = times.iter().map(product).collect();
        let direction = || path.iter().enumerate().map(|(i, path)| products[i / len] * path).collect::<Vec<f64>>();
        // The derivative in time from two values, `(cos h F(t) - F(t - h)) / sin h`.
        let difference = |now: &[f64], before: &[f64], h: f64| -> Vec<f64> {
            let pairs = now.iter().zip(before).enumerate();
            pairs.map(|(i, (now, before))| products[i / len] * (h.cos() * now - before) / h.sin()).collect()
        };
        let earlier = |h: f64| times.iter().map(|time| time.before(h)).collect::<Vec<_>>();
        match self.derivative {
            Derivative::Exact => Ok(student.tangent(noisy, &direction(), times, &products, condition)?.1),
            Derivative::SemiContinuous(h) => {
                let (now, mut slope) = student.tangent(noisy, &direction(), times, &vec![0.0; times.len()], condition)?;
                let before = student.predict(noisy, &earlier(h), condition)?.velocity;
                slope.iter_mut().zip(difference(&now, &before, h)).for_each(|(slope, in_time)| *slope += in_time);
                Ok(slope)
            }
            Derivative::Discrete(h) => {
                let now = student.predict(noisy, times, condition)?.velocity;
                let moved: Vec<f64> = noisy.iter().zip(path).map(|(x, path)| h.cos() * x - h.sin() * path).collect();
                let before = student.predict(&moved, &earlier(h), condition)?.velocity;
                Ok(difference(&now, &before, h))
            }
        }
    }
}
