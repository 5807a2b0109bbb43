//! Whether one record of `turbowan bench` is slower than another beyond the noise of both.
//!
//! A case is *slower* where the 95% interval of the ratio of its medians lies above a margin, *faster* where it lies below one,
//! *even* where it lies inside, and *unclear* where it is too wide to say: that asks for more rounds and is no failure. Samples
//! that something interrupted are left out first. The margin is wider where each record has one round, since nothing then says
//! how much two runs of the same program differ.
//!
//! Of equal programs, less than one case in a thousand is called slower (`tests`: noise of 3 to 5%, one sample in twenty up to
//! three times as long, runs that differ by 2 to 3%): the margin alone is two of the standard deviations that a ratio then has,
//! and the interval must lie beyond it. A program that is slower by 30% is called so in more than 99 of 100.

use serde_json::{Value, json};

use super::aligned;
use crate::bench::against::shape_text;
use crate::bench::interval::{Ratio, ratio_of_rounds, uninterrupted};
use crate::bench::sample::Samples;
use crate::bench::table::time;
use crate::record::Record;

/// How sure an interval is.
const LEVEL: f64 = 0.95;
/// How much slower is nothing, where rounds tell how much two runs differ.
const MARGIN: f64 = 0.05;
/// The same where each record is one run.
const MARGIN_OF_ONE_ROUND: f64 = 0.10;

/// What is said of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The interval lies between the margins.
    Even,
    /// It lies above.
    Slower,
    /// It lies below.
    Faster,
    /// It lies on both sides of a margin, or there are too few samples for one.
    Unclear,
    /// A result was wrong, and so has no time.
    Wrong,
}

impl Verdict {
    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Slower => "SLOWER",
            Self::Faster => "faster",
            Self::Unclear => "unclear",
            Self::Wrong => "WRONG",
        }
    }

    /// Whether it fails the gate.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Slower | Self::Wrong)
    }

    fn of(ratio: Option<Ratio>, margin: f64) -> Self {
        match ratio.and_then(|ratio| ratio.interval) {
            Some([low, _]) if low > 1.0 + margin => Self::Slower,
            Some([_, high]) if high < 1.0 / (1.0 + margin) => Self::Faster,
            Some([low, high]) if low > 1.0 / (1.0 + margin) && high < 1.0 + margin => Self::Even,
            _ => Self::Unclear,
        }
    }
}

/// A case of both records.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The case.
    pub case: String,
    /// Operation and shape.
    pub what: String,
    /// Median seconds of A and of B, over all their samples.
    pub medians: [Option<f64>; 2],
    /// A over B: above 1 A is slower.
    pub ratio: Option<Ratio>,
    /// Pairs of rounds.
    pub rounds: usize,
    /// What is said of it.
    pub verdict: Verdict,
}

fn is_one_case(a: &Record, b: &Record) -> bool {
    (&a.name, &a.op, &a.shape, &a.device) == (&b.name, &b.op, &b.shape, &b.device)
}

/// Holds A to B, case by case, for the cases that both have.
///
/// # Errors
/// Records of two machines, or without a common case.
pub fn judge(a: &[Record], b: &[Record]) -> Result<Vec<Judged>, String> {
    let mut judged = Vec::new();
    for (index, first) in a.iter().enumerate() {
        // rounds of a case in the order in which they were taken, told with the first
        let rounds = |records| -> Vec<&Record> { <[Record]>::iter(records).filter(|record| is_one_case(record, first)).collect() };
        let (ours, theirs) = (rounds(a), rounds(b));
        if theirs.is_empty() || a[..index].iter().any(|earlier| is_one_case(earlier, first)) {
            continue;
        }
        if let Some(other) = ours.iter().chain(&theirs).find(|other| !is_one_machine(first, other)) {
            let on =
                |record: &Record| format!("{} with {} threads", record.machine.cpu.as_deref().unwrap_or("unknown"), record.machine.threads);
            return Err(format!(
                "{:?} ran on {} and on {}; only times of one machine are held to one another",
                first.name,
                on(first),
                on(other)
            ));
        }
        judged.push(one(first, &ours, &theirs));
    }
    if judged.is_empty() { Err("the two records have no case in common".to_owned()) } else { Ok(judged) }
}

