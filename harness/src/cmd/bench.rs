//! `turbowan bench`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::atomic_file;
use crate::bench::against::{self, Line};
use crate::bench::case::{self, Case, SUITES};
use crate::bench::ceiling::Measured;
use crate::bench::error::Error as BenchError;
use crate::bench::{self, LEAST_REPEAT, REPEAT, Settings, Target, table};
use crate::cmd::flags::Threads;
use crate::error::Error;
use crate::record::{Build, Record};

/// Checks, then times operations on shapes that a user meets.
#[derive(Debug, Args)]
pub struct Bench {
    /// A suite that the program carries: host-smoke, host, networks, pairs, report or device.
    #[arg(long, default_value = "host-smoke")]
    pub suite: String,
    /// A file of cases of one's own instead.
    #[arg(long, value_name = "FILE", conflicts_with = "suite")]
    pub cases: Option<PathBuf>,
    /// Where to run; `cuda` for the suite `device`, else `host`.
    #[arg(long, value_enum)]
    pub device: Option<DeviceFlag>,
    /// Number of the GPU.
    #[arg(long, default_value_t = 0)]
    pub gpu: usize,
    /// Only operations whose name holds this.
    #[arg(long)]
    pub op: Option<String>,
    /// Only cases whose name holds this.
    #[arg(long)]
    pub case: Option<String>,
    /// Samples of each case, at least 7.
    #[arg(long, default_value_t = REPEAT)]
    pub repeat: usize,
    /// `naive`, `cublaslt`, or a file: records of `turbowan bench --json`, or lines of a peer (`peer FILE` is `FILE`).
    #[arg(long, value_name = "WHAT", num_args = 1..=2)]
    pub against: Vec<String>,
    /// Times nothing: takes the records of this file as ours.
    #[arg(long, value_name = "FILE")]
    pub recorded: Option<PathBuf>,
    /// Folder with a peer's weights, latent and video, which the autoencoder's result is held to.
    #[arg(long, value_name = "DIR")]
    pub pair: Option<PathBuf>,
    /// CPU threads.
    #[command(flatten)]
    pub threads: Threads,
    /// Checks the results and times nothing.
    #[arg(long)]
    pub check: bool,
    /// Leaves out the ceilings, which take a few seconds.
    #[arg(long)]
    pub no_ceilings: bool,
    /// Tells the cases and runs none.
    #[arg(long)]
    pub list: bool,
    /// One record a line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Also writes the records and the table to this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Where to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceFlag {
    /// The host twins.
    Host,
    /// The kernels on a GPU.
    Cuda,
    /// Refused: the emulator says nothing of time.
    Emulator,
}

/// Runs the command.
///
/// # Errors
/// Cases that are none, a device that cannot be timed, or results that are wrong.
pub fn run(args: &Bench) -> Result<(), Error> {
    if args.repeat < LEAST_REPEAT {
        return Err(Error::flag("--repeat", format!("at least {LEAST_REPEAT}: fewer samples have no median worth telling")));
    }
    args.threads.apply()?;
    let against = Against::of(&args.against)?;
    let lines = against.read()?;
    let (records, refused) = match &args.recorded {
        Some(path) => (recorded(path)?, None),
        None => {
            let (suite, cases) = wanted(args)?;
            if args.list {
                return list(&cases, args.json);
            }
            measured(args, suite, &cases, against.naive)?
        }
    };
    let pairings = against::pair(&records, &lines);
    if args.json {
        pairings.iter().for_each(|row| println!("{}", json!({ "pairing": row })));
    } else if args.recorded.is_some() {
        print!("{}", table::records(&records).text());
    }
    if !args.json && !lines.is_empty() {
        print!("\n{}", table::pairings(&pairings).text());
    }
    if let Some(folder) = &args.out {
        write(folder, &records, &pairings)?;
    }
    if let Some(why) = refused {
        return Err(why.into());
    }
    let failed = records.iter().filter(|record| !record.check.passes || record.against.iter().any(|side| !side.check.passes)).count();
    if failed > 0 { Err(Error::Mismatch { failed, total: records.len() }) } else { Ok(()) }
}

