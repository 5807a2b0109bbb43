//! `turbowan train STAGE CONFIG.toml --out DIR`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use crate::cmd::flags::Threads;
use crate::error::Error;
use crate::progress::{Event, Progress, Style};
use crate::run::watch;
use crate::train::{Plan, Stage};

/// Trains a part of a small model on the world of moving shapes; what was stopped goes on to the same bits.
#[derive(Debug, Args)]
pub struct Train {
    /// What is trained.
    #[arg(value_enum)]
    pub stage: Stage,
    /// The configuration: [run], and a table of the stage's name; what it leaves out has its default.
    pub config: PathBuf,
    /// The run's folder, made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on from the folder's checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Stop at this step; the schedule stays that of the configuration's steps.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// CPU threads.
    #[command(flatten)]
    pub threads: Threads,
}

/// Runs the command.
///
/// # Errors
/// One error, with the next step.
pub fn run(args: &Train) -> Result<(), Error> {
    args.threads.apply()?;
    watch::hear_ctrl_c();
    let progress = Progress::new(if std::io::stderr().is_terminal() { Style::Bars.listener() } else { Box::new(remarks) });
    args.stage.train(&args.config, &args.out, Plan { resumes: args.resume, until: args.steps }, &progress)
}

/// A log gets a line of metrics now and then, and nothing between.
fn remarks(event: &Event) {
    if let Event::Note { text } = event {
        eprintln!("{text}");
    }
}
