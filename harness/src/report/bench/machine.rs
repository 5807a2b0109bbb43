//! A machine with a build: everything that was timed on it, as the parts of its section. Host and GPU are two machines.

use super::figure::Figure;
use super::page::Part;
use super::source::Sources;
use super::timing::{self, Paired, Timing, day};
use super::{accuracy, lengths, roofline, speedup};
use crate::bench::table::{self, Table};
use crate::record::Record;
use crate::report::chart::ChartError;

/// What was timed on one machine with one build.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Its cases, in the order in which they were taken.
    pub timings: Vec<Timing>,
    /// Beside peers of the same machine and day.
    pub pairs: Vec<Paired>,
    /// What is known of the load before the first sample.
    load: Vec<String>,
}

/// Whether two records are of one machine and one build.
fn is_same(a: &Record, b: &Record) -> bool {
    let gpu = |record: &Record| record.machine.gpu.as_ref().map(|gpu| (gpu.name.clone(), gpu.driver.clone()));
    let host = |record: &Record| (record.machine.cpu.clone(), record.machine.isa.clone(), record.machine.cores, record.machine.threads);
    a.device == b.device && host(a) == host(b) && gpu(a) == gpu(b) && a.build == b.build
}

/// A section for each machine and build, those of the host first.
pub fn sections(sources: &Sources) -> Vec<Section> {
    let mut groups: Vec<Vec<&Record>> = Vec::new();
    for record in &sources.records {
        match groups.iter_mut().find(|group| is_same(group[0], record)) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups.sort_by_key(|group| group[0].machine.gpu.is_some());
    let section = |group: Vec<&Record>| {
        let timings = timing::pooled(&group);
        let pairs = timings.iter().flat_map(|timing| timing.beside(&sources.peers)).collect();
        let is_here = |sitting: &&super::source::Sitting| {
            group.iter().any(|record| record.machine.cpu.as_ref() == Some(&sitting.machine) && day(&record.date) == sitting.date)
        };
        let told = |load: [f64; 3]| load.map(|load| format!("{load:.2}")).join(", ");
        let load = sources.sittings.iter().filter(is_here).filter_map(|sitting| Some(told(sitting.load_before?))).collect();
        Section { timings, pairs, load }
    };
    groups.into_iter().map(section).collect()
}

impl Section {
    fn first(&self) -> &Record {
        // a section is made of one record at least
        &self.timings[0].record
    }

    /// The machine and the commit in a few words.
    pub fn title(&self) -> String {
        let machine = &self.first().machine;
        let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
        let on = match &machine.gpu {
            Some(gpu) => gpu.name.clone(),
            None => format!("{cpu}, {} of {} cores, {}", machine.threads, machine.cores, machine.isa),
        };
        let commit = self.first().build.commit.as_deref().unwrap_or("unknown");
        let dirty = if self.first().build.dirty == Some(true) { " with changes" } else { "" };
        format!("{on}, commit {}{dirty}", &commit[..commit.len().min(10)])
    }

    /// Its parts.
    ///
    /// # Errors
    /// What drawing says.
    pub fn parts(&self) -> Result<Vec<Part>, ChartError> {
        let mut parts = vec![Part::Section(self.title()), Part::List(self.facts())];
        let figures = self.figures()?;
        if !figures.is_empty() {
            parts.push(Part::Heading("Charts".to_owned()));
            parts.push(Part::Figures(figures));
        }
        if !self.pairs.is_empty() {
            parts.push(Part::Heading("Beside peers".to_owned()));
            parts.push(Part::Table(pairs(&self.pairs)));
        }
        parts.push(Part::Heading("Operations".to_owned()));
        parts.push(Part::Text(
            "Median of all samples; q1..q3 is where the middle half lies around it. T op/s: operations of the dense formula, in brackets those carried out. \
             Beside our own: how many times faster ours is, sample by sample."
                .to_owned(),
        ));
        parts.push(Part::Table(self.operations()));
        Ok(parts)
    }

    fn figures(&self) -> Result<Vec<Figure>, ChartError> {
        let mut figures = lengths::figures(&self.timings)?;
        figures.extend(roofline::roofline(&self.timings)?);
        figures.extend(speedup::beside_peers(&self.pairs)?);
        figures.extend(accuracy::figures(&self.timings)?);
        figures.extend(speedup::beside_ours(&self.timings)?);
        figures.extend(roofline::shares(&self.timings)?);
        Ok(figures)
    }

    fn facts(&self) -> Vec<String> {
        let first = self.first();
        let machine = &first.machine;
        let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
        let mut facts = Vec::new();
        if let Some(gpu) = &machine.gpu {
            facts.push(format!(
                "{}, compute capability {}, {} multiprocessors, {}, driver {}",
                gpu.name,
                gpu.capability,
                gpu.multiprocessors,
                gigabytes(gpu.memory_bytes),
                gpu.driver.as_deref().unwrap_or("unknown")
            ));
        }
        let memory = machine.memory_bytes.map_or("memory unknown".to_owned(), gigabytes);
        let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
        facts.push(format!("{cpu}, {}, {} threads on {} cores, {memory}", machine.isa, machine.threads, machine.cores));
        let commit = first.build.commit.as_deref().unwrap_or("unknown");
        let dirty = if first.build.dirty == Some(true) { " with changes" } else { "" };
        facts.push(format!(
            "turbowan {}, {} build for {}, commit {commit}{dirty}",
            first.build.version, first.build.profile, first.build.target
        ));
        let dates = || self.timings.iter().map(|timing| timing.record.date.as_str());
        if let (Some(from), Some(to)) = (dates().min(), dates().max()) {
            facts.push(format!("{} cases, the first begun {from}, the last {to}", self.timings.len()));
        }
        facts.push(format!("clock: {}; clock rates of the chip: {}; caches: {}", first.how.clock, first.how.clock_rates, first.how.cache));
        facts.extend(self.load.iter().map(|load| format!("load over 1, 5 and 15 minutes before the first sample: {load}")));
        let mut ceilings: Vec<String> = Vec::new();
        for measured in self.timings.iter().filter_map(roofline::ceilings) {
            let told = format!("ceilings of a run: {}", table::ceilings(&measured));
            if !ceilings.contains(&told) {
                ceilings.push(told);
            }
        }
        facts.extend(ceilings);
        facts
    }

    fn operations(&self) -> Table {
        let mut operations = Table::new(&[
            "case",
            "operation",
            "median",
            "q1..q3",
            "samples",
            "T op/s",
            "GB/s",
            "of roofline",
            "beside our own",
            "held to",
            "error",
        ]);
        for timing in &self.timings {
            let (record, rates) = (&timing.record, &timing.rates);
            let (median, spread) = match &timing.seconds {
                Some(seconds) => {
                    let percent = |part: f64| format!("{:+.1}%", (part / seconds.median - 1.0) * 100.0);
                    (table::time(seconds.median), format!("{}..{}", percent(seconds.q1), percent(seconds.q3)))
                }
                None => ("not timed".to_owned(), "-".to_owned()),
            };
            let rounds = if timing.rounds > 1 { format!(" in {} rounds", timing.rounds) } else { String::new() };
            let tops = match (rates.effective_tops, rates.actual_tops) {
                (Some(effective), Some(actual)) if (effective - actual).abs() > 1e-9 * effective => {
                    format!("{} ({})", table::number(effective), table::number(actual))
                }
                (Some(rate), _) | (None, Some(rate)) => table::number(rate),
                (None, None) => "-".to_owned(),
            };
            let roofs = [(rates.of_measured_roofline, ""), (rates.of_datasheet_roofline, " of the data sheet's")];
            let roofs: Vec<String> = roofs.into_iter().filter_map(|(share, of)| Some(format!("{:.0}%{of}", share? * 100.0))).collect();
            let sides = timing.sides.iter().map(|side| match side.ratio {
                Some([_, ratio, _]) if ratio > 0.0 => format!("{} {}", speedup::factor(1.0 / ratio), side.name),
                _ if side.check.passes => side.name.clone(),
                _ => format!("{}: WRONG", side.name),
            });
            let check = &record.check;
            let error =
                if check.passes { format!("rel L2 {:.1e}", check.relative_l2) } else { format!("WRONG: rel L2 {:.1e}", check.relative_l2) };
            operations.row([
                record.name.clone(),
                timing.what(),
                median,
                spread,
                format!("{}{rounds}", timing.samples.0.len()),
                tops,
                rates.gigabytes_per_s.map_or("-".to_owned(), table::number),
                or_none(&roofs),
                or_none(&sides.collect::<Vec<_>>()),
                check.truth.clone(),
                error,
            ]);
        }
        operations
    }
}

fn or_none(told: &[String]) -> String {
    if told.is_empty() { "-".to_owned() } else { told.join(", ") }
}

/// Ours beside peers.
pub fn pairs(pairs: &[Paired]) -> Table {
    let mut table = Table::new(&["case", "operation", "ours", "theirs", "faster by", "95% interval", "peer"]);
    for pair in pairs {
        let interval = pair.ratio.interval.map_or("few samples".to_owned(), |[low, high]| format!("{low:.2} to {high:.2}"));
        table.row([
            pair.case.clone(),
            pair.what.clone(),
            table::time(pair.ours.median),
            table::time(pair.theirs_s),
            speedup::factor(pair.ratio.middle),
            interval,
            pair.theirs.clone(),
        ]);
    }
    table
}
