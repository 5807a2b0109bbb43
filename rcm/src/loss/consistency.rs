//! Continuous-time consistency (sCM; Lu and Song, arXiv:2410.11081; rCM, `t2v_model_distill_rcm.py`, `_student_scm_step`).
//!
//! A consistency function `f(x_t, t) = cos t x_t - sin t F` is constant along the teacher's path, `dx/dt = F_teacher`. Its derivative along
//! the path, times `cos t`, with a warm-up `w` of what is unstable at first:
//!
//! ```text
//! g    = -cos t sqrt(1 - w^2 sin^2 t) (F - F_teacher) - (w cos t sin t x_t + cos t sin t dF/dt)
//! g    <- g / (|g| + floor)
//! loss = scale * sum (F - sg(F) - g)^2
//! ```
//!
//! At `w = 1` `g` vanishes exactly where `f` is consistent.

use super::{Loss, LossScale, each_sample};
use crate::time::TrigTime;

/// What the loss is made of; all tensors are `[samples, len]`.
#[derive(Debug, Clone, Copy)]
pub struct ConsistencyTerms<'a> {
    /// Noisy latents `x_t`.
    pub noisy: &'a [f64],
    /// Their times.
    pub times: &'a [TrigTime],
    /// The student's `F`.
    pub student: &'a [f64],
    /// The teacher's `F`, guided.
    pub teacher: &'a [f64],
    /// `cos t sin t dF/dt` of the student along the teacher's path.
    pub derivative: &'a [f64],
    /// The warm-up `w`, in `[0, 1]`.
    pub warm_up: f64,
    /// Added to the norm of `g`: 0.1 officially.
    pub floor: f64,
}

/// The loss, and its gradient with respect to the student's `F`.
///
/// # Panics
/// When lengths do not agree.
pub fn consistency(terms: ConsistencyTerms<'_>, scale: LossScale) -> Loss {
    let samples = terms.times.len();
    let values = terms.noisy.len();
    assert!(samples > 0 && values > 0 && values.is_multiple_of(samples));
    assert!([terms.student, terms.teacher, terms.derivative].iter().all(|tensor| tensor.len() == values));
    let len = values / samples;
    let factor = scale.factor(len);
    each_sample(samples, len, |sample, gradient| {
        let range = sample * len..(sample + 1) * len;
        let (sin, cos) = terms.times[sample].radians().sin_cos();
        let w = terms.warm_up;
        let pull = cos * (1.0 - (w * sin).powi(2)).max(0.0).sqrt();
        let tensors = terms.noisy[range.clone()].iter().zip(&terms.student[range.clone()]);
        let tensors = tensors.zip(&terms.teacher[range.clone()]).zip(&terms.derivative[range]);
        let mut square = 0.0;
        for (g, (((noisy, student), teacher), derivative)) in gradient.iter_mut().zip(tensors) {
            *g = -pull * (student - teacher) - (w * cos * sin * noisy + derivative);
            square += *g * *g;
        }
        let norm = square.sqrt();
        let normalised = norm / (norm + terms.floor);
        gradient.iter_mut().for_each(|g| *g *= -2.0 * factor / (norm + terms.floor));
        factor * normalised * normalised
    })
}
