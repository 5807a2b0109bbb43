//! Model folders as people have them: official, diffusers, ComfyUI, and the Hugging Face cache.

use std::path::{Path, PathBuf};

use turbowan_wan_model::Error;
use turbowan_wan_model::checkpoint::{Arrangement, HubCache, ModelFolder, Task};
use turbowan_wan_model::config::{DitConfig, TensorSpec};
use turbowan_wan_model::dit::DitTraits;

use crate::layouts::{file, small};

fn write(path: PathBuf, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn dit(in_dim: usize) -> Vec<u8> {
    file(&DitConfig { in_dim, ..small() }.tensors(DitTraits::default()), &[])
}

/// Just what tells an autoencoder's sizes.
fn vae() -> Vec<u8> {
    let specs = [
        ("decoder.head.2.weight", &[3, 4, 3, 3, 3][..]),
        ("conv2.weight", &[16, 16, 1, 1, 1]),
        ("encoder.conv1.weight", &[4, 3, 3, 3, 3]),
        ("encoder.downsamples.0.residual.6.weight", &[4, 4, 3, 3, 3]),
    ];
    file(&specs.map(|(name, shape)| TensorSpec::new(name, shape)), &[])
}

/// Just what tells a text encoder's sizes.
fn text() -> Vec<u8> {
    let specs = [
        ("token_embedding.weight", &[32, 8][..]),
        ("blocks.0.norm1.weight", &[8]),
        ("blocks.0.attn.q.weight", &[8, 8]),
        ("blocks.0.ffn.fc1.weight", &[16, 8]),
        ("blocks.0.pos_embedding.embedding.weight", &[32, 2]),
    ];
    file(&specs.map(|(name, shape)| TensorSpec::new(name, shape)), &[])
}

/// The official layout with a text-to-video transformer and two image-to-video experts.
fn flat(root: &Path) {
    write(root.join("TurboWan2.1-T2V.safetensors"), &dit(16));
    write(root.join("TurboWan2.2-I2V-high.safetensors"), &dit(36));
    write(root.join("TurboWan2.2-I2V-low.safetensors"), &dit(36));
    write(root.join("Wan2.1_VAE.pth"), &vae());
    write(root.join("models_t5_umt5-xxl-enc-bf16.pth"), &text());
    write(root.join("models_clip_open-clip.pth"), b"not looked into");
    write(root.join("google/umt5-xxl/tokenizer.json"), b"{}");
}

#[test]
fn the_official_layout_gives_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    flat(root);
    let found = ModelFolder::find_in(root, None).unwrap();
    assert_eq!(found.arrangement, Arrangement::Flat);
    let parts = found.parts(Task::TextToVideo).unwrap();
    assert_eq!((parts.dit, parts.low_noise), (root.join("TurboWan2.1-T2V.safetensors"), None));
    assert_eq!(parts.vae, root.join("Wan2.1_VAE.pth"));
    assert_eq!(parts.text_encoder, root.join("models_t5_umt5-xxl-enc-bf16.pth"));
    assert_eq!(parts.tokenizer, root.join("google/umt5-xxl/tokenizer.json"));
    assert_eq!(parts.clip, Some(root.join("models_clip_open-clip.pth")));
    let parts = found.parts(Task::ImageToVideo).unwrap();
    let experts = (root.join("TurboWan2.2-I2V-high.safetensors"), Some(root.join("TurboWan2.2-I2V-low.safetensors")));
    assert_eq!((parts.dit, parts.low_noise), experts);
}

#[test]
fn a_named_file_brings_the_parts_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    flat(root);
    write(root.join("another.safetensors"), &dit(16));
    write(root.join("another.pth"), &dit(16));
    let error = ModelFolder::find_in(root, None).unwrap().parts(Task::TextToVideo).unwrap_err().to_string();
    assert!(error.contains("2 fit, name one") && error.contains("another.safetensors") && !error.contains("another.pth"), "{error}");
    let named = |name: &str, task| ModelFolder::find_in(root.join(name), None).unwrap().parts(task);
    assert_eq!(named("another.pth", Task::TextToVideo).unwrap().dit, root.join("another.pth"));
    let high = named("TurboWan2.2-I2V-high.safetensors", Task::ImageToVideo).unwrap();
    assert_eq!(high.low_noise, Some(root.join("TurboWan2.2-I2V-low.safetensors")));
    let error = named("another.pth", Task::ImageToVideo).unwrap_err().to_string();
    assert!(error.contains("another.pth is no transformer of 36 input channels"), "{error}");
}

