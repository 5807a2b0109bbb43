//! What a user can get wrong, each with one clear error within a second or two and a non-zero exit; never a panic.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// More than this is no immediate answer; a busy machine is given room beyond the second that is aimed at.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Runs the binary in `folder` and returns its error line.
fn refuse(folder: &Path, arguments: &[&str], wanted: &str) {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = format!("{arguments:?}:\n{error}");
    assert!(!output.status.success(), "{shown}was accepted");
    assert!(output.status.code().is_some_and(|code| code < 100), "{shown}ended with {:?}", output.status);
    assert!(!error.contains("panicked"), "{shown}");
    assert!(error.lines().any(|line| line.starts_with("error: ")), "{shown}has no error line");
    assert!(error.to_lowercase().contains(&wanted.to_lowercase()), "{shown}does not say {wanted:?}");
    assert!(started.elapsed() < AT_ONCE, "{shown}took {:?}", started.elapsed());
}

fn pipeline(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pipeline").join(name).to_string_lossy().into_owned()
}

#[test]
fn flags_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let t2v = |more: &[&str], wanted: &str| refuse(folder.path(), &[&["t2v", "--prompt", "x"], more].concat(), wanted);
    refuse(folder.path(), &["t2v"], "--prompt");
    refuse(folder.path(), &["dream"], "unrecognized subcommand");
    t2v(&["--num_steps", "0"], "--num_steps");
    t2v(&["--num_steps", "5"], "between 1 and 4");
    t2v(&["--num_steps", "many"], "invalid value");
    t2v(&["--device", "emulator", "--precision", "f32", "--resolution", "32x32", "--num_frames", "1"], "bf16");
    t2v(&["--device", "tpu"], "invalid value");
    t2v(&["--num_frames", "0"], "--num_frames");
    t2v(&["--num_frames", "100000"], "--num_frames");
    t2v(&["--num_samples", "0"], "--num_samples");
    t2v(&["--num_samples", "1000"], "--num_samples");
    t2v(&["--resolution", "999p"], "--resolution");
    t2v(&["--resolution", "100x100"], "multiple of 16");
    t2v(&["--resolution", "axb"], "WIDTHxHEIGHT");
    t2v(&["--resolution", "16x99999999999999999999"], "--resolution");
    t2v(&["--resolution", "8192x8192"], "patches");
    t2v(&["--aspect_ratio", "2:1"], "--aspect_ratio");
    t2v(&["--sigma_max", "0"], "sigma");
    t2v(&["--sigma_max=-3"], "sigma");
    t2v(&["--sigma_max", "NaN"], "sigma");
    t2v(&["--seed", "-2"], "--seed");
    t2v(&["--seed", "99999999999999999999"], "invalid value");
    t2v(&["--sla_topk", "0"], "--sla_topk");
    t2v(&["--sla_topk", "1.5"], "--sla_topk");
    t2v(&["--attention_type", "flash"], "invalid value");
    t2v(&["--rng", "dice"], "--rng");
    t2v(&["--rng", "torch-cuda:voodoo2"], "--rng");
    t2v(&["--fps", "0"], "--fps");
    t2v(&["--threads", "0"], "--threads");
    t2v(&["--ode", "--sampler", "unipc"], "--ode");
    t2v(&["--sampler", "euler", "--guidance=-1"], "guidance");
    t2v(&["--serve"], "--serve");
    t2v(&["--model", "Wan9"], "--model");
    t2v(&["--model", "Wan2.1-14B"], "follows the checkpoint");
    t2v(&["--vae_path", "a.pth"], "no transformer");
    t2v(&["--boundary", "0.5"], "one transformer");
    t2v(&["--dit_path", "a", "--high_noise_model_path", "b"], "two experts");
    refuse(folder.path(), &["t2v", "--prompt", "x", "--resume", "nowhere.run"], "nowhere.run");
}

