//! `turbowan bench` and `turbowan report` as a user meets them.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn turbowan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(folder).args(arguments).output().unwrap()
}

fn cases(folder: &Path, bound: &str) {
    let text = format!(
        "[[case]]\nname = \"small linear\"\nop = \"linear/int8\"\nshape = {{ rows = 8, out = 16, input = 128 }}\nagainst = [\"linear/f32\"]\nbound = {{ {bound} }}\n"
    );
    std::fs::write(folder.join("own.toml"), text).unwrap();
}

const OWN: [&str; 4] = ["bench", "--cases", "own.toml", "--no-ceilings"];

#[test]
fn a_case_of_ones_own_gives_a_record_a_table_and_a_comparison_with_an_earlier_run_and_a_peer() {
    let folder = tempfile::tempdir().unwrap();
    cases(folder.path(), "relative_l2 = 1e-5");
    let output = turbowan(folder.path(), &[&OWN[..], &["--json", "--out", "first"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["schema"], "turbowan-bench/1");
    assert_eq!((&record["device"], &record["check"]["passes"]), (&Value::from("host"), &Value::from(true)));
    assert_eq!(record["samples_s"].as_array().map(Vec::len), Some(9));
    let page = std::fs::read_to_string(folder.path().join("first/README.md")).unwrap();
    assert!(page.contains("| small linear |") && page.contains("linear/f32"), "{page}");

    let peer = r#"{"peer":"pytorch","version":"2.13.0","name":"linear f32","op":"linear","shape":{"rows":8,"out":16,"input":128},"threads":2,"median_s":1.0,"min_s":1.0,"samples_s":[1.0]}"#;
    std::fs::write(folder.path().join("peer.json"), peer).unwrap();
    let output = turbowan(
        folder.path(),
        &[&OWN[..], &["--against", "first/bench.jsonl", "--against", "peer", "peer.json", "--against", "naive"]].concat(),
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("pytorch 2.13.0 (linear f32)") && text.contains("naive"), "{text}");

    let output = turbowan(folder.path(), &[&OWN[..], &["--check"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("not timed") && !text.contains("WRONG"), "{text}");

    let output = turbowan(folder.path(), &["bench", "--recorded", "first/bench.jsonl", "--against", "peer.json"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("pytorch"));
}

#[test]
fn a_wrong_answer_has_no_time_and_a_bad_exit() {
    let folder = tempfile::tempdir().unwrap();
    cases(folder.path(), "relative_l2 = 1e-30");
    let output = turbowan(folder.path(), &[&OWN[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(record["samples_s"].as_array().is_some_and(Vec::is_empty) && record["check"]["passes"] == false);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1 of 1 comparisons failed"), "{said}");
}

#[test]
fn a_case_that_cannot_be_run_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    cases(folder.path(), "relative_l2 = 1e-5");
    let own = std::fs::read_to_string(folder.path().join("own.toml")).unwrap();
    let kernel = "[[case]]\nname = \"gated\"\nop = \"residual/gate\"\nshape = { rows = 2, width = 8 }\nbound = { max_abs = 1 }\n";
    std::fs::write(folder.path().join("own.toml"), format!("{kernel}{own}")).unwrap();
    let output = turbowan(folder.path(), &[&OWN[..], &["--check"]].concat());
    let (text, said) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("small linear") && !said.contains('\r'), "{text}{said}");
    assert!(said.contains("case \"gated\": residual/gate: only a kernel does it"), "{said}");
}

#[test]
fn what_cannot_be_timed_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    cases(folder.path(), "relative_l2 = 1e-5");
    for (arguments, code, says) in [
        (&["--device", "emulator"][..], 2, "never timed"),
        (&["--repeat", "3"][..], 2, "at least 7"),
        (&["--case", "nothing"][..], 2, "nothing of own.toml"),
        (&["--op", "nothing"][..], 2, "--op: no operation of own.toml"),
        (&["--against", "cublaslt"][..], 2, "cuBLASLt"),
        (&["--against", "missing.json"][..], 1, "missing.json"),
    ] {
        let output = turbowan(folder.path(), &[&OWN[..], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    let output = turbowan(folder.path(), &["bench", "--suite", "nothing"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("host-smoke"));
    let output = turbowan(folder.path(), &["bench", "--suite", "device", "--list"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("75600"));
}
