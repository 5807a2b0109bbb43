//! `turbowan`: fast video generation with the Wan models, and the measurements that back it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use turbowan::cmd::conform;

/// Generates video with Wan 2.1/2.2 models in 1 to 4 steps, and proves its arithmetic.
#[derive(Debug, Parser)]
#[command(name = "turbowan", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Recorded runs of the official code, replayed.
    Conform(conform::Conform),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Conform(args) => conform::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
