//! Runs beside runs: ours of another day, or a peer's.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::Error;
use super::sample::Samples;
use crate::record::{Record, SCHEMA};

/// A peer's time of one shape, as the scripts in `benches/peers` print it: one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Whose it is, e.g. `pytorch`.
    pub peer: String,
    /// Version of its library.
    pub version: String,
    /// The function that was called.
    pub name: String,
    /// The family of operations that it answers, e.g. `linear`.
    pub op: String,
    /// The shape, in the words of our cases.
    pub shape: Map<String, Value>,
    /// Threads, or none on a device.
    pub threads: Option<usize>,
    /// The processor's own name, where it is told.
    #[serde(default)]
    pub cpu: Option<String>,
    /// UTC, where it is told: a time stands in a ratio with another of its own day alone.
    #[serde(default)]
    pub date: Option<String>,
    /// The GPU as its driver calls it, where it ran on one.
    #[serde(default)]
    pub gpu: Option<String>,
    /// Seconds of the middle sample.
    pub median_s: f64,
    /// Seconds of the least.
    pub min_s: f64,
    /// All samples, where they are told.
    #[serde(default)]
    pub samples_s: Samples,
}

/// A line of a file that ours stands against.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// Ours, of another day.
    Ours(Box<Record>),
    /// A peer's.
    Peer(Box<Peer>),
}

/// One row of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pairing {
    /// The case.
    pub case: String,
    /// Operation and shape in one line.
    pub what: String,
    /// Median seconds of ours.
    pub ours_s: f64,
    /// Who stands against it.
    pub theirs: String,
    /// Median seconds of theirs; the mean over the rounds where there are several.
    pub theirs_s: f64,
    /// Theirs over ours: above 1 ours is faster.
    pub faster_by: f64,
    /// What a reader must know before believing it.
    pub note: String,
}

/// Reads a file of records, of peers' lines, or of both. A line that is neither, such as the one that names the machine, is
/// passed over; a file without any is refused, and so is a record of another schema.
///
/// # Errors
/// A file that cannot be read or holds nothing to stand against.
pub fn read(path: &Path) -> Result<Vec<Line>, Error> {
    let text = std::fs::read_to_string(path).map_err(|why| Error::file(path, why))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let at = |why: serde_json::Error| Error::file(path, format!("line {}: {why}", number + 1));
        match value.get("schema").and_then(Value::as_str) {
            Some(SCHEMA) => lines.push(Line::Ours(Box::new(serde_json::from_value(value).map_err(at)?))),
            Some(other) => return Err(Error::file(path, format!("line {}: schema {other:?}; {SCHEMA:?} is read", number + 1))),
            None if value.get("peer").is_some() => lines.push(Line::Peer(Box::new(serde_json::from_value(value).map_err(at)?))),
            None => {}
        }
    }
    if lines.is_empty() {
        return Err(Error::file(path, "holds neither records of `turbowan bench` nor lines of benches/peers"));
    }
    Ok(lines)
}

/// Ours beside everything in `lines` that has the same operation and shape.
pub fn pair(ours: &[Record], lines: &[Line]) -> Vec<Pairing> {
    let mut rows = Vec::new();
    for record in ours {
        let Some(seconds) = record.seconds else { continue };
        let mut found: Vec<(String, Vec<f64>, String)> = Vec::new();
        for line in lines {
            let Some((who, median, note)) = stands_against(record, line) else { continue };
            match found.iter_mut().find(|(known, ..)| *known == who) {
                Some((_, medians, _)) => medians.push(median),
                None => found.push((who, vec![median], note)),
            }
        }
        for (theirs, medians, note) in found {
            let theirs_s = medians.iter().sum::<f64>() / medians.len() as f64;
            let faster_by = theirs_s / seconds.median;
            let what = format!("{} {}", record.op, shape_text(&record.shape));
            rows.push(Pairing { case: record.name.clone(), what, ours_s: seconds.median, theirs, theirs_s, faster_by, note });
        }
    }
    rows
}

fn stands_against(ours: &Record, line: &Line) -> Option<(String, f64, String)> {
    match line {
        Line::Ours(theirs) => {
            let is_same = theirs.op == ours.op && theirs.shape == ours.shape && theirs.device == ours.device;
            let median = theirs.seconds.filter(|_| is_same)?.median;
            let commit = theirs.build.commit.as_deref().map_or("unknown commit", |commit| &commit[..commit.len().min(10)]);
            let note =
                if theirs.machine == ours.machine { String::new() } else { "another machine, or another number of threads".to_owned() };
            Some((format!("{} of {}", commit, theirs.date), median, note))
        }
        Line::Peer(theirs) => {
            if !theirs.answers(ours) {
                return None;
            }
            let note = match theirs.threads {
                Some(threads) if threads != ours.machine.threads => format!("{threads} threads beside {} of ours", ours.machine.threads),
                None if theirs.gpu != ours.machine.gpu.as_ref().map(|gpu| gpu.name.clone()) => {
                    format!("on {}", theirs.gpu.as_deref().unwrap_or("a GPU that is not told"))
                }
                _ => String::new(),
            };
            Some((theirs.title(), theirs.median_s, note))
        }
    }
}

