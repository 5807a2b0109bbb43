//! How far a result is from the truth, and where it is worst.

use std::fmt;

/// Distances between a result and its truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Cosine of the angle between the two, 1.0 when both are zero.
    pub cosine: f64,
    /// Sum of absolute differences over the sum of absolute truths.
    pub relative_l1: f64,
    /// Norm of the difference over the norm of the truth.
    pub relative_l2: f64,
    /// Root of the mean squared difference.
    pub rmse: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Flat index of the largest difference, or of the first value that is not a number.
    pub worst: usize,
    /// Values in the result that are not finite where the truth is.
    pub not_finite: usize,
}

impl Distance {
    /// Measures `got` against `want`. Both have one length.
    pub fn between<A: Into<f64> + Copy, B: Into<f64> + Copy>(got: &[A], want: &[B]) -> Self {
        assert_eq!(got.len(), want.len(), "a result and its truth have one length");
        let (mut dot, mut got_sq, mut want_sq, mut diff_sq) = (0.0, 0.0, 0.0, 0.0);
        let (mut diff_abs, mut want_abs, mut max_abs) = (0.0, 0.0, 0.0f64);
        let (mut worst, mut not_finite) = (0, 0);
        for (index, (g, w)) in got.iter().zip(want).enumerate() {
            let (g, w): (f64, f64) = ((*g).into(), (*w).into());
            if !(g.is_finite() || w == g || w.is_nan() && g.is_nan()) {
                if not_finite == 0 {
                    worst = index;
                }
                not_finite += 1;
                continue;
            }
            if !w.is_finite() {
                continue;
            }
            let diff = (g - w).abs();
            if diff > max_abs {
                max_abs = diff;
                if not_finite == 0 {
                    worst = index;
                }
            }
            dot += g * w;
            got_sq += g * g;
            want_sq += w * w;
            diff_sq += diff * diff;
            diff_abs += diff;
            want_abs += w.abs();
        }
        let ratio = |top: f64, bottom: f64| match (top == 0.0, bottom == 0.0) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => top / bottom,
        };
        let cosine = if got_sq == 0.0 && want_sq == 0.0 {
            1.0
        } else if got_sq == 0.0 || want_sq == 0.0 {
            0.0
        } else {
            dot / (got_sq.sqrt() * want_sq.sqrt())
        };
        Self {
            cosine,
            relative_l1: ratio(diff_abs, want_abs),
            relative_l2: ratio(diff_sq.sqrt(), want_sq.sqrt()),
            rmse: (diff_sq / got.len().max(1) as f64).sqrt(),
            max_abs,
            worst,
            not_finite,
        }
    }
}

/// What a result is held to; a limit that is `None` is not asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bound {
    /// Largest absolute difference allowed.
    pub max_abs: Option<f64>,
    /// Relative L2 allowed.
    pub relative_l2: Option<f64>,
    /// Cosine demanded.
    pub cosine: Option<f64>,
}

impl Bound {
    /// Only a largest absolute difference.
    pub const fn max_abs(limit: f64) -> Self {
        Self { max_abs: Some(limit), relative_l2: None, cosine: None }
    }

    /// Only a relative L2.
    pub const fn relative_l2(limit: f64) -> Self {
        Self { max_abs: None, relative_l2: Some(limit), cosine: None }
    }

    /// Every value equal.
    pub const EXACT: Self = Self::max_abs(0.0);

    /// Whether `distance` keeps within every limit. A value that is not a number never does.
    pub fn allows(&self, distance: &Distance) -> bool {
        distance.not_finite == 0
            && self.max_abs.is_none_or(|limit| distance.max_abs <= limit)
            && self.relative_l2.is_none_or(|limit| distance.relative_l2 <= limit)
            && self.cosine.is_none_or(|limit| distance.cosine >= limit)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = [("max abs <=", self.max_abs), ("rel L2 <=", self.relative_l2), ("cosine >=", self.cosine)];
        let mut first = true;
        for (name, limit) in limits.into_iter().filter_map(|(name, limit)| limit.map(|limit| (name, limit))) {
            write!(f, "{}{name} {limit:e}", if first { "" } else { ", " })?;
            first = false;
        }
        Ok(())
    }
}

/// A result beside its truth and its bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// How far apart they are.
    pub distance: Distance,
    /// What was allowed.
    pub bound: Bound,
    /// The worst pair: result, truth.
    pub pair: (f64, f64),
}

impl Verdict {
    /// Holds `got` to `want` within `bound`.
    pub fn of<A: Into<f64> + Copy, B: Into<f64> + Copy>(got: &[A], want: &[B], bound: Bound) -> Self {
        let distance = Distance::between(got, want);
        let pair = match (got.get(distance.worst), want.get(distance.worst)) {
            (Some(got), Some(want)) => ((*got).into(), (*want).into()),
            _ => (0.0, 0.0),
        };
        Self { distance, bound, pair }
    }

    /// Whether the bound is kept.
    pub fn passes(&self) -> bool {
        self.bound.allows(&self.distance)
    }

    /// Panics with the worst element unless the bound is kept; for tests.
    #[track_caller]
    pub fn demand(&self, case: &str) {
        assert!(self.passes(), "{case}: {self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.distance;
        write!(
            f,
            "max abs {:.3e}, rel L2 {:.3e}, cosine {:.7}, {} not finite; worst at {}: got {}, want {} (bound: {})",
            d.max_abs, d.relative_l2, d.cosine, d.not_finite, d.worst, self.pair.0, self.pair.1, self.bound
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_slices_are_at_distance_zero() {
        let distance = Distance::between(&[1.0f32, -2.0, 3.0], &[1.0f32, -2.0, 3.0]);
        assert_eq!((distance.max_abs, distance.relative_l2, distance.rmse), (0.0, 0.0, 0.0));
        assert!((distance.cosine - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_value_that_is_not_a_number_breaks_every_bound_and_is_named() {
        let verdict = Verdict::of(&[1.0f32, f32::NAN, 3.0], &[1.0f32, 2.0, 9.0], Bound::max_abs(f64::INFINITY));
        assert!(!verdict.passes());
        assert_eq!(verdict.distance.worst, 1);
    }

    #[test]
    fn the_worst_element_is_found() {
        let verdict = Verdict::of(&[1.0f32, 2.5, 3.0], &[1.0f32, 2.0, 3.1], Bound::max_abs(0.1));
        assert_eq!((verdict.distance.worst, verdict.pair), (1, (2.5, 2.0)));
        assert!(!verdict.passes());
    }

    #[test]
    fn zero_against_zero_is_perfect_and_zero_against_something_is_not() {
        assert_eq!(Distance::between(&[0.0f32; 3], &[0.0f32; 3]).cosine, 1.0);
        assert_eq!(Distance::between(&[0.0f32; 3], &[1.0f32; 3]).cosine, 0.0);
        assert_eq!(Distance::between(&[1.0f32; 3], &[0.0f32; 3]).relative_l2, f64::INFINITY);
    }
}
