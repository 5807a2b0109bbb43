//! A record is one measured case: one line of JSON that says by itself what was measured, of what, on what, and how.
//!
//! | field | what it holds |
//! |---|---|
//! | `schema` | `turbowan-bench/1`; a reader refuses what it does not know |
//! | `date` | UTC, when the case was begun |
//! | `machine` | processor, instruction set, cores, threads used, memory; the GPU with its driver, or null |
//! | `build` | version, profile, target; commit and whether the checkout was dirty, or null where nobody knows |
//! | `suite`, `name`, `op`, `shape` | the case |
//! | `device` | `host` or `cuda` |
//! | `how` | clock, runs before the first sample, runs a sample, what the cache held, what is known of the chip's clocks |
//! | `check` | what the result was held to before the clock started, how far it was, whether it passed |
//! | `samples_s` | seconds of one run, raw, in order; empty where the check failed: a wrong answer has no time |
//! | `seconds` | median, min, quartiles, median deviation, count |
//! | `cost` | operations of the dense formula, those carried out, bytes |
//! | `rates` | `effective_tops`, `actual_tops`, `gigabytes_per_s` at the median, and their shares of the ceilings |
//! | `process_peak_bytes` | the resident set's peak of the process, up to the end of this case |
//! | `ceilings` | what was measured in the same run, and what the data sheet of the chip says |
//! | `against` | other sides, timed in turns: their samples, their check, quartiles of ours over theirs |

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use turbowan_cuda::device::Chip;
use turbowan_cuda::host::Isa;

use crate::bench::sample::{Samples, Summary};

/// The form of the records that are written and read here.
pub const SCHEMA: &str = "turbowan-bench/1";

/// What was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: Option<String>,
    /// Instruction set in use.
    pub isa: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Threads in use.
    pub threads: usize,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// The GPU, where it is what was measured.
    pub gpu: Option<Gpu>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: String,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Cache in bytes.
    pub l2_bytes: u64,
    /// CUDA version of the driver.
    pub driver: Option<String>,
}

/// What was measured with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// Version of the program.
    pub version: String,
    /// `release` or `debug`.
    pub profile: String,
    /// Processor and system that it was built for.
    pub target: String,
    /// Commit of the checkout that the program lies in, at run time; null where it lies in none.
    pub commit: Option<String>,
    /// Whether that checkout differs from its commit; files that git does not know, such as the record itself, are no difference.
    pub dirty: Option<bool>,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct How {
    /// `monotonic` on the host, `events` on a device.
    pub clock: String,
    /// Runs before the first sample.
    pub warm_up: usize,
    /// Runs whose mean is a sample.
    pub runs_a_sample: usize,
    /// What the cache holds when a sample begins.
    pub cache: String,
    /// What is known of the clock rates of the chip.
    pub clock_rates: String,
}

/// What the result was held to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// What the truth was.
    pub truth: String,
    /// Values compared.
    pub values: usize,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Relative L2.
    pub relative_l2: f64,
    /// Cosine.
    pub cosine: f64,
    /// The bound in words.
    pub bound: String,
    /// Whether it was kept.
    pub passes: bool,
}

/// Rates at the median, in 10^12 operations and 10^9 bytes a second, and shares of ceilings.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rates {
    /// Operations of the dense formula a second.
    pub effective_tops: Option<f64>,
    /// Operations carried out a second.
    pub actual_tops: Option<f64>,
    /// Bytes a second.
    pub gigabytes_per_s: Option<f64>,
    /// Actual rate over the best product measured in the same run, in the same arithmetic.
    pub of_matmul: Option<f64>,
    /// Bytes a second over the copy measured in the same run.
    pub of_copy: Option<f64>,
    /// Least time by the measured ceilings over the median.
    pub of_measured_roofline: Option<f64>,
    /// Least time by the data sheet over the median.
    pub of_datasheet_roofline: Option<f64>,
}

/// Another side, timed in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// Its name.
    pub name: String,
    /// What its result was held to.
    pub check: Checked,
    /// Seconds.
    pub samples_s: Samples,
    /// What is said of them.
    pub seconds: Option<Summary>,
    /// Quartiles of ours over theirs, pair by pair: below 1 ours is faster.
    pub ratio: Option<[f64; 3]>,
}

