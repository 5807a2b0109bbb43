//! A folder of clips to learn from.

use std::collections::BTreeMap;
use std::path::Path;

use turbowan_wan_model::checkpoint::{Dtype, TensorView, write_safetensors};
use turbowan_wan_model::vae::{Clip, Side, Tiling};
use turbowan_world::{Size, Split, World};

use super::data;
use crate::train::diffusion::clips::Data;
use crate::train::diffusion::models::Models;
use crate::video::{FrameRate, Frames, Output};

fn tensor(path: &Path, shape: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut file = Vec::new();
    write_safetensors(&mut file, &[("clip", TensorView { dtype: Dtype::F32, shape, bytes: &bytes })], &BTreeMap::new()).unwrap();
    std::fs::write(path, file).unwrap();
}

/// `data` over the folder `pairs`, made anew.
fn folder_of(root: &Path, name: &str) -> Data {
    let pairs = root.join(name);
    std::fs::create_dir(&pairs).unwrap();
    Data { folder: Some(pairs), ..data(root) }
}

#[test]
fn clips_and_videos_are_encoded_and_latents_are_taken_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let (models, size, world) = (Models::default(), Size::new(32, 5).unwrap(), World::new(3, Split::All));
    let vae = models.vae(&[Side::Encoder]).unwrap();
    let latent = |index| {
        let clip = Clip::new([3, 5, 32, 32], world.clip(index).video(size)).unwrap();
        vae.encode(&clip, Tiling::Whole, &mut |_| Ok(())).unwrap().values
    };

    let clips = folder_of(root.path(), "clips");
    let at = |data: &Data, name: &str| data.folder.as_ref().unwrap().join(name);
    tensor(&at(&clips, "a.safetensors"), &[3, 5, 32, 32], &world.clip(0).video(size));
    std::fs::write(at(&clips, "a.txt"), "one caption\n\n  another one\n").unwrap();
    let frames = Frames::new(32, 32, FrameRate::WAN, world.clip(1).frames(size)).unwrap();
    Output::new(&at(&clips, "b.webp")).unwrap().write(&frames, &serde_json::json!({}), &mut |_| {}).unwrap();
    std::fs::write(at(&clips, "b.txt"), "a video").unwrap();
    let read = clips.clips(&models, false).unwrap();
    assert_eq!(read.captions, [vec!["one caption", "another one"], vec!["a video"]]);
    assert_eq!(read.latent(0), latent(0));
    assert_eq!(read.latent(1), latent(1), "lossless");
    assert_eq!(clips.clips(&models, true).unwrap().conditions().len(), 2);

    let latents = folder_of(root.path(), "latents-alone");
    tensor(&at(&latents, "a.safetensors"), &[16, 2, 4, 4], &latent(0));
    std::fs::write(at(&latents, "a.txt"), "a latent").unwrap();
    assert_eq!(latents.clips(&models, false).unwrap().latent(0), latent(0));
    assert!(latents.clips(&models, true).unwrap_err().to_string().contains("first frame"));
}

#[test]
fn what_is_missing_or_of_another_size_is_named() {
    let root = tempfile::tempdir().unwrap();
    let models = Models::default();
    let data = folder_of(root.path(), "pairs");
    let refused = |data: &Data| data.clips(&models, false).unwrap_err().to_string();
    assert!(refused(&data).contains("no .safetensors"));
    let path = data.folder.as_ref().unwrap().join("a.safetensors");
    tensor(&path, &[16, 2, 4, 4], &[0.5; 16 * 2 * 16]);
    assert!(refused(&data).contains("a.txt"));
    std::fs::write(path.with_extension("txt"), "\n").unwrap();
    assert!(refused(&data).contains("no caption"));
    std::fs::write(path.with_extension("txt"), "a latent").unwrap();
    assert!(refused(&Data { frames: 9, ..data.clone() }).contains("[16, 2, 4, 4]"));
    tensor(&path, &[3, 5, 48, 48], &[0.5; 3 * 5 * 48 * 48]);
    assert!(refused(&data).contains("[3, 5, 48, 48]"));
}