fn is_one_machine(a: &Record, b: &Record) -> bool {
    let gpu = |record: &Record| record.machine.gpu.as_ref().map(|gpu| gpu.name.clone());
    (&a.machine.cpu, &a.machine.isa, a.machine.threads, gpu(a)) == (&b.machine.cpu, &b.machine.isa, b.machine.threads, gpu(b))
}

fn one(first: &Record, ours: &[&Record], theirs: &[&Record]) -> Judged {
    let samples = |rounds: &[&Record]| -> Vec<Samples> { rounds.iter().map(|round| uninterrupted(&round.samples_s)).collect() };
    let median = |rounds: &[&Record]| {
        let all = rounds.iter().flat_map(|round| round.samples_s.0.iter().copied()).collect();
        Samples(all).summary().map(|summary| summary.median)
    };
    let rounds = ours.len().min(theirs.len());
    let ratio = ratio_of_rounds(&samples(ours), &samples(theirs), LEVEL);
    let margin = if rounds > 1 { MARGIN } else { MARGIN_OF_ONE_ROUND };
    let verdict = if ours.iter().any(|round| !round.check.passes) { Verdict::Wrong } else { Verdict::of(ratio, margin) };
    let what = format!("{} {}", first.op, shape_text(&first.shape));
    Judged { case: first.name.clone(), what, medians: [median(ours), median(theirs)], ratio, rounds, verdict }
}

/// The table, and what follows from it.
pub fn text(judged: &[Judged]) -> String {
    let mut lines = vec![["case", "operation", "A", "B", "A / B", "95% interval", "rounds", ""].map(str::to_owned)];
    let seconds = |median: Option<f64>| median.map_or("-".to_owned(), time);
    for case in judged {
        let interval = case.ratio.and_then(|ratio| ratio.interval);
        lines.push([
            case.case.clone(),
            case.what.clone(),
            seconds(case.medians[0]),
            seconds(case.medians[1]),
            case.ratio.map_or("-".to_owned(), |ratio| format!("{:.3}", ratio.middle)),
            interval.map_or("-".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}")),
            case.rounds.to_string(),
            case.verdict.name().to_owned(),
        ]);
    }
    let count = |verdict: Verdict| judged.iter().filter(|case| case.verdict == verdict).count();
    let mut text = aligned(&lines);
    text += &format!(
        "{} slower, {} faster, {} even, {} unclear, {} wrong\n",
        count(Verdict::Slower),
        count(Verdict::Faster),
        count(Verdict::Even),
        count(Verdict::Unclear),
        count(Verdict::Wrong)
    );
    if count(Verdict::Unclear) > 0 {
        text += "unclear: the noise is as wide as the margin; more rounds in turns would tell (ROUNDS=9 scripts/gate OLD NEW)\n";
    }
    text
}

