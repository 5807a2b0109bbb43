//! Measuring: a case is data, its result is checked before the clock starts, and a record says by itself what was measured.
//!
//! A case and everything that it stands against are timed in turns, a sample of each, so that a machine that changes its speed
//! changes it for all. On the host: a monotonic clock, a warm-up, the median of at least seven samples, operands as warm as the
//! run before left them; short operations are run several times a sample. On a device: events around each launch, operands in
//! turn from copies that together outgrow the cache, and the cache overwritten between two samples; clock rates are not set and
//! not known. Beside the cases the ceilings are measured in the same run: a copy and the best products.

pub mod against;
pub mod case;
pub mod ceiling;
pub mod cost;
pub mod device;
pub mod error;
pub mod host;
pub mod interval;
pub mod random_tensors;
pub mod sample;
pub mod table;
pub mod work;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use turbowan_cuda::device::{Device, Stream};

use crate::record::{self, Beside, Build, Checked, How, Machine, Rates, Record, SCHEMA};
use case::{Case, Op};
use ceiling::{Arithmetic, Measured, data_sheet, least_seconds};
use device::DeviceClock;
use error::Error;
use sample::Samples;
use work::{Check, Work};

/// Samples of a case, where nothing else is asked for.
pub const REPEAT: usize = 9;
/// The fewest samples that have a median worth telling.
pub const LEAST_REPEAT: usize = 7;
/// A sample of the host is at least this long, so that the clock's own step is nothing.
const LEAST_SECONDS: f64 = 2e-3;
/// A warm-up is at least this long.
const WARM_UP_SECONDS: f64 = 0.1;
/// The most runs of a warm-up and of a sample.
const MOST_RUNS: usize = 1000;
/// Runs of a warm-up on a device.
const DEVICE_WARM_UP: usize = 3;

/// Where cases run.
pub enum Target {
    /// The host twins.
    Host,
    /// The kernels.
    Cuda {
        /// All work is queued here.
        stream: Stream,
        /// Its clock.
        clock: Box<DeviceClock>,
    },
}

impl Target {
    /// A GPU by its number.
    ///
    /// # Errors
    /// [`Error::Device`] with the reason why there is none.
    pub fn cuda(number: usize) -> Result<Self, Error> {
        let no_device = |why: turbowan_cuda::Error| Error::Device(format!("no device to time: {why} (`turbowan doctor` says more)"));
        let stream = Device::open(number).map_err(no_device)?.stream()?;
        let clock = Box::new(DeviceClock::new(&stream)?);
        Ok(Self::Cuda { stream, clock })
    }

    /// `host` or `cuda`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Cuda { .. } => "cuda",
        }
    }

    /// The machine as records name it.
    pub fn machine(&self) -> Machine {
        match self {
            Self::Host => Machine::look(None),
            Self::Cuda { stream, .. } => Machine::look(Some(stream.device().chip())),
        }
    }

    /// What it can do at best.
    ///
    /// # Errors
    /// What the products say.
    pub fn ceilings(&mut self) -> Result<Measured, Error> {
        match self {
            Self::Host => Measured::host(),
            Self::Cuda { stream, clock } => Measured::device(stream, clock),
        }
    }

    fn prepare(&self, op: &Op, pair: Option<&std::path::Path>) -> Result<Box<dyn Work>, Error> {
        match self {
            Self::Host => host::prepare(op, pair),
            Self::Cuda { stream, .. } => device::prepare(op, stream),
        }
    }

    fn sample(&mut self, work: &mut dyn Work, runs: usize) -> Result<f64, Error> {
        match self {
            Self::Host => host_sample(work, runs),
            Self::Cuda { clock, .. } => clock.sample(work),
        }
    }

    fn how(&self, warm_up: usize, runs: usize) -> How {
        let (clock, cache, rates) = match self {
            Self::Host => ("monotonic", "what the run before left", "unknown"),
            Self::Cuda { .. } => ("events", "overwritten before each sample", "unknown: not set and not read"),
        };
        How { clock: clock.into(), warm_up, runs_a_sample: runs, cache: cache.into(), clock_rates: rates.into() }
    }
}

/// Seconds of one run on the host, as the mean of `runs`.
///
/// # Errors
/// What the work says.
pub fn host_sample(work: &mut dyn Work, runs: usize) -> Result<f64, Error> {
    let mut seconds = 0.0;
    for _ in 0..runs.max(1) {
        let started = Instant::now();
        let part = work.run()?;
        seconds += part.unwrap_or_else(|| started.elapsed()).as_secs_f64();
    }
    Ok(seconds / runs.max(1) as f64)
}

