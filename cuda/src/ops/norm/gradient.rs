//! Gradients of layer norm and RMS norm with what is fused to them, on the host.
//!
//! ```text
//! layer norm   y = x^ f + t,  x^ = (x - m) i,  i = 1 / sqrt(v + eps)          f = 1 + scale or weight
//!              g = dy f,  G = sum g,  S = sum g (x - m)
//!              dx = i (g - G / W) - i^3 S / W ((x - m) + p m / W)             p: padded columns of the fast variance
//!              df = sum_r dy x^,  dt = sum_r dy
//! RMS norm     y = x i w,  i = 1 / sqrt(mean(x^2) + eps),  g = dy w
//!              dx = i (g - x i^2 mean(g x)),  dw = sum_r dy x i
//! ```
//!
//! Statistics are worked out again from `x`, in the lanes of the forward pass. Sums over rows run in chunks of a fixed
//! length that are added in order.

use std::ops::Range;

use super::{LANES, LayerNorm, LayerNormRule, RmsNorm, rows_of, sum};
use crate::Error;
use crate::host::par::Shared;
use crate::host::vectorised::{self, Vectorised};
use crate::host::{Isa, sums};

/// What a normed row is multiplied by.
#[derive(Debug, Clone, Copy)]
pub enum Factor<'a> {
    /// One more than `scale [groups, width]`; row `r` is of group `r / rows_per_group`.
    OnePlus {
        /// The table.
        scale: &'a [f32],
        /// Rows that share a row of it.
        rows_per_group: usize,
    },
    /// `weight [width]`.
    Weight(&'a [f32]),
}

/// Gradients of the two tables of a layer norm: they are added to.
#[derive(Debug)]
pub struct TableGradients<'a> {
    /// Of shift or bias, `[groups, width]`.
    pub added: &'a mut [f32],
    /// Of scale or weight, `[groups, width]`.
    pub factor: &'a mut [f32],
}

/// Gradients of `LN(x) * factor + added` for the gradient `dy` of its result: `dx` is written, or added to.
///
/// # Errors
/// When a slice does not fit `norm.width` or the number of rows.
pub fn layer_norm_gradient(
    norm: &LayerNorm,
    x: &[f32],
    factor: Factor<'_>,
    dy: &[f32],
    adds: bool,
    dx: &mut [f32],
    tables: TableGradients<'_>,
) -> Result<(), Error> {
    let (width, rows) = (norm.width, rows_of("layer norm input", x, norm.width)?);
    Error::expect_len("layer norm output gradient", dy, x.len())?;
    Error::expect_len("layer norm input gradient", dx, x.len())?;
    let rows_per_group = match factor {
        Factor::Weight(weight) => {
            Error::expect_len("layer norm weight", weight, width)?;
            rows.max(1)
        }
        Factor::OnePlus { rows_per_group: 0, .. } => {
            return Err(Error::Size { what: "rows of a modulation group", must: "at least 1", found: 0 });
        }
        Factor::OnePlus { scale, rows_per_group } => {
            Error::expect_len("modulation scale", scale, rows.div_ceil(rows_per_group) * width)?;
            rows_per_group
        }
    };
    let values = rows.div_ceil(rows_per_group) * width;
    Error::expect_len("gradient of what is added", tables.added, values)?;
    Error::expect_len("gradient of the factor", tables.factor, values)?;
    let (isa, norm, dx) = (Isa::detect(), *norm, Shared::new(dx));
    let body = |rows: Range<usize>, sums: &mut [f32]| {
        let range = rows.start * width..rows.end * width;
        let (one, factor) = match factor {
            Factor::OnePlus { scale, rows_per_group } => (1.0, &scale[rows.start / rows_per_group * width..][..width]),
            Factor::Weight(weight) => (0.0, weight),
        };
        // SAFETY: rows belong to one task each.
        let dx = unsafe { dx.part(range.start, range.len()) };
        vectorised::run(isa, LayerNormRows { norm, x: &x[range.clone()], one, factor, dy: &dy[range], adds, dx, sums });
    };
    sums::over_rows(rows, rows_per_group, 2 * width, body, |group, sums| {
        let (added, factor) = sums.split_at(width);
        sums::add(&mut tables.added[group * width..], added);
        sums::add(&mut tables.factor[group * width..], factor);
    });
    Ok(())
}

