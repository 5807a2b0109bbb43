//! What `turbowan plan` says beforehand, held to what a run takes.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use turbowan_wan_model::checkpoint::write_safetensors;
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::DitTraits;
use turbowan_wan_model::tiny::TinyTensors;

/// Share by which a predicted peak may miss a measured one.
const BOUND: f64 = 0.1;

fn turbowan(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Plans a run and makes it: the peak of the process, predicted and measured, in bytes.
fn peaks(folder: &Path, plan: &[&str], run: &[&str], both: &[&str]) -> [f64; 2] {
    let both = [both, &["--num_steps", "1", "--threads", "2"]].concat();
    turbowan(folder, &[&["plan", "--model", "embedded", "--json", "plan.json"], plan, &both[..]].concat());
    let prompt = ["t2v", "--prompt", "a red ball moves left on a white background", "--seed", "1", "-o", "video.mp4"];
    turbowan(folder, &[&prompt[..], run, &both[..]].concat());
    let predicted = json(&folder.join("plan.json"))["plan"]["generation"]["host"]["peak_bytes"].as_f64().unwrap();
    let stages = json(&folder.join("video.json"))["stages"].as_array().unwrap().clone();
    let measured = stages.iter().filter_map(|stage| stage["peak_memory_bytes"].as_f64()).fold(0.0, f64::max);
    println!("{both:?}: {:.1} MB predicted, {:.1} MB measured", predicted / 1e6, measured / 1e6);
    [predicted, measured]
}

fn hold(case: &str, [predicted, measured]: [f64; 2]) {
    // a system that does not tell its peak measures nothing
    assert!(measured == 0.0 || (predicted / measured - 1.0).abs() <= BOUND, "{case}: {predicted} predicted, {measured} measured");
}

#[test]
fn the_hosts_peak_is_predicted_within_a_tenth() {
    let folder = tempfile::tempdir().unwrap();
    for size in ["128x128", "256x256"] {
        let both = ["--resolution", size, "--num_frames", "17"];
        hold(size, peaks(folder.path(), &["--quant_linear"], &[], &both));
    }
    turbowan(folder.path(), &["init-tiny", "tiny"]);
    let config = DitConfig { dim: 512, ffn_dim: 2048, text_dim: 128, heads: 4, layers: 8, ..DitConfig::WAN_1_3B };
    let tensors = TinyTensors::draw(config.tensors(DitTraits { quantised: false, sla: true }), |_| false, 1).unwrap();
    let mut file = std::fs::File::create(folder.path().join("mid.safetensors")).unwrap();
    write_safetensors(&mut file, &tensors.iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
    for linears in [&["--quant_linear"][..], &[]] {
        let both = [&["--dit_path", "mid.safetensors", "--resolution", "256x256", "--num_frames", "17"], linears].concat();
        hold("mid", peaks(folder.path(), &[], &["--model_dir", "tiny"], &both));
    }
}

#[test]
fn a_launch_list_is_written_and_a_plan_tells_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let text = turbowan(folder.path(), &["plan", "--launches", "--model", "embedded", "--json", "step.json"]);
    assert!(text.contains("PREDICTION") && text.contains("bytes per token-channel"), "{text}");
    let step = &json(&folder.path().join("step.json"))["plan"]["step"];
    let lines = step["lines"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["name"].as_str().unwrap().starts_with("sage_attn") && line["count"] == step["blocks"]));
    let large = ["plan", "--model", "Wan2.1-14B", "--resolution", "720p", "--gpu", "RTX4090", "--what-if", "gpu=H200"];
    let text = turbowan(folder.path(), &large);
    assert!(text.contains("DOES NOT FIT") && text.contains("1. ") && text.contains("what if gpu=H200"), "{text}");
}
