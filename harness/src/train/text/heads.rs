//! Linear heads, one an attribute, that read it from one row.

use turbowan_wan_model::backend::tape::Parameters;

/// Attributes and how many values each has.
pub(super) const ATTRIBUTES: [(&str, usize); 4] = [("shape", 4), ("colour", 6), ("background", 4), ("motion", 8)];

/// A weight `[values, width]` and a bias `[values]` for each attribute.
pub(super) struct Heads {
    width: usize,
    parameters: Parameters,
}

impl Heads {
    /// Heads that know nothing: all zero.
    pub(super) fn new(width: usize) -> Self {
        let mut parameters = Parameters::default();
        for (name, values) in ATTRIBUTES {
            parameters.push(format!("heads.{name}.weight"), vec![values, width], vec![0.0; values * width]);
            parameters.push(format!("heads.{name}.bias"), vec![values], vec![0.0; values]);
        }
        Self { width, parameters }
    }

    /// Heads with the parameters of others.
    pub(super) fn with(parameters: Parameters, width: usize) -> Self {
        Self { width, parameters }
    }

    pub(super) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The value of each attribute that `row` `[width]` speaks for most.
    pub(super) fn read(&self, row: &[f32]) -> [usize; ATTRIBUTES.len()] {
        let mut told = [0; ATTRIBUTES.len()];
        for (told, logits) in told.iter_mut().zip(self.logits(row)) {
            *told = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(index, _)| index);
        }
        told
    }

    /// `share` times the sum of the attributes' cross-entropies against `asked`, and its gradient with respect to `row`; those of the
    /// parameters are added to what they hold.
    pub(super) fn loss(&mut self, row: &[f32], asked: [usize; ATTRIBUTES.len()], share: f64) -> (f64, Vec<f32>) {
        let mut loss = 0.0;
        let mut of_row = vec![0.0; row.len()];
        for ((logits, asked), head) in self.logits(row).into_iter().zip(asked).zip(0..) {
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
            loss += share * (sum.ln() + most - logits[asked]);
            let hit = |value: usize| if value == asked { 1.0 } else { 0.0 };
            let of_logits: Vec<f32> =
                logits.iter().enumerate().map(|(value, logit)| (share * ((logit - most).exp() / sum - hit(value))) as f32).collect();
            self.backward(head, row, &of_logits, &mut of_row);
        }
        (loss, of_row)
    }

    fn backward(&mut self, head: usize, row: &[f32], of_logits: &[f32], of_row: &mut [f32]) {
        let mut parameters = self.parameters.iter_mut().skip(2 * head);
        if let Some((values, gradient)) = parameters.next().map(|weight| weight.values_and_gradient()) {
            let rows = values.chunks_exact(row.len()).zip(gradient.chunks_exact_mut(row.len()));
            for ((weight, gradient), g) in rows.zip(of_logits) {
                gradient.iter_mut().zip(row).for_each(|(sum, x)| *sum += g * x);
                of_row.iter_mut().zip(weight).for_each(|(sum, w)| *sum += g * w);
            }
        }
        if let Some(bias) = parameters.next() {
            bias.gradient_mut().iter_mut().zip(of_logits).for_each(|(sum, g)| *sum += g);
        }
    }

    fn logits(&self, row: &[f32]) -> Vec<Vec<f64>> {
        let all: Vec<_> = self.parameters.iter().collect();
        let dot = |weight: &[f32]| weight.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        let head = |pair: &[&turbowan_wan_model::backend::tape::Parameter]| {
            let rows = pair[0].values().chunks_exact(self.width);
            rows.zip(pair[1].values()).map(|(weight, bias)| dot(weight) + f64::from(*bias)).collect()
        };
        all.chunks_exact(2).map(head).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_rcm::Stream;
    use turbowan_world::{Background, Colour, Motion, Shape};

    #[test]
    fn attributes_have_as_many_values_as_in_the_world() {
        let world = [Shape::ALL.len(), Colour::ALL.len(), Background::ALL.len(), Motion::ALL.len()];
        assert_eq!(ATTRIBUTES.map(|(_, values)| values), world);
    }

    #[test]
    fn gradients_match_differences_of_the_loss() {
        let (asked, width) = ([1, 5, 0, 7], 3);
        let mut noise = Stream::new(4);
        let mut heads = Heads::new(width);
        for parameter in heads.parameters.iter_mut() {
            let values = noise.normals(parameter.values().len());
            parameter.values_mut().copy_from_slice(&values);
        }
        let row = noise.normals(width);
        let (_, of_row) = heads.loss(&row, asked, 0.5);
        let step = 1e-2;
        let close = |name: &str, got: f32, ahead: f64, behind: f64| {
            let want = (ahead - behind) / (2.0 * f64::from(step));
            // A central difference of 1e-2 is off by its square.
            assert!((f64::from(got) - want).abs() < 2e-4, "{name}: got {got}, want {want}");
        };
        for (index, got) in of_row.iter().enumerate() {
            let mut moved = |by: f32| {
                let mut row = row.clone();
                row[index] += by;
                heads.loss(&row, asked, 0.5).0
            };
            let (ahead, behind) = (moved(step), moved(-step));
            close("row", *got, ahead, behind);
        }
        heads.parameters.zero_gradients();
        heads.loss(&row, asked, 0.5);
        let gradients: Vec<(String, Vec<f32>)> = heads.parameters.iter().map(|p| (p.name().to_owned(), p.gradient().to_vec())).collect();
        for (name, gradient) in gradients {
            for (index, got) in gradient.iter().enumerate() {
                let mut moved = |by: f32| {
                    heads.parameters.get_mut(&name).unwrap().values_mut()[index] += by;
                    let loss = heads.loss(&row, asked, 0.5).0;
                    heads.parameters.get_mut(&name).unwrap().values_mut()[index] -= by;
                    loss
                };
                let (ahead, behind) = (moved(step), moved(-step));
                close(&name, *got, ahead, behind);
            }
        }
    }
}