/// Gradients of `RMS(x) * weight`: `gradient` holds that of the result and becomes that of `x`; `dw` is added to.
///
/// # Errors
/// When a slice does not fit `norm.width`.
pub fn rms_norm_gradient(norm: &RmsNorm, x: &[f32], weight: &[f32], gradient: &mut [f32], dw: &mut [f32]) -> Result<(), Error> {
    let (width, rows) = (norm.width, rows_of("RMS norm input", x, norm.width)?);
    Error::expect_len("RMS norm gradient", gradient, x.len())?;
    Error::expect_len("RMS norm weight", weight, width)?;
    Error::expect_len("RMS norm weight gradient", dw, width)?;
    let (isa, eps, gradient) = (Isa::detect(), norm.eps, Shared::new(gradient));
    let body = |rows: Range<usize>, sums: &mut [f32]| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: rows belong to one task each.
        let gradient = unsafe { gradient.part(range.start, range.len()) };
        vectorised::run(isa, RmsRows { eps, x: &x[range], weight, gradient, sums });
    };
    sums::over_rows(rows, rows, width, body, |_, sums| sums::add(dw, sums));
    Ok(())
}

/// Adds up `term` over two rows in the lanes of [`sum`].
#[inline(always)]
fn sum_of_two(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += term(*a, *b);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += term(*a, *b);
    }
    sum(&lanes, |lane| lane)
}

struct LayerNormRows<'a> {
    norm: LayerNorm,
    x: &'a [f32],
    one: f32,
    factor: &'a [f32],
    dy: &'a [f32],
    adds: bool,
    dx: &'a mut [f32],
    /// `dt`, then `df`.
    sums: &'a mut [f32],
}

impl Vectorised for LayerNormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { norm: LayerNorm { width, rule, eps, .. }, x, one, factor, dy, adds, dx, sums } = self;
        let padding = match rule {
            LayerNormRule::Standard => 0.0,
            LayerNormRule::Padded => (width.next_power_of_two() - width) as f32,
        };
        let (d_added, d_factor) = sums.split_at_mut(width);
        let mut g = vec![0.0; width];
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let mean = sum(x, |x| x) / width as f32;
            let squares = sum(x, |x| (x - mean) * (x - mean)) + padding * mean * mean;
            let inverse = 1.0 / (squares / width as f32 + eps).sqrt();
            for ((g, dy), factor) in g.iter_mut().zip(dy).zip(factor) {
                *g = dy * (one + factor);
            }
            let mean_g = sum(&g, |g| g) / width as f32;
            let along = sum_of_two(&g, x, |g, x| g * (x - mean)) / width as f32 * inverse * inverse;
            let shift = padding * mean / width as f32 - mean;
            for ((dx, g), x) in dx.iter_mut().zip(&g).zip(x) {
                let value = inverse * (g - mean_g - along * (x + shift));
                *dx = if adds { *dx + value } else { value };
            }
            for (((d_added, d_factor), dy), x) in d_added.iter_mut().zip(&mut *d_factor).zip(dy).zip(x) {
                *d_added += dy;
                *d_factor += dy * ((x - mean) * inverse);
            }
        }
    }
}

