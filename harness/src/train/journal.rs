//! `metrics.jsonl`: what a run tells, a JSON object a line, in the order of steps.
//!
//! A line holds means over the steps since the line before. When a run is taken up again, lines past its checkpoint are cut off, so that the
//! file is that of a run which was never stopped, but for the seconds.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::atomic_file::{self, WriteError};
use crate::error::Error;

/// Metrics of some steps: name, sum, count, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sums(Vec<(String, f64, u64)>);

impl Sums {
    /// Adds the metrics of one step.
    pub fn add(&mut self, metrics: &[(String, f64)]) {
        for (name, value) in metrics {
            match self.0.iter_mut().find(|(known, ..)| known == name) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + value, *count + 1),
                None => self.0.push((name.clone(), *value, 1)),
            }
        }
    }

    /// The means, and none left.
    pub fn take(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.0).into_iter().map(|(name, sum, count)| (name, sum / count as f64)).collect()
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal of a run that stands at `steps` steps: what a file there has of later ones is cut off.
    ///
    /// # Errors
    /// A file that cannot be read or written, or holds anything else.
    pub fn open(path: &Path, steps: u64) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        let mut kept = String::new();
        // Without its end a line is what a lost machine left of it.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let value: Value = serde_json::from_str(line).map_err(|error| Error::broken(path, error))?;
            let step = value["step"].as_u64().ok_or_else(|| Error::broken(path, "a line has no step"))?;
            if step <= steps {
                kept.push_str(line);
            }
        }
        atomic_file::write(path, kept.as_bytes())?;
        Ok(Self { path: path.to_owned() })
    }

    /// Adds a line about the state after `step` steps: the metrics, under `title` where there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, step: u64, title: Option<&str>, metrics: &[(String, f64)]) -> Result<(), Error> {
        let told: Map<String, Value> = metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut line = Map::from_iter([("step".to_owned(), json!(step))]);
        match title {
            Some(title) => drop(line.insert(title.to_owned(), Value::Object(told))),
            None => line.extend(told),
        }
        let text = format!("{}\n", Value::Object(line));
        let written = OpenOptions::new().append(true).create(true).open(&self.path).and_then(|mut file| file.write_all(text.as_bytes()));
        Ok(written.map_err(|error| WriteError::of(&self.path, "write the file", error))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: f64) -> (String, f64) {
        (name.to_owned(), value)
    }

    #[test]
    fn means_are_over_the_steps_that_told_and_keep_their_order() {
        let mut sums = Sums::default();
        sums.add(&[one("loss", 1.0), one("rate", 0.5)]);
        sums.add(&[one("loss", 2.0), one("other", 7.0)]);
        let kept: Sums = serde_json::from_str(&serde_json::to_string(&sums).unwrap()).unwrap();
        assert_eq!(kept, sums);
        assert_eq!(sums.take(), [one("loss", 1.5), one("rate", 0.5), one("other", 7.0)]);
        assert_eq!(sums, Sums::default());
    }

    #[test]
    fn lines_past_the_checkpoint_are_cut_and_half_a_line_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let journal = Journal::open(&path, 0).unwrap();
        for step in [10, 20, 30] {
            journal.write(step, None, &[one("loss", 1.0 / step as f64)]).unwrap();
        }
        journal.write(20, Some("look"), &[one("psnr", 20.0)]).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":2").unwrap();
        Journal::open(&path, 20).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"loss\":0.1,\"step\":10}\n{\"loss\":0.05,\"step\":20}\n{\"look\":{\"psnr\":20.0},\"step\":20}\n");
        std::fs::write(&path, "nothing\n").unwrap();
        assert!(Journal::open(&path, 20).is_err());
    }
}