#[test]
fn plans_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("taken.json")).unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let plan = |more: &[&str], wanted: &str| refuse(folder.path(), &[&["plan", "--launches"], more].concat(), wanted);
    plan(&["--model", "Wan9"], "Wan2.2-A14B");
    plan(&["--gpu", "voodoo2"], "RTX5090");
    plan(&["--resolution", "999p"], "--resolution");
    plan(&["--resolution", "100x100"], "multiple of 16");
    plan(&["--width", "640"], "--height");
    plan(&["--width", "640", "--height", "480", "--resolution", "480p"], "cannot be used with");
    plan(&["--width", "641", "--height", "480"], "multiple of 16");
    plan(&["--aspect_ratio", "2:1"], "--aspect_ratio");
    plan(&["--num_frames", "0"], "--num_frames");
    plan(&["--num_frames", "2000"], "positions");
    plan(&["--attention_type", "flash"], "invalid value");
    plan(&["--sla_topk", "0"], "--sla_topk");
    plan(&["--json", "taken.json"], "taken.json");
    plan(&["--dit_path", "nothere.pth"], "nothere.pth");
    plan(&["--what-if", "gpu=H200"], "cannot be used with");
    plan(&["--json", "file/plan.json"], "file");
    let whole = |more: &[&str], wanted: &str| refuse(folder.path(), &[&["plan", "--model", "embedded"], more].concat(), wanted);
    whole(&["--num_steps", "0"], "--num_steps");
    whole(&["--what-if", "gpu"], "FLAG=VALUE");
    whole(&["--what-if", "colour=red"], "quant_linear");
    whole(&["--what-if", "num_frames=many"], "number");
    whole(&["--what-if", "gpu=voodoo2"], "RTX5090");
    whole(&["--ceilings", "nothere.jsonl"], "nothere.jsonl");
    whole(&["--ceilings", "file"], "turbowan bench");
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("taken.mp4")).unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let t2v = |out: &str, wanted: &str| refuse(folder.path(), &["t2v", "--prompt", "x", "-o", out], wanted);
    t2v("video.avi", "mp4");
    t2v("video", "mp4");
    t2v("taken.mp4", "taken.mp4");
    t2v("file/video.mp4", "file");
    #[cfg(target_os = "linux")]
    t2v("/proc/video.mp4", "/proc");
}

#[test]
fn checkpoints_that_are_none_or_of_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let dit = std::fs::read(pipeline("checkpoints/TurboWan2.1-T2V-tiny.pth")).unwrap();
    write("cut.pth", &dit[..dit.len() / 2]);
    write("empty.safetensors", b"");
    write("text.safetensors", b"<html>404</html>");
    write("forged.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    write("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    let t2v = |dit: &str, wanted: &str| refuse(folder.path(), &["t2v", "--prompt", "x", "--dit_path", dit], wanted);
    t2v("missing.pth", "missing.pth");
    t2v("cut.pth", "cut.pth");
    t2v("empty.safetensors", "empty");
    t2v("text.safetensors", "text.safetensors");
    t2v("forged.safetensors", "forged.safetensors");
    t2v("lfs.pth", "git lfs pull");
    t2v(".", "transformer");
    refuse(folder.path(), &["inspect", "nothere.pth"], "nothere.pth");
    for missing in [&["train", "teacher", "nothere.toml", "--out", "run"][..], &["rerun", "nothere.mp4"]] {
        refuse(folder.path(), missing, "nothere");
        refuse(folder.path(), missing, "check the path");
    }
    refuse(folder.path(), &["inspect", "cut.pth"], "cut.pth");
    refuse(folder.path(), &["rerun", "cut.pth"], "cut.pth");
    refuse(folder.path(), &["conform", "."], "nothing ran");

    let good = pipeline("checkpoints/TurboWan2.1-T2V-tiny.pth");
    let i2v = pipeline("checkpoints/TurboWan2.2-I2V-tiny-high.pth");
    let vae = pipeline("checkpoints/Wan2.1_VAE.pth");
    let text = pipeline("checkpoints/models_t5_umt5-xxl-enc-bf16.pth");
    let tokenizer = pipeline("checkpoints/google/umt5-xxl/tokenizer.json");
    let with = |dit: &str, vae: &str, text: &str, tokenizer: &str, wanted: &str| {
        let files = ["--dit_path", dit, "--vae_path", vae, "--text_encoder_path", text, "--tokenizer_path", tokenizer];
        refuse(folder.path(), &[&["t2v", "--prompt", "x", "--resolution", "64x64", "--num_frames", "5"], &files[..]].concat(), wanted);
    };
    with(&i2v, &vae, &text, &tokenizer, "36 latent channels");
    with(&vae, &vae, &text, &tokenizer, "expected a diffusion transformer");
    with(&good, &text, &text, &tokenizer, "expected the Wan 2.1 VAE");
    with(&good, &vae, &vae, &tokenizer, "expected a umT5 encoder");
    with(&good, &vae, &text, &pipeline("meta.json"), "meta.json");
}

