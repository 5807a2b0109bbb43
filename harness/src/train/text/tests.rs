use super::*;
use turbowan_world::caption;

#[test]
fn the_tokenizer_knows_every_word_of_captions_as_one_piece() {
    let tokenizer = PromptTokenizer::from_bytes(vocabulary::tokenizer().bytes(), Path::new("tokenizer.json")).unwrap();
    let missing: Vec<String> = caption::words()
        .into_iter()
        .filter(|word| {
            let ids = tokenizer.encode(word, 16).unwrap().ids;
            // A Chinese character stands behind the mark that begins a word; both have the mark of the end behind them.
            let pieces = if word.is_ascii() { 2 } else { 3 };
            ids.len() != pieces || ids[0] < 260 || ids[pieces - 2] < 260
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bits_and_learns() {
    use crate::progress::{Progress, Style};
    use crate::train::frame::tests::{assert_same_run, journal};
    use crate::train::{Config, Plan, frame};

    let run = RunSettings { steps: 12, seed: 5, log_every: 3, checkpoint_every: 4, look_every: 0 };
    let optimiser = OptimiserSettings { rate: 0.01, warm_up: 2, ema: 0.5, accumulate: 2, ..TextSettings::default().optimiser };
    let config = Config { run, stage: TextSettings { batch: 8, look_captions: 20, start: None, optimiser } };
    let go = |folder: &Path, resumes, until| {
        frame::train(&config, folder, Plan { resumes, until }, &Progress::new(Style::Silent.listener())).unwrap();
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(whole.path(), false, None);
    go(parts.path(), false, Some(5));
    go(parts.path(), true, None);
    assert_same_run(whole.path(), parts.path());

    let lines = journal(whole.path());
    let loss = |line: usize| lines[line]["loss"].as_f64().unwrap();
    // At the start the heads are zero: ln 4 + ln 6 + ln 4 + ln 8.
    assert!(loss(0) < 6.7 && loss(3) < 0.93 * loss(0), "{lines:?}");
    let weights = Checkpoint::open(whole.path().join("weights.safetensors")).unwrap();
    assert!(Parameters::read(&weights, &tiny::text_config().tensors()).is_ok());
    assert!(!weights.names().any(|name| name.contains("heads")), "the heads are thrown away");
}
