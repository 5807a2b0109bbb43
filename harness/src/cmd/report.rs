//! `turbowan report`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::atomic_file;
use crate::error::Error;
use crate::report::{chart, kernels, training};

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
    /// Every kernel on every chip: registers, shared memory, occupancy, and the predicted budget of its hot loop.
    Kernels(Kernels),
    /// Curves of training runs: losses, learning rates, looks, a picture a run.
    Training(Training),
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
/// Without cuobjdump, in a build without kernels, when a file holds no metrics, or when one cannot be read or written.
pub fn run(args: &Report) -> Result<(), Error> {
    match &args.page {
        Page::Kernels(args) => report_kernels(args),
        Page::Training(args) => args.metrics.iter().try_for_each(|path| draw_training(path, args.out.as_deref())),
    }
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