#[test]
fn everything_missing_is_listed_with_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root.join("broken.safetensors"), b"<html>");
    write(root.join("low_noise_model/dit.safetensors"), &dit(36));
    let error = ModelFolder::find_in(root, None).unwrap().parts(Task::ImageToVideo).unwrap_err();
    let Error::Pieces { missing, .. } = &error else { panic!("{error}") };
    let whats: Vec<_> = missing.iter().map(|piece| piece.what).collect();
    assert_eq!(whats.len(), 4);
    assert_eq!(whats[0], "transformer for high noise");
    let message = error.to_string();
    for expected in ["high_noise_model", "Wan2.1_VAE.pth", "tokenizer.json", "a web page", &root.display().to_string()] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn a_diffusers_folder_gives_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root.join("model_index.json"), b"{}");
    for (part, bytes) in [("transformer", dit(36)), ("transformer_2", dit(36)), ("vae", vae())] {
        write(root.join(part).join("diffusion_pytorch_model.safetensors"), &bytes);
    }
    write(root.join("text_encoder/model-00001-of-00001.safetensors"), &text());
    let names = ["token_embedding.weight", "blocks.0.norm1.weight"].map(|name| (name, "model-00001-of-00001.safetensors"));
    let map: serde_json::Map<_, _> = names.into_iter().map(|(name, file)| (name.to_owned(), file.into())).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    write(root.join("text_encoder/model.safetensors.index.json"), index.as_bytes());
    write(root.join("tokenizer/tokenizer.json"), b"{}");
    let found = ModelFolder::find_in(root, None).unwrap();
    assert_eq!(found.arrangement, Arrangement::Diffusers);
    let parts = found.parts(Task::ImageToVideo).unwrap();
    let experts = ["transformer", "transformer_2"].map(|part| root.join(part).join("diffusion_pytorch_model.safetensors"));
    assert_eq!((parts.dit, parts.low_noise), (experts[0].clone(), Some(experts[1].clone())));
    assert_eq!(parts.text_encoder, root.join("text_encoder/model.safetensors.index.json"));
}

#[test]
fn a_comfy_folder_gives_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    write(models.join("diffusion_models/wan_t2v.safetensors"), &dit(16));
    write(models.join("text_encoders/umt5_xxl_fp16.safetensors"), &text());
    write(models.join("text_encoders/google/umt5-xxl/tokenizer.json"), b"{}");
    write(models.join("vae/wan_2.1_vae.safetensors"), &vae());
    write(models.join("clip_vision/clip_vision_h.safetensors"), b"not looked into");
    let found = ModelFolder::find_in(folder.path(), None).unwrap();
    assert_eq!(found.arrangement, Arrangement::Comfy);
    let parts = found.parts(Task::TextToVideo).unwrap();
    assert_eq!(parts.vae, models.join("vae/wan_2.1_vae.safetensors"));
    assert_eq!(parts.clip, Some(models.join("clip_vision/clip_vision_h.safetensors")));
}

#[cfg(unix)]
#[test]
fn a_model_name_is_found_in_the_hugging_face_cache() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("hub/models--org--wan");
    let (blobs, snapshot) = (model.join("blobs"), model.join("snapshots/0123abcd"));
    flat(&blobs);
    std::fs::create_dir_all(snapshot.join("google/umt5-xxl")).unwrap();
    for name in ["TurboWan2.1-T2V.safetensors", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/tokenizer.json"] {
        symlink(blobs.join(name), snapshot.join(name)).unwrap();
    }
    write(model.join("refs/main"), b"0123abcd\n");
    let cache = HubCache::at(folder.path().join("hub"));
    for name in ["org/wan", "org/wan@main", "org/wan@0123abcd"] {
        let parts = ModelFolder::find_in(name, Some(&cache)).unwrap().parts(Task::TextToVideo).unwrap();
        assert_eq!(parts.vae, snapshot.join("Wan2.1_VAE.pth"));
    }
    for (name, expected) in
        [("org/wan@v9", "no snapshot of \"v9\""), ("org/other", "not in the Hugging Face cache"), ("nowhere", "no such file")]
    {
        let error = ModelFolder::find_in(name, Some(&cache)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A reference cannot lead out of the snapshots; the only snapshot stands in for it.
    write(model.join("refs/main"), b"../../../elsewhere");
    assert!(ModelFolder::find_in("org/wan", Some(&cache)).is_ok());

    let outside = folder.path().join("outside.safetensors");
    write(outside.clone(), &dit(16));
    symlink(&outside, snapshot.join("evil.safetensors")).unwrap();
    let error = ModelFolder::find_in("org/wan", Some(&cache)).unwrap_err().to_string();
    assert!(error.contains("leads out of the Hugging Face cache"), "{error}");
}