/// What is asked of every case.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the suite or the file.
    pub suite: String,
    /// Samples; without any, results are checked and nothing is timed.
    pub repeat: usize,
    /// Every case also against the plain operation of our own.
    pub naive: bool,
    /// Folder with a peer's weights, latent and video.
    pub pair: Option<PathBuf>,
}

/// One side of a case.
struct Side {
    name: String,
    work: Box<dyn Work>,
    samples: Vec<f64>,
    check: Check,
    /// Seconds of the run that was checked.
    first: f64,
}

/// Checks a case and everything it stands against, then times them in turns. A side whose check fails is not timed; without
/// our own side nothing is.
///
/// # Errors
/// A shape that an operation refuses, or what a device says. A wrong answer is no error here: the record says it.
pub fn measure(case: &Case, target: &mut Target, settings: &Settings, ceilings: &Measured, build: &Build) -> Result<Record, Error> {
    let ours = target.prepare(&case.op, settings.pair.as_deref())?;
    measure_prepared(case, ours, target, settings, ceilings, build)
}

/// The same of our own side as it was prepared elsewhere.
///
/// # Errors
/// As [`measure`].
pub fn measure_prepared(
    case: &Case,
    ours: Box<dyn Work>,
    target: &mut Target,
    settings: &Settings,
    ceilings: &Measured,
    build: &Build,
) -> Result<Record, Error> {
    let date = record::utc_now();
    let mut sides = vec![side(case, case.op.name(), ours)?];
    let naive = settings.naive.then(|| "naive".to_owned());
    for name in case.against.iter().cloned().chain(naive.filter(|name| !case.against.contains(name))) {
        let work = match (name.as_str(), &*target) {
            ("naive", Target::Host) => host::naive(&case.op),
            // none of our kernels is plain
            ("naive", Target::Cuda { .. }) => None,
            (other, target) => Some(target.prepare(&case.op.of_same_shape(other).map_err(|why| Error::case(&case.name, why))?, None)?),
        };
        if let Some(work) = work {
            sides.push(side(case, name, work)?);
        }
    }
    let (mut warm_up, mut runs) = (0, 1);
    if settings.repeat > 0 && sides[0].check.verdict.passes() {
        let mut right: Vec<&mut Side> = sides.iter_mut().filter(|side| side.check.verdict.passes()).collect();
        for (index, side) in right.iter_mut().enumerate() {
            let (warmed, needed) = warm(target, &mut *side.work, side.first)?;
            if index == 0 {
                (warm_up, runs) = (warmed, needed);
            }
        }
        for _ in 0..settings.repeat {
            for side in &mut right {
                side.samples.push(target.sample(&mut *side.work, runs)?);
            }
        }
    }
    let mut sides = sides.into_iter();
    let ours = sides.next().ok_or_else(|| Error::case(&case.name, "has no side"))?;
    let samples = Samples(ours.samples);
    let cost = case.op.cost(matches!(target, Target::Cuda { .. }));
    let machine = target.machine();
    let sheet = machine.gpu.as_ref().and_then(|gpu| data_sheet(&gpu.name));
    let mut rates = Rates::default();
    if let (Some(cost), Some(seconds)) = (cost, samples.summary()) {
        let arithmetic = Arithmetic::of(&case.op);
        let rate = |count: u64, unit: f64| (count > 0).then_some(count as f64 / seconds.median / unit);
        let share = |least: Option<f64>| least.map(|least| least / seconds.median);
        rates = Rates {
            effective_tops: rate(cost.operations, 1e12),
            actual_tops: rate(cost.actual, 1e12),
            gigabytes_per_s: rate(cost.bytes, 1e9),
            of_matmul: rate(cost.actual, 1e12).zip(ceilings.tops(arithmetic)).map(|(rate, most)| rate / most),
            of_copy: rate(cost.bytes, 1e9).zip(ceilings.copy_gigabytes_per_s).map(|(rate, most)| rate / most),
            of_measured_roofline: share(least_seconds(&cost, ceilings.tops(arithmetic), ceilings.copy_gigabytes_per_s)),
            of_datasheet_roofline: sheet.and_then(|sheet| {
                let tops = if arithmetic == Arithmetic::Int8 { sheet.int8_tops } else { sheet.bf16_tops };
                share(least_seconds(&cost, Some(tops), Some(sheet.gigabytes_per_s)))
            }),
        };
    }
    Ok(Record {
        schema: SCHEMA.to_owned(),
        date,
        build: build.clone(),
        suite: settings.suite.clone(),
        name: case.name.clone(),
        op: case.op.name(),
        shape: case.op.shape(),
        device: target.name().to_owned(),
        how: target.how(warm_up, runs),
        check: checked(&ours.check),
        seconds: samples.summary(),
        cost: cost.map(|cost| json!(cost)),
        rates,
        process_peak_bytes: record::process_peak_bytes(),
        ceilings: json!({ "measured": ceilings, "data_sheet": sheet }),
        against: sides
            .map(|side| {
                let theirs = Samples(side.samples);
                Beside {
                    check: checked(&side.check),
                    seconds: theirs.summary(),
                    ratio: samples.paired_ratio(&theirs),
                    name: side.name,
                    samples_s: theirs,
                }
            })
            .collect(),
        samples_s: samples,
        machine,
    })
}

