//! Gradients of exact attention in f64, of a few rows: all of a head's would take hours at the lengths of videos.

use turbowan_reference::attention::Mask;

/// One head, `[len, dim]` each.
pub struct Head<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// Gradient of the output.
    pub gradient: &'a [f32],
    pub dim: usize,
    pub mask: Mask<'a>,
}

/// What the forward pass left of a head.
pub struct Left<'a> {
    /// `[query_len, dim]`.
    pub out: &'a [f32],
    /// Base-2 logarithms of the denominators.
    pub lse: &'a [f32],
}

impl Head<'_> {
    fn key_len(&self) -> usize {
        self.k.len() / self.dim
    }

    fn scale(&self) -> f64 {
        (self.dim as f64).powf(-0.5)
    }

    /// Of the queries `rows`, from nothing but the operands.
    pub fn of_queries(&self, rows: &[usize]) -> Vec<f64> {
        let (dim, scale) = (self.dim, self.scale());
        let mut out = Vec::with_capacity(rows.len() * dim);
        for &query in rows {
            let (q, gradient) = (row(self.q, query, dim), row(self.gradient, query, dim));
            let seen: Vec<usize> = (0..self.key_len()).filter(|key| self.mask.shows(query, *key, self.key_len())).collect();
            let scores: Vec<f64> = seen.iter().map(|key| dot(q, row(self.k, *key, dim)) * scale).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp() / sum).collect();
            let products: Vec<f64> = seen.iter().map(|key| dot(gradient, row(self.v, *key, dim))).collect();
            // the output times its gradient
            let delta: f64 = shares.iter().zip(&products).map(|(share, product)| share * product).sum();
            let mut found = vec![0.0; dim];
            for ((key, share), product) in seen.iter().zip(&shares).zip(&products) {
                add(&mut found, share * (product - delta) * scale, row(self.k, *key, dim));
            }
            out.extend(found);
        }
        out
    }

    /// Of the keys `rows` and of their values, from what the forward pass left: without it every row's denominator would
    /// have to be worked out.
    pub fn of_keys(&self, rows: &[usize], left: &Left<'_>) -> [Vec<f64>; 2] {
        let (dim, scale) = (self.dim, self.scale());
        let deltas: Vec<f64> = left.out.chunks(dim).zip(self.gradient.chunks(dim)).map(|(out, gradient)| dot(out, gradient)).collect();
        let (mut of_keys, mut of_values) = (Vec::new(), Vec::new());
        for &key in rows {
            let (k, v) = (row(self.k, key, dim), row(self.v, key, dim));
            let (mut of_key, mut of_value) = (vec![0.0; dim], vec![0.0; dim]);
            for (query, delta) in deltas.iter().enumerate().filter(|(query, _)| self.mask.shows(*query, key, self.key_len())) {
                let (q, gradient) = (row(self.q, query, dim), row(self.gradient, query, dim));
                let share = (dot(q, k) * scale - f64::from(left.lse[query]) * std::f64::consts::LN_2).exp();
                add(&mut of_value, share, gradient);
                add(&mut of_key, share * (dot(gradient, v) - delta) * scale, q);
            }
            of_keys.extend(of_key);
            of_values.extend(of_value);
        }
        [of_keys, of_values]
    }
}

fn row(values: &[f32], index: usize, dim: usize) -> &[f32] {
    &values[index * dim..][..dim]
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn add(to: &mut [f64], factor: f64, values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += factor * f64::from(*value));
}

#[cfg(test)]
mod tests {
    use turbowan_reference::inputs::normal;
    use turbowan_reference::sla::{self as truth, sparse_attention, sparse_backward};

    use super::*;
    use crate::bench::host::wide;

    #[test]
    fn a_few_rows_gradients_are_those_of_the_whole_head() {
        let (len, keys, dim) = (7, 9, 4);
        let [q, k, v, gradient] = [(len, 1), (keys, 2), (keys, 3), (len, 4)].map(|(rows, seed)| normal(rows * dim, seed));
        let shape = truth::Head { query_len: len, key_len: keys, dim };
        let lists = truth::BlockLists { block_q: 4, block_k: 3, lists: vec![vec![0, 2], vec![1]] };
        let kept = [true, false, true, false, true, false];
        let mask = Mask::Blocks { block_q: 4, block_k: 3, kept: &kept };
        let [wide_q, wide_k, wide_v, wide_gradient] = [&q, &k, &v, &gradient].map(|values| wide(values));
        let forward = sparse_attention(&wide_q, &wide_k, &wide_v, shape, Some(&lists), shape.scale(), false);
        let want = sparse_backward(&wide_q, &wide_k, &wide_v, &wide_gradient, shape, Some(&lists), shape.scale(), false);
        let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<_>>();
        let (out, lse) = (narrow(&forward.out), narrow(&forward.lse));
        let head = Head { q: &q, k: &k, v: &v, gradient: &gradient, dim, mask };
        let close = |got: &[f64], want: &[f64]| got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-5);
        assert!(close(&head.of_queries(&[0, 6]), &[&want.q[..dim], &want.q[6 * dim..]].concat()));
        let [of_keys, of_values] = head.of_keys(&[2, 8], &Left { out: &out, lse: &lse });
        for (got, want) in [(of_keys, want.k), (of_values, want.v)] {
            assert!(close(&got, &[&want[2 * dim..3 * dim], &want[8 * dim..]].concat()));
        }
    }
}
