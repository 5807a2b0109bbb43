//! What is done to gradients between the backward pass and the step.

use rayon::prelude::*;

use super::CHUNK;
use crate::error::Error;
use crate::trainable::Parameter;

/// Sets every gradient to zero.
pub fn zero(parameters: &mut [Parameter<'_>]) {
    parameters.par_iter_mut().for_each(|parameter| parameter.gradient.fill(0.0));
}

/// Multiplies every gradient by `factor`: `1 / n` after `n` accumulated passes.
pub fn scale(parameters: &mut [Parameter<'_>], factor: f64) {
    let factor = factor as f32;
    let each = |part: &mut [f32]| part.iter_mut().for_each(|g| *g *= factor);
    parameters.par_iter_mut().for_each(|parameter| parameter.gradient.par_chunks_mut(CHUNK).for_each(each));
}

/// The norm of all gradients as one vector, summed in f64 in a fixed order.
///
/// # Errors
/// [`Error::GradientNotFinite`] for the first parameter whose gradient holds NaN or infinity.
pub fn norm(parameters: &[Parameter<'_>]) -> Result<f64, Error> {
    let square = |part: &[f32]| part.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    let squares = |parameter: &Parameter<'_>| parameter.gradient.par_chunks(CHUNK).map(square).collect::<Vec<_>>().iter().sum::<f64>();
    let sums: Vec<f64> = parameters.par_iter().map(squares).collect();
    // The square of a finite f32 is far from overflow in f64.
    if let Some(broken) = sums.iter().position(|sum| !sum.is_finite()) {
        return Err(Error::GradientNotFinite { name: parameters[broken].name.to_owned() });
    }
    Ok(sums.iter().sum::<f64>().sqrt())
}

/// Scales all gradients down so that their norm is at most `most`; returns the norm before.
///
/// As torch: the factor is `min(1, most / (norm + 1e-6))`.
///
/// # Errors
/// As [`norm`]; the gradients are left as they were.
pub fn clip(parameters: &mut [Parameter<'_>], most: f64) -> Result<f64, Error> {
    let norm = norm(parameters)?;
    let factor = most / (norm + 1e-6);
    if factor < 1.0 {
        scale(parameters, factor);
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::OwnedParameter;

    fn parameters() -> [OwnedParameter; 2] {
        let mut parameters = [OwnedParameter::new("a", [2], vec![0.0; 2]), OwnedParameter::new("b", [1], vec![0.0])];
        parameters[0].gradient = vec![3.0, 0.0];
        parameters[1].gradient = vec![-4.0];
        parameters
    }

    #[test]
    fn the_norm_is_of_all_gradients_together_and_only_a_longer_one_is_clipped() {
        let mut owned = parameters();
        let mut views: Vec<_> = owned.iter_mut().map(OwnedParameter::view).collect();
        assert_eq!(clip(&mut views, 6.0), Ok(5.0));
        assert_eq!(views[1].gradient, [-4.0]);
        assert_eq!(clip(&mut views, 1.0), Ok(5.0));
        assert!((norm(&views).unwrap() - 1.0).abs() < 1e-6);
        scale(&mut views, 2.0);
        assert!((norm(&views).unwrap() - 2.0).abs() < 1e-6);
        zero(&mut views);
        assert_eq!(norm(&views), Ok(0.0));
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut owned = parameters();
            owned[1].gradient[0] = bad;
            let mut views: Vec<_> = owned.iter_mut().map(OwnedParameter::view).collect();
            assert_eq!(clip(&mut views, 1.0), Err(Error::GradientNotFinite { name: "b".to_owned() }));
            assert_eq!(views[0].gradient, [3.0, 0.0]);
        }
    }
}
