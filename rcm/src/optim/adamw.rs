//! Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), rounded as torch's `AdamW` rounds.
//!
//! ```text
//! p <- p (1 - rate decay)
//! m <- m + (1 - beta1) (g - m)
//! v <- beta2 v + (1 - beta2) g^2
//! p <- p - rate / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
//! ```
//!
//! Lone numbers are worked out in f64 and rounded to f32 once; values are f32.

use rayon::prelude::*;

use super::CHUNK;

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Memory of the first and the second moment, each in `[0, 1)`.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter that a step at rate 1 takes away.
    pub decay: f64,
}

impl AdamW {
    /// Sparse-linear alignment: betas 0.9 and 0.999, decay 0.01 (`rcm/configs/experiments/sla/wan2pt1_t2v.py`; its rate is 1e-5).
    pub const ALIGNMENT: Self = Self { betas: (0.9, 0.999), epsilon: 1e-8, decay: 0.01 };

    /// rCM's student and critic: no first moment (`rcm/configs/experiments/rcm/wan2pt1_t2v.py`; rates 2e-6 and 4e-7).
    pub const DISTILLATION: Self = Self { betas: (0.0, 0.999), epsilon: 1e-8, decay: 0.01 };

    /// Update `step`, counted from 1, of one tensor.
    pub(super) fn step(&self, step: u64, rate: f64, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let (beta1, beta2) = self.betas;
        let power = |beta: f64| 1.0 - beta.powf(step as f64);
        let numbers = Numbers {
            keep: (1.0 - rate * self.decay) as f32,
            weight: 1.0 - beta1,
            beta2: beta2 as f32,
            square: (1.0 - beta2) as f32,
            root: power(beta2).sqrt() as f32,
            epsilon: self.epsilon as f32,
            size: (rate / power(beta1)) as f32,
        };
        let parts = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        let parts = parts.zip(first.par_chunks_mut(CHUNK)).zip(second.par_chunks_mut(CHUNK));
        parts.for_each(|(((values, gradient), first), second)| numbers.update(values, gradient, first, second));
    }
}

/// What is alike for every value of a step.
struct Numbers {
    keep: f32,
    weight: f64,
    beta2: f32,
    square: f32,
    root: f32,
    epsilon: f32,
    size: f32,
}

impl Numbers {
    fn update(&self, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        // As torch's `lerp`: from the nearer end, so that a weight of 1 gives the gradient itself.
        let (near_start, weight, rest) = (self.weight < 0.5, self.weight as f32, (1.0 - self.weight) as f32);
        for (((value, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            *m = if near_start { *m + weight * (g - *m) } else { g - (g - *m) * rest };
            *v = *v * self.beta2 + self.square * (g * g);
            let denominator = v.sqrt() / self.root + self.epsilon;
            *value = *value * self.keep - self.size * (*m / denominator);
        }
    }
}
