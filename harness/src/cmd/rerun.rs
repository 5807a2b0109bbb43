//! `turbowan rerun FILE`: the request inside a video, once more.

use std::path::PathBuf;

use clap::Args;

use crate::cmd::flags::{ProcessorFlags, Threads};
use crate::cmd::generate::finish;
use crate::error::Error;
use crate::progress::{Progress, Style};
use crate::request::Request;
use crate::run::Run;
use crate::video::{Output, read_metadata};

/// Makes the same video again, byte for byte, from the request inside a file that this program wrote.
#[derive(Debug, Args)]
pub struct Rerun {
    /// A .mp4, .webp, .gif or .png that this program wrote.
    pub file: PathBuf,
    /// Where the new one goes. [default: the file's name with -rerun]
    #[arg(long = "save_path", alias = "save-path", short = 'o')]
    pub save_path: Option<PathBuf>,
    /// Another seed: the same request, another video.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the networks work.
    #[command(flatten)]
    pub place: ProcessorFlags,
    /// CPU threads.
    #[command(flatten)]
    pub threads: Threads,
    /// Events and the result as JSON lines on standard output.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the file holds no request, or what it names has changed.
pub fn run(args: &Rerun) -> Result<(), Error> {
    let metadata = read_metadata(&args.file)?;
    let mut request: Request = serde_json::from_value(metadata["request"].clone())
        .map_err(|error| Error::broken(&args.file, format!("no request that can be run again: {error}")))?;
    request.verify()?;
    if let Some(seed) = args.seed {
        request.seed = seed;
    }
    args.threads.apply()?;
    let save_path = args.save_path.clone().unwrap_or_else(|| {
        let mut name = args.file.file_stem().unwrap_or_default().to_owned();
        name.push("-rerun.");
        name.push(args.file.extension().unwrap_or_default());
        args.file.with_file_name(name)
    });
    let progress = Progress::new(Style::detect(args.json).listener());
    let output = Output::new(&save_path)?;
    let processor = args.place.open()?;
    if let Some(made_on) = metadata["instructions"].as_str().filter(|made_on| *made_on != processor.name()) {
        progress.note(format!("it was made on {made_on}, this is {}: the last bits may differ", processor.name()));
    }
    finish(Run { request: &request, output, resumed: None, cache: None, capture: None, processor, progress: &progress }, args.json)
}
