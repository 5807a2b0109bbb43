//! Plain operations of our own, to see what the fast ones are worth: one thread a row, loops as the formula has them, left to
//! the compiler.

use std::time::Duration;

use rayon::prelude::*;
use turbowan_reference::attention::{Head, Mask, attend_rows};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;

use crate::bench::case;
use crate::bench::error::Error;
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// Partial sums, so that the compiler may use vectors.
const LANES: usize = 16;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `y = x w^T` in f32.
pub struct Linear {
    shape: case::Linear,
    x: Vec<f32>,
    weight: Vec<f32>,
    out: Vec<f32>,
}

impl Linear {
    pub fn new(shape: &case::Linear) -> Self {
        let (x, weight) = (normal(shape.rows * shape.input, 1), normal(shape.out * shape.input, 2));
        Self { shape: *shape, x, weight, out: vec![0.0; shape.rows * shape.out] }
    }
}

impl Work for Linear {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let case::Linear { out, input, .. } = self.shape;
        self.out.par_chunks_mut(out).zip(self.x.par_chunks(input)).for_each(|(to, x)| {
            to.iter_mut().zip(self.weight.chunks(input)).for_each(|(to, w)| *to = dot(x, w));
        });
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let case::Linear { rows: all, out, input } = self.shape;
        let rows = seeded_rows(all, rows);
        let want = turbowan_reference::gemm::linear(&gather(&self.x, input, &rows), &self.weight, None, input);
        Ok(Check::of(&gather(&self.out, out, &rows), &want, bound, "the f64 product"))
    }
}

/// Dense attention in f32, a row of scores at a time.
pub struct Attention {
    shape: case::Attention,
    qkv: [Vec<f32>; 3],
    out: Vec<f32>,
}

impl Attention {
    pub fn new(shape: &case::Attention) -> Self {
        let (queries, keys) = (shape.problems() * shape.len * shape.head_dim, shape.problems() * shape.key_len() * shape.head_dim);
        Self { shape: *shape, qkv: [normal(queries, 1), normal(keys, 2), normal(keys, 3)], out: vec![0.0; queries] }
    }
}

impl Work for Attention {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let (dim, len, keys) = (self.shape.head_dim, self.shape.len, self.shape.key_len());
        let [q, k, v] = &self.qkv;
        let scale = (dim as f32).powf(-0.5);
        self.out.par_chunks_mut(dim).enumerate().for_each(|(row, out)| {
            let (query, from) = (&q[row * dim..][..dim], row / len * keys * dim);
            let mut scores: Vec<f32> = k[from..][..keys * dim].chunks(dim).map(|key| scale * dot(query, key)).collect();
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - highest).exp());
            let sum: f32 = scores.iter().sum();
            out.fill(0.0);
            for (weight, value) in scores.iter().zip(v[from..][..keys * dim].chunks(dim)) {
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight / sum * value);
            }
        });
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (dim, len, keys) = (self.shape.head_dim, self.shape.len, self.shape.key_len());
        let [q, k, v] = &self.qkv;
        let rows = seeded_rows(len, rows);
        let head = Head { query: &q[..len * dim], key: &k[..keys * dim], value: &v[..keys * dim], head_dim: dim };
        Ok(Check::of(&gather(&self.out, dim, &rows), &attend_rows(head, Mask::None, &rows).out, bound, "f64 attention"))
    }
}
