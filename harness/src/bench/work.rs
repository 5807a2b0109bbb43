//! One operation of one shape, ready to run, and how its result is checked.

use std::time::Duration;

use turbowan_reference::inputs::Seeded;
use turbowan_reference::metrics::{Bound, Distance, Verdict};

use super::error::Error;

/// One operation of one shape, its operands made.
pub trait Work {
    /// Runs once. Where only a part of the run is the operation, its time is returned; without one the whole call is it.
    /// On a device the run is queued, and the time is none.
    ///
    /// # Errors
    /// What the operation says.
    fn run(&mut self) -> Result<Option<Duration>, Error>;

    /// Holds the result of the last run to what it stands for, on `rows` seeded rows.
    ///
    /// # Errors
    /// What reading the result says.
    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error>;
}

/// What a result was held to, and how it did.
#[derive(Debug, Clone)]
pub struct Check {
    /// Distances, bound, the worst pair.
    pub verdict: Verdict,
    /// What the truth was.
    pub truth: &'static str,
    /// How many values were compared.
    pub values: usize,
}

impl Check {
    /// `got` against `want`, which `truth` names.
    pub fn of<A: Into<f64> + Copy, B: Into<f64> + Copy>(got: &[A], want: &[B], bound: Bound, truth: &'static str) -> Self {
        Self { verdict: Verdict::of(got, want, bound), truth, values: got.len() }
    }

    /// The worse of two.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let values = self.values + other.values;
        let badness = |d: &Distance| (d.not_finite, d.relative_l2.max(1.0 - d.cosine), d.max_abs);
        let first = match badness(&self.verdict.distance).partial_cmp(&badness(&other.verdict.distance)) {
            _ if self.verdict.passes() != other.verdict.passes() => !self.verdict.passes(),
            Some(std::cmp::Ordering::Less) => false,
            _ => true,
        };
        Self { values, ..if first { self } else { other } }
    }
}

/// Distinct rows of `0..len`, the first and the last among them: edges are where kernels break.
pub fn seeded_rows(len: usize, count: usize) -> Vec<usize> {
    let mut random = Seeded::new(5);
    let mut rows: std::collections::BTreeSet<usize> = [0, len.saturating_sub(1)].into_iter().filter(|row| *row < len).take(count).collect();
    while rows.len() < count.min(len) {
        rows.insert(random.below(len));
    }
    rows.into_iter().collect()
}

/// Rows `rows` of `[_, width]`, one after the other.
pub fn gather<T: Copy>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    rows.iter().flat_map(|row| values[row * width..][..width].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_are_always_among_the_rows() {
        assert_eq!(seeded_rows(3, 16), [0, 1, 2]);
        let rows = seeded_rows(32_760, 16);
        assert_eq!((rows.len(), rows[0], rows[15]), (16, 0, 32_759));
        assert_eq!(gather(&[1, 2, 3, 4, 5, 6], 2, &[0, 2]), [1, 2, 5, 6]);
        assert!(seeded_rows(0, 4).is_empty());
    }

    #[test]
    fn the_worse_of_two_checks_is_the_one_that_fails() {
        let bound = Bound::max_abs(0.5);
        let check = |got: f64| Check::of(&[got], &[1.0], bound, "one");
        assert!(!check(1.1).worse(check(2.0)).verdict.passes());
        assert!(!check(2.0).worse(check(1.1)).verdict.passes());
        let both = check(1.0).worse(check(1.2));
        assert!(both.verdict.passes() && both.values == 2 && both.verdict.distance.max_abs > 0.1);
    }
}
