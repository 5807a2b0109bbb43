//! `--capture` and `turbowan compare`: what a run attended with, kept and laid side by side.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use turbowan::run::capture::Captured;

fn turbowan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder).args(arguments).output().unwrap()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = turbowan(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = turbowan(folder, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

const SMALL: [&str; 11] =
    ["t2v", "--prompt", "a red ball", "--resolution", "64x48", "--num_frames", "9", "--num_steps", "2", "--seed", "3"];

#[test]
fn a_run_keeps_what_it_attends_with_and_makes_the_same_video() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bytes = |name: &str| std::fs::read(path.join(name)).unwrap();
    succeed(path, &[&SMALL[..], &["-o", "plain.mp4"]].concat());
    succeed(path, &[&SMALL[..], &["-o", "kept.mp4", "--capture", "kept"]].concat());
    assert!(bytes("plain.mp4") == bytes("kept.mp4"), "capturing changes no byte");
    let mut names: Vec<_> =
        std::fs::read_dir(path.join("kept")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    // first and last step of two; first, middle and last block
    let layers = Captured::load(&path.join("kept").join(&names[0])).unwrap().description.unwrap().blocks;
    let blocks: std::collections::BTreeSet<_> = [0, layers / 2, layers - 1].into();
    assert_eq!(names.len(), 2 * blocks.len(), "{names:?}");
    let mut seen = Vec::new();
    for name in &names {
        let captured = Captured::load(&path.join("kept").join(name)).unwrap();
        let description = captured.description.unwrap();
        assert_eq!(captured.qkv[0].len(), captured.shape.iter().product::<usize>());
        assert_eq!((description.shape, description.steps, description.video), (captured.shape, 2, [64, 48, 9]));
        // 3 latent frames of 8 x 6, patches of 2 x 2
        assert_eq!(captured.shape[1], 3 * 4 * 3);
        assert!(captured.qkv.iter().all(|values| values.iter().any(|value| *value != 0.0)));
        seen.push(captured.qkv);
    }
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "each file has rows of its own");

    succeed(path, &[&SMALL[..], &["-o", "one.mp4", "--capture", "one", "--capture_blocks", "1", "--capture_steps", "last"]].concat());
    assert!(path.join("one/step01-block01.safetensors").is_file());
    assert_eq!(std::fs::read_dir(path.join("one")).unwrap().count(), 1);

    // the captured rows, attended in two ways
    let file = format!("kept/{}", names[0]);
    let compared: Value =
        serde_json::from_str(&succeed(path, &["compare", "sage", "original", "--input", &file, "--runs", "1", "--json"])).unwrap();
    let pair = &compared["pairs"][0];
    assert!(pair["cosine"].as_f64().unwrap() > 0.99 && pair["relative_l2"].as_f64().unwrap() > 0.0, "{pair}");
    assert!(pair["a_ms"].as_f64().unwrap() > 0.0 && pair["what"].as_str().unwrap().contains("block 0"), "{pair}");
    let all: Value = serde_json::from_str(&succeed(
        path,
        &["compare", "sla:1", "dense", "--input", &file, "--runs", "1", "--precision", "f32", "--json"],
    ))
    .unwrap();
    assert!(all["pairs"][0]["relative_l2"].as_f64().unwrap() < 1e-6, "all blocks are dense attention: {all}");

    for (flags, part) in [
        (&["--capture", "x", "--capture_blocks", "99"][..], "--capture_blocks: there are"),
        (&["--capture", "x", "--capture_steps", "some"], "--capture_steps: \"some\" is neither"),
        (&["--capture_steps", "1"], "--capture"),
        (&["--capture", "kept.mp4"], "kept.mp4"),
    ] {
        let text = refused(path, &[&SMALL[..], flags].concat());
        assert!(text.contains(part), "{flags:?}: {text}");
    }
    let text = refused(path, &["compare", "sage", "sla", "--input", "kept.mp4"]);
    assert!(text.contains("not captured attention"), "{text}");
}

#[test]
fn attention_types_and_machines_lie_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = succeed(path, &["compare", "sagesla:0.5", "sla:0.5", "--shape", "300x2x64", "--runs", "1"]);
    assert!(text.contains("random: 1 x 300 x 2 x 64") && text.contains("outlier channels") && text.contains("head "), "{text}");
    assert!(text.contains("the sparse branch alone"), "{text}");
    if turbowan_cuda::device::Device::emulated(Default::default()).is_ok() {
        let text = succeed(path, &["compare", "emulator", "host", "--op", "quantise", "--runs", "1", "--json"]);
        let pairs: Value = serde_json::from_str(&text).unwrap();
        let pairs = pairs["pairs"].as_array().unwrap();
        assert!(pairs.len() > 20 && pairs.iter().all(|pair| pair["max_abs"] == 0.0), "the same bytes: {text}");
    }
    for (arguments, part) in [
        (["host", "sage"], "are not two"),
        (["sla:2", "sage"], "is not a share"),
        (["nothing", "host"], "are not two"),
        (["sage:0.5", "sage"], "keeps every block"),
    ] {
        let text = refused(path, &[&["compare"], &arguments[..]].concat());
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    assert!(refused(path, &["compare", "sage", "sla", "--shape", "4x4"]).contains("TOKENSxHEADSxDIM"));
}

#[test]
fn two_records_lie_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, op) in [("a.jsonl", "vae-norm"), ("b.jsonl", "vae")] {
        let text = succeed(path, &["verify", "--device", "host", "--op", op, "--json"]);
        std::fs::write(path.join(name), text).unwrap();
    }
    let text = succeed(path, &["compare", "a.jsonl", "b.jsonl"]);
    assert!(text.contains(", 0 differ") && text.contains("entries are in B alone"), "{text}");
}
