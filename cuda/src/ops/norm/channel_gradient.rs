//! Gradients of the autoencoder's norm, on the host.
//!
//! ```text
//! y = f(u),  u = n gamma,  n = x^ sqrt(C),  x^ = x / max(|x|, 1e-12)          f: nothing or SiLU
//! du = dy f'(u),  dgamma = sum_r du n,  g = du gamma
//! dx = sqrt(C) / |x| (g - x^ (g . x^))
//! ```
//!
//! A pixel has few channels, so everything but the two sums of a pixel runs over a chunk of pixels as one long row, with `gamma`
//! repeated to its length.

use super::{ChannelNormThen, rows_of};
use crate::Error;
use crate::host::par::Shared;
use crate::host::vectorised::{self, Vectorised};
use crate::host::{Isa, math, sums};

/// Pixels that are worked on at a time: those whose sums are kept apart.
const PIXELS: usize = 64;

/// Gradients of [`channel_norm`](super::channel_norm) without rounding, for the gradient `dy` of its result: `dy` becomes that of `x`, `dgamma`
/// is added to.
///
/// # Errors
/// When a slice does not fit `width`.
pub fn channel_norm_gradient(
    x: &[f32],
    width: usize,
    gamma: &[f32],
    then: ChannelNormThen,
    dy: &mut [f32],
    dgamma: &mut [f32],
) -> Result<(), Error> {
    let rows = rows_of("channel norm input", x, width)?;
    Error::expect_len("channel norm output gradient", dy, x.len())?;
    Error::expect_len("channel norm gamma", gamma, width)?;
    Error::expect_len("channel norm gamma gradient", dgamma, width)?;
    let isa = Isa::detect();
    let repeated = gamma.repeat(PIXELS);
    let dy = Shared::new(dy);
    let body = |rows: std::ops::Range<usize>, sums: &mut [f32]| {
        // SAFETY: every chunk has its own rows.
        let dy = unsafe { dy.part(rows.start * width, rows.len() * width) };
        let x = &x[rows.start * width..rows.end * width];
        vectorised::run(isa, Pixels { x, width, gamma: &repeated[..x.len()], then, dy, sums });
    };
    sums::over_rows(rows, rows, width, body, |_, sums| sums::add(dgamma, sums));
    Ok(())
}

struct Pixels<'a> {
    x: &'a [f32],
    width: usize,
    /// Repeated to the length of `x`.
    gamma: &'a [f32],
    then: ChannelNormThen,
    dy: &'a mut [f32],
    /// Of gamma.
    sums: &'a mut [f32],
}

impl Vectorised for Pixels<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, width, gamma, then, dy, sums } = self;
        let root = (width as f32).sqrt();
        // x^, and what it was divided by
        let mut unit = x.to_vec();
        let mut lengths = [0.0f32; PIXELS];
        for (row, length) in unit.chunks_exact_mut(width).zip(&mut lengths) {
            *length = dot(row, row).sqrt().max(1e-12);
            let inverse = 1.0 / *length;
            row.iter_mut().for_each(|x| *x *= inverse);
        }
        if then == ChannelNormThen::Silu {
            for ((dy, unit), gamma) in dy.iter_mut().zip(&unit).zip(gamma) {
                *dy *= math::silu_slope(unit * root * gamma);
            }
        }
        for (dy, unit) in dy.chunks_exact(width).zip(unit.chunks_exact(width)) {
            for ((sum, dy), unit) in sums.iter_mut().zip(dy).zip(unit) {
                *sum += dy * unit * root;
            }
        }
        dy.iter_mut().zip(gamma).for_each(|(dy, gamma)| *dy *= gamma);
        for ((dy, unit), length) in dy.chunks_exact_mut(width).zip(unit.chunks_exact(width)).zip(lengths) {
            let (along, scale) = (dot(dy, unit), root / length);
            dy.iter_mut().zip(unit).for_each(|(dy, unit)| *dy = scale * (*dy - unit * along));
        }
    }
}