fn side(case: &Case, name: String, mut work: Box<dyn Work>) -> Result<Side, Error> {
    let first = host_sample(&mut *work, 1)?;
    let check = work.check(case.bound.rows, case.bound.bound())?;
    Ok(Side { name, work, samples: Vec::new(), check, first })
}

/// Warms up after the run that was checked and took `first` seconds; how many runs that makes, and how many a sample needs to
/// be long enough for the clock.
fn warm(target: &mut Target, work: &mut dyn Work, first: f64) -> Result<(usize, usize), Error> {
    if let Target::Cuda { .. } = target {
        for _ in 0..DEVICE_WARM_UP {
            target.sample(work, 1)?;
        }
        return Ok((DEVICE_WARM_UP, 1));
    }
    let (mut seconds, mut runs, mut least) = (first, 1, first);
    while seconds < WARM_UP_SECONDS && runs < MOST_RUNS {
        let sample = target.sample(work, 1)?;
        seconds += sample;
        least = least.min(sample);
        runs += 1;
    }
    Ok((runs, ((LEAST_SECONDS / least.max(1e-9)).ceil() as usize).clamp(1, MOST_RUNS)))
}

fn checked(check: &Check) -> Checked {
    let distance = &check.verdict.distance;
    Checked {
        truth: check.truth.to_owned(),
        values: check.values,
        max_abs: distance.max_abs,
        relative_l2: distance.relative_l2,
        cosine: distance.cosine,
        bound: check.verdict.bound.to_string(),
        passes: check.verdict.passes(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings() -> Settings {
        Settings { suite: "own".into(), repeat: 3, naive: true, pair: None }
    }

    fn one(bound: &str) -> Case {
        let text = format!(
            "[[case]]\nname = \"small\"\nop = \"linear/int8\"\nshape = {{ rows = 40, out = 128, input = 256 }}\nagainst = [\"linear/f32\"]\nbound = {{ {bound} }}"
        );
        case::parse(Path::new("own.toml"), &text).unwrap().remove(0)
    }

    #[test]
    fn a_case_is_checked_then_timed_in_turns_with_what_it_stands_against() {
        let ceilings = Measured { int8_tops: Some(1.0), copy_gigabytes_per_s: Some(10.0), ..Measured::default() };
        let record = measure(&one("relative_l2 = 1e-5"), &mut Target::Host, &settings(), &ceilings, &Build::look()).unwrap();
        assert!(record.check.passes && record.samples_s.0.len() == 3 && record.how.warm_up >= 2);
        assert_eq!(record.against.iter().map(|side| side.name.as_str()).collect::<Vec<_>>(), ["linear/f32", "naive"]);
        assert!(record.against.iter().all(|side| side.samples_s.0.len() == 3 && side.ratio.is_some()));
        assert_eq!(record.rates.effective_tops, record.rates.actual_tops);
        assert!(record.rates.of_measured_roofline.is_some() && record.rates.of_datasheet_roofline.is_none());
        // a record reads back as it was written
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }

    #[test]
    fn a_wrong_answer_has_no_time() {
        let record = measure(&one("relative_l2 = 1e-30"), &mut Target::Host, &settings(), &Measured::default(), &Build::look()).unwrap();
        assert!(!record.check.passes && record.samples_s.0.is_empty() && record.seconds.is_none());
        assert_eq!(record.rates, Rates::default());
        assert!(record.against.iter().all(|side| side.samples_s.0.is_empty() && side.ratio.is_none()));
    }

    #[test]
    fn without_a_device_the_reason_is_told() {
        if Device::open(0).is_ok() {
            return;
        }
        let why = Target::cuda(0).err().unwrap().to_string();
        assert!(why.starts_with("no device to time: "), "{why}");
    }
}