/// The same for a machine.
pub fn json(judged: &[Judged]) -> Value {
    let case = |case: &Judged| {
        json!({
            "case": case.case,
            "operation": case.what,
            "median_s": case.medians,
            "ratio": case.ratio.map(|ratio| ratio.middle),
            "interval_95": case.ratio.and_then(|ratio| ratio.interval),
            "rounds": case.rounds,
            "verdict": case.verdict.name().to_lowercase(),
        })
    };
    json!({ "gate": judged.iter().map(case).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use turbowan_reference::inputs::Seeded;

    use super::*;

    /// Rounds of nine samples around `seconds`, as they are on a machine that others use too: log-normal noise of 3 to 5%, one
    /// sample in twenty up to three times as long, and runs that differ by `between`.
    fn drawn(random: &mut Seeded, seconds: f64, rounds: usize, between: f64) -> Vec<Record> {
        let noise = 0.03 + 0.02 * random.uniform();
        let round = |_| {
            let middle = seconds * (between * random.normal()).exp();
            let sample = |_| {
                let longer = if random.below(20) == 0 { 1.5 + 1.5 * random.uniform() } else { 1.0 };
                middle * longer * (noise * random.normal()).exp()
            };
            Record::example("case", (0..9).map(sample).collect())
        };
        (0..rounds).map(round).collect()
    }

    /// How often A, which takes `slower` times as long as B, is called slower, of 200 seeds.
    fn called_slower(slower: f64, rounds: usize, between: f64) -> usize {
        let is_called = |seed: &u64| {
            let mut random = Seeded::new(*seed);
            let a = drawn(&mut random, 0.01 * slower, rounds, between);
            let b = drawn(&mut random, 0.01, rounds, between);
            judge(&a, &b).unwrap()[0].verdict == Verdict::Slower
        };
        (0..200).filter(is_called).count()
    }

    #[test]
    fn a_case_that_is_slower_by_a_third_is_called_so_and_an_equal_one_is_not() {
        for (rounds, between) in [(1, 0.0), (1, 0.02), (5, 0.03)] {
            assert_eq!(called_slower(1.3, rounds, between), 200, "{rounds} rounds that differ by {between}");
            assert_eq!(called_slower(1.0, rounds, between), 0, "{rounds} rounds that differ by {between}");
        }
    }

    #[test]
    fn a_machine_that_changes_its_speed_is_unclear_and_not_slower() {
        let rounds = |seconds: [f64; 5]| -> Vec<Record> {
            seconds
                .iter()
                .map(|seconds| Record::example("case", (0..9).map(|sample| seconds + 1e-4 * f64::from(sample)).collect()))
                .collect()
        };
        let judged = judge(&rounds([1.0, 2.0, 1.0, 2.0, 1.0]), &rounds([1.0, 1.0, 2.0, 1.0, 1.0])).unwrap();
        assert_eq!((judged[0].verdict, judged[0].rounds), (Verdict::Unclear, 5));
        // both changed it at once
        assert_eq!(judge(&rounds([1.0, 2.0, 1.0, 2.0, 1.0]), &rounds([1.0, 2.0, 1.0, 2.0, 1.0])).unwrap()[0].verdict, Verdict::Even);
        assert_eq!(judge(&rounds([0.7; 5]), &rounds([1.0; 5])).unwrap()[0].verdict, Verdict::Faster);
    }

    #[test]
    fn rounds_with_interrupted_samples_are_still_told_apart() {
        let rounds = |seconds: f64| -> Vec<Record> {
            let sample = |index: u32| seconds * (1.0 + 0.001 * f64::from(index)) * if index < 3 { 4.0 } else { 1.0 };
            (0..3).map(|_| Record::example("case", (0..7).map(sample).collect())).collect()
        };
        assert_eq!(judge(&rounds(2.0), &rounds(1.0)).unwrap()[0].verdict, Verdict::Slower);
        assert_eq!(judge(&rounds(1.0)[..1], &rounds(1.0)[..1]).unwrap()[0].verdict, Verdict::Even);
    }

    #[test]
    fn wrong_results_fail_and_what_cannot_be_held_is_refused() {
        let right = Record::example("case", vec![1.0; 9]);
        let mut wrong = Record::example("case", Vec::new());
        wrong.check.passes = false;
        let judged = judge(&[wrong], std::slice::from_ref(&right)).unwrap();
        assert!(judged[0].verdict == Verdict::Wrong && judged[0].verdict.is_bad() && text(&judged).contains("1 wrong"), "{judged:?}");
        let mut elsewhere = right.clone();
        elsewhere.machine.cpu = Some("another".to_owned());
        assert!(judge(std::slice::from_ref(&right), &[elsewhere]).unwrap_err().contains("another"));
        assert!(judge(std::slice::from_ref(&right), &[Record::example("other", vec![1.0; 9])]).is_err());
    }
}