struct RmsRows<'a> {
    eps: f32,
    x: &'a [f32],
    weight: &'a [f32],
    gradient: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Vectorised for RmsRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { eps, x, weight, gradient, sums } = self;
        let width = weight.len();
        for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
            let inverse = 1.0 / (sum(x, |x| x * x) / width as f32 + eps).sqrt();
            for (((sum, gradient), x), weight) in sums.iter_mut().zip(gradient.iter_mut()).zip(x).zip(weight) {
                *sum += *gradient * (x * inverse);
                *gradient *= weight;
            }
            let along = sum_of_two(gradient, x, |g, x| g * x) / width as f32 * inverse * inverse;
            for (gradient, x) in gradient.iter_mut().zip(x) {
                *gradient = inverse * (*gradient - x * along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rounding;
    use crate::ops::norm::RmsRule;
    use turbowan_reference::inputs::{self, Kind};
    use turbowan_reference::metrics::{Bound, Verdict};
    use turbowan_reference::norm as truth;
    use turbowan_reference::slope::{self, weighted};

    /// Rows and widths that leave tails, more rows than a chunk of sums.
    const SHAPES: [(usize, usize, usize); 5] = [(1, 5, 1), (3, 17, 2), (7, 33, 3), (2, 64, 1), (70, 6, 70)];
    /// A gradient of a norm is what is left after two projections: a digit or two of the 24 bits go.
    const CLOSE: Bound = Bound { max_abs: None, relative_l2: Some(1e-5), cosine: None };

    #[test]
    fn layer_norm_matches_differences_of_the_oracle_under_both_rules() {
        for (rows, width, per_group) in SHAPES {
            for kind in [Kind::Plain, Kind::Biased, Kind::OutlierChannel] {
                for (rule, is_padded) in [(LayerNormRule::Standard, false), (LayerNormRule::Padded, true)] {
                    let case = format!("{rows} x {width} {kind:?} {rule:?}");
                    let x = slope::grid(&inputs::rows(kind, rows, width, 1));
                    let dy = inputs::normal(x.len(), 2);
                    let groups = rows.div_ceil(per_group);
                    let [shift, scale] = [3, 4].map(|seed| slope::grid(&inputs::normal(groups * width, seed)));
                    let norm = LayerNorm { width, rule, eps: 1e-2, rounding: Rounding::None };
                    let loss = |x: &[f32], shift: &[f32], scale: &[f32]| {
                        weighted(&truth::layer_norm_modulate(x, width, is_padded, f64::from(norm.eps), (shift, scale, per_group)), &dy)
                    };
                    let mut dx = vec![1.0; x.len()];
                    let (mut added, mut factor) = (vec![0.0; shift.len()], vec![0.0; scale.len()]);
                    let tables = TableGradients { added: &mut added, factor: &mut factor };
                    let how = Factor::OnePlus { scale: &scale, rows_per_group: per_group };
                    layer_norm_gradient(&norm, &x, how, &dy, true, &mut dx, tables).unwrap();
                    let want: Vec<f64> = slope::gradient(&x, |x| loss(x, &shift, &scale)).iter().map(|d| d + 1.0).collect();
                    Verdict::of(&dx, &want, CLOSE).demand(&case);
                    Verdict::of(&added, &slope::gradient(&shift, |shift| loss(&x, shift, &scale)), CLOSE).demand(&case);
                    Verdict::of(&factor, &slope::gradient(&scale, |scale| loss(&x, &shift, scale)), CLOSE).demand(&case);
                }
            }
        }
    }

    #[test]
    fn a_weight_is_one_more_than_a_scale_of_all_rows() {
        let (rows, width) = (5, 19);
        let (x, dy, scale) = (inputs::normal(rows * width, 1), inputs::normal(rows * width, 2), inputs::normal(width, 3));
        let weight: Vec<f32> = scale.iter().map(|scale| 1.0 + scale).collect();
        let norm = LayerNorm { width, rule: LayerNormRule::Standard, eps: 1e-6, rounding: Rounding::None };
        let run = |factor| {
            let (mut dx, mut a, mut f) = (vec![f32::NAN; x.len()], vec![0.0; width], vec![0.0; width]);
            let tables = TableGradients { added: &mut a, factor: &mut f };
            layer_norm_gradient(&norm, &x, factor, &dy, false, &mut dx, tables).unwrap();
            (dx, a, f)
        };
        assert_eq!(run(Factor::Weight(&weight)), run(Factor::OnePlus { scale: &scale, rows_per_group: rows }));
    }

    #[test]
    fn rms_norm_matches_differences_of_the_oracle() {
        for (rows, width, _) in SHAPES {
            for kind in [Kind::Plain, Kind::Biased, Kind::OutlierChannel] {
                let x = slope::grid(&inputs::rows(kind, rows, width, 1));
                let (weight, dy) = (slope::grid(&inputs::normal(width, 2)), inputs::normal(x.len(), 3));
                let norm = RmsNorm { width, rule: RmsRule::Standard, eps: 1e-2, rounding: Rounding::None };
                let loss = |x: &[f32], weight: &[f32]| weighted(&truth::rms_norm(x, width, f64::from(norm.eps), weight), &dy);
                let (mut dx, mut dw) = (dy.clone(), vec![0.0; width]);
                rms_norm_gradient(&norm, &x, &weight, &mut dx, &mut dw).unwrap();
                let case = format!("{rows} x {width} {kind:?}");
                Verdict::of(&dx, &slope::gradient(&x, |x| loss(x, &weight)), CLOSE).demand(&case);
                Verdict::of(&dw, &slope::gradient(&weight, |weight| loss(&x, weight)), CLOSE).demand(&case);
            }
        }
    }

    #[test]
    fn a_row_of_zeros_has_finite_gradients_and_threads_change_nothing() {
        let (rows, width) = (300, 40);
        let mut x = inputs::normal(rows * width, 1);
        x[..width].fill(0.0);
        let (dy, weight) = (inputs::normal(rows * width, 2), inputs::normal(width, 3));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let rms = RmsNorm { width, rule: RmsRule::Fast, eps: 1e-6, rounding: Rounding::None };
                let (mut rms_dx, mut rms_dw) = (dy.clone(), vec![0.0; width]);
                rms_norm_gradient(&rms, &x, &weight, &mut rms_dx, &mut rms_dw).unwrap();
                let norm = LayerNorm { width, rule: LayerNormRule::Standard, eps: 1e-6, rounding: Rounding::None };
                let (mut dx, mut a, mut f) = (vec![0.0; x.len()], vec![0.0; width], vec![0.0; width]);
                let tables = TableGradients { added: &mut a, factor: &mut f };
                layer_norm_gradient(&norm, &x, Factor::Weight(&weight), &dy, false, &mut dx, tables).unwrap();
                [rms_dx, rms_dw, dx, a, f]
            })
        };
        let one = run(1);
        assert!(one.iter().flatten().all(|value| value.is_finite()));
        assert_eq!(one, run(3));
    }

    #[test]
    fn slices_that_do_not_fit_are_refused() {
        let norm = LayerNorm { width: 3, rule: LayerNormRule::Standard, eps: 1e-6, rounding: Rounding::None };
        let run = |factor, dy: &[f32], values: usize| {
            let (mut dx, mut a, mut f) = ([0.0; 6], vec![0.0; values], vec![0.0; values]);
            layer_norm_gradient(&norm, &[1.0; 6], factor, dy, false, &mut dx, TableGradients { added: &mut a, factor: &mut f })
        };
        let scale = [0.0; 6];
        assert!(run(Factor::OnePlus { scale: &scale, rows_per_group: 1 }, &[0.0; 6], 6).is_ok());
        assert!(run(Factor::OnePlus { scale: &scale, rows_per_group: 0 }, &[0.0; 6], 6).is_err());
        assert!(run(Factor::OnePlus { scale: &scale, rows_per_group: 2 }, &[0.0; 6], 3).is_err());
        assert!(run(Factor::Weight(&scale), &[0.0; 6], 3).is_err());
        assert!(run(Factor::Weight(&scale[..3]), &[0.0; 5], 3).is_err());
        assert!(run(Factor::Weight(&scale[..3]), &[0.0; 6], 6).is_err());
    }
}
