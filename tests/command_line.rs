//! The binary as a user meets it: a prompt becomes a file, the same seed the same bytes, a stopped run goes on.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use turbowan::video::{mp4, read_metadata};

fn turbowan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder).args(arguments).output().unwrap()
}

fn succeed(folder: &Path, arguments: &[&str]) -> Output {
    let output = turbowan(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

const SMALL: [&str; 6] = ["--resolution", "64x48", "--num_frames", "9", "--seed", "3"];

fn t2v(folder: &Path, out: &str, more: &[&str]) -> Output {
    let prompt = ["t2v", "--prompt", "a red ball bounces on blue ground", "-o", out];
    succeed(folder, &[&prompt[..], &SMALL[..], more].concat())
}

#[test]
fn the_first_command_makes_a_playable_video_with_its_request_inside_and_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["t2v", "--prompt", "a red ball bounces on blue ground"]);
    let video = folder.path().join("output/generated_video.mp4");
    let shape = mp4::reader::summary(&std::fs::read(&video).unwrap()).unwrap();
    assert_eq!((shape.width, shape.height, shape.frames), (128, 128, 33));
    let inside = read_metadata(&video).unwrap();
    let beside: Value = serde_json::from_slice(&std::fs::read(video.with_extension("json")).unwrap()).unwrap();
    assert_eq!(inside["request"], beside["request"]);
    assert_eq!(inside["request"]["prompt"], "a red ball bounces on blue ground");
    assert!(inside["request"]["seed"].is_u64() && beside["stages"].as_array().is_some_and(|stages| stages.len() >= 4));
    assert!(!folder.path().join("output/generated_video.mp4.run").exists(), "a finished run leaves no state");
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_threads_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    t2v(folder.path(), "one.mp4", &["--threads", "1"]);
    t2v(folder.path(), "two.mp4", &["--threads", "2"]);
    t2v(folder.path(), "other.mp4", &["--seed", "4"]);
    assert!(bytes("one.mp4") == bytes("two.mp4"));
    assert!(bytes("one.mp4") != bytes("other.mp4"));
}

/// The whole way on the emulator, of one step and the fewest frames: a device's sums run in another order, so the picture is
/// the host's but for a level here and there.
#[test]
fn the_kernels_make_the_picture_of_the_host() {
    if turbowan_cuda::device::Device::emulated(turbowan_cuda::device::EmulatorOptions::default()).is_err() {
        return println!("skipped: no emulator");
    }
    let folder = tempfile::tempdir().unwrap();
    let small = ["--resolution", "32x32", "--num_frames", "1", "--num_steps", "1", "--sla_topk", "0.5"];
    let pixels = |name: &str, more: &[&str]| {
        t2v(folder.path(), &format!("{name}.png"), &[&small[..], more].concat());
        let frame = folder.path().join(format!("{name}-0001.png"));
        let made_on = read_metadata(&frame).unwrap()["instructions"].clone();
        (image::load_from_memory(&std::fs::read(&frame).unwrap()).unwrap().to_rgb8().into_raw(), made_on)
    };
    let (host, _) = pixels("host", &[]);
    for (name, more) in [("device", &["--device", "emulator"][..]), ("sage", &["--device", "emulator", "--attention_type", "sage"])] {
        let (got, made_on) = pixels(name, more);
        assert_eq!(made_on, "emulator 8.0");
        let squares: f64 = got.iter().zip(&host).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let psnr = 10.0 * (255f64.powi(2) * host.len() as f64 / squares.max(1.0)).log10();
        println!("{more:?}: {psnr:.1} dB from the host");
        // as far as two runs in bf16 are from one another (conform/pipeline.rs)
        assert!(psnr >= 26.0, "{more:?}: {psnr:.1} dB");
    }
}

#[test]
fn every_attention_precision_and_sampler_makes_a_video() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["init-tiny", "model", "--random"]);
    let variants: [&[&str]; 9] = [
        &["--attention_type", "original"],
        &["--attention-type", "sage"],
        &["--attention_type", "sla", "--sla_topk", "0.5"],
        &["--attention_type", "sagesla"],
        &["--quant_linear"],
        &["--precision", "f32", "--default_norm"],
        &["--ode", "--num_steps", "2", "--sigma_max", "200"],
        &["--sampler", "euler", "--num_steps", "3", "--guidance", "3"],
        &["--sampler", "unipc", "--num_steps", "3", "--rng", "torch-cpu"],
    ];
    let mut videos = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        let name = format!("{index}.mp4");
        t2v(folder.path(), &name, &[&["--model_dir", "model"], *variant].concat());
        let video = std::fs::read(folder.path().join(name)).unwrap();
        assert!(!videos.contains(&video), "{variant:?} changes nothing");
        videos.push(video);
    }
}

