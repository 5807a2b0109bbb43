use std::fs;

use serde::{Deserialize, Serialize};
use turbowan_rcm::resume::{SliceMut, ValuesMut};
use turbowan_rcm::{Resumable, Stream};
use turbowan_wan_model::backend::tape::{Parameters, StoredParameters};
use turbowan_wan_model::checkpoint::Dtype;

use super::super::{Metrics, RunSettings};
use super::*;
use crate::progress::Style;

/// A number that noise pushes around; steps in `bad` give none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Toy {
    width: usize,
    bad: Vec<u64>,
}

struct ToyLearner {
    bad: Vec<u64>,
    values: Vec<f32>,
    noise: Stream,
}

impl StageSettings for Toy {
    const STAGE: &'static str = "toy";

    fn learner(&self, run: &RunSettings) -> Result<Box<dyn Learner>, Error> {
        Ok(Box::new(ToyLearner { bad: self.bad.clone(), values: vec![1.0; self.width], noise: Stream::new(run.seed) }))
    }
}

impl Learner for ToyLearner {
    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = vec![SliceMut { name: "values".to_owned(), values: ValuesMut::F32(&mut self.values) }];
        state.extend(self.noise.state_mut());
        state
    }

    fn step(&mut self, step: u64) -> Result<Metrics, Error> {
        let push = self.noise.normals(self.values.len());
        if self.bad.contains(&step) {
            return Err(Error::NotFinite { what: "the loss".to_owned() });
        }
        self.values.iter_mut().zip(push).for_each(|(value, push)| *value += 0.1 * push);
        Ok(vec![("sum".to_owned(), self.values.iter().map(|value| f64::from(*value)).sum())])
    }

    fn look(&mut self, folder: &Path, step: u64) -> Result<Metrics, Error> {
        fs::write(folder.join(format!("{step}.txt")), "seen").unwrap();
        Ok(vec![("first".to_owned(), f64::from(self.values[0]))])
    }

    fn weights(&self) -> Result<StoredParameters, Error> {
        let mut parameters = Parameters::default();
        parameters.push("values".to_owned(), vec![self.values.len()], self.values.clone());
        Ok(parameters.stored(|_| Dtype::F32))
    }
}

fn config(bad: &[u64]) -> Config<Toy> {
    let run = RunSettings { steps: 14, seed: 3, log_every: 4, checkpoint_every: 3, look_every: 5 };
    Config { run, stage: Toy { width: 5, bad: bad.to_vec() } }
}

fn go(config: &Config<Toy>, folder: &Path, resumes: bool, until: Option<u64>) -> Result<(), Error> {
    train(config, folder, Plan { resumes, until }, &Progress::new(Style::Silent.listener()))
}

/// A file's lines without what a clock says.
pub(in crate::train) fn journal(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("seconds_per_step");
        line
    };
    text.lines().map(line).collect()
}

/// Whether two folders hold the same run, to the bit.
pub(in crate::train) fn assert_same_run(a: &Path, b: &Path) {
    for name in ["checkpoint.safetensors", "weights.safetensors", "config.toml"] {
        assert!(fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap(), "{name} differs");
    }
    assert_eq!(journal(a), journal(b));
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bits() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = config(&[2, 6]);
    go(&config, whole.path(), false, None).unwrap();
    for until in [1, 7, 14] {
        go(&config, parts.path(), until > 1, Some(until)).unwrap();
    }
    assert_same_run(whole.path(), parts.path());
    let steps: Vec<_> = journal(whole.path()).iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [4, 5, 8, 10, 12, 14, 14], "logs, looks and both at the end");
    assert_eq!(journal(whole.path())[5]["skipped"], 2.0);
    assert!(whole.path().join("looks/14.txt").exists());
}

#[test]
fn what_was_done_past_the_checkpoint_is_done_again() {
    let (whole, torn) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = config(&[]);
    go(&config, whole.path(), false, None).unwrap();
    go(&config, torn.path(), false, Some(6)).unwrap();
    let early = fs::read(torn.path().join("checkpoint.safetensors")).unwrap();
    go(&config, torn.path(), true, Some(11)).unwrap();
    fs::write(torn.path().join("checkpoint.safetensors"), early).unwrap();
    go(&config, torn.path(), true, None).unwrap();
    assert_same_run(whole.path(), torn.path());
}

#[test]
fn ten_steps_in_a_row_without_a_number_end_a_run_and_its_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let bad: Vec<u64> = (4..14).collect();
    let error = go(&config(&bad), folder.path(), false, None).unwrap_err();
    assert!(matches!(error, Error::Diverged { steps: 13, skipped: 10, .. }), "{error}");
    let saved = Saved::load(&folder.path().join("checkpoint.safetensors")).unwrap();
    assert_eq!((saved.place.steps, saved.place.skipped), (12, 8));
    let nine = tempfile::tempdir().unwrap();
    go(&config(&bad[1..]), nine.path(), false, None).unwrap();
}

#[test]
fn a_run_is_neither_overwritten_nor_continued_as_another() {
    let folder = tempfile::tempdir().unwrap();
    let base = config(&[]);
    let refused = |config: &Config<Toy>, resumes, until| go(config, folder.path(), resumes, until).unwrap_err().to_string();
    assert!(refused(&base, true, None).contains("leave --resume out"));
    go(&base, folder.path(), false, Some(2)).unwrap();
    assert!(refused(&base, false, None).contains("add --resume"));
    let wide = Config { stage: Toy { width: 6, ..base.stage.clone() }, ..base.clone() };
    assert!(refused(&wide, true, None).contains("toy.width is 6, the run was started with 5"));
    assert!(refused(&base, true, Some(15)).contains("raise run.steps"));
    let longer = Config { run: RunSettings { steps: 16, log_every: 1, ..base.run.clone() }, ..base };
    go(&longer, folder.path(), true, Some(15)).unwrap();
}

#[test]
fn a_checkpoint_that_does_not_fit_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    go(&config(&[]), folder.path(), false, Some(3)).unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let saved = Saved::load(&path).unwrap();
    let mut other = ToyLearner { bad: Vec::new(), values: vec![7.0; 6], noise: Stream::new(9) };
    assert!(saved.restore(&path, &mut other).unwrap_err().to_string().contains("values is F32 [5], not F32 [6]"));
    assert_eq!((other.values, other.noise), (vec![7.0; 6], Stream::new(9)));
    fs::write(&path, b"nothing").unwrap();
    assert!(Saved::load(&path).is_err());
}
