//! The recorded runs of the official code that lie beside this file, replayed through the library.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::collections::BTreeMap;
use std::path::Path;

use turbowan::conform::{self, Outcome, Row};
use turbowan::run::processor::Processor;

#[test]
fn every_recorded_run_is_reproduced_within_its_own_tolerance() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let rows = conform::run(&fixtures, &Processor::Host).unwrap();
    let mut components = BTreeMap::new();
    for row in &rows {
        *components.entry(row.component.as_str()).or_insert(0) += 1;
    }
    for expected in ["dit_i2v", "pipeline", "quant_linear", "rcm_sampler", "sage_op", "sage_op / SageSLA", "sla_op", "umt5", "vae"] {
        assert!(components.contains_key(expected), "{expected} was not replayed: {components:?}");
    }
    none_failed(&rows);
    assert!(rows.iter().all(|row| row.outcome == Outcome::Passed), "the host skips nothing");
}

fn none_failed(rows: &[Row]) {
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome == Outcome::Failed)
        .map(|row| {
            let distance = row.verdict.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{} / {}: {}{distance}", row.component, row.case, row.note)
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} comparisons failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

/// Transformer, int8 linears, text encoder and autoencoder; the whole pipeline takes the emulator minutes, and
/// `turbowan conform --device emulator` replays it.
#[test]
fn networks_on_the_emulator_are_the_recorded_ones_and_what_kernels_lack_is_counted() {
    let Ok(emulator) = Processor::emulator() else { return println!("skipped: no emulator") };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    for (component, compared) in [("dit_i2v", 2), ("quant_linear", 3), ("umt5", 3), ("vae", 2), ("sla_op", 0)] {
        let rows = conform::run(&fixtures.join(component), &emulator).unwrap();
        none_failed(&rows);
        let held: Vec<_> = rows.iter().filter(|row| row.outcome == Outcome::Passed).map(|row| &row.case).collect();
        assert_eq!(held.len(), compared, "{component}: {held:?}");
        let skipped: Vec<_> = rows.iter().filter(|row| row.outcome == Outcome::Skipped).collect();
        assert!(!skipped.is_empty() && skipped.iter().all(|row| !row.note.is_empty()), "{component} has f32 recordings: {skipped:?}");
    }
}

#[test]
fn an_unknown_component_and_an_empty_folder_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(conform::run(folder.path(), &Processor::Host), Err(conform::Error::NoFixture { .. })));
    std::fs::write(folder.path().join("meta.json"), r#"{"component": "dreams"}"#).unwrap();
    assert!(matches!(conform::run(folder.path(), &Processor::Host), Err(conform::Error::UnknownComponent { .. })));
}

#[test]
fn a_result_that_is_off_fails_its_comparison() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/umt5");
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures, folder.path());
    let meta = folder.path().join("meta.json");
    let text = std::fs::read_to_string(&meta).unwrap();
    let tight = text.replace("\"f32_max_abs\": 0.0001", "\"f32_max_abs\": 0.0");
    assert_ne!(text, tight, "the tolerance is where this test looks for it");
    std::fs::write(&meta, tight).unwrap();
    let rows = conform::run(folder.path(), &Processor::Host).unwrap();
    assert!(rows.iter().any(|row| row.outcome == Outcome::Failed), "nothing is exact to the last bit in f32 sums of another order");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(drop).unwrap() }
    }
}