/// A weight that is no number, and numbers of which a product is none.
#[test]
fn what_is_not_a_number_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let sound = std::fs::read(pipeline("checkpoints/TurboWan2.1-T2V-tiny.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&sound[8..header]).unwrap();
    let dim = names["blocks.0.ffn.2.bias"]["shape"][0].as_u64().unwrap() as usize;
    let broken = folder.path().join("broken.safetensors");
    let write = |values: &[(&str, usize, half::bf16)]| {
        let mut bytes = sound.clone();
        for (name, index, value) in values {
            assert_eq!(names[name]["dtype"], "BF16", "{name}");
            let start = names[name]["data_offsets"][0].as_u64().unwrap() as usize;
            bytes[header + start + 2 * index..][..2].copy_from_slice(&value.to_le_bytes());
        }
        std::fs::write(&broken, bytes).unwrap();
    };
    let [vae, text, tokenizer] = ["Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/tokenizer.json"]
        .map(|name| pipeline(&format!("checkpoints/{name}")));
    let files = ["--dit_path", broken.to_str().unwrap(), "--vae_path", &vae, "--text_encoder_path", &text, "--tokenizer_path", &tokenizer];
    let run = [&["t2v", "--prompt", "x", "--resolution", "64x64", "--num_frames", "5"], &files[..]].concat();
    write(&[("blocks.1.ffn.2.bias", 3, half::bf16::NAN)]);
    refuse(folder.path(), &run, "blocks.1.ffn.2.bias: value 3");
    // the gate of the feed-forward layer is the last of six tables
    write(&[("blocks.0.ffn.2.bias", 0, half::bf16::MAX), ("time_projection.1.bias", 5 * dim, half::bf16::from_f32(1e30))]);
    refuse(folder.path(), &run, "denoising step 1, block 0");
    assert_eq!(std::fs::read_dir(folder.path().join("output")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn images_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let png = std::fs::read(pipeline("input.png")).unwrap();
    write("cut.png", &png[..png.len() / 2]);
    write("empty.png", b"");
    write("text.png", b"not a picture");
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    write("huge.png", &huge);
    let i2v = |image: &str, wanted: &str| refuse(folder.path(), &["i2v", "--prompt", "x", "--image_path", image], wanted);
    refuse(folder.path(), &["i2v", "--prompt", "x"], "--image_path");
    i2v("missing.png", "missing.png");
    i2v("cut.png", "cut.png");
    i2v("empty.png", "empty.png");
    i2v("text.png", "text.png");
    i2v("huge.png", "huge.png");
    i2v(".", ".");
    let good = pipeline("input.png");
    refuse(folder.path(), &["i2v", "--prompt", "x", "--image_path", &good, "--boundary", "2"], "--boundary");
    refuse(folder.path(), &["i2v", "--prompt", "x", "--image_path", &good, "--clip_embedding", &good], "--clip_embedding");
    refuse(folder.path(), &["i2v", "--prompt", "x", "--image_path", &good, "--low_noise_model_path", "b"], "--high_noise_model_path");
}

#[test]
fn prompts_of_any_kind_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let words = "a red ball ".repeat(3400);
    for prompt in ["", " \u{3000}\t ", "\u{1b}[2J</s><pad>", "Ã©mile &amp;amp; ï¬\u{81}", words.as_str()] {
        let arguments = ["t2v", "--prompt", prompt, "--resolution", "32x32", "--num_frames", "1", "-o", "p.png"];
        let output = Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder.path()).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {error}", prompt.chars().take(40).collect::<String>());
        assert_eq!(error.contains("tokens are ignored"), prompt.len() > 1000, "{error}");
    }
}
