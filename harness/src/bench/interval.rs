//! Where the ratio of two medians lies, by resampling: nothing is assumed of how samples are spread.

use turbowan_reference::inputs::Seeded;

use super::sample::{Samples, quantile, sorted};

/// Resamplings: the ends of an interval of 99% still have ten of them outside.
const RESAMPLED: usize = 2000;
/// The fewest samples of a side whose resampling says anything: of the fewest that are taken, three may have been interrupted.
pub const LEAST: usize = 4;
/// Draws are the same in every run, so that a page is the same bytes.
const SEED: u64 = 0x7265_7361_6d70_6c65;

/// A ratio of two medians and where it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// One median over the other.
    pub middle: f64,
    /// Ends of the interval; none where a side has too few samples.
    pub interval: Option<[f64; 2]>,
}

/// Median distances from the median beyond which a sample is an interruption: of normal noise, one in 15,000 is.
const INTERRUPTED: f64 = 4.0 * 1.4826;
/// A median distance is at least this share of the median, so that equal samples are no bound.
const LEAST_DISTANCE: f64 = 5e-3;

/// The median of `over` over that of `under`, with the interval that holds it with probability `level`, by the percentiles of a
/// bootstrap of both sides; none without samples.
pub fn ratio_of_medians(over: &Samples, under: &Samples, level: f64) -> Option<Ratio> {
    ratio_of_rounds(std::slice::from_ref(over), std::slice::from_ref(under), level)
}

/// The same of rounds that were taken in turns: the median over rounds of the ratio of a round's medians, by a bootstrap of
/// rounds and of the samples in each. Rounds that disagree, as on a machine that changes its speed, widen the interval.
pub fn ratio_of_rounds(over: &[Samples], under: &[Samples], level: f64) -> Option<Ratio> {
    let pairs: Vec<[&[f64]; 2]> = over.iter().zip(under).map(|(over, under)| [&over.0[..], &under.0[..]]).collect();
    let ratio = |over: &[f64], under: &[f64]| Some(quantile(over, 0.5)? / quantile(under, 0.5).filter(|median| *median > 0.0)?);
    let middles = pairs.iter().map(|[over, under]| ratio(&sorted(over), &sorted(under))).collect::<Option<Vec<f64>>>()?;
    let middle = quantile(&sorted(&middles), 0.5)?;
    let count = |side: usize| pairs.iter().map(|pair| pair[side].len()).sum::<usize>();
    if count(0).min(count(1)) < LEAST {
        return Some(Ratio { middle, interval: None });
    }
    let mut random = Seeded::new(SEED);
    let mut drawn = Vec::new();
    let mut resampled = |samples: &[f64], random: &mut Seeded| {
        drawn.clear();
        drawn.extend((0..samples.len()).map(|_| samples[random.below(samples.len())]));
        drawn.sort_by(f64::total_cmp);
        quantile(&drawn, 0.5)
    };
    let mut ratios = Vec::with_capacity(RESAMPLED);
    for _ in 0..RESAMPLED {
        let mut of_rounds = Vec::with_capacity(pairs.len());
        for _ in 0..pairs.len() {
            let [over, under] = pairs[random.below(pairs.len())];
            of_rounds.push(resampled(over, &mut random)? / resampled(under, &mut random)?);
        }
        ratios.push(quantile(&sorted(&of_rounds), 0.5)?);
    }
    let ratios = sorted(&ratios);
    let tail = (1.0 - level) / 2.0;
    Some(Ratio { middle, interval: quantile(&ratios, tail).zip(quantile(&ratios, 1.0 - tail)).map(|(low, high)| [low, high]) })
}

/// Samples without those that something interrupted: the machine only ever makes a run longer.
pub fn uninterrupted(samples: &Samples) -> Samples {
    let Some(summary) = samples.summary() else { return Samples::default() };
    let most = summary.median + INTERRUPTED * summary.mad.max(LEAST_DISTANCE * summary.median);
    Samples(samples.0.iter().copied().filter(|sample| *sample <= most).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_the_ratio_and_narrows_with_the_noise() {
        let noisy = |scale: f64, noise: f64| Samples((0..9).map(|index| scale * (1.0 + noise * (f64::from(index) - 4.0))).collect());
        let widths = [0.02, 0.002].map(|noise| {
            let ratio = ratio_of_medians(&noisy(3.0, noise), &noisy(1.0, noise), 0.95).unwrap();
            let [low, high] = ratio.interval.unwrap();
            assert!(ratio.middle == 3.0 && low < 3.0 && high > 3.0, "{ratio:?}");
            high - low
        });
        assert!(widths[0] > 5.0 * widths[1], "{widths:?}");
        let equal = Samples(vec![2.0; 7]);
        assert_eq!(ratio_of_medians(&equal, &equal, 0.95), Some(Ratio { middle: 1.0, interval: Some([1.0, 1.0]) }));
    }

    #[test]
    fn few_samples_have_a_ratio_and_no_interval_and_none_have_neither() {
        let of = |count: usize| Samples(vec![1.0; count]);
        assert_eq!(ratio_of_medians(&of(3), &of(9), 0.95), Some(Ratio { middle: 1.0, interval: None }));
        assert_eq!(ratio_of_medians(&of(0), &of(9), 0.95), None);
    }

    #[test]
    fn rounds_that_disagree_are_less_sure_than_rounds_that_agree() {
        let round = |seconds: f64| Samples((0..9).map(|index| seconds * (1.0 + 0.002 * f64::from(index))).collect());
        let old = [1.0; 5].map(round);
        let width = |new: [f64; 5]| {
            let ratio = ratio_of_rounds(&new.map(round), &old, 0.95).unwrap();
            let [low, high] = ratio.interval.unwrap();
            assert!(low <= ratio.middle && ratio.middle <= high && (ratio.middle - 1.3).abs() < 0.02, "{ratio:?}");
            high - low
        };
        // the second machine halved its speed in one round, and doubled it in another
        assert!(width([1.3, 1.3, 1.31, 1.29, 1.3]) < 0.1 && width([1.3, 1.3, 2.6, 0.65, 1.3]) > 0.5);
    }

    #[test]
    fn an_interruption_is_no_sample_and_a_slow_run_is_one() {
        assert_eq!(uninterrupted(&Samples(vec![1.0, 1.01, 0.99, 3.0, 1.0, 1.02, 0.98])).0, [1.0, 1.01, 0.99, 1.0, 1.02, 0.98]);
        let two_speeds = Samples(vec![1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
        assert_eq!(uninterrupted(&two_speeds), two_speeds);
        assert_eq!(uninterrupted(&Samples(vec![1.0; 7])).0.len(), 7);
    }

    #[test]
    fn it_covers_the_truth_about_as_often_as_it_says() {
        // nine samples of the same distribution a side; a percentile bootstrap of a median of nine is a little wide or narrow
        let covered = (0..400).filter(|seed| {
            let mut random = Seeded::new(*seed);
            let mut draw = || Samples((0..9).map(|_| (0.05 * random.normal()).exp()).collect());
            let [low, high] = ratio_of_medians(&draw(), &draw(), 0.95).unwrap().interval.unwrap();
            low <= 1.0 && 1.0 <= high
        });
        let share = covered.count() as f64 / 400.0;
        assert!((0.92..=0.995).contains(&share), "{share}");
    }
}
