//! Checkpoints that the official code wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use turbowan_wan_model::checkpoint::{
    Checkpoint, Dtype, Format, HeadsFrom, Kind, Layout, ModelFolder, Task, TensorSource, TensorView, write_safetensors,
};
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::DitTraits;

/// A recorded file or folder, where the recordings are at hand: `TURBOWAN_GOLDEN`, the repository's fixtures, or a folder beside it.
fn golden(relative: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let given = std::env::var_os("TURBOWAN_GOLDEN").map(PathBuf::from);
    let places = given.into_iter().chain([root.join("tests/fixtures"), root.join("tests/fixtures/golden"), root.join("../shared/golden")]);
    let found = places.map(|place| place.join(relative)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no recording {relative}");
    }
    found
}

fn meta(component: &str) -> Option<Value> {
    let path = golden(&format!("{component}/meta.json"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn dit_config(value: &Value) -> DitConfig {
    let count = |key: &str| value[key].as_u64().unwrap() as usize;
    DitConfig {
        dim: count("dim"),
        ffn_dim: count("ffn_dim"),
        freq_dim: count("freq_dim"),
        text_dim: count("text_dim"),
        text_len: count("text_len"),
        in_dim: count("in_dim"),
        out_dim: count("out_dim"),
        heads: count("num_heads"),
        layers: count("num_layers"),
        eps: value["eps"].as_f64().unwrap() as f32,
        clip_dim: value["clip_dim"].as_u64().map(|clip| clip as usize),
    }
}

/// Recognises a transformer, told its heads, and holds it to the recorded configuration.
fn hold_dit(path: &str, config: &Value, traits: DitTraits, layout: Layout) {
    let Some(file) = golden(path) else { return };
    let want = dit_config(config);
    let checkpoint = Checkpoint::open(file).unwrap();
    match checkpoint.kind(Some(want.heads)).unwrap() {
        Kind::Dit { config, traits: found, .. } => assert_eq!((&config, found), (&want, traits), "{path}"),
        other => panic!("{path}: {other:?}"),
    }
    if traits.sla {
        let Kind::Dit { config, heads, .. } = checkpoint.kind(None).unwrap() else { panic!() };
        assert_eq!((config.heads, heads), (want.heads, HeadsFrom::Projection), "{path}");
    }
    checkpoint.check(&want.tensors(traits), |_| false).unwrap();
    assert_eq!(checkpoint.layout(), Some(layout), "{path}");
}

#[test]
fn recorded_transformers_are_recognised() {
    let plain = DitTraits::default();
    let sla = DitTraits { sla: true, ..plain };
    if let Some(meta) = meta("dit_t2v") {
        hold_dit("dit_t2v/weights.safetensors", &meta["config"], plain, Layout::Turbo);
        hold_dit("dit_t2v/weights_diffusers.safetensors", &meta["config"], plain, Layout::Diffusers);
    }
    if let Some(meta) = meta("dit_i2v") {
        hold_dit("dit_i2v/wan22_weights.safetensors", &meta["wan22"]["config"], plain, Layout::Turbo);
        hold_dit("dit_i2v/wan21_clip_weights.safetensors", &meta["wan21_clip"]["config"], plain, Layout::Turbo);
    }
    if let Some(meta) = meta("dit_sla") {
        hold_dit("dit_sla/weights.safetensors", &meta["config"], sla, Layout::Turbo);
    }
    if let Some(meta) = meta("quant_linear") {
        let config = &meta["cases"]["tiny-quant"]["config"];
        hold_dit("quant_linear/tiny-quant.pth", config, DitTraits { quantised: true, sla: true }, Layout::Turbo);
        hold_dit("quant_linear/tiny-plain.safetensors", config, sla, Layout::Turbo);
    }
}

/// Same names, shapes, formats and bytes.
fn assert_same(a: &Checkpoint, b: &Checkpoint) {
    assert!(a.names().eq(b.names()), "{} and {}: other names", a.path().display(), b.path().display());
    for name in a.names() {
        let (x, y) = (a.get(name).unwrap(), b.get(name).unwrap());
        assert_eq!((x.dtype, x.shape, x.bytes), (y.dtype, y.shape, y.bytes), "{name}");
    }
}

#[test]
fn torch_and_safetensors_hold_the_same() {
    for name in ["TurboWan2.1-T2V-tiny", "TurboWan2.2-I2V-tiny-high", "TurboWan2.2-I2V-tiny-low"] {
        let files = ["pth", "safetensors"].map(|extension| golden(&format!("pipeline/checkpoints/{name}.{extension}")));
        let [Some(torch), Some(safetensors)] = files else { continue };
        let (torch, safetensors) = (Checkpoint::open(torch).unwrap(), Checkpoint::open(safetensors).unwrap());
        assert!(torch.files().all(|(_, format, _)| format == Format::Torch));
        assert_same(&torch, &safetensors);
        assert!(torch.globals().contains(&"torch._utils._rebuild_tensor_v2".to_owned()) && safetensors.globals().is_empty());
    }
}

#[test]
fn diffusers_weights_are_the_official_ones() {
    let files = ["weights", "weights_diffusers"].map(|name| golden(&format!("dit_t2v/{name}.safetensors")));
    let [Some(official), Some(diffusers)] = files else { return };
    assert_same(&Checkpoint::open(official).unwrap(), &Checkpoint::open(diffusers).unwrap());
}

/// The official weights under the names of a recorded key map, read back under their official names.
fn hold_key_map(weights: &str, map: &Value, layout: Layout) {
    let Some(path) = golden(weights) else { return };
    let official = Checkpoint::open(path).unwrap();
    let map: BTreeMap<&str, &str> =
        map.as_object().unwrap().iter().map(|(ours, theirs)| (ours.as_str(), theirs.as_str().unwrap())).collect();
    assert!(map.keys().copied().eq(official.names()), "{weights}: the map is not about this file");
    let renamed: Vec<_> = map.iter().map(|(ours, theirs)| (*theirs, official.get(ours).unwrap())).collect();
    let mut bytes = Vec::new();
    write_safetensors(&mut bytes, &renamed, &BTreeMap::new()).unwrap();
    let read = Checkpoint::from_vec("renamed.safetensors", bytes).unwrap();
    assert_eq!(read.layout(), Some(layout));
    assert_same(&official, &read);
    assert_eq!(official.kind(None).unwrap(), read.kind(None).unwrap());
}

#[test]
fn every_recorded_key_map_is_followed() {
    const MAP: &str = "key_map_official_to_diffusers";
    if let Some(meta) = meta("dit_t2v") {
        hold_key_map("dit_t2v/weights.safetensors", &meta[MAP], Layout::Diffusers);
    }
    if let Some(meta) = meta("dit_i2v") {
        hold_key_map("dit_i2v/wan22_weights.safetensors", &meta["wan22"][MAP], Layout::Diffusers);
        hold_key_map("dit_i2v/wan21_clip_weights.safetensors", &meta["wan21_clip"][MAP], Layout::Diffusers);
    }
    if let Some(meta) = meta("vae") {
        hold_key_map("vae/weights.safetensors", &meta[MAP], Layout::Diffusers);
    }
    if let Some(meta) = meta("umt5") {
        let map = meta.as_object().unwrap().iter().find(|(key, _)| key.starts_with("key_map")).unwrap().1;
        hold_key_map("umt5/weights.safetensors", map, Layout::Transformers);
    }
}

#[test]
fn recorded_autoencoders_and_text_encoders_are_recognised() {
    let vae = |path: &str, dim: usize| {
        let Some(path) = golden(path) else { return };
        assert_eq!(Checkpoint::open(path).unwrap().kind(None).unwrap(), Kind::Vae(VaeConfig::of_width(dim)));
    };
    let text = |path: &str, config: &Value| {
        let Some(path) = golden(path) else { return };
        let count = |key: &str, default: Option<usize>| config[key].as_u64().map(|count| count as usize).or(default).unwrap();
        let want = TextConfig {
            vocab: count("vocab", None),
            dim: count("dim", None),
            dim_attn: count("dim_attn", None),
            dim_ffn: count("dim_ffn", None),
            heads: count("num_heads", None),
            layers: count("num_layers", None),
            buckets: count("num_buckets", Some(32)),
            max_distance: count("max_dist", Some(128)),
        };
        assert_eq!(Checkpoint::open(path).unwrap().kind(None).unwrap(), Kind::Text(want));
    };
    if let Some(meta) = meta("vae") {
        vae("vae/weights.safetensors", meta["config"]["dim"].as_u64().unwrap() as usize);
    }
    if let Some(meta) = meta("umt5") {
        text("umt5/weights.safetensors", &meta["config"]);
        text("umt5/models_t5_umt5-tiny-enc-bf16.pth", &meta["config"]);
    }
    if let Some(meta) = meta("pipeline") {
        vae("pipeline/checkpoints/Wan2.1_VAE.pth", meta["vae_dim"].as_u64().unwrap() as usize);
        text("pipeline/checkpoints/models_t5_umt5-xxl-enc-bf16.pth", &meta["t5_config"]);
    }
}

#[test]
fn a_quantised_checkpoint_keeps_its_integers() {
    let Some(path) = golden("quant_linear/tiny-quant.pth") else { return };
    let checkpoint = Checkpoint::open(path).unwrap();
    let weight: TensorView<'_> = checkpoint.get("blocks.0.ffn.0.int8_weight").unwrap();
    assert_eq!((weight.dtype, weight.to_i8().unwrap().len()), (Dtype::I8, weight.len()));
    assert_eq!(checkpoint.dtype("blocks.0.ffn.0.scale"), Some(Dtype::F32));
    assert!(checkpoint.notes().is_empty(), "{:?}", checkpoint.notes());
}

#[test]
fn recordings_of_no_network_are_unknown_but_readable() {
    let Some(path) = golden("dit_t2v/io.safetensors") else { return };
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!((checkpoint.kind(None).unwrap(), checkpoint.layout()), (Kind::Unknown, None));
    assert!(checkpoint.names().all(|name| checkpoint.get(name).is_some()));
}

#[test]
fn the_recorded_pipeline_folder_gives_its_parts() {
    let Some(root) = golden("pipeline/checkpoints") else { return };
    let folder = ModelFolder::find(&root).unwrap();
    assert!(folder.unreadable.is_empty(), "{:?}", folder.unreadable);
    let one = folder.parts(Task::TextToVideo).unwrap();
    let two = folder.parts(Task::ImageToVideo).unwrap();
    assert!(one.low_noise.is_none() && one.tokenizer.ends_with("google/umt5-xxl/tokenizer.json"));
    let is = |path: &Path, word: &str| path.file_name().unwrap().to_string_lossy().contains(word);
    assert!(is(&two.dit, "high") && is(&two.low_noise.unwrap(), "low") && is(&one.vae, "VAE") && is(&one.text_encoder, "t5"));
}
