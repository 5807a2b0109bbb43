//! Latents of captioned clips, encoded once and kept in a file.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::image::conditioning;
use turbowan_wan_model::resolution::{FrameCount, FrameSize, LatentShape};
use turbowan_wan_model::vae::{COLORS, Clip, Side, Tiling, Vae};
use turbowan_world::{Attributes, Size, Split, World};

use super::cache::{Cache, Kept};
use super::folder;
use super::models::Models;
use crate::error::Error;
use crate::progress::{Progress, Style};
use crate::run::watch::check_stop;

/// What is learnt from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// A folder of `NAME.safetensors` latents or clips, or `NAME.webp` videos, each with its captions in `NAME.txt`, one a line. Without it
    /// clips of the world of simple shapes are drawn.
    pub folder: Option<PathBuf>,
    /// Clips that are drawn.
    pub clips: u64,
    /// Captions of each.
    pub captions: u64,
    /// Height and width in pixels, also of what a look makes: a multiple of 16.
    pub side: usize,
    /// Frames, one more than a multiple of 4.
    pub frames: usize,
    /// Chooses the clips.
    pub seed: u64,
    /// The folder that latents are kept in.
    pub cache: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { folder: None, clips: 1600, captions: 4, side: 64, frames: 17, seed: 1, cache: "latents".into() }
    }
}

impl Data {
    /// Size of the latents.
    ///
    /// # Errors
    /// A size that the network cannot make.
    pub fn shape(&self) -> Result<LatentShape, Error> {
        Ok(FrameSize::new(self.side, self.side)?.latent(FrameCount::new(self.frames)?))
    }

    /// Size of the world's clips.
    pub(super) fn size(&self) -> Result<Size, Error> {
        Ok(Size::new(self.side, self.frames)?)
    }

    /// Everything that is learnt from; with `images`, also what an image-to-video network is told of first frames.
    ///
    /// # Errors
    /// An autoencoder or a folder that cannot be read, a cache that cannot be written, or a stop.
    pub fn clips(&self, models: &Models, images: bool) -> Result<Clips, Error> {
        match &self.folder {
            Some(folder) => folder::clips(folder, self, models, images),
            None => self.drawn(World::new(self.seed, Split::Seen), self.clips, models, images),
        }
    }

    /// The first `count` clips of a world.
    pub(super) fn drawn(&self, world: World, count: u64, models: &Models, images: bool) -> Result<Clips, Error> {
        let (size, shape) = (self.size()?, self.shape()?);
        let key = serde_json::json!({
            "vae": models.vae_identity()?, "world": world.seed, "split": format!("{:?}", world.split), "clips": count,
            "side": self.side, "frames": self.frames, "images": images,
        });
        let kept = Cache::new(&self.cache, &key).kept_or(shape, images, || {
            encoded(models, shape, count as usize, images, |index| {
                Clip::new([COLORS, self.frames, self.side, self.side], world.clip(index as u64).video(size)).map_err(Error::from)
            })
        })?;
        let captions = (0..count).map(|clip| (0..self.captions.max(1)).map(|variant| world.caption(clip, variant)).collect()).collect();
        Ok(Clips { shape, kept, captions })
    }
}

/// Latents of clips of one size, normalised as the network reads them, with their captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Clips {
    /// Size of a latent.
    pub shape: LatentShape,
    /// The latents.
    pub kept: Kept,
    /// At least one caption a clip.
    pub captions: Vec<Vec<String>>,
}

impl Clips {
    /// Number of clips.
    pub fn len(&self) -> usize {
        self.captions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.captions.is_empty()
    }

    /// Latent `[16, T, H, W]` of a clip.
    pub fn latent(&self, clip: usize) -> &[f32] {
        &self.kept.latents[clip * self.shape.values()..][..self.shape.values()]
    }

    /// What an image-to-video network is told of every clip's first frame, `[20, T, H, W]` each, as the pipeline lays it out.
    pub fn conditions(&self) -> Vec<Vec<f32>> {
        self.kept.images.chunks_exact(self.shape.values()).filter_map(|image| conditioning(image, self.shape)).collect()
    }
}

/// Latents of `count` clips, many at a time.
pub(super) fn encoded(
    models: &Models,
    shape: LatentShape,
    count: usize,
    images: bool,
    clip: impl Fn(usize) -> Result<Clip, Error> + Sync,
) -> Result<Kept, Error> {
    let vae = models.vae(&[Side::Encoder])?;
    let progress = Progress::new(Style::detect(false).listener());
    let stage = progress.stage("encode", Some(count as u64));
    let pairs: Vec<(Vec<f32>, Vec<f32>)> = (0..count)
        .into_par_iter()
        .map(|index| {
            let clip = clip(index)?;
            let latent = latent(&vae, &clip, shape)?;
            let image = if images { latent_of_first(&vae, &clip, shape)? } else { Vec::new() };
            stage.advance(1);
            Ok((latent, image))
        })
        .collect::<Result<_, Error>>()?;
    stage.end();
    let (latents, images): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    Ok(Kept { latents: latents.concat(), images: images.concat() })
}

fn latent(vae: &Vae<HostFrames>, clip: &Clip, shape: LatentShape) -> Result<Vec<f32>, Error> {
    let latent = vae.encode(clip, Tiling::Whole, &mut |_| check_stop())?;
    if latent.shape() != shape.dims() {
        let reason = format!("a clip became a latent of {:?}, the settings make {:?}", latent.shape(), shape.dims());
        return Err(Error::broken(Path::new("clip"), reason));
    }
    Ok(latent.values)
}

/// The latent of a clip's first frame with grey behind it, as the pipeline encodes an image.
fn latent_of_first(vae: &Vae<HostFrames>, clip: &Clip, shape: LatentShape) -> Result<Vec<f32>, Error> {
    let (all, first) = (clip.frames * clip.height * clip.width, clip.height * clip.width);
    let mut values = clip.values.clone();
    values.chunks_exact_mut(all).for_each(|colour| colour[first..].fill(0.0));
    latent(vae, &Clip::new(clip.shape(), values)?, shape)
}

/// Clips of the world that a look asks for: their attributes, one caption each, and their first frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// What each must show.
    pub attributes: Vec<Attributes>,
    /// The wording.
    pub captions: Vec<String>,
    /// `[20, T, H, W]` each; none for text to video.
    pub conditions: Vec<Vec<f32>>,
}

impl Data {
    /// `held_out` clips of combinations that no clip for training has, then `seen` ones.
    ///
    /// # Errors
    /// As [`Data::clips`].
    pub fn asked(&self, held_out: u64, seen: u64, models: &Models, images: bool) -> Result<Asked, Error> {
        // Another sequence than that of training, whatever its seed.
        let seed = self.seed ^ 0x100C_100C;
        let mut asked = Asked { attributes: Vec::new(), captions: Vec::new(), conditions: Vec::new() };
        for (split, count) in [(Split::HeldOut, held_out), (Split::Seen, seen)] {
            let world = World::new(seed, split);
            asked.attributes.extend((0..count).map(|clip| world.clip(clip).attributes));
            asked.captions.extend((0..count).map(|clip| world.caption(clip, 0)));
            if images && count > 0 {
                asked.conditions.extend(self.drawn(world, count, models, true)?.conditions());
            }
        }
        Ok(asked)
    }
}
