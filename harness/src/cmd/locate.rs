//! Where a command's networks are: named one by one, found in a folder, or embedded.

use std::path::{Path, PathBuf};

use crate::cmd::flags::{ImageToVideo, Shared, TextToVideo};
use crate::error::Error;
use crate::request::{FileRef, Models};
use turbowan_wan_model::tiny;

/// The networks of `t2v`.
pub(super) fn text_to_video(args: &TextToVideo) -> Result<Models, Error> {
    locate(&args.shared, args.dit_path.as_deref(), None)
}

/// The networks of `i2v`.
pub(super) fn image_to_video(args: &ImageToVideo) -> Result<Models, Error> {
    locate(&args.shared, args.high_noise_model_path.as_deref(), args.low_noise_model_path.as_deref())
}

fn locate(shared: &Shared, dit: Option<&Path>, low_noise: Option<&Path>) -> Result<Models, Error> {
    let Some(dit) = dit else {
        return Ok(Models::Embedded { seed: tiny::DEFAULT_SEED });
    };
    let vae = shared.vae_path.clone().unwrap_or_else(|| PathBuf::from("checkpoints/Wan2.1_VAE.pth"));
    let text = shared.text_encoder_path.clone().unwrap_or_else(|| PathBuf::from("checkpoints/models_t5_umt5-xxl-enc-bf16.pth"));
    let tokenizer = shared.tokenizer_path.clone().unwrap_or_else(|| text.with_file_name("google").join("umt5-xxl/tokenizer.json"));
    Ok(Models::Files {
        dit: FileRef::of(dit)?,
        low_noise: low_noise.map(FileRef::of).transpose()?,
        vae: FileRef::of(&vae)?,
        text_encoder: FileRef::of(&text)?,
        tokenizer: FileRef::of(&tokenizer)?,
    })
}
