//! The records that a page is made from: each file is told by what it holds, not by its name.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::bench::against::Peer;
use crate::error::Error;
use crate::eval;
use crate::record::{self, Build, Machine, Record};
use crate::verify;

/// A file and what was found in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The file, as it was named.
    pub path: PathBuf,
    /// What it holds, in words.
    pub holds: String,
    /// BLAKE3 of its bytes.
    pub hash: String,
}

/// An evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Name of its file.
    pub name: String,
    /// What `turbowan eval --json` writes of it.
    pub findings: Value,
}

/// A run of `turbowan verify --json`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verified {
    /// Name of its file.
    pub name: String,
    /// What it ran on and with; none in a record that is older than that line.
    pub begun: Option<Begun>,
    /// Its cases.
    pub cases: Vec<Value>,
    /// Machines that were not there, and why.
    pub missing: Vec<Value>,
}

/// The first line of a run of `turbowan verify --json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Begun {
    /// UTC.
    pub date: String,
    /// What it ran on.
    pub machine: Machine,
    /// What it ran with.
    pub build: Build,
}

/// What `benches/peers/pair_host.sh` told of the machine before the first sample.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Sitting {
    /// The processor's own name.
    pub machine: String,
    /// The day.
    pub date: String,
    /// The system's load over 1, 5 and 15 minutes.
    pub load_before: Option<[f64; 3]>,
}

/// Everything that was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sources {
    /// The files.
    pub files: Vec<Source>,
    /// Timed cases.
    pub records: Vec<Record>,
    /// Peers' times; machine and day are told where they are known.
    pub peers: Vec<Peer>,
    /// Evaluations.
    pub evaluations: Vec<Evaluation>,
    /// Runs against the truth.
    pub verified: Vec<Verified>,
    /// Machines before their first sample.
    pub sittings: Vec<Sitting>,
    /// Files of a folder that hold nothing that is known.
    pub passed_over: Vec<PathBuf>,
}

impl Sources {
    /// Reads files, and the JSON files of folders.
    ///
    /// # Errors
    /// A file that cannot be read, one that was named and holds no record, or nothing at all.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut this = Self::default();
        for path in paths {
            if !path.is_dir() {
                if !this.add(path)? {
                    return Err(Error::broken(
                        path,
                        "holds no record of bench, verify, eval or benches/peers; name files that these wrote",
                    ));
                }
                continue;
            }
            let read = |source| Error::Read { path: path.clone(), source };
            let entries = std::fs::read_dir(path).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
            let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).filter(|file| file.is_file()).collect();
            files.retain(|file| file.extension().is_some_and(|end| end == "json" || end == "jsonl"));
            files.sort();
            for file in files {
                if !this.add(&file)? {
                    this.passed_over.push(file);
                }
            }
        }
        if this.records.is_empty() && this.evaluations.is_empty() && this.verified.is_empty() {
            let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
            return Err(Error::broken(path, "holds no record of bench, verify or eval; name files that these wrote, or their folder"));
        }
        Ok(this)
    }

    /// Adds a file; false where it holds nothing that is known.
    fn add(&mut self, path: &Path) -> Result<bool, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let values: Vec<Value> = serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect();
        let Some(first) = values.first() else { return Ok(false) };
        let holds = if first["schema"] == eval::SCHEMA {
            self.evaluate(name, eval::recorded_findings(path)?)
        } else if first["rows"].is_array() && first["settings"].is_object() {
            self.evaluate(name, first.clone())
        } else if first["load_before"].is_array() {
            self.sittings.push(serde_json::from_value(first.clone()).map_err(|why| Error::broken(path, why))?);
            "the machine before the first sample".to_owned()
        } else if values.iter().any(|value| value["event"] == "case") {
            self.verify(name, &values).map_err(|why| Error::broken(path, why))?
        } else {
            match self.time(path, &values)? {
                Some(holds) => holds,
                None => return Ok(false),
            }
        };
        self.files.push(Source { path: path.to_owned(), holds, hash: blake3::hash(text.as_bytes()).to_hex().to_string() });
        Ok(true)
    }

    fn evaluate(&mut self, name: String, findings: Value) -> String {
        let holds = format!("an evaluation of {} of {} captions", findings["measured"], findings["captions"]);
        // a record and what was written of it may lie side by side
        if self.evaluations.iter().all(|known| known.findings != findings) {
            self.evaluations.push(Evaluation { name, findings });
        }
        holds
    }

    fn verify(&mut self, name: String, values: &[Value]) -> serde_json::Result<String> {
        let event = |event: &'static str| values.iter().filter(move |value| value["event"] == event);
        let begun = event("begun").next();
        if let Some(begun) = begun.filter(|begun| begun["schema"] != verify::report::SCHEMA) {
            return Err(serde::de::Error::custom(format!("schema {}; {:?} is read", begun["schema"], verify::report::SCHEMA)));
        }
        let begun = begun.cloned().map(serde_json::from_value).transpose()?;
        let cases: Vec<Value> = event("case").cloned().collect();
        let missing = event("done").filter_map(|done| done["missing"].as_array()).flatten().cloned().collect();
        let holds = format!("{} cases held to the truth", cases.len());
        self.verified.push(Verified { name, begun, cases, missing });
        Ok(holds)
    }

    /// Timed cases and peers' times.
    fn time(&mut self, path: &Path, values: &[Value]) -> Result<Option<String>, Error> {
        let broken = |why: serde_json::Error| Error::broken(path, why);
        let (mut ours, mut theirs) = (0, 0);
        // Lines that are older than their own machine and day have them from the file beside them.
        let sitting: Option<Sitting> =
            std::fs::read_to_string(path.with_file_name("machine.json")).ok().and_then(|text| serde_json::from_str(&text).ok());
        for value in values {
            match value["schema"].as_str() {
                Some(record::SCHEMA) => {
                    self.records.push(serde_json::from_value(value.clone()).map_err(broken)?);
                    ours += 1;
                }
                Some(other) => return Err(Error::broken(path, format!("schema {other:?}; {:?} is read", record::SCHEMA))),
                None if value["peer"].is_string() => {
                    let mut peer: Peer = serde_json::from_value(value.clone()).map_err(broken)?;
                    if let (Some(sitting), None) = (&sitting, &peer.gpu) {
                        peer.cpu.get_or_insert_with(|| sitting.machine.clone());
                        peer.date.get_or_insert_with(|| sitting.date.clone());
                    }
                    self.peers.push(peer);
                    theirs += 1;
                }
                None => {}
            }
        }
        let said = [(ours, "timed cases"), (theirs, "times of peers")].into_iter().filter(|(count, _)| *count > 0);
        let said: Vec<String> = said.map(|(count, what)| format!("{count} {what}")).collect();
        Ok(Some(said.join(", ")).filter(|said| !said.is_empty()))
    }
}
