//! A folder of captioned clips or latents.

use std::path::{Path, PathBuf};

use serde_json::json;
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};
use turbowan_wan_model::vae::{COLORS, Clip};

use super::cache::{Cache, Kept};
use super::clips::{Clips, Data, encoded};
use super::models::Models;
use crate::error::Error;
use crate::video::{Frames, read_webp};

/// The pairs of `folder`, by name: `NAME.safetensors` with one tensor `[16, T, H, W]` (a normalised latent) or `[3, T, H, W]` (a clip in
/// `[-1, 1]`), or `NAME.webp`; and `NAME.txt`, a caption a line. All must have the size that `data` names.
pub(super) fn clips(folder: &Path, data: &Data, models: &Models, images: bool) -> Result<Clips, Error> {
    let shape = data.shape()?;
    let files = files(folder)?;
    let captions = files.iter().map(|file| captions(&file.with_extension("txt"))).collect::<Result<Vec<_>, _>>()?;
    let latents = files.iter().map(|file| latent(file)).collect::<Result<Vec<_>, _>>()?;
    if latents.iter().all(Option::is_some) && !images {
        let mut all = Vec::with_capacity(files.len() * shape.values());
        for (file, (dims, values)) in files.iter().zip(latents.into_iter().flatten()) {
            if dims != shape.dims() {
                return Err(Error::broken(file, format!("a latent of {dims:?}, the settings ask for {:?}", shape.dims())));
            }
            all.extend(values);
        }
        return Ok(Clips { shape, kept: Kept { latents: all, images: Vec::new() }, captions });
    }
    if let Some(index) = latents.iter().position(Option::is_some) {
        let reason = if images { "a latent shows no first frame to an image-to-video network" } else { "latents and clips are mixed" };
        return Err(Error::broken(&files[index], format!("{reason}; give clips alone")));
    }
    let hash = |file: &PathBuf| Ok(blake3::hash(&read(file)?).to_hex().to_string());
    let hashes = files.iter().map(hash).collect::<Result<Vec<_>, Error>>()?;
    let key = json!({ "vae": models.vae_identity()?, "files": hashes, "side": data.side, "frames": data.frames, "images": images });
    let kept = Cache::new(&data.cache, &key)
        .kept_or(shape, images, || encoded(models, shape, files.len(), images, |index| clip(&files[index], data)))?;
    Ok(Clips { shape, kept, captions })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Files with latents or frames, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let refuse = |source| Error::Read { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(refuse)?.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    let is_clip = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "safetensors" || suffix == "webp");
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(is_clip).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::broken(folder, "there is no .safetensors or .webp file to learn from"));
    }
    Ok(files)
}

fn captions(path: &Path) -> Result<Vec<String>, Error> {
    let text = String::from_utf8(read(path)?).map_err(|error| Error::broken(path, error))?;
    let captions: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if captions.is_empty() { Err(Error::broken(path, "there is no caption in it")) } else { Ok(captions) }
}

/// Axes and values.
type Tensor = ([usize; 4], Vec<f32>);

/// The latent that a file holds; `None` of one with frames.
fn latent(path: &Path) -> Result<Option<Tensor>, Error> {
    if path.extension().is_some_and(|suffix| suffix == "webp") {
        return Ok(None);
    }
    let (dims, values) = tensor(path)?;
    Ok((dims[0] != COLORS).then_some((dims, values)))
}

/// The one tensor of a file, which has four axes.
fn tensor(path: &Path) -> Result<Tensor, Error> {
    let file = Checkpoint::open(path)?;
    let names: Vec<&str> = file.names().collect();
    let only = match names[..] {
        [only] => file.get(only),
        _ => None,
    };
    let dims = only.and_then(|tensor| <[usize; 4]>::try_from(tensor.shape).ok());
    match (only, dims) {
        (Some(tensor), Some(dims)) => Ok((dims, tensor.to_f32())),
        _ => Err(Error::broken(path, "expected one tensor of four axes: channels, frames, height, width")),
    }
}

/// A file's frames, which must have the size that `data` names.
fn clip(path: &Path, data: &Data) -> Result<Clip, Error> {
    let clip = frames(path)?;
    let expected = [COLORS, data.frames, data.side, data.side];
    if clip.shape() != expected {
        return Err(Error::broken(path, format!("a clip of {:?}, the settings ask for {expected:?}", clip.shape())));
    }
    Ok(clip)
}

fn frames(path: &Path) -> Result<Clip, Error> {
    if path.extension().is_some_and(|suffix| suffix == "safetensors") {
        let (dims, values) = tensor(path)?;
        return Ok(Clip::new(dims, values)?);
    }
    let frames: Frames = read_webp(path)?;
    let (count, area) = (frames.count(), frames.width() * frames.height());
    let mut values = vec![0.0; COLORS * count * area];
    for (index, rgb) in frames.iter().enumerate() {
        for (pixel, colour) in rgb.chunks_exact(COLORS).enumerate() {
            for (channel, value) in colour.iter().enumerate() {
                values[(channel * count + index) * area + pixel] = f32::from(*value) / 127.5 - 1.0;
            }
        }
    }
    Ok(Clip::new([COLORS, count, frames.height(), frames.width()], values)?)
}
