//! Distribution matching (DMD2; Yin et al., 2024; rCM, `_student_dmd_step`): generated latents move from where the critic, which knows what is
//! generated, thinks they are likely to where the teacher thinks so.

use super::{Loss, LossScale, each_sample};

/// Floor of the mean distance that the direction is divided by (`clip(min=0.00001)`).
const DISTANCE_FLOOR: f64 = 1e-5;

/// The loss, and its gradient with respect to the generated latents. All tensors are clean latents `[samples, len]`; `critic` and `teacher`
/// are estimates from one noised copy of `generated`.
///
/// ```text
/// d    = (critic - teacher) / max(mean |generated - teacher|, 1e-5)
/// loss = scale * sum (x0 - sg(x0 - d))^2
/// ```
///
/// # Panics
/// When lengths do not agree.
pub fn distribution_matching(generated: &[f64], critic: &[f64], teacher: &[f64], samples: usize, scale: LossScale) -> Loss {
    let values = generated.len();
    assert!(samples > 0 && values > 0 && values.is_multiple_of(samples) && critic.len() == values && teacher.len() == values);
    let len = values / samples;
    let factor = scale.factor(len);
    each_sample(samples, len, |sample, gradient| {
        let range = sample * len..(sample + 1) * len;
        let (generated, critic, teacher) = (&generated[range.clone()], &critic[range.clone()], &teacher[range]);
        let distance = generated.iter().zip(teacher).map(|(x, y)| (x - y).abs()).sum::<f64>() / len as f64;
        let distance = if distance < DISTANCE_FLOOR { DISTANCE_FLOOR } else { distance };
        let mut square = 0.0;
        for ((gradient, critic), teacher) in gradient.iter_mut().zip(critic).zip(teacher) {
            let direction = (critic - teacher) / distance;
            square += direction * direction;
            *gradient = 2.0 * factor * direction;
        }
        factor * square
    })
}