#[test]
fn every_format_carries_the_request_and_reruns_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, again) in [("a.mp4", "a-rerun.mp4"), ("a.webp", "a-rerun.webp"), ("a.gif", "a-rerun.gif")] {
        t2v(folder.path(), name, &[]);
        succeed(folder.path(), &["rerun", name]);
        let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert!(bytes(name) == bytes(again), "{name}");
    }
    t2v(folder.path(), "a.png", &[]);
    succeed(folder.path(), &["rerun", "a-0001.png", "-o", "b.png"]);
    for frame in 1..=9 {
        let bytes = |name: &str| std::fs::read(folder.path().join(format!("{name}-000{frame}.png"))).unwrap();
        assert!(bytes("a") == bytes("b"), "frame {frame}");
    }
}

#[test]
fn samples_are_files_of_their_own_or_a_grid() {
    let folder = tempfile::tempdir().unwrap();
    t2v(folder.path(), "many.mp4", &["--num_samples", "2"]);
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("many-s1.mp4") != bytes("many-s2.mp4"));
    t2v(folder.path(), "grid.mp4", &["--num_samples", "2", "--grid"]);
    assert_eq!(mp4::reader::summary(&bytes("grid.mp4")).unwrap().width, 128);
}

#[test]
fn an_image_becomes_a_video_and_only_the_experts_that_the_schedule_reaches_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let image = fixture("pipeline/input.png");
    let image = image.to_str().unwrap();
    let arguments = ["i2v", "--image_path", image, "--prompt", "it moves", "-o", "i.mp4"];
    succeed(folder.path(), &[&arguments[..], &SMALL[..]].concat());
    let first = std::fs::read(folder.path().join("i.mp4")).unwrap();
    succeed(folder.path(), &[&arguments[..], &SMALL[..], &["--boundary", "0.5"]].concat());
    assert!(first != std::fs::read(folder.path().join("i.mp4")).unwrap(), "the low-noise expert is another network");
    succeed(folder.path(), &[&arguments[..], &["--adaptive_resolution"], &SMALL[2..]].concat());
}

#[test]
fn written_checkpoints_make_the_embedded_models_video() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["init-tiny", "model"]);
    t2v(folder.path(), "embedded.png", &[]);
    t2v(folder.path(), "folder.png", &["--model_dir", "model"]);
    let pixels = |name: &str| image::open(folder.path().join(name)).unwrap().to_rgb8().into_raw();
    for frame in ["0001", "0009"] {
        assert!(pixels(&format!("embedded-{frame}.png")) == pixels(&format!("folder-{frame}.png")), "frame {frame}");
    }
    succeed(folder.path(), &["init-tiny", "random", "--seed", "5"]);
    let file = |model: &str| std::fs::read(folder.path().join(model).join("TurboWan2.1-T2V-tiny.safetensors")).unwrap();
    assert!(file("random") != file("model"));
    let described = succeed(folder.path(), &["inspect", "model/TurboWan2.1-T2V-tiny.safetensors"]);
    assert!(String::from_utf8_lossy(&described.stdout).contains("transformer"));
}

#[test]
fn a_quantised_checkpoint_makes_the_video_of_quantising_while_loading() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["init-tiny", "model", "--seed", "2"]);
    let (dit, int8) = ("model/TurboWan2.1-T2V-tiny.safetensors", "int8.safetensors");
    t2v(folder.path(), "loading.png", &["--model_dir", "model", "--dit_path", dit, "--quant_linear"]);
    succeed(folder.path(), &["quantize", dit, int8, "--recipe", "a test", "--gate", "shape=0.5"]);
    t2v(folder.path(), "written.png", &["--model_dir", "model", "--dit_path", int8]);
    let pixels = |name: &str| image::open(folder.path().join(name)).unwrap().to_rgb8().into_raw();
    assert!(pixels("loading-0009.png") == pixels("written-0009.png"));
    let described = String::from_utf8(succeed(folder.path(), &["inspect", int8]).stdout).unwrap();
    for expected in ["int8 linears", "complete     yes", "recipe       a test", "shape 0.5"] {
        assert!(described.contains(expected), "{expected}: {described}");
    }
    let vae = "model/Wan2.1_VAE.safetensors";
    succeed(folder.path(), &["quantize", vae, "half.safetensors"]);
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len() as f64;
    assert!((size("half.safetensors") / size(vae) - 0.5).abs() < 0.02 && size(int8) < 0.7 * size(dit));
    let refused = turbowan(folder.path(), &["quantize", vae, "x.safetensors", "--gate", "psnr"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("NAME=NUMBER"));
}