/// The sum of products, in eight lanes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    let [a, b, c, d, e, f, g, h] = lanes;
    (((a + e) + (c + g)) + ((b + f) + (d + h))) + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_reference as truth;
    use turbowan_reference::inputs::{self, Kind};
    use turbowan_reference::metrics::{Bound, Verdict};

    fn loss(x: &[f64], gamma: &[f64], weight: &[f32], width: usize, then: ChannelNormThen) -> f64 {
        let rows = x.chunks(width).zip(weight.chunks(width));
        let of_row = |(x, weight): (&[f64], &[f32])| -> f64 {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            let u = x.iter().zip(gamma).map(|(x, g)| x / length * (width as f64).sqrt() * g);
            let y = u.map(|u| if then == ChannelNormThen::Silu { truth::norm::silu(u) } else { u });
            y.zip(weight).map(|(y, w)| y * f64::from(*w)).sum()
        };
        rows.map(of_row).sum()
    }

    /// The slope of `f` at each value, by central differences in f64: exact to 1e-9 of the curvature.
    fn slopes(at: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let mut at: Vec<f64> = at.iter().map(|v| f64::from(*v)).collect();
        (0..at.len())
            .map(|i| {
                let (value, step) = (at[i], 1e-5 * at[i].abs().max(1.0));
                at[i] = value + step;
                let ahead = f(&at);
                at[i] = value - step;
                let behind = f(&at);
                at[i] = value;
                (ahead - behind) / (2.0 * step)
            })
            .collect()
    }

    #[test]
    fn both_gradients_are_the_slopes_of_a_loss() {
        for (rows, width) in [(1, 1), (3, 8), (70, 12), (9, 33)] {
            for kind in [Kind::Plain, Kind::OutlierChannel] {
                for then in [ChannelNormThen::Nothing, ChannelNormThen::Silu] {
                    let x = inputs::rows(kind, rows, width, 1);
                    let (gamma, weight) = (inputs::normal(width, 2), inputs::normal(rows * width, 3));
                    let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                    let (mut dx, mut dgamma) = (weight.clone(), vec![1.0; width]);
                    channel_norm_gradient(&x, width, &gamma, then, &mut dx, &mut dgamma).unwrap();
                    let case = format!("{rows} x {width} {kind:?} {then:?}");
                    let want = slopes(&x, |x| loss(x, &wide(&gamma), &weight, width, then));
                    // one channel has no direction: its gradient is zero but for rounding
                    let bound = Bound { max_abs: (width == 1).then_some(1e-6), relative_l2: (width > 1).then_some(1e-5), cosine: None };
                    Verdict::of(&dx, &want, bound).demand(&format!("{case}, dx"));
                    let want = slopes(&gamma, |gamma| 1.0f64.mul_add(gamma.iter().sum(), loss(&wide(&x), gamma, &weight, width, then)));
                    Verdict::of(&dgamma, &want, Bound::relative_l2(1e-5)).demand(&format!("{case}, dgamma"));
                }
            }
        }
    }

    #[test]
    fn a_pixel_of_zeros_gives_a_finite_gradient() {
        let (mut dx, mut dgamma) = ([1.0; 8], [0.0; 8]);
        channel_norm_gradient(&[0.0; 8], 8, &[1.0; 8], ChannelNormThen::Silu, &mut dx, &mut dgamma).unwrap();
        assert!(dx.iter().chain(&dgamma).all(|v| v.is_finite()));
        assert!(channel_norm_gradient(&[0.0; 7], 8, &[1.0; 8], ChannelNormThen::Silu, &mut dx, &mut dgamma).is_err());
        assert!(channel_norm_gradient(&[0.0; 8], 8, &[1.0; 7], ChannelNormThen::Silu, &mut dx, &mut dgamma).is_err());
    }
}
