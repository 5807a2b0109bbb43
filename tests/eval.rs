//! `turbowan eval` as a user meets it: rows, controls and records of the embedded model, and a stopped run that goes on.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const SMALL: [&str; 8] = ["eval", "--captions", "6", "--resolution", "64x64", "--num_frames", "9", "--held_out"];

fn turbowan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder).args(arguments).output().unwrap()
}

/// The JSON of an evaluation with `more` flags, and what it printed.
fn evaluate(folder: &Path, more: &[&str]) -> (Value, String) {
    let output = turbowan(folder, &[&SMALL[..], &["2", "--json", "out.json"], more].concat());
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    (json(&folder.join("out.json")), String::from_utf8(output.stdout).unwrap())
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Without times, which no two runs share.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("denoising_seconds");
            fields.values_mut().for_each(|field| *field = timeless(field.take()));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| *value = timeless(value.take())),
        _ => {}
    }
    value
}

/// The lines of a record, without times.
fn lines_of(record: &str) -> Vec<Value> {
    record.lines().map(|line| timeless(serde_json::from_str(line).unwrap())).collect()
}

fn row<'a>(json: &'a Value, name: &str) -> &'a Value {
    let rows = json["rows"].as_array().unwrap();
    let found = rows.iter().find(|row| row["row"] == name);
    &found.unwrap_or_else(|| panic!("no row {name:?} among {:?}", rows.iter().map(|row| &row["row"]).collect::<Vec<_>>()))["scores"]
}

