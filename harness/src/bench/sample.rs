//! Samples of a time, and what is said of them.

use serde::{Deserialize, Serialize};

/// Seconds, in the order in which they were taken.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(pub Vec<f64>);

/// Median, extremes and spread of samples, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// A quarter of the samples are below.
    pub q1: f64,
    /// A quarter of the samples are above.
    pub q3: f64,
    /// Median distance from the median.
    pub mad: f64,
    /// How many there are.
    pub count: usize,
}

impl Samples {
    /// What is said of them; none without any.
    pub fn summary(&self) -> Option<Summary> {
        let sorted = sorted(&self.0);
        let median = quantile(&sorted, 0.5)?;
        let distances: Vec<f64> = sorted.iter().map(|sample| (sample - median).abs()).collect();
        Some(Summary {
            median,
            min: sorted[0],
            q1: quantile(&sorted, 0.25)?,
            q3: quantile(&sorted, 0.75)?,
            mad: quantile(&self::sorted(&distances), 0.5)?,
            count: sorted.len(),
        })
    }

    /// The median of `self[i] / other[i]`, and its quartiles: pairs were taken one after the other, so that both sides saw the
    /// same machine.
    pub fn paired_ratio(&self, other: &Self) -> Option<[f64; 3]> {
        let ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect();
        let ratios = sorted(&ratios);
        Some([quantile(&ratios, 0.25)?, quantile(&ratios, 0.5)?, quantile(&ratios, 0.75)?])
    }
}

pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// A quantile of sorted values, between two of them where it falls there.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_sample_moves_neither_the_median_nor_its_spread() {
        let summary = Samples(vec![1.0, 1.1, 0.9, 50.0, 1.0, 1.05, 0.95]).summary().unwrap();
        assert_eq!((summary.median, summary.min, summary.count), (1.0, 0.9, 7));
        assert!((summary.mad - 0.05).abs() < 1e-12);
        assert!(summary.q1 < 1.0 && summary.q3 < 1.1);
        assert_eq!(Samples(vec![1.0, 2.0]).summary().unwrap().median, 1.5);
        assert!(Samples::default().summary().is_none());
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        // the machine slowed down by half way; each pair saw one speed
        let ours = Samples(vec![1.0, 1.0, 10.0, 10.0]);
        let theirs = Samples(vec![2.0, 2.0, 20.0, 20.0]);
        assert_eq!(ours.paired_ratio(&theirs), Some([0.5, 0.5, 0.5]));
        assert_eq!(ours.paired_ratio(&Samples::default()), None);
    }
}
