//! Where a command's networks are: named one by one, found beside the transformer or in a folder, or embedded.

use std::path::{Path, PathBuf};

use turbowan_wan_model::checkpoint::{ModelFolder, Parts, Task};

use crate::cmd::flags::ModelPaths;
use crate::error::Error;
use crate::request::{FileRef, Mode, ModelFiles, Models};

/// Where the official scripts look for the autoencoder.
const VAE: &str = "checkpoints/Wan2.1_VAE.pth";
/// Where the official scripts look for the text encoder.
const TEXT_ENCODER: &str = "checkpoints/models_t5_umt5-xxl-enc-bf16.pth";
/// The tokenizer beside the text encoder, as the official checkpoints have it.
const TOKENIZER: &str = "google/umt5-xxl/tokenizer.json";

/// The networks of `t2v`; `dit_path` names its transformer.
pub(super) fn text_to_video(dit_path: Option<&Path>, paths: &ModelPaths) -> Result<Models, Error> {
    if let (Some(_), Some(_)) = (dit_path, &paths.high_noise_model_path) {
        return Err(Error::flag("--dit_path", "--high_noise_model_path is given too; a model has one transformer or two experts"));
    }
    let places = Places::of(paths, Task::TextToVideo, "--dit_path")?;
    Places { dit: dit_path.or(places.dit), ..places }.models()
}

/// The networks of `i2v`.
pub(super) fn image_to_video(paths: &ModelPaths) -> Result<Models, Error> {
    Places::of(paths, Task::ImageToVideo, "--high_noise_model_path")?.models()
}

/// What was named on the command line.
struct Places<'a> {
    paths: &'a ModelPaths,
    dit: Option<&'a Path>,
    low_noise: Option<&'a Path>,
    task: Task,
    flag: &'static str,
}

impl<'a> Places<'a> {
    fn of(paths: &'a ModelPaths, task: Task, flag: &'static str) -> Result<Self, Error> {
        let (dit, low_noise) = (paths.high_noise_model_path.as_deref(), paths.low_noise_model_path.as_deref());
        if dit.is_none() && low_noise.is_some() {
            return Err(Error::flag(
                "--high_noise_model_path",
                "--low_noise_model_path is given; the expert for noisy times is needed too",
            ));
        }
        Ok(Self { paths, dit, low_noise, task, flag })
    }

    fn models(&self) -> Result<Models, Error> {
        if self.dit.is_none() && self.paths.model_dir.is_none() {
            let loose = [&self.paths.vae_path, &self.paths.text_encoder_path, &self.paths.tokenizer_path].into_iter().flatten().next();
            return match loose {
                Some(path) => {
                    Err(Error::flag(self.flag, format!("{} is given but no transformer; name one, or --model_dir", path.display())))
                }
                None => Ok(Models::embedded(match self.task {
                    Task::TextToVideo => Mode::T2v,
                    Task::ImageToVideo => Mode::I2v,
                })),
            };
        }
        let [vae, text_encoder, tokenizer] = self.named();
        let parts = match (self.dit, &self.paths.model_dir, vae, text_encoder, tokenizer) {
            // Everything has a name: nothing is looked for.
            (Some(dit), None, Some(vae), Some(text_encoder), Some(tokenizer)) if dit.is_file() => {
                let low_noise = self.low_noise.map(Path::to_owned);
                Parts { dit: dit.to_owned(), low_noise, vae, text_encoder, tokenizer, clip: None }
            }
            (dit, folder, vae, text_encoder, tokenizer) => {
                let place = folder.as_deref().or(dit).unwrap_or(Path::new("."));
                let found = ModelFolder::find(place)?.parts(self.task)?;
                Parts {
                    dit: dit.filter(|path| path.is_file()).map_or(found.dit, Path::to_owned),
                    low_noise: self.low_noise.map(Path::to_owned).or(found.low_noise),
                    vae: vae.unwrap_or(found.vae),
                    text_encoder: text_encoder.unwrap_or(found.text_encoder),
                    tokenizer: tokenizer.unwrap_or(found.tokenizer),
                    clip: None,
                }
            }
        };
        Ok(Models::Files(Box::new(ModelFiles {
            dit: FileRef::of(&parts.dit)?,
            low_noise: parts.low_noise.as_deref().map(FileRef::of).transpose()?,
            vae: FileRef::of(&parts.vae)?,
            text_encoder: FileRef::of(&parts.text_encoder)?,
            tokenizer: FileRef::of(&parts.tokenizer)?,
        })))
    }

    /// Autoencoder, text encoder and tokenizer as they were named, or where the official scripts expect them.
    fn named(&self) -> [Option<PathBuf>; 3] {
        let or_official = |named: &Option<PathBuf>, official: &str| named.clone().or_else(|| existing(PathBuf::from(official)));
        let text_encoder = or_official(&self.paths.text_encoder_path, TEXT_ENCODER);
        let tokenizer = match &self.paths.tokenizer_path {
            Some(path) if path.is_dir() => Some(path.join("tokenizer.json")),
            Some(path) => Some(path.clone()),
            None => text_encoder.as_ref().and_then(|encoder| existing(encoder.with_file_name(TOKENIZER))),
        };
        [or_official(&self.paths.vae_path, VAE), text_encoder, tokenizer]
    }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}