#[test]
fn rows_stand_beside_real_clips_controls_and_the_dense_teacher() {
    let folder = tempfile::tempdir().unwrap();
    for (model, seed) in [("model", "4"), ("teacher", "5")] {
        assert!(turbowan(folder.path(), &["init-tiny", model, "--seed", seed]).status.success());
    }
    let teacher = "teacher/TurboWan2.1-T2V-tiny.safetensors";
    let flags = ["--steps", "teacher:2,2,1", "--attention", "sla:0.5,original", "--precision", "f32,bf16+w8a8", "--teacher", teacher];
    let (json, text) = evaluate(folder.path(), &[&flags[..], &["--model_dir", "model", "--sheet", "sheet.png"]].concat());
    let real = row(&json, "real clips");
    for attribute in ["shape", "colour", "background", "motion"] {
        assert_eq!(real["adherence"]["attributes"][attribute]["share"], 1.0, "the judge reads real clips");
        assert!(json["constant_answer"][attribute].as_f64().unwrap() > 0.1);
    }
    assert_eq!((&real["adherence"]["clips"], &real["held_out"]["clips"]), (&Value::from(6), &Value::from(2)));
    let sparse = row(&json, "2 steps, sla 0.5, f32");
    let dense = row(&json, "2 steps, original, f32");
    row(&json, "undistilled, 2 steps, original, f32");
    row(&json, "undistilled, 1 step, original, f32");
    assert!(sparse["fidelity"]["dense f32"]["psnr_db"].as_f64().unwrap() > 10.0 && sparse["fidelity"]["teacher"]["ssim"].is_number());
    assert!(dense["fidelity"]["dense f32"].is_null() && dense["motion_levels"].as_f64().unwrap() > 0.0);
    assert!(row(&json, "2 steps, sla 0.5, bf16+w8a8")["fidelity"]["dense f32"]["psnr_db"].is_number());
    for expected in ["best constant answer", "training never sees", "teacher, 2 guided steps", "fidelity, which is no quality", "unread"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let sheet = image::open(folder.path().join("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (6 * 196 + 5 * 8, 8 * 64 + 7 * 8));
}

#[test]
fn a_stopped_evaluation_goes_on_to_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = evaluate(folder.path(), &["--steps", "1", "--sheet", "whole.png"]);
    let record = folder.path().join("output/eval.jsonl");
    let text = std::fs::read_to_string(&record).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7);
    // Stopped within the fourth caption.
    std::fs::write(&record, format!("{}\n{}", lines[..4].join("\n"), &lines[4][..lines[4].len() / 2])).unwrap();
    let refused = turbowan(folder.path(), &SMALL.iter().copied().chain(["2", "--steps", "1"]).collect::<Vec<_>>());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--resume"), "{}", String::from_utf8_lossy(&refused.stderr));
    let resumed = ["eval", "--resume", "output/eval.jsonl", "--json", "again.json", "--sheet", "again.png"];
    assert!(turbowan(folder.path(), &resumed).status.success());
    assert_eq!(timeless(json(&folder.path().join("again.json"))), timeless(whole));
    assert_eq!(lines_of(&std::fs::read_to_string(&record).unwrap()), lines_of(&text));
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("again.png") == bytes("whole.png"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_measured() {
    use std::time::{Duration, Instant};

    let folder = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_turbowan"))
        .current_dir(folder.path())
        .args(["eval", "--captions", "500", "--resolution", "64x64", "--num_frames", "9", "--steps", "1"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let record = folder.path().join("output/eval.jsonl");
    let started = Instant::now();
    while std::fs::read_to_string(&record).unwrap_or_default().lines().count() < 3 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was recorded");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "stopped runs end as shells expect");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 step"), "the table of what there is");
    assert!(String::from_utf8_lossy(&output.stderr).contains("eval --resume output/eval.jsonl"));
    assert!(std::fs::read_to_string(&record).unwrap().lines().count() >= 3);
}

#[test]
fn reconstructions_are_held_to_real_clips() {
    let folder = tempfile::tempdir().unwrap();
    let (json, text) = evaluate(folder.path(), &["--recon", "--precision", "f32"]);
    let recon = row(&json, "reconstructions, f32");
    assert!(recon["fidelity"]["real"]["psnr_db"].is_number() && recon["adherence"]["clips"] == 6, "{text}");
    assert_eq!(row(&json, "real clips")["adherence"]["all_four"]["share"], 1.0);
    let refused = turbowan(folder.path(), &["eval", "--recon", "--resolution", "64x48"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("square"));
}

#[test]
fn first_frames_are_held_to_the_pictures_given() {
    let folder = tempfile::tempdir().unwrap();
    let (json, _) = evaluate(folder.path(), &["--i2v", "--steps", "2"]);
    let made = row(&json, "2 steps, original, bf16+w8a8");
    assert!(made["first_frame_psnr_db"].as_f64().unwrap() > 0.0);
    assert!(row(&json, "real clips")["first_frame_psnr_db"].is_null(), "real clips are not held to themselves");
}

#[test]
fn prompts_of_a_file_are_judged_where_the_world_has_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompts.txt"), "a red star moves up on a white canvas\na cat on a sofa\n").unwrap();
    let (json, _) = evaluate(folder.path(), &["--prompts", "prompts.txt", "--steps", "1"]);
    assert_eq!((&json["measured"], json["rows"].as_array().unwrap().len()), (&Value::from(2), 1));
    assert_eq!(row(&json, "1 step, sagesla 0.34, bf16+w8a8")["adherence"]["clips"], 1);
}

#[test]
fn a_sweep_makes_every_way_from_the_same_noise_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "a red star moves up on a white background";
    let flags =
        ["sweep", "--prompt", prompt, "--seeds", "1,2", "--steps", "2,1", "--sampler", "sde,ode", "--attention", "original,sagesla:0.5"];
    let output = turbowan(folder.path(), &[&flags[..], &["--resolution", "64x64", "--num_frames", "9", "--out", "swept"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let place = |name: &str| folder.path().join("swept").join(name);
    let swept = json(&place("sweep.json"));
    // for each of four ways of sampling the dense f32 row, and two in bf16
    assert_eq!((swept["rows"].as_array().unwrap().len(), &swept["measured"]), (12, &Value::from(2)));
    let dense = row(&swept, "2 steps, ode, original, f32+w8a8");
    assert!(dense["fidelity"]["dense f32"].is_null() && dense["denoising_seconds"]["count"] == 2, "{dense}");
    let sparse = row(&swept, "2 steps, ode, sagesla 0.5, bf16+w8a8");
    assert!(sparse["fidelity"]["dense f32"]["psnr_db"].as_f64().unwrap() > 10.0 && sparse["adherence"]["clips"] == 2, "{sparse}");
    // the last step has no noise after it: of one step there is no other sampler
    assert_eq!(
        timeless(row(&swept, "1 step, sde, original, f32+w8a8").clone()),
        timeless(row(&swept, "1 step, ode, original, f32+w8a8").clone())
    );
    let picture = std::fs::read_to_string(place("pareto.svg")).unwrap();
    assert!(picture.contains("2 steps, ode") && picture.contains("misreads"), "two charts");
    let sheet = image::open(place("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (2 * 196 + 8, 12 * 64 + 11 * 8));

    let record = std::fs::read_to_string(place("sweep.jsonl")).unwrap();
    let lines: Vec<&str> = record.lines().collect();
    std::fs::write(place("sweep.jsonl"), format!("{}\n", lines[..2].join("\n"))).unwrap();
    let again = turbowan(folder.path(), &["sweep", "--resume", "swept"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(timeless(json(&place("sweep.json"))), timeless(swept));
}

#[test]
fn sweeps_that_cannot_be_made_are_refused_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, said) in [
        (["--seeds", "1,x"], "--seeds"),
        (["--steps", "teacher:9"], "eval --teacher"),
        (["--sampler", "euler"], "neither sde nor ode"),
        (["--sigma_max", "80,-1"], "sigma"),
        (["--attention", "sla:2"], "SHARE"),
    ] {
        let output = turbowan(folder.path(), &[&["sweep", "--prompt", "a red star"], &flags[..]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(said) && text.lines().count() == 1, "{flags:?}: {text}");
    }
    assert!(!folder.path().join("output").exists());
}
