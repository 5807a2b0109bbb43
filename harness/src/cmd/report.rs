//! `turbowan report`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::atomic_file;
use crate::error::Error;
use crate::report::kernels;

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
/// Without cuobjdump, in a build without kernels, or when a file cannot be written.
pub fn run(args: &Report) -> Result<(), Error> {
    let Page::Kernels(args) = &args.page;
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