impl Peer {
    /// Whether it is of the same operation and shape as ours, and of the same kind of device.
    pub fn answers(&self, ours: &Record) -> bool {
        let family = ours.op.split('/').next().unwrap_or_default();
        let is_same_op = self.op == family || self.op == "attention" && family == "self-attention";
        // threads are told of a host alone
        let is_same_device = self.threads.is_some() == (ours.device == "host");
        is_same_op && is_same_device && !self.shape.is_empty() && is_same_shape(&ours.shape, &self.shape)
    }

    /// Whose it is: library, version and function.
    pub fn title(&self) -> String {
        format!("{} {} ({})", self.peer, self.version, self.name)
    }
}

/// Whether a peer's shape is ours. It has no share of blocks: it attends to all of them.
fn is_same_shape(ours: &Value, theirs: &Map<String, Value>) -> bool {
    let is_told = |(side, length): (&String, &Value)| theirs.contains_key(side) || side == "topk" || side == "batch" && *length == 1;
    theirs.iter().all(|(side, length)| ours.get(side) == Some(length)) && ours.as_object().into_iter().flatten().all(is_told)
}

/// A shape in one line: its values in the order of their names, without the batch of one.
pub fn shape_text(shape: &Value) -> String {
    let sides = shape.as_object().into_iter().flatten().filter(|(side, length)| !(*side == "batch" && **length == 1));
    sides
        .map(|(side, length)| format!("{side} {}", length.to_string().replace(['"', '['], "").replace(']', "").replace(',', "x")))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::ceiling::Measured;
    use crate::bench::{Settings, Target, case, measure};
    use crate::record::Build;

    fn ours() -> Record {
        let text =
            "[[case]]\nname = \"small\"\nop = \"linear/f32\"\nshape = { rows = 4, out = 8, input = 16 }\nbound = { relative_l2 = 1e-5 }";
        let case = &case::parse(Path::new("own.toml"), text).unwrap()[0];
        let settings = Settings { suite: "own".into(), repeat: 3, naive: false, pair: None };
        measure(case, &mut Target::Host, &settings, &Measured::default(), &Build::look()).unwrap()
    }

    #[test]
    fn a_peer_and_an_earlier_run_stand_beside_the_same_shape_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, record) = (folder.path().join("lines.jsonl"), ours());
        let peer = |rows: usize, median: f64| {
            format!(
                r#"{{"peer":"pytorch","version":"2.13.0","name":"linear f32","op":"linear","shape":{{"rows":{rows},"out":8,"input":16}},"threads":77,"median_s":{median},"min_s":1.0,"samples_s":[1.0]}}"#
            )
        };
        let lines = ["{\"machine\": \"x\"}".to_owned(), peer(4, 2.0), peer(4, 4.0), peer(5, 9.0), serde_json::to_string(&record).unwrap()];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let rows = pair(std::slice::from_ref(&record), &read(&path).unwrap());
        assert_eq!(rows.len(), 2, "{rows:?}");
        // two rounds of the peer count as one, with their mean
        assert_eq!(rows[0].theirs_s, 3.0);
        assert!(rows[0].note.starts_with("77 threads beside") && rows[0].theirs.starts_with("pytorch 2.13.0"));
        assert_eq!((rows[1].faster_by, rows[1].note.as_str()), (1.0, ""));
        assert_eq!(rows[1].what, "linear/f32 input 16, out 8, rows 4");
    }

    #[test]
    fn a_peer_attends_to_all_blocks_but_not_to_other_keys() {
        let same = |ours: Value, theirs: Value| is_same_shape(&ours, theirs.as_object().unwrap());
        let dense = || json!({ "heads": 2, "len": 64 });
        assert!(same(json!({ "batch": 1, "heads": 2, "len": 64, "topk": 0.1 }), dense()));
        assert!(!same(json!({ "batch": 1, "heads": 2, "len": 64, "keys": 8 }), dense()));
        assert!(!same(json!({ "batch": 2, "heads": 2, "len": 64 }), dense()));
        assert!(!same(dense(), json!({ "heads": 2, "len": 64, "causal": true })));
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        for (text, says) in [("", "neither"), ("{\"schema\": \"turbowan-bench/99\"}", "turbowan-bench/99"), ("{\"peer\": 1}", "line 1")] {
            std::fs::write(&path, text).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains(says), "{text}");
        }
        assert!(read(&folder.path().join("none")).is_err());
    }
}