/// One measured case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// UTC.
    pub date: String,
    /// What was measured on.
    pub machine: Machine,
    /// What was measured with.
    pub build: Build,
    /// The suite or the file of the case.
    pub suite: String,
    /// The case.
    pub name: String,
    /// The operation.
    pub op: String,
    /// Its shape.
    pub shape: Value,
    /// `host` or `cuda`.
    pub device: String,
    /// How it was measured.
    pub how: How,
    /// What the result was held to.
    pub check: Checked,
    /// Seconds of one run.
    pub samples_s: Samples,
    /// What is said of them.
    pub seconds: Option<Summary>,
    /// Operations and bytes.
    pub cost: Option<Value>,
    /// Rates.
    pub rates: Rates,
    /// Peak of the process's resident set in bytes, up to the end of this case; none where the system does not tell.
    pub process_peak_bytes: Option<u64>,
    /// Ceilings.
    pub ceilings: Value,
    /// Other sides.
    #[serde(default)]
    pub against: Vec<Beside>,
}

impl Machine {
    /// This machine, and the GPU of `chip`.
    pub fn look(chip: Option<&Chip>) -> Self {
        Self {
            cpu: line_of("/proc/cpuinfo", "model name"),
            isa: format!("{:?}", Isa::detect()).to_lowercase(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            memory_bytes: kibibytes_of("/proc/meminfo", "MemTotal"),
            gpu: chip.map(|chip| Gpu {
                name: chip.name.clone(),
                capability: format!("{}.{}", chip.capability.0, chip.capability.1),
                multiprocessors: chip.multiprocessors,
                memory_bytes: chip.memory_bytes,
                l2_bytes: chip.l2_bytes,
                driver: chip.driver.map(|(major, minor)| format!("{major}.{minor}")),
            }),
        }
    }
}

impl Build {
    /// This program.
    pub fn look() -> Self {
        let checkout = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
        let commit = checkout.as_deref().and_then(|folder| git(folder, &["rev-parse", "HEAD"]));
        let dirty = checkout
            .as_deref()
            .and_then(|folder| git(folder, &["status", "--porcelain", "--untracked-files=no"]))
            .map(|changes| !changes.is_empty());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            dirty: commit.as_ref().and(dirty),
            commit,
        }
    }
}

/// What git says in a folder; none without git or outside a checkout.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
impl Record {
    /// A record of a case with these samples, of a machine and a build that are always the same.
    pub fn example(name: &str, samples: Vec<f64>) -> Self {
        let check = serde_json::json!({
            "truth": "f64 attention", "values": 8, "max_abs": 1e-3, "relative_l2": 1e-2, "cosine": 0.9999, "bound": "cosine >= 9.99e-1", "passes": true
        });
        let samples = Samples(samples);
        // the struct is written out here once; what it lacks is a failed test
        serde_json::from_value(serde_json::json!({
            "schema": SCHEMA,
            "date": "2026-11-30T18:32:55Z",
            "machine": { "cpu": "example", "isa": "avx2", "cores": 2, "threads": 2, "memory_bytes": 1000, "gpu": null },
            "build": { "version": "0.1.0", "profile": "release", "target": "x86_64-linux", "commit": "abc", "dirty": false },
            "suite": "own",
            "name": name,
            "op": "attention/sage",
            "shape": { "batch": 1, "heads": 2, "len": 1024, "head_dim": 64 },
            "device": "host",
            "how": { "clock": "monotonic", "warm_up": 2, "runs_a_sample": 1, "cache": "warm", "clock_rates": "unknown" },
            "check": check,
            "seconds": samples.summary(),
            "samples_s": samples,
            "cost": { "operations": 537e6, "actual": 537e6, "bytes": 2e6 },
            "rates": Rates::default(),
            "process_peak_bytes": null,
            "ceilings": { "measured": null, "data_sheet": null },
        }))
        .unwrap()
    }
}

/// What stands behind `key:` in a file of the system.
fn line_of(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(found, _)| found.trim() == key)?;
    Some(value.trim().to_owned())
}

/// The same as a number of bytes.
fn kibibytes_of(path: &str, key: &str) -> Option<u64> {
    line_of(path, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Peak of this process's resident set in bytes, where the system tells.
pub fn process_peak_bytes() -> Option<u64> {
    kibibytes_of("/proc/self/status", "VmHWM")
}

/// Now, e.g. `2026-11-25T03:04:05Z`.
pub fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date; the civil calendar from days, by eras of 400 years that begin in March.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_764_039_845, "2025-11-25T03:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[test]
    fn a_machine_and_a_build_say_what_they_are() {
        let (machine, build) = (Machine::look(None), Build::look());
        assert!(machine.cores >= 1 && machine.threads >= 1 && !machine.isa.is_empty() && machine.gpu.is_none());
        assert!(build.commit.is_some() || build.dirty.is_none(), "{build:?}");
    }
}
