//! An evaluation on disk: settings on the first line, then a line for each caption that is done. It grows line by line, so
//! that a stopped evaluation goes on where it was.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use turbowan_cuda::host::Isa;

use crate::atomic_file;
use crate::error::Error;
use crate::eval::measured::Measured;
use crate::eval::settings::Settings;

/// The form of the records that are written and read here.
pub const SCHEMA: &str = "turbowan-eval/1";

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    schema: String,
    turbowan: String,
    /// Results depend on it in their last bits.
    instructions: String,
    /// What decides the numbers.
    pub settings: Settings,
}

/// One caption, all rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Which caption, from 0.
    pub index: usize,
    /// Its text.
    pub prompt: String,
    /// A clip of each row, in the order of the rows.
    pub clips: Vec<Measured>,
}

/// A record that is being written.
pub struct Record {
    path: PathBuf,
    file: File,
}

fn instructions() -> String {
    format!("{:?}", Isa::detect()).to_lowercase()
}

impl Record {
    /// Begins a record; another that is there is replaced, unless it is of an evaluation that can go on.
    ///
    /// # Errors
    /// When one stands there that is not finished, or the file cannot be written.
    pub fn begin(path: &Path, settings: &Settings, captions: usize) -> Result<Self, Error> {
        if path.exists() {
            let (_, lines) = load(path)?;
            if !lines.is_empty() && lines.len() < captions {
                let reason =
                    format!("{} captions of a stopped evaluation are in it; go on with --resume, or name another --record", lines.len());
                return Err(Error::broken(path, reason));
            }
        }
        Self::rewrite(path, settings, &[])
    }

    /// Goes on with a record whose whole lines are `lines`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rewrite(path: &Path, settings: &Settings, lines: &[Line]) -> Result<Self, Error> {
        let head = Head {
            schema: SCHEMA.to_owned(),
            turbowan: env!("CARGO_PKG_VERSION").to_owned(),
            instructions: instructions(),
            settings: settings.clone(),
        };
        let mut text = json_line(path, &head)?;
        for line in lines {
            text += &json_line(path, line)?;
        }
        atomic_file::check(path)?;
        atomic_file::write(path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a caption.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, line: &Line) -> Result<(), Error> {
        let text = json_line(&self.path, line)?;
        self.file.write_all(text.as_bytes()).map_err(|source| Error::Read { path: self.path.clone(), source })
    }
}

/// Settings and whole lines of a record that can go on here; a last line that was cut short is left out.
///
/// # Errors
/// When it cannot be read, is no record of an evaluation, or was begun with other instructions.
pub fn load(path: &Path) -> Result<(Settings, Vec<Line>), Error> {
    let (head, lines) = read(path)?;
    if head.instructions != instructions() {
        let reason = format!(
            "it was begun with {} instructions, this machine has {}; set TURBOWAN_ISA or begin anew",
            head.instructions,
            instructions()
        );
        return Err(Error::broken(path, reason));
    }
    Ok((head.settings, lines))
}

/// A record of any machine: to be told of, not to go on with.
///
/// # Errors
/// When it cannot be read, or is no record of an evaluation.
pub fn read(path: &Path) -> Result<(Head, Vec<Line>), Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut text = BufReader::new(File::open(path).map_err(read)?).lines();
    let first = text.next().transpose().map_err(read)?.unwrap_or_default();
    let head: Head = serde_json::from_str(&first).map_err(|error| Error::broken(path, format!("no record of an evaluation: {error}")))?;
    if head.schema != SCHEMA {
        return Err(Error::broken(path, format!("a record of the form {:?}; {SCHEMA:?} is read", head.schema)));
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut broken = None;
    for (number, line) in text.enumerate() {
        if let Some(error) = broken {
            return Err(Error::broken(path, format!("line {}: {error}", number + 1)));
        }
        match serde_json::from_str::<Line>(&line.map_err(read)?) {
            Ok(line) if line.clips.len() == head.settings.rows.len() => lines.push(line),
            Ok(line) => {
                return Err(Error::broken(
                    path,
                    format!("caption {} has {} rows, not {}", line.index, line.clips.len(), head.settings.rows.len()),
                ));
            }
            Err(error) => broken = Some(error),
        }
    }
    Ok((head, lines))
}

fn json_line(path: &Path, value: &impl Serialize) -> Result<String, Error> {
    Ok(serde_json::to_string(value).map_err(|error| Error::broken(path, error))? + "\n")
}
