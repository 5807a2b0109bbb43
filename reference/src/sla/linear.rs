//! The linear branch: attention with a kernel feature map, linear in the length, over all keys.
//!
//! ```text
//! H    = φ(k)ᵀ v            [D, D]
//! z    = Σ_j φ(k_j)         [D]
//! o_i  = φ(q_i) H / (1e-5 + φ(q_i) · z)
//! ```
//!
//! Source: TurboDiffusion `turbodiffusion/SLA/core.py`, `calc_linear`; the gradient is its derivative.

use super::{Head, Projection, dot};

/// What the official code adds to the denominator.
pub const DENOMINATOR_FLOOR: f64 = 1e-5;

/// The feature map φ, the same for queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureMap {
    /// Softmax over the channels.
    Softmax,
    /// `elu(x) + 1`.
    Elu,
    /// `max(x, 0)`.
    Relu,
}

impl FeatureMap {
    /// Every map.
    pub const ALL: [Self; 3] = [Self::Softmax, Self::Elu, Self::Relu];

    /// φ of one row.
    pub fn apply(self, row: &[f64]) -> Vec<f64> {
        match self {
            Self::Softmax => {
                let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
                row.iter().map(|x| (x - max).exp() / sum).collect()
            }
            Self::Elu => row.iter().map(|x| if *x > 0.0 { x + 1.0 } else { x.exp() }).collect(),
            Self::Relu => row.iter().map(|x| x.max(0.0)).collect(),
        }
    }

    /// The gradient of `row` from the gradient of its features.
    fn pull_back(self, row: &[f64], gradient: &[f64]) -> Vec<f64> {
        let features = self.apply(row);
        match self {
            Self::Softmax => {
                let mean = dot(&features, gradient);
                features.iter().zip(gradient).map(|(c, g)| c * (g - mean)).collect()
            }
            Self::Elu => row.iter().zip(gradient).map(|(x, g)| if *x > 0.0 { *g } else { x.exp() * g }).collect(),
            Self::Relu => row.iter().zip(gradient).map(|(x, g)| if *x > 0.0 { *g } else { 0.0 }).collect(),
        }
    }
}

/// Sums over all keys: `H` and `z`.
struct State {
    outer: Vec<f64>,
    sum: Vec<f64>,
}

impl State {
    fn of(k: &[f64], v: &[f64], dim: usize, feature: FeatureMap) -> Self {
        let mut state = Self { outer: vec![0.0; dim * dim], sum: vec![0.0; dim] };
        for (k, v) in k.chunks(dim).zip(v.chunks(dim)) {
            for (d, c) in feature.apply(k).into_iter().enumerate() {
                state.sum[d] += c;
                state.outer[d * dim..][..dim].iter_mut().zip(v).for_each(|(outer, v)| *outer += c * v);
            }
        }
        state
    }

    /// Numerator and denominator of one row of features.
    fn read(&self, features: &[f64]) -> (Vec<f64>, f64) {
        let dim = features.len();
        let numerator = (0..dim).map(|e| (0..dim).map(|d| features[d] * self.outer[d * dim + e]).sum()).collect();
        (numerator, DENOMINATOR_FLOOR + dot(features, &self.sum))
    }
}

/// `o_l` before the projection, `[query_len, dim]`.
pub fn linear_branch(q: &[f64], k: &[f64], v: &[f64], head: Head, feature: FeatureMap) -> Vec<f64> {
    let state = State::of(k, v, head.dim, feature);
    let mut out = Vec::with_capacity(q.len());
    for q in q.chunks(head.dim) {
        let (numerator, denominator) = state.read(&feature.apply(q));
        out.extend(numerator.into_iter().map(|value: f64| value / denominator));
    }
    out
}

/// Gradients of the linear branch and its projection.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearGradients {
    /// `[query_len, dim]`.
    pub q: Vec<f64>,
    /// `[key_len, dim]`.
    pub k: Vec<f64>,
    /// `[key_len, dim]`.
    pub v: Vec<f64>,
    /// `[dim, dim]`.
    pub weight: Vec<f64>,
    /// `[dim]`.
    pub bias: Vec<f64>,
}

/// Gradients for `out_gradient` = d loss / d (o_l Wᵀ + b).
pub fn linear_backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    out_gradient: &[f64],
    head: Head,
    feature: FeatureMap,
    projection: Projection<'_>,
) -> LinearGradients {
    let dim = head.dim;
    let state = State::of(k, v, dim, feature);
    let mut gradients = LinearGradients {
        q: Vec::with_capacity(q.len()),
        k: Vec::with_capacity(k.len()),
        v: Vec::with_capacity(v.len()),
        weight: vec![0.0; dim * dim],
        bias: vec![0.0; dim],
    };
    let mut state_gradient = State { outer: vec![0.0; dim * dim], sum: vec![0.0; dim] };
    for (q, out_gradient) in q.chunks(dim).zip(out_gradient.chunks(dim)) {
        let features = feature.apply(q);
        let (numerator, denominator) = state.read(&features);
        let out: Vec<f64> = numerator.iter().map(|value| value / denominator).collect();
        for (o, g) in out_gradient.iter().enumerate() {
            gradients.bias[o] += g;
            (0..dim).for_each(|i| gradients.weight[o * dim + i] += g * out[i]);
        }
        let branch_gradient: Vec<f64> =
            (0..dim).map(|i| (0..dim).map(|o| out_gradient[o] * projection.weight[o * dim + i]).sum()).collect();
        let numerator_gradient: Vec<f64> = branch_gradient.iter().map(|g| g / denominator).collect();
        let denominator_gradient = -dot(&branch_gradient, &out) / denominator;
        let mut feature_gradient = vec![0.0; dim];
        for d in 0..dim {
            feature_gradient[d] = dot(&numerator_gradient, &state.outer[d * dim..][..dim]) + denominator_gradient * state.sum[d];
            state_gradient.sum[d] += denominator_gradient * features[d];
            (0..dim).for_each(|e| state_gradient.outer[d * dim + e] += features[d] * numerator_gradient[e]);
        }
        gradients.q.extend(feature.pull_back(q, &feature_gradient));
    }
    for (k, v) in k.chunks(dim).zip(v.chunks(dim)) {
        let features = feature.apply(k);
        let feature_gradient: Vec<f64> =
            (0..dim).map(|d| dot(v, &state_gradient.outer[d * dim..][..dim]) + state_gradient.sum[d]).collect();
        gradients.k.extend(feature.pull_back(k, &feature_gradient));
        gradients.v.extend((0..dim).map(|e| (0..dim).map(|d| features[d] * state_gradient.outer[d * dim + e]).sum::<f64>()));
    }
    gradients
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_what_their_names_say() {
        let row = [-1.0, 0.0, 2.0];
        assert!((FeatureMap::Softmax.apply(&row).iter().sum::<f64>() - 1.0).abs() < 1e-15);
        assert_eq!(FeatureMap::Elu.apply(&row), vec![(-1.0f64).exp(), 1.0, 3.0]);
        assert_eq!(FeatureMap::Relu.apply(&row), vec![0.0, 0.0, 2.0]);
    }

    #[test]
    fn one_constant_value_is_returned_up_to_the_floor() {
        let head = Head { query_len: 2, key_len: 3, dim: 2 };
        let got = linear_branch(&[0.3, -0.2, 1.0, 2.0], &[0.1, 0.4, -1.0, 0.2, 0.0, 0.5], &[2.0; 6], head, FeatureMap::Elu);
        assert!(got.iter().all(|value| (value - 2.0).abs() < 2e-5), "{got:?}");
    }
}
