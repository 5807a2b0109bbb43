//! A case with all its rounds: what the tables and charts of a machine are made of.

use serde_json::Value;

use crate::bench::against::{Peer, shape_text};
use crate::bench::interval::{Ratio, ratio_of_medians};
use crate::bench::sample::{Samples, Summary};
use crate::record::{Beside, Rates, Record};

/// The level of the intervals that are told.
const LEVEL: f64 = 0.95;

/// A case on one machine and day; rounds of it are counted together.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// The first round: the case, what it was held to, what it was measured with.
    pub record: Record,
    /// Rounds.
    pub rounds: usize,
    /// Samples of all rounds.
    pub samples: Samples,
    /// What is said of them.
    pub seconds: Option<Summary>,
    /// Rates at their median.
    pub rates: Rates,
    /// Other sides, with the samples of all rounds.
    pub sides: Vec<Beside>,
}

/// One operation on one shape: ours, or a side that was timed in turns with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run<'a> {
    /// The operation.
    pub op: &'a str,
    /// Its shape.
    pub shape: &'a Value,
    /// Median seconds.
    pub median: f64,
    /// How many samples that is of.
    pub count: usize,
    /// Operations of the dense formula a second, 10^12.
    pub effective_tops: Option<f64>,
    /// What its result was held to.
    pub truth: &'a str,
    /// How far it was off.
    pub relative_l2: f64,
}

/// A case beside a peer's times of the same shape, machine and day.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// The case.
    pub case: String,
    /// Operation and shape.
    pub what: String,
    /// Ours.
    pub ours: Summary,
    /// Library, version and function.
    pub theirs: String,
    /// Median seconds of theirs.
    pub theirs_s: f64,
    /// Theirs over ours: above 1 ours is faster.
    pub ratio: Ratio,
}

/// Records with the rounds of a case counted together: the same name, operation, shape and day.
pub fn pooled(records: &[&Record]) -> Vec<Timing> {
    let mut timings: Vec<Timing> = Vec::new();
    for record in records {
        let is_same = |known: &&mut Timing| {
            let known = &known.record;
            known.name == record.name && known.op == record.op && known.shape == record.shape && day(&known.date) == day(&record.date)
        };
        match timings.iter_mut().find(is_same) {
            Some(known) => known.add(record),
            None => timings.push(Timing {
                record: (*record).clone(),
                rounds: 1,
                samples: record.samples_s.clone(),
                seconds: record.seconds,
                rates: record.rates,
                sides: record.against.clone(),
            }),
        }
    }
    timings
}

/// The day of a date.
pub fn day(date: &str) -> &str {
    date.split('T').next().unwrap_or(date)
}

impl Timing {
    fn add(&mut self, round: &Record) {
        self.rounds += 1;
        self.samples.0.extend(&round.samples_s.0);
        self.seconds = self.samples.summary();
        if !round.check.passes {
            self.record.check = round.check.clone();
        }
        for side in &round.against {
            match self.sides.iter_mut().find(|known| known.name == side.name) {
                Some(known) => {
                    known.samples_s.0.extend(&side.samples_s.0);
                    known.seconds = known.samples_s.summary();
                    // pairs are pairs only where both sides were timed in every round
                    let is_paired = known.samples_s.0.len() == self.samples.0.len();
                    known.ratio = self.samples.paired_ratio(&known.samples_s).filter(|_| is_paired);
                    if !side.check.passes {
                        known.check = side.check.clone();
                    }
                }
                None => self.sides.push(side.clone()),
            }
        }
        // a rate is a count over the median
        let of_first = self.record.seconds.zip(self.seconds).map(|(first, all)| first.median / all.median);
        let scaled = |rate: Option<f64>| rate.zip(of_first).map(|(rate, by)| rate * by);
        let first = self.record.rates;
        self.rates = Rates {
            effective_tops: scaled(first.effective_tops),
            actual_tops: scaled(first.actual_tops),
            gigabytes_per_s: scaled(first.gigabytes_per_s),
            of_matmul: scaled(first.of_matmul),
            of_copy: scaled(first.of_copy),
            of_measured_roofline: scaled(first.of_measured_roofline),
            of_datasheet_roofline: scaled(first.of_datasheet_roofline),
        };
    }

    /// Operation and shape in a line.
    pub fn what(&self) -> String {
        format!("{} {}", self.record.op, shape_text(&self.record.shape))
    }

    /// What stands before the slash of its operation.
    pub fn family(&self) -> &str {
        self.record.op.split('/').next().unwrap_or_default()
    }

    /// A number of its cost, where it is told.
    pub fn cost(&self, name: &str) -> Option<f64> {
        self.record.cost.as_ref()?[name].as_f64().filter(|count| *count > 0.0)
    }

    /// Itself and the sides that were right, each with a time.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let record = &self.record;
        let operations = self.cost("operations");
        let run = |op, seconds: Option<Summary>, check: &'_ crate::record::Checked| {
            let seconds = seconds.filter(|_| check.passes)?;
            Some((op, seconds, check.relative_l2))
        };
        let ours = run(record.op.as_str(), self.seconds, &record.check).map(|run| (run, record.check.truth.as_str()));
        let sides =
            self.sides.iter().filter_map(|side| Some((run(side.name.as_str(), side.seconds, &side.check)?, side.check.truth.as_str())));
        ours.into_iter()
            .chain(sides)
            .map(|((op, seconds, relative_l2), truth)| Run {
                op,
                shape: &record.shape,
                median: seconds.median,
                count: seconds.count,
                effective_tops: operations.map(|operations| operations / seconds.median / 1e12),
                truth,
                relative_l2,
            })
            .collect()
    }

    /// Beside each peer that timed the same shape on the same machine and day with as many threads.
    pub fn beside(&self, peers: &[Peer]) -> Vec<Paired> {
        let record = &self.record;
        let Some(ours) = self.seconds else { return Vec::new() };
        let is_here = |peer: &&Peer| {
            let is_same_chip = match &record.machine.gpu {
                Some(gpu) => peer.gpu.as_ref() == Some(&gpu.name),
                None => peer.cpu.is_some() && peer.cpu == record.machine.cpu && peer.threads == Some(record.machine.threads),
            };
            is_same_chip && peer.date.as_deref().map(day) == Some(day(&record.date)) && peer.answers(record)
        };
        let mut found: Vec<(String, Samples)> = Vec::new();
        for peer in peers.iter().filter(is_here) {
            let (title, samples) = (peer.title(), if peer.samples_s.0.is_empty() { &[peer.median_s][..] } else { &peer.samples_s.0 });
            match found.iter_mut().find(|(known, _)| *known == title) {
                Some((_, known)) => known.0.extend(samples),
                None => found.push((title, Samples(samples.to_vec()))),
            }
        }
        found
            .into_iter()
            .filter_map(|(theirs, samples)| {
                let ratio = ratio_of_medians(&samples, &self.samples, LEVEL)?;
                let theirs_s = samples.summary()?.median;
                Some(Paired { case: record.name.clone(), what: self.what(), ours, theirs, theirs_s, ratio })
            })
            .collect()
    }
}