/// Its widths are 192 and 576, which blocks of 128 do not divide.
#[test]
fn the_embedded_transformer_is_int8_and_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["init-tiny", "model"]);
    let (dit, again) = ("model/TurboWan2.1-T2V-tiny.safetensors", "again.safetensors");
    succeed(folder.path(), &["quantize", dit, again, "--floats", "f16"]);
    let described = String::from_utf8(succeed(folder.path(), &["inspect", dit]).stdout).unwrap();
    assert!(described.contains("int8 linears") && described.contains("complete     yes"), "{described}");
    t2v(folder.path(), "plain.png", &[]);
    t2v(folder.path(), "asked.png", &["--quant_linear"]);
    t2v(folder.path(), "again.png", &["--model_dir", "model", "--dit_path", again]);
    let pixels = |name: &str| image::open(folder.path().join(name)).unwrap().to_rgb8().into_raw();
    assert!(pixels("plain-0009.png") == pixels("asked-0009.png"));
    assert!(pixels("plain-0009.png") == pixels("again-0009.png"));
}

#[test]
fn official_pth_files_make_a_video() {
    let folder = tempfile::tempdir().unwrap();
    let dit = fixture("pipeline/checkpoints/TurboWan2.1-T2V-tiny.pth");
    t2v(folder.path(), "official.mp4", &["--dit_path", dit.to_str().unwrap()]);
    let inside = read_metadata(&folder.path().join("official.mp4")).unwrap();
    assert_eq!(inside["request"]["models"]["files"]["dit"]["hash"].as_str().map(str::len), Some(64));
}

#[test]
fn recorded_noise_from_a_file_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..5 * 16 * 3 * 6 * 8).flat_map(|index: u32| ((index as f32) * 0.7).sin().to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![5, 1, 16, 3, 6, 8], &noise).unwrap();
    let bytes = safetensors::serialize([("noise", view)], None).unwrap();
    std::fs::write(folder.path().join("noise.safetensors"), bytes).unwrap();
    t2v(folder.path(), "recorded.mp4", &["--rng", "noise.safetensors"]);
    t2v(folder.path(), "native.mp4", &[]);
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("recorded.mp4") != bytes("native.mp4"));
}

#[test]
fn json_lines_tell_the_stages_and_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let output = t2v(folder.path(), "j.mp4", &["--json"]);
    let lines: Vec<Value> = String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "done");
    assert_eq!(last["files"][0], "j.mp4");
    for stage in ["text", "denoise", "decode", "write"] {
        assert!(lines.iter().any(|line| line["event"] == "stage_ended" && line["stage"] == stage), "{stage}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_state_and_resuming_it_gives_the_bytes_of_an_unbroken_run() {
    use std::time::{Duration, Instant};

    let folder = tempfile::tempdir().unwrap();
    let large = ["t2v", "--prompt", "a star", "--seed", "9", "--resolution", "256x256", "--num_frames", "33", "--precision", "f32"];
    succeed(folder.path(), &[&large[..], &["-o", "whole.mp4"]].concat());
    let mut child = Command::new(env!("CARGO_BIN_EXE_turbowan"))
        .current_dir(folder.path())
        .args([&large[..], &["-o", "broken.mp4"]].concat())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let state = folder.path().join("broken.mp4.run");
    let started = Instant::now();
    while !state.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no state was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "stopped runs end as shells expect");
    assert!(state.exists() && !folder.path().join("broken.mp4").exists());
    succeed(folder.path(), &["t2v", "--resume", "broken.mp4.run"]);
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("broken.mp4") == bytes("whole.mp4"));
    assert!(!state.exists());
}

#[test]
fn doctor_says_what_every_operation_runs_on_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let text = String::from_utf8(succeed(folder.path(), &["doctor"]).stdout).unwrap();
    assert!(text.contains("quant_block.cu") && text.contains("instructions"), "{text}");
    let said: Value = serde_json::from_slice(&succeed(folder.path(), &["doctor", "--json"]).stdout).unwrap();
    assert!(said["cpu"]["threads"].as_u64() >= Some(1));
    assert!(said["driver"]["cuda"].is_string() != said["driver"]["error"].is_string());
    let model = said["embedded_model"].as_array().unwrap();
    assert!(model.len() == 5 && model.iter().all(|part| part["trained"].is_boolean() && part["recipe"].is_string()), "{model:?}");
    let ops = said["ops"].as_array().unwrap();
    assert!(!ops.is_empty());
    for op in ops {
        assert!(op["kernel"].is_string() || (op["runs_on"] == "host" && op["why"].is_string()), "{op}");
    }
}

#[test]
fn a_training_is_stopped_and_goes_on_and_its_folder_is_guarded() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[run]\nsteps = 3\nlog_every = 1\n[text]\nbatch = 2\nlook_captions = 4\n";
    std::fs::write(folder.path().join("text.toml"), config).unwrap();
    let train = ["train", "text", "text.toml", "--out", "run"];
    succeed(folder.path(), &[&train[..], &["--steps", "2"]].concat());
    let refusal = turbowan(folder.path(), &train);
    assert_eq!(refusal.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("add --resume"));
    succeed(folder.path(), &[&train[..], &["--resume"]].concat());
    let lines = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 3], "three steps and a look");
    for name in ["config.toml", "checkpoint.safetensors", "weights.safetensors", "looks"] {
        assert!(folder.path().join("run").join(name).exists(), "{name}");
    }
}
