//! Distance to a target that has no gradient.

use super::{Loss, LossScale, each_sample};

/// `sum over values of weight * (output - target)^2`, scaled; `output` and `target` are `[samples, len]`, `weights` one a sample.
///
/// - Flow matching: output and target are velocities, all weights 1, [`LossScale::Mean`].
/// - White-box alignment: the target is the frozen teacher's velocity at the same input.
/// - dCM: clean estimates; the target is the student's own, later on the teacher's path.
/// - The critic: clean estimates; weights `1 / sin^2 t`.
///
/// # Panics
/// When lengths do not agree.
pub fn squared_error(output: &[f64], target: &[f64], weights: &[f64], scale: LossScale) -> Loss {
    let samples = weights.len();
    assert!(samples > 0 && output.len() == target.len() && output.len().is_multiple_of(samples) && !output.is_empty());
    let len = output.len() / samples;
    let factor = scale.factor(len);
    each_sample(samples, len, |sample, gradient| {
        let range = sample * len..(sample + 1) * len;
        let weight = factor * weights[sample];
        let mut sum = 0.0;
        for ((gradient, output), target) in gradient.iter_mut().zip(&output[range.clone()]).zip(&target[range]) {
            let difference = output - target;
            sum += difference * difference;
            *gradient = 2.0 * weight * difference;
        }
        weight * sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_its_sum_and_a_sample_that_is_not_finite_is_masked() {
        let output = [1.0, 2.0, f64::NAN, 0.0, 3.0, 5.0];
        let loss = squared_error(&output, &[0.0, 0.0, 0.0, 0.0, 3.0, 4.0], &[1.0, 1.0, 0.5], LossScale::Sum(2.0));
        assert_eq!(loss.samples, [10.0, 0.0, 1.0]);
        assert_eq!(loss.gradient, [4.0, 8.0, 0.0, 0.0, 0.0, 2.0].map(|g| g * (1.0 / 3.0)));
        assert_eq!((loss.masked, loss.mean()), (1, 11.0 / 3.0));
        let mean = squared_error(&output[..2], &[0.0; 2], &[1.0], LossScale::Mean(2.0));
        assert_eq!((mean.mean(), mean.masked), (5.0, 0));
    }
}
