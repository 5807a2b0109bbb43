//! UniPC of order 2, variant B2(h), for a network that predicts the clean latent (Zhao et al., 2023, arXiv 2302.04867).
//!
//! With `alpha = 1 - u`, `lambda = ln(alpha / u)`, from `s` to `t`: `h = lambda_t - lambda_s`, `e = exp(-h) - 1`, `m` the clean estimates,
//! `r = (lambda_before - lambda_s) / h`, `D = (m_before - m_s) / r`:
//!
//! ```text
//! base        u_t / u_s * x - alpha_t * e * m_s
//! predictor   base - alpha_t * e * D / 2                                    (order 1: base)
//! corrector   base - alpha_t * e * (p D + q (m_t - m_s))                    (order 1: p D = 0, q = 1/2)
//!             p + q = b1, r p + q = b2,   b1 = (e / -h - 1) / e,   b2 = 2 ((e / -h - 1) / -h - 1/2) / e
//! ```
//!
//! A step corrects the latent that it was handed, now that the network was asked there, then predicts the next. The first step has no
//! history and the last one goes to `u = 0`, where `lambda` is infinite: both are of order 1, and the last simply returns `m`.

use crate::denoiser::Latent;
use crate::time::FlowTime;

/// What the solver remembers of the steps before.
#[derive(Debug, Clone, PartialEq)]
pub struct History<L> {
    /// The (corrected) latent that the last step started from.
    pub start: L,
    /// The clean estimate there.
    pub clean: L,
    /// The clean estimate one step earlier, from the second step on.
    pub clean_before: Option<L>,
    /// Order of the last prediction.
    pub order: usize,
}

impl<L: Latent> History<L> {
    /// Whether this is enough for step `step` of a run over latents of `len` values.
    pub(crate) fn reaches(&self, step: usize, len: usize) -> bool {
        let fits = |latent: &L| latent.len() == len;
        let before = self.clean_before.as_ref();
        matches!(self.order, 1 | 2) && fits(&self.start) && fits(&self.clean) && before.is_none_or(fits) && (step < 2 || before.is_some())
    }
}

/// Log of the signal-to-noise ratio; infinite when clean.
fn lambda(time: FlowTime) -> f64 {
    ((1.0 - time.share()) / time.share()).ln()
}

/// One step: from the latent `x` at `times[step]` and the clean estimate there to the latent at `times[step + 1]`.
pub(crate) fn predict<L: Latent>(times: &[FlowTime], step: usize, x: L, clean: L, history: Option<History<L>>) -> (L, History<L>) {
    let (x, clean_before) = match history {
        Some(history) => (correct(times, step, &clean, &history), Some(history.clean)),
        None => (x, None),
    };
    let steps_left = times.len() - 1 - step;
    let order = if clean_before.is_some() { steps_left.min(2) } else { 1 };
    let span = Span::between(times[step], times[step + 1]);
    let mut next = span.base(&x, &clean);
    if let (2, Some(before)) = (order, &clean_before) {
        let r = (lambda(times[step - 1]) - lambda(times[step])) / span.h;
        span.add_difference(&mut next, 0.5 / r, before, &clean);
    }
    (next, History { start: x, clean, clean_before, order })
}

/// The latent at `times[step]`, better than predicted, now that the clean estimate there is known.
fn correct<L: Latent>(times: &[FlowTime], step: usize, clean_now: &L, history: &History<L>) -> L {
    let span = Span::between(times[step - 1], times[step]);
    let mut x = span.base(&history.start, &history.clean);
    match (history.order, &history.clean_before) {
        (2, Some(before)) => {
            let r = (lambda(times[step - 2]) - lambda(times[step - 1])) / span.h;
            let (b1, b2) = span.moments();
            let p = (b1 - b2) / (1.0 - r);
            span.add_difference(&mut x, p / r, before, &history.clean);
            span.add_difference(&mut x, b1 - p, clean_now, &history.clean);
        }
        _ => span.add_difference(&mut x, 0.5, clean_now, &history.clean),
    }
    x
}

/// The way from one time to the next.
struct Span {
    ratio: f64,
    alpha: f64,
    h: f64,
    e: f64,
}

impl Span {
    fn between(from: FlowTime, to: FlowTime) -> Self {
        let h = lambda(to) - lambda(from);
        Self { ratio: to.share() / from.share(), alpha: 1.0 - to.share(), h, e: (-h).exp_m1() }
    }

    /// `u_t / u_s * x - alpha_t * e * m_s`.
    fn base<L: Latent>(&self, x: &L, clean: &L) -> L {
        let mut base = x.clone();
        base.scale(self.ratio);
        base.add_scaled(-self.alpha * self.e, clean);
        base
    }

    /// `x -= alpha_t * e * weight * (a - b)`.
    fn add_difference<L: Latent>(&self, x: &mut L, weight: f64, a: &L, b: &L) {
        let factor = -self.alpha * self.e * weight;
        x.add_scaled(factor, a);
        x.add_scaled(-factor, b);
    }

    /// `b1` and `b2` of the corrector.
    fn moments(&self) -> (f64, f64) {
        let first = self.e / -self.h - 1.0;
        let second = first / -self.h - 0.5;
        (first / self.e, 2.0 * second / self.e)
    }
}
