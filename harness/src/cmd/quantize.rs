//! `turbowan quantize IN OUT`.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use turbowan_wan_model::checkpoint::{Checkpoint, Conversion, Floats, Kind, Statement, write_safetensors};

use crate::atomic_file::{self, AtomicFile};
use crate::error::Error;

/// Writes a checkpoint in other number formats: the linears of a transformer in int8, with a scale for each 128 x 128 block,
/// the rest in 16 bits.
#[derive(Debug, Args)]
pub struct Quantize {
    /// A transformer, an autoencoder or a text encoder: a file, an index of shards, or a folder with one of them.
    pub input: PathBuf,
    /// The .safetensors file to write.
    pub output: PathBuf,
    /// The format of what does not become int8. [default: bf16; of an autoencoder: f16]
    #[arg(long, value_enum)]
    pub floats: Option<FloatsFlag>,
    /// A transformer's linears stay floating point too.
    #[arg(long = "keep_linears", alias = "keep-linears")]
    pub keep_linears: bool,
    /// States how the weights were made. [default: as the input states it]
    #[arg(long, value_name = "TEXT")]
    pub recipe: Option<String>,
    /// States something that was measured of the weights; may be given several times.
    #[arg(long = "gate", value_name = "NAME=NUMBER")]
    pub gates: Vec<String>,
}

/// `--floats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FloatsFlag {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper half of 32 bits.
    Bf16,
}

/// Runs the command.
///
/// # Errors
/// When the input is no network that is known, a value does not fit, or the file cannot be written.
pub fn run(args: &Quantize) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(&args.input)?;
    let kind = checkpoint.kind(None)?;
    let floats = match (args.floats, &kind) {
        (Some(FloatsFlag::F32), _) => Floats::F32,
        (Some(FloatsFlag::F16), _) | (None, Kind::Vae(_)) => Floats::F16,
        (Some(FloatsFlag::Bf16), _) | (None, _) => Floats::Bf16,
    };
    let statement = statement(args, &checkpoint, &kind)?;
    atomic_file::check(&args.output)?;
    let tensors = Conversion { int8: !args.keep_linears, floats }.convert(&checkpoint)?;
    let views: Vec<_> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.view())).collect();
    let bytes: usize = views.iter().map(|(_, view)| view.bytes.len()).sum();
    let before: usize = checkpoint.files().map(|(_, _, bytes)| bytes).sum();
    // Whatever else the input tells of itself, such as the settings of its training, goes along.
    let mut metadata = checkpoint.metadata().clone();
    metadata.extend(statement.metadata());
    let mut file = AtomicFile::create(&args.output)?;
    write_safetensors(&mut file, &views, &metadata)
        .and_then(|()| file.flush())
        .map_err(|error| atomic_file::WriteError::of(&args.output, "write the tensors", error))?;
    file.seal()?.publish()?;
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!("{} ({} tensors, {:.1} MB of {:.1} MB)", args.output.display(), views.len(), megabytes(bytes), megabytes(before));
    Ok(())
}

/// What the new file states: the configuration, which shapes do not show in full, and how the weights were made.
fn statement(args: &Quantize, checkpoint: &Checkpoint, kind: &Kind) -> Result<Statement, Error> {
    let config = match kind {
        Kind::Dit { config, .. } => serde_json::to_value(config),
        Kind::Vae(config) => serde_json::to_value(config),
        Kind::Text(config) => serde_json::to_value(config),
        Kind::Unknown => Ok(serde_json::Value::Null),
    };
    let config = config.map_err(|error| Error::broken(&args.input, error))?;
    let mut statement = Statement { config: config.as_object().cloned(), ..checkpoint.statement()? };
    if let Some(recipe) = &args.recipe {
        statement.recipe = Some(recipe.clone());
    }
    for gate in &args.gates {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        match gate.split_once('=').map(|(name, text)| (name.trim(), number(text))) {
            Some((name, Some(number))) if !name.is_empty() => statement.gates.insert(name.to_owned(), number),
            _ => return Err(Error::flag("--gate", format!("{gate:?} is not NAME=NUMBER"))),
        };
    }
    Ok(statement)
}
