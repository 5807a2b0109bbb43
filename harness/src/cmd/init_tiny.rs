//! `turbowan init-tiny DIR`.

use std::path::PathBuf;

use clap::Args;
use turbowan_wan_model::tiny::{self, Part, Set, Weights, vocabulary};

use crate::atomic_file;
use crate::error::Error;

/// Writes the embedded model in the official layout: trained parts as they are, the others random.
#[derive(Debug, Args)]
pub struct InitTiny {
    /// The folder to write to; made where it is missing.
    pub dir: PathBuf,
    /// Random weights in every part.
    #[arg(long)]
    pub random: bool,
    /// Seed of random weights; every part is random then. [default: 1]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &InitTiny) -> Result<(), Error> {
    let set = match (args.random, args.seed) {
        (false, None) => Set::embedded(),
        (_, seed) => Set::random(seed.unwrap_or(tiny::DEFAULT_SEED)),
    };
    for part in Part::ALL {
        let path = args.dir.join(part.file_name());
        let bytes = set.bytes(part)?;
        atomic_file::check(&path)?;
        atomic_file::write(&path, &bytes)?;
        let weights = match set.weights(part) {
            Weights::Trained { .. } => "trained".to_owned(),
            Weights::Random { seed } => format!("random, seed {seed}"),
        };
        println!("{} ({weights}, {:.1} MB)", path.display(), bytes.len() as f64 / 1e6);
    }
    let path = args.dir.join("google/umt5-xxl/tokenizer.json");
    atomic_file::check(&path)?;
    atomic_file::write(&path, vocabulary::tokenizer().bytes())?;
    println!("{}", path.display());
    println!(
        "\nturbowan t2v --model_dir {} --prompt \"a red ball moves left on a white background\" --resolution 128x128 --num_frames 33",
        args.dir.display()
    );
    Ok(())
}