/// What ours stands against.
#[derive(Debug, Default, PartialEq)]
struct Against {
    naive: bool,
    files: Vec<PathBuf>,
}

impl Against {
    fn of(words: &[String]) -> Result<Self, Error> {
        let mut this = Self::default();
        for word in words {
            match word.as_str() {
                "naive" => this.naive = true,
                // a word before a file
                "peer" => {}
                "cublaslt" => {
                    let reason = "this program does not bind cuBLASLt; record it by `benches/peers/gemm.py --device cuda` (PyTorch's linear and _int_mm call it) and name that file";
                    return Err(Error::flag("--against", reason));
                }
                file => this.files.push(file.into()),
            }
        }
        if words.last().is_some_and(|word| word == "peer") {
            return Err(Error::flag("--against", "peer wants a file behind it"));
        }
        Ok(this)
    }

    fn read(&self) -> Result<Vec<Line>, Error> {
        let files = self.files.iter().map(|path| against::read(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(files.into_iter().flatten().collect())
    }
}

/// The records of a file, peers' lines left out.
pub(super) fn recorded(path: &Path) -> Result<Vec<Record>, Error> {
    let ours = against::read(path)?.into_iter().filter_map(|line| match line {
        Line::Ours(record) => Some(*record),
        Line::Peer(_) => None,
    });
    let ours: Vec<Record> = ours.collect();
    if ours.is_empty() { Err(Error::broken(path, "holds no records of `turbowan bench`")) } else { Ok(ours) }
}

/// The name of the suite, and those of its cases that are wanted.
fn wanted(args: &Bench) -> Result<(String, Vec<Case>), Error> {
    let (name, mut cases) = match &args.cases {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
            (path.display().to_string(), case::parse(path, &text)?)
        }
        None if !SUITES.iter().any(|(name, _)| *name == args.suite) => {
            return Err(Error::flag("--suite", format!("{:?}; there are {}", args.suite, SUITES.map(|(name, _)| name).join(", "))));
        }
        None => (args.suite.clone(), case::suite(&args.suite)?),
    };
    cases.retain(|case| args.op.as_ref().is_none_or(|op| case.op.name().contains(op)));
    cases.retain(|case| args.case.as_ref().is_none_or(|part| case.name.contains(part)));
    if !cases.is_empty() {
        return Ok((name, cases));
    }
    let (flag, what) = match (&args.op, &args.case) {
        (Some(op), None) => ("--op", format!("no operation of {name} is called {op:?}")),
        (Some(op), Some(case)) => ("--case", format!("nothing of {name} is called {case:?} with an operation {op:?}")),
        (None, case) => ("--case", format!("nothing of {name} is called {:?}", case.as_deref().unwrap_or_default())),
    };
    Err(Error::flag(flag, format!("{what}; --list tells its cases")))
}

fn list(cases: &[Case], as_json: bool) -> Result<(), Error> {
    let mut listed = table::Table::new(&["case", "op", "shape", "bound", "against"]);
    for case in cases {
        if as_json {
            println!("{}", json!(case));
        }
        let cells = [case.name.clone(), case.op.name(), against::shape_text(&case.op.shape()), case.bound.bound().to_string()];
        listed.row(cells.into_iter().chain([case.against.join(", ")]));
    }
    if !as_json {
        print!("{}", listed.text());
    }
    Ok(())
}

/// Runs the cases, telling each as soon as it is done. One that cannot be run is told and stops no other; the last of them
/// stands beside the records.
fn measured(args: &Bench, suite: String, cases: &[Case], naive: bool) -> Result<(Vec<Record>, Option<BenchError>), Error> {
    let default = if suite == "device" { DeviceFlag::Cuda } else { DeviceFlag::Host };
    let mut target = match args.device.unwrap_or(default) {
        DeviceFlag::Host => Target::Host,
        DeviceFlag::Cuda => Target::cuda(args.gpu)?,
        DeviceFlag::Emulator => {
            let reason = "the emulator is never timed: it runs a kernel's threads as fibers on the processor and checks every access";
            return Err(Error::flag("--device", reason));
        }
    };
    let build = Build::look();
    if build.profile == "debug" {
        eprintln!("note: this is a debug build; its times say nothing (cargo build --release)");
    }
    let has_ceilings = !args.no_ceilings && !args.check;
    let ceilings = if !has_ceilings { Measured::default() } else { target.ceilings()? };
    if !args.json && has_ceilings {
        println!("ceilings of this run: {}", table::ceilings(&ceilings));
    }
    let settings = Settings { suite, repeat: if args.check { 0 } else { args.repeat }, naive, pair: args.pair.clone() };
    let (mut records, mut refused) = (Vec::new(), None);
    let is_watched = std::io::stderr().is_terminal();
    for (index, case) in cases.iter().enumerate() {
        if is_watched {
            eprint!("\r{}/{} {}\x1b[K", index + 1, cases.len(), case.name);
        }
        let record = bench::measure(case, &mut target, &settings, &ceilings, &build);
        if is_watched {
            eprint!("\r\x1b[K");
        }
        match record {
            Ok(record) => {
                if args.json {
                    println!("{}", json!(record));
                }
                records.push(record);
            }
            Err(why) => {
                if let Some(earlier) = refused.replace(why.of_case(&case.name)) {
                    eprintln!("not run: {earlier}");
                }
            }
        }
    }
    if !args.json && !records.is_empty() {
        print!("{}", table::records(&records).text());
    }
    Ok((records, refused))
}

fn write(folder: &Path, records: &[Record], pairings: &[against::Pairing]) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Read { path: folder.to_owned(), source })?;
    let lines: String = records.iter().map(|record| format!("{}\n", json!(record))).collect();
    atomic_file::write(&folder.join("bench.jsonl"), lines.as_bytes())?;
    let mut text = "# Measured\n\n".to_owned();
    if let Some(first) = records.first() {
        let machine = &first.machine;
        let chip = machine
            .gpu
            .as_ref()
            .map_or(String::new(), |gpu| format!("{}, driver {}, ", gpu.name, gpu.driver.as_deref().unwrap_or("unknown")));
        let commit = first.build.commit.as_deref().unwrap_or("unknown");
        let dirty = if first.build.dirty == Some(true) { " (with changes)" } else { "" };
        text += &format!(
            "{chip}{}, {}, {} threads of {} cores. {}, {} build, commit {commit}{dirty}. Clock rates: {}.\n",
            machine.cpu.as_deref().unwrap_or("unknown processor"),
            machine.isa,
            machine.threads,
            machine.cores,
            first.date,
            first.build.profile,
            first.how.clock_rates,
        );
        if let Ok(measured) = serde_json::from_value::<Measured>(first.ceilings["measured"].clone()) {
            text += &format!("Ceilings measured in the same run: {}.\n", table::ceilings(&measured));
        }
    }
    text += "A share of a roofline above 100% means that operands came from a cache; `actual` rates leave out blocks that were skipped.\n";
    text += &format!("Records: `bench.jsonl`, one line a case.\n\n{}", table::records(records).markdown());
    if !pairings.is_empty() {
        text += &format!("\n{}", table::pairings(pairings).markdown());
    }
    atomic_file::write(&folder.join("README.md"), text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ours_stands_against_is_a_word_or_a_file() {
        let words = |words: &[&str]| Against::of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["naive", "peer", "a.json"]).unwrap(), Against { naive: true, files: vec!["a.json".into()] });
        assert!(words(&["cublaslt"]).unwrap_err().to_string().contains("does not bind"));
        assert!(words(&["peer"]).is_err());
    }
}
