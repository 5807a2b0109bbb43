//! `turbowan init-tiny DIR`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use turbowan_wan_model::checkpoint::write_safetensors;
use turbowan_wan_model::tiny::{self, Part, TinyTensors, vocabulary};

use crate::atomic_file;
use crate::error::Error;

/// Writes a small model with the whole Wan architecture and random weights, in the official layout.
#[derive(Debug, Args)]
pub struct InitTiny {
    /// The folder to write to; made where it is missing.
    pub dir: PathBuf,
    /// Seed of the weights.
    #[arg(long, default_value_t = tiny::DEFAULT_SEED)]
    pub seed: u64,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &InitTiny) -> Result<(), Error> {
    for part in Part::ALL {
        let path = args.dir.join(part.file_name());
        let tensors = TinyTensors::generate(part, args.seed)?;
        let tensors: Vec<_> = tensors.iter().collect();
        let metadata = BTreeMap::from([("turbowan.config".to_owned(), config(part).to_string())]);
        let mut bytes = Vec::new();
        write_safetensors(&mut bytes, &tensors, &metadata).map_err(|error| Error::broken(&path, error))?;
        atomic_file::check(&path)?;
        atomic_file::write(&path, &bytes)?;
        println!("{} ({} tensors, {:.1} MB)", path.display(), tensors.len(), bytes.len() as f64 / 1e6);
    }
    let path = args.dir.join("google/umt5-xxl/tokenizer.json");
    atomic_file::check(&path)?;
    atomic_file::write(&path, vocabulary::tokenizer().bytes())?;
    println!("{}", path.display());
    println!(
        "\nturbowan t2v --model_dir {} --prompt \"a red ball bounces on blue ground\" --resolution 128x128 --num_frames 33",
        args.dir.display()
    );
    Ok(())
}

fn config(part: Part) -> serde_json::Value {
    match part {
        Part::TextToVideo => json!(tiny::dit_config(16)),
        Part::HighNoise | Part::LowNoise => json!(tiny::dit_config(36)),
        Part::Vae => json!(tiny::vae_config()),
        Part::Text => json!(tiny::text_config()),
    }
}
