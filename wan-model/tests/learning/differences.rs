//! Gradients of a whole network against differences of its loss.

use turbowan_reference::inputs::normal;
use turbowan_wan_model::backend::tape::Parameters;
use turbowan_wan_model::config::TensorSpec;

/// Steps along a unit direction, as shares of the length of the values. A long one is exact where the loss is smooth (the
/// five-point rule), a short one where it bends or where a block map changes further out; below, the rounding of an `f32`
/// forward pass (1e-6 of the loss) takes over. One of them must find the gradient; a wrong one is found by none.
const STEPS: [f64; 4] = [0.02, 0.007, 0.0025, 0.0009];
/// Largest error of a directional derivative, as a share of the gradient's length: what rounding leaves at that step.
/// A missing or doubled term shows as 0.1 and more.
pub const BOUND: f64 = 2e-3;
/// A gradient that changes the loss by less than this share of what the strongest does is held to that share: its
/// differences drown in the rounding of the loss.
const FLOOR: f64 = 1e-3;

/// Seeded parameters: weights keep the size of what they multiply, norms and biases are near one and zero but not at them.
pub fn parameters(specs: &[TensorSpec], seed: u64) -> Parameters {
    let mut parameters = Parameters::default();
    for (index, TensorSpec { name, shape }) in specs.iter().enumerate() {
        let count: usize = shape.iter().product();
        let (mean, spread) = match shape.len() {
            1 if name.contains("norm") && name.ends_with("weight") => (1.0, 0.2),
            1 => (0.0, 0.2),
            2 => (0.0, (shape[1] as f32).powf(-0.5)),
            _ => (0.0, 0.3),
        };
        let values = normal(count, seed * 1000 + index as u64).iter().map(|value| mean + spread * value).collect();
        parameters.push(name.clone(), shape.clone(), values);
    }
    parameters
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Holds the gradients of every parameter against differences of `loss`, along the gradient itself (which finds a wrong
/// length, or a part that points elsewhere) and along a random direction (which finds a missing part), to within `bound`. `at` gives the
/// parameters to be changed, `loss` the loss as they are then. Gives back the largest error.
pub fn check<N>(network: &mut N, at: impl Fn(&mut N) -> &mut Parameters, loss: impl Fn(&mut N) -> f64, bound: f64) -> f64 {
    let found: Vec<(String, Vec<f32>, Vec<f64>)> = at(network)
        .iter()
        .map(|p| (p.name().to_owned(), p.values().to_vec(), p.gradient().iter().map(|g| f64::from(*g)).collect()))
        .collect();
    let longest = found.iter().map(|(_, values, gradient)| length(gradient) * size(values)).fold(0.0, f64::max);
    let mut worst = 0.0f64;
    for (index, (name, values, gradient)) in found.iter().enumerate() {
        let total = length(gradient);
        let scale = total.max(FLOOR * longest / size(values));
        assert!(total > 0.0, "{name} has no gradient");
        for turn in 0..2u64 {
            let mut direction = gradient.clone();
            if turn > 0 {
                direction = normal(values.len(), 77 * index as u64 + turn).iter().map(|x| f64::from(*x)).collect();
            }
            let norm = length(&direction);
            direction.iter_mut().for_each(|x| *x /= norm);
            let mut moved = |step: f64| {
                let to = at(network).get_mut(name).unwrap().values_mut();
                for ((to, value), d) in to.iter_mut().zip(values).zip(&direction) {
                    *to = (f64::from(*value) + step * d) as f32;
                }
                loss(network)
            };
            let along: f64 = direction.iter().zip(gradient).map(|(d, g)| d * g).sum();
            let mut slopes = Vec::new();
            let mut error = f64::INFINITY;
            for share in STEPS {
                let step = share * size(values);
                let slope = (8.0 * (moved(step) - moved(-step)) - (moved(2.0 * step) - moved(-2.0 * step))) / (12.0 * step);
                slopes.push(slope);
                error = error.min((slope - along).abs() / scale);
                if error < bound {
                    break;
                }
            }
            moved(0.0);
            assert!(error < bound, "{name}, direction {turn}: differences give {slopes:?}, the gradient {along:e} of {total:e}");
            worst = worst.max(error);
        }
    }
    worst
}

fn size(values: &[f32]) -> f64 {
    length(&values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>())
}
