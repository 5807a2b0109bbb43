//! Latents in a file that is named after what they were made from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use turbowan_wan_model::checkpoint::{Checkpoint, Dtype, TensorSource, TensorView, write_safetensors};
use turbowan_wan_model::resolution::LatentShape;

use crate::atomic_file;
use crate::error::Error;

/// Key of the metadata that states what latents were made from.
const MADE_FROM: &str = "turbowan.latents";

/// What is kept of some clips.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    /// Latents `[clips, 16, T, H, W]`.
    pub latents: Vec<f32>,
    /// Latents of the first frames with grey behind them, of the same shape; empty where nobody asked.
    pub images: Vec<f32>,
}

/// The place of some latents.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    made_from: String,
}

impl Cache {
    /// The place in `folder` of what `made_from` describes wholly.
    pub fn new(folder: &Path, made_from: &Value) -> Self {
        let made_from = made_from.to_string();
        let name = blake3::hash(made_from.as_bytes()).to_hex();
        Self { path: folder.join(format!("latents-{}.safetensors", &name[..16])), made_from }
    }

    /// What is kept; where nothing is, or what is there is broken, `make` makes it.
    ///
    /// # Errors
    /// Those of `make`; a file that cannot be written.
    pub fn kept_or(&self, shape: LatentShape, images: bool, make: impl FnOnce() -> Result<Kept, Error>) -> Result<Kept, Error> {
        if let Some(kept) = self.read(shape, images) {
            return Ok(kept);
        }
        // Before the long work.
        atomic_file::check(&self.path)?;
        let kept = make()?;
        self.write(shape, &kept)?;
        Ok(kept)
    }

    fn read(&self, shape: LatentShape, images: bool) -> Option<Kept> {
        let file = Checkpoint::open(&self.path).ok()?;
        if file.metadata().get(MADE_FROM) != Some(&self.made_from) {
            return None;
        }
        let take = |name: &str| {
            let tensor = file.get(name).filter(|tensor| tensor.dtype == Dtype::F32)?;
            (tensor.shape.len() == 5 && tensor.shape[1..] == shape.dims()).then(|| tensor.to_f32())
        };
        let (latents, images) = (take("latents")?, if images { take("images")? } else { Vec::new() });
        (images.is_empty() || images.len() == latents.len()).then_some(Kept { latents, images })
    }

    fn write(&self, shape: LatentShape, kept: &Kept) -> Result<(), Error> {
        let [channels, frames, height, width] = shape.dims();
        let dims = [kept.latents.len() / shape.values(), channels, frames, height, width];
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (latents, images) = (bytes(&kept.latents), bytes(&kept.images));
        let view = |bytes| TensorView { dtype: Dtype::F32, shape: &dims, bytes };
        let mut tensors = vec![("latents", view(latents.as_slice()))];
        if !images.is_empty() {
            tensors.push(("images", view(images.as_slice())));
        }
        let metadata = BTreeMap::from([(MADE_FROM.to_owned(), self.made_from.clone())]);
        let mut file = atomic_file::AtomicFile::create(&self.path)?;
        write_safetensors(&mut file, &tensors, &metadata).map_err(|error| Error::broken(&self.path, error))?;
        Ok(file.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LatentShape = LatentShape { frames: 2, height: 2, width: 2 };

    fn kept(clips: usize, images: bool) -> Kept {
        let latents: Vec<f32> = (0..clips * SHAPE.values()).map(|value| value as f32).collect();
        Kept { images: if images { latents.iter().map(|value| -value).collect() } else { Vec::new() }, latents }
    }

    #[test]
    fn what_was_made_once_is_read_back_and_another_description_makes_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let cache = |clips: u64| Cache::new(&folder.path().join("made"), &serde_json::json!({ "clips": clips }));
        let never = || -> Result<Kept, Error> { panic!("made twice") };
        for images in [true, false] {
            let clips = 2 + u64::from(images);
            let made = cache(clips).kept_or(SHAPE, images, || Ok(kept(clips as usize, images))).unwrap();
            assert_eq!(cache(clips).kept_or(SHAPE, images, never).unwrap(), made);
        }
    }

    #[test]
    fn a_broken_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), &serde_json::json!("a"));
        cache.kept_or(SHAPE, false, || Ok(kept(3, false))).unwrap();
        let bytes = std::fs::read(&cache.path).unwrap();
        std::fs::write(&cache.path, &bytes[..bytes.len() - 7]).unwrap();
        assert_eq!(cache.kept_or(SHAPE, false, || Ok(kept(3, false))).unwrap(), kept(3, false));
        // Asked for images, a file without them does not serve.
        assert_eq!(cache.kept_or(SHAPE, true, || Ok(kept(3, true))).unwrap(), kept(3, true));
    }
}
