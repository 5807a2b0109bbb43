//! `turbowan report`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::atomic_file;
use crate::cmd::verify::say;
use crate::error::Error;
use crate::report::bench::machine;
use crate::report::bench::source::Sources;
use crate::report::{bench, chart, host, kernels, training};

/// Pages about this program, written from what it holds.
#[derive(Debug, Args)]
pub struct Report {
    /// Which.
    #[command(subcommand)]
    pub page: Page,
}

/// A page.
#[derive(Debug, Subcommand)]
pub enum Page {
    /// One page from records of bench, verify, eval and peers: tables, charts, and what was not measured.
    Bench(Bench),
    /// A CPU's page from nothing, in under a quarter of an hour: operations timed and held to the truth, captions evaluated.
    Host(Host),
    /// Ours beside peers as a Markdown table, from the same records.
    Table(Table),
    /// Every kernel on every chip: registers, shared memory, occupancy, and the predicted budget of its hot loop.
    Kernels(Kernels),
    /// Curves of training runs: losses, learning rates, looks, a picture a run.
    Training(Training),
}

/// Which records, and where their page goes.
#[derive(Debug, Args)]
pub struct Bench {
    /// Files that `bench`, `verify --json`, `eval` and the scripts in benches/peers wrote, or folders of such.
    #[arg(required = true, value_name = "RECORDS")]
    pub records: Vec<PathBuf>,
    /// The folder of index.html and README.md.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Where a CPU's records and their page go.
#[derive(Debug, Args)]
pub struct Host {
    /// A new folder, e.g. reports/DATE-MACHINE: records, index.html and README.md.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Captions of the evaluation.
    #[arg(long, default_value_t = 30)]
    pub captions: usize,
    /// The folder benches/peers of a checkout: PyTorch is timed in turns with ours, by $PYTHON or python3.
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,
}

/// Which records, and which of their cases.
#[derive(Debug, Args)]
pub struct Table {
    /// As `report bench` takes them.
    #[arg(required = true, value_name = "RECORDS")]
    pub records: Vec<PathBuf>,
    /// Only cases of these names, in this order.
    #[arg(long, value_name = "NAME")]
    pub case: Vec<String>,
}

/// Which runs, and where their pictures go.
#[derive(Debug, Args)]
pub struct Training {
    /// Metrics of runs: `metrics.jsonl` of a run's folder, or a copy of it.
    #[arg(required = true)]
    pub metrics: Vec<PathBuf>,
    /// The folder of the pictures; beside the metrics without it.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Where the page about kernels goes.
#[derive(Debug, Args)]
pub struct Kernels {
    /// The folder of README.md and kernels.json.
    #[arg(long, default_value = "reports/kernels")]
    pub out: PathBuf,
    /// Prints the JSON and writes nothing.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Without cuobjdump, in a build without kernels, when a file holds no record or no metrics, or when one cannot be read or written.
pub fn run(args: &Report) -> Result<(), Error> {
    match &args.page {
        Page::Bench(args) => report_bench(&args.records, &args.out),
        Page::Host(args) => report_host(args),
        Page::Table(args) => beside_peers(args),
        Page::Kernels(args) => report_kernels(args),
        Page::Training(args) => args.metrics.iter().try_for_each(|path| draw_training(path, args.out.as_deref())),
    }
}

/// Writes the page of records.
fn report_bench(records: &[PathBuf], out: &Path) -> Result<(), Error> {
    let sources = Sources::read(records)?;
    let page = bench::page(&sources, &again(records, out)).map_err(|error| Error::broken(out, error))?;
    std::fs::create_dir_all(out).map_err(|source| Error::Read { path: out.to_owned(), source })?;
    for (name, text) in [("index.html", page.html()), ("README.md", page.markdown())] {
        let path = out.join(name);
        atomic_file::write(&path, text.as_bytes())?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Measures everything that a CPU has, then writes the page, also where a part of it failed.
fn report_host(args: &Host) -> Result<(), Error> {
    let failed = host::measure(&args.out, args.captions, args.peers.as_deref())?;
    report_bench(std::slice::from_ref(&args.out), &args.out)?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::broken(&args.out, format!("the page was made, but this failed: {}", failed.join(", "))))
    }
}

/// The command as it was given.
fn again(records: &[PathBuf], out: &Path) -> String {
    let word = |path: &Path| {
        let path = path.display().to_string();
        if path.contains([' ', '\'']) { format!("'{}'", path.replace('\'', r"'\''")) } else { path }
    };
    let records: Vec<String> = records.iter().map(|path| word(path)).collect();
    format!("turbowan report bench {} --out {}", records.join(" "), word(out))
}

/// Prints ours beside peers.
fn beside_peers(args: &Table) -> Result<(), Error> {
    let sources = Sources::read(&args.records)?;
    let mut pairs: Vec<_> = machine::sections(&sources).into_iter().flat_map(|section| section.pairs).collect();
    if let Some(unknown) = args.case.iter().find(|name| pairs.iter().all(|pair| pair.case != **name)) {
        return Err(Error::flag("--case", format!("{unknown:?} is no case that a peer of the same machine and day stands beside")));
    }
    if !args.case.is_empty() {
        pairs.retain(|pair| args.case.contains(&pair.case));
        pairs.sort_by_key(|pair| args.case.iter().position(|name| *name == pair.case));
    }
    say(&machine::pairs(&pairs).markdown())
}

/// Draws the curves of the run whose metrics are in `path`: `NAME.svg` for `NAME.jsonl`, and the folder's name for `metrics.jsonl`.
fn draw_training(path: &Path, out: Option<&Path>) -> Result<(), Error> {
    let whole = std::path::absolute(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let named = if whole.file_stem().is_some_and(|stem| stem == "metrics") { whole.parent() } else { None };
    let name = named.unwrap_or(&whole).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let charts = training::Run::read(path)?.charts(&name);
    let picture = chart::svg(&charts).map_err(|error| Error::broken(path, error))?;
    let folder = out.map_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned(), Path::to_owned);
    std::fs::create_dir_all(folder.join("")).map_err(|source| Error::Read { path: folder.clone(), source })?;
    let target = folder.join(format!("{name}.svg"));
    atomic_file::write(&target, picture.as_bytes())?;
    println!("{}", target.display());
    Ok(())
}

fn report_kernels(args: &Kernels) -> Result<(), Error> {
    let report = kernels::report(&kernels::find_cuobjdump()?)?;
    let json = format!("{:#}\n", json!(report));
    if args.json {
        print!("{json}");
        return Ok(());
    }
    std::fs::create_dir_all(&args.out).map_err(|source| Error::Read { path: args.out.clone(), source })?;
    for (name, text) in [("README.md", kernels::markdown(&report)), ("kernels.json", json)] {
        let path = args.out.join(name);
        atomic_file::write(&path, text.as_bytes())?;
        println!("{}", path.display());
    }
    Ok(())
}
