//! Results held to their truth: how far off, where, and how much of the bound that takes.

use turbowan_reference::metrics::{Bound, Distance};

/// One result of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Values of a row, to say where the worst one is.
    pub width: usize,
    /// Its values, widened without loss.
    pub values: Vec<f64>,
}

impl Output {
    /// `values` in rows of `width`.
    pub fn new<T: Into<f64> + Copy>(name: &'static str, width: usize, values: &[T]) -> Self {
        Self { name, width, values: values.iter().map(|value| (*value).into()).collect() }
    }

    /// Whether another run gave the same bits.
    pub fn is_same(&self, other: &Self) -> bool {
        let bits = |output: &Self| output.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        self.name == other.name && bits(self) == bits(other)
    }
}

/// A result beside its truth and its bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// What was held.
    pub what: &'static str,
    /// How far it is off.
    pub error: String,
    /// The share of the bound that it takes: above 1 it fails.
    pub used: f64,
    /// Where it is worst: row and column.
    pub at: Option<[usize; 2]>,
    /// The worst value, and its truth.
    pub pair: [f64; 2],
    /// What was allowed.
    pub bound: String,
    /// Why that much.
    pub reason: &'static str,
}

impl Held {
    /// Holds `got` to `want` as a whole.
    pub fn within<T: Into<f64> + Copy>(got: &Output, want: &[T], bound: Bound, reason: &'static str) -> Self {
        if let Some(misfit) = misfit(got, want.len()) {
            return misfit;
        }
        let distance = Distance::between(&got.values, want);
        let share = |found: f64, limit: f64| if found <= limit && limit == 0.0 { 0.0 } else { found / limit };
        let shares = [
            bound.max_abs.map(|limit| (share(distance.max_abs, limit), format!("max abs {:.1e}", distance.max_abs))),
            bound.relative_l2.map(|limit| (share(distance.relative_l2, limit), format!("rel L2 {:.1e}", distance.relative_l2))),
            bound.cosine.map(|limit| (share(1.0 - distance.cosine, 1.0 - limit), format!("cosine {:.7}", distance.cosine))),
        ];
        let (mut used, mut error) = (0.0, "0".to_owned());
        for (share, text) in shares.into_iter().flatten() {
            if share >= used {
                (used, error) = (share, text);
            }
        }
        if distance.not_finite > 0 {
            (used, error) = (f64::INFINITY, format!("{} not finite", distance.not_finite));
        } else if used.is_nan() {
            used = f64::INFINITY;
        }
        let pair = [got.values.get(distance.worst).copied().unwrap_or(0.0), want.get(distance.worst).map_or(0.0, |want| (*want).into())];
        let at = place(distance.worst, got.width);
        Self { what: got.name, error, used, at: Some(at), pair, bound: bound.to_string(), reason }
    }

    /// Holds each value to its own bound: `allowed(index, truth)`.
    pub fn each<T: Into<f64> + Copy>(
        got: &Output,
        want: &[T],
        allowed: impl Fn(usize, f64) -> f64,
        bound: &'static str,
        reason: &'static str,
    ) -> Self {
        if let Some(misfit) = misfit(got, want.len()) {
            return misfit;
        }
        let (mut used, mut worst, mut error) = (0.0, 0, 0.0);
        for (index, (got, want)) in got.values.iter().zip(want).enumerate() {
            let want: f64 = (*want).into();
            let off = if *got == want || got.is_nan() && want.is_nan() { 0.0 } else { (got - want).abs() };
            let limit = allowed(index, want);
            let share = if off == 0.0 {
                0.0
            } else if off.is_nan() || limit.is_nan() {
                f64::INFINITY
            } else {
                off / limit
            };
            if share > used {
                (used, worst, error) = (share, index, off);
            }
        }
        let pair = [got.values.get(worst).copied().unwrap_or(0.0), want.get(worst).map_or(0.0, |want| (*want).into())];
        let (error, at) = (format!("max abs {error:.1e}"), Some(place(worst, got.width)));
        Self { what: got.name, error, used, at, pair, bound: bound.to_owned(), reason }
    }

    /// Holds every value to equality.
    pub fn equal<T: Into<f64> + Copy>(got: &Output, want: &[T], reason: &'static str) -> Self {
        Self::each(got, want, |_, _| 0.0, "equal", reason)
    }

    /// At most `allowed` of `of` may differ, or break a rule.
    pub fn few(what: &'static str, found: usize, of: usize, allowed: usize, reason: &'static str) -> Self {
        let used = if found == 0 { 0.0 } else { found as f64 / allowed as f64 };
        let (error, bound) = (format!("{found} of {of}"), format!("at most {allowed}"));
        Self { what, error, used, at: None, pair: [0.0; 2], bound, reason }
    }

    /// Something that holds or does not.
    pub fn fact(what: &'static str, holds: bool, reason: &'static str) -> Self {
        let (used, error) = if holds { (0.0, "holds".to_owned()) } else { (f64::INFINITY, "does not hold".to_owned()) };
        Self { what, error, used, at: None, pair: [0.0; 2], bound: "holds".to_owned(), reason }
    }

    /// Under another name.
    #[must_use]
    pub fn called(self, what: &'static str) -> Self {
        Self { what, ..self }
    }

    /// Whether the bound is kept.
    pub fn passes(&self) -> bool {
        self.used <= 1.0
    }
}

fn place(index: usize, width: usize) -> [usize; 2] {
    [index / width.max(1), index % width.max(1)]
}

/// A result of another length than its truth fails.
fn misfit(got: &Output, want: usize) -> Option<Held> {
    let found = got.values.len();
    let bound = format!("{want} values");
    (found != want).then(|| Held {
        what: got.name,
        error: format!("{found} values"),
        used: f64::INFINITY,
        at: None,
        pair: [0.0; 2],
        bound,
        reason: "a result and its truth have one length",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_value_is_found_and_its_share_of_the_bound_told() {
        let got = Output::new("out", 2, &[1.0f32, 2.0, 3.5, 4.0]);
        let held = Held::within(&got, &[1.0f64, 2.0, 3.0, 4.0], Bound::max_abs(0.25), "");
        assert_eq!((held.used, held.at, held.pair, held.passes()), (2.0, Some([1, 0]), [3.5, 3.0], false));
        let held = Held::each(&got, &[1.0f64, 2.0, 3.0, 4.0], |index, _| index as f64, "its index", "");
        assert_eq!((held.used, held.at, held.passes()), (0.25, Some([1, 0]), true));
        assert!(!Held::equal(&got, &[1.0f64, 2.0, 3.0, 4.0], "").passes());
    }

    #[test]
    fn numbers_that_are_none_and_other_lengths_fail() {
        let got = Output::new("out", 1, &[1.0f32, f32::NAN]);
        let want = [1.0f64, 2.0];
        assert!(!Held::within(&got, &want, Bound::max_abs(f64::INFINITY), "").passes());
        assert!(!Held::each(&got, &want, |_, _| f64::INFINITY, "", "").passes());
        assert!(!Held::equal(&got, &want[..1], "").passes());
        assert!(Held::equal(&got, &[1.0, f64::NAN], "").passes());
        assert!(!Held::few("lists", 1, 10, 0, "").passes() && Held::few("lists", 0, 10, 0, "").passes());
    }
}
