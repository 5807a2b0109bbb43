//! Curves of a training run, from its `metrics.jsonl`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::chart::{Axis, Chart, Line};
use crate::error::Error;

/// Values of one metric by step.
type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// What the metrics of a run are: which chart each belongs to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Run {
    losses: Curves,
    steering: Curves,
    /// By the sampler and its steps: `few_4`, or nothing where only one thing is looked at.
    shares: BTreeMap<String, Curves>,
    decibels: Curves,
}

impl Run {
    /// The run whose metrics are in `path`.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no journal of a run.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let mut run = Self::default();
        for (index, line) in text.lines().enumerate() {
            let value: Value = serde_json::from_str(line).map_err(|error| Error::broken(path, format!("line {}: {error}", index + 1)))?;
            let (Some(line), Some(step)) = (value.as_object(), value["step"].as_f64()) else {
                return Err(Error::broken(path, format!("line {} has no step; name the metrics.jsonl of a training run", index + 1)));
            };
            for (name, value) in line {
                match value {
                    Value::Object(look) => look.iter().for_each(|(name, value)| run.looked(name, step, value)),
                    _ => run.told(name, step, value),
                }
            }
        }
        Ok(run)
    }

    fn told(&mut self, name: &str, step: f64, value: &Value) {
        let Some(value) = value.as_f64() else { return };
        let own = name.rsplit('.').next().unwrap_or(name);
        match own {
            // Of the machine, not of what is learnt; or zero in a run that went well, and in its log.
            "step" | "seconds_per_step" | "skipped" | "masked" => {}
            "rate" | "gradient_norm" => push(&mut self.steering, name, step, value),
            _ => push(&mut self.losses, name, step, value),
        }
    }

    fn looked(&mut self, name: &str, step: f64, value: &Value) {
        let Some(value) = value.as_f64() else { return };
        let (of, own) = name.split_once('.').unwrap_or(("", name));
        let curves = if own.starts_with("psnr") { &mut self.decibels } else { self.shares.entry(of.to_owned()).or_default() };
        push(curves, own, step, value);
    }

    /// Its charts, those without a curve left out.
    pub fn charts(&self, name: &str) -> Vec<Chart> {
        let mut all = vec![
            (format!("{name}: losses"), Axis::log("loss"), &self.losses),
            (format!("{name}: gradient and learning rate"), Axis::log("norm, rate"), &self.steering),
            (format!("{name}: reconstruction"), Axis::linear("dB"), &self.decibels),
        ];
        all.extend(self.shares.iter().map(|(of, curves)| {
            let share = Axis { spans: Some((0.0, 1.0)), ..Axis::linear("share") };
            (format!("{name}: looks {of}").trim_end().to_owned(), share, curves)
        }));
        all.retain(|(.., curves)| !curves.is_empty());
        let line = |(name, points): (&String, &Vec<(f64, f64)>)| Line::joined(name, points.clone());
        let chart = |(title, y, curves): (String, Axis, &Curves)| Chart {
            title,
            x: Axis::linear("step"),
            y,
            lines: curves.iter().map(line).collect(),
        };
        all.into_iter().map(chart).collect()
    }
}

fn push(curves: &mut Curves, name: &str, step: f64, value: f64) {
    curves.entry(name.to_owned()).or_default().push((step, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<Run, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        Run::read(&path)
    }

    #[test]
    fn every_metric_has_its_chart() {
        let run = run(concat!(
            "{\"step\":10,\"critic\":1.0,\"student.rate\":0.1,\"seconds_per_step\":2.0,\"skipped\":0.0,\"critic.masked\":0.0}\n",
            "{\"step\":10,\"look\":{\"few_4.shape\":0.5,\"psnr\":30.0}}\n",
            "{\"step\":20,\"critic\":0.5,\"student.rate\":0.2}\n",
        ))
        .unwrap();
        let charts = run.charts("rcm");
        let told: Vec<(&str, Vec<&str>)> =
            charts.iter().map(|chart| (chart.title.as_str(), chart.lines.iter().map(|line| line.name.as_str()).collect())).collect();
        let want = [
            ("rcm: losses", vec!["critic"]),
            ("rcm: gradient and learning rate", vec!["student.rate"]),
            ("rcm: reconstruction", vec!["psnr"]),
            ("rcm: looks few_4", vec!["shape"]),
        ];
        assert_eq!(told, want);
        assert_eq!(charts[0].lines[0].points, [(10.0, 1.0), (20.0, 0.5)]);
    }

    #[test]
    fn what_is_no_journal_is_told() {
        for text in ["nothing\n", "{\"loss\":1.0}\n"] {
            let error = run(text).unwrap_err().to_string();
            assert!(error.contains("line 1"), "{error}");
        }
        assert!(run("").unwrap().charts("none").is_empty());
    }
}
