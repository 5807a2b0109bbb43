//! `turbowan`: fast video generation with the Wan models, and the measurements that back it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use turbowan::cmd::{
    bench, compare, conform, doctor, eval, flags, generate, init_tiny, inspect, merge, plan, quantize, report, rerun, sweep, train, verify,
};

/// Generates video with Wan 2.1/2.2 models in 1 to 4 steps, and proves its arithmetic.
#[derive(Debug, Parser)]
#[command(name = "turbowan", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A video from a prompt.
    T2v(Box<flags::TextToVideo>),
    /// A video from a first frame and a prompt.
    I2v(Box<flags::ImageToVideo>),
    /// The same video again, from the request inside a file.
    Rerun(rerun::Rerun),
    /// What a checkpoint or a model folder is.
    Inspect(inspect::Inspect),
    /// Recorded runs of the official code, replayed.
    Conform(conform::Conform),
    /// Every operation on every machine there is, held to the f64 oracle.
    Verify(verify::Verify),
    /// What a model makes of many captions: adherence, fidelity, motion, flicker.
    Eval(Box<eval::Eval>),
    /// Prompts and seeds in every combination of steps, sampler, attention and arithmetic.
    Sweep(Box<sweep::Sweep>),
    /// What a generation takes, before anything is loaded.
    Plan(plan::Plan),
    /// Operations, checked and then timed, on shapes that a user meets.
    Bench(bench::Bench),
    /// Two attention types, two machines or two records side by side.
    Compare(compare::Compare),
    /// Pages about this program, written from what it holds.
    Report(report::Report),
    /// A part of a small model, trained on the world of moving shapes.
    Train(train::Train),
    /// What this program holds, what this machine has, and which kernel each operation takes here.
    Doctor(doctor::Doctor),
    /// What fine-tuning changed in one model, added to another.
    Merge(merge::Merge),
    /// A checkpoint in other number formats: int8 linears, 16 bits.
    Quantize(quantize::Quantize),
    /// The embedded model as files in the official layout.
    #[command(name = "init-tiny")]
    InitTiny(init_tiny::InitTiny),
}

fn main() -> ExitCode {
    turbowan::allocator::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::T2v(args) => generate::text_to_video(&args),
        Command::I2v(args) => generate::image_to_video(&args),
        Command::Rerun(args) => rerun::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Conform(args) => conform::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::InitTiny(args) => init_tiny::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
