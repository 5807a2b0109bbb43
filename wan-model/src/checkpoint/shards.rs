//! Checkpoints of several files: an index of shards, or the folder that they lie in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result};

/// Largest index that is read, in bytes.
const MAX_INDEX: u64 = 16 << 20;
/// Extensions of files that hold tensors.
pub(crate) const EXTENSIONS: &[&str] = &["safetensors", "pth", "pt", "bin"];

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of one checkpoint, and the names that an index promises.
#[derive(Debug)]
pub(crate) struct Shards {
    pub files: Vec<PathBuf>,
    pub promised: BTreeMap<String, PathBuf>,
}

impl Shards {
    /// What `path` stands for: a file, an index, or a folder with one of them.
    pub fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::of_folder(path);
        }
        if is_index(path) {
            return Self::of_index(path);
        }
        Ok(Self { files: vec![path.to_path_buf()], promised: BTreeMap::new() })
    }

    fn of_folder(folder: &Path) -> Result<Self> {
        let mut indices = Vec::new();
        let mut files = Vec::new();
        for path in list(folder)? {
            if is_index(&path) {
                indices.push(path);
            } else if holds_tensors(&path) {
                files.push(path);
            }
        }
        let refuse = |reason: String| Err(Error::Format { path: folder.to_path_buf(), reason });
        match (&indices[..], &files[..]) {
            ([index], _) => Self::of_index(index),
            ([], [file]) => Ok(Self { files: vec![file.clone()], promised: BTreeMap::new() }),
            ([], []) => refuse(format!("a folder without a checkpoint (.{}) or an index of one", EXTENSIONS.join(", ."))),
            ([], several) => refuse(format!("a folder with {} checkpoints; name one: {}", several.len(), named(several))),
            (several, _) => refuse(format!("a folder with {} indices; name one: {}", several.len(), named(several))),
        }
    }

    fn of_index(path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::Format { path: path.to_path_buf(), reason };
        let text = read_small(path, MAX_INDEX)?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| refuse(format!("malformed index: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut promised = BTreeMap::new();
        for (name, file) in index.weight_map {
            // A shard lies beside its index: an index cannot point anywhere else.
            let is_plain = !file.is_empty() && !file.contains(['/', '\\', ':', '\0']) && file != "." && file != "..";
            if !is_plain {
                return Err(refuse(format!("{name:?} lies in {file:?}, which is no file beside the index")));
            }
            promised.insert(name, folder.join(file));
        }
        let files: BTreeSet<PathBuf> = promised.values().cloned().collect();
        let absent: Vec<PathBuf> = files.iter().filter(|file| !file.is_file()).cloned().collect();
        if !absent.is_empty() {
            return Err(refuse(format!("{} of {} shards are missing: {}", absent.len(), files.len(), named(&absent))));
        }
        if files.is_empty() {
            return Err(refuse("an index of no tensors".into()));
        }
        Ok(Self { files: files.into_iter().collect(), promised })
    }
}

fn named(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<_> = paths.iter().take(SHOWN).map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
    if paths.len() > SHOWN {
        names.push("...".into());
    }
    names.join(", ")
}

/// Whether a path is named as an index of shards is.
pub(crate) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

/// Whether a path is named as a file of tensors is.
pub(crate) fn holds_tensors(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
}

/// Entries of a folder, sorted, without hidden ones.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: folder.to_path_buf(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// A whole small file; a larger one than `most` bytes is refused before it is read.
pub(crate) fn read_small(path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() || about.len() > most {
        return Err(Error::Format { path: path.to_path_buf(), reason: format!("not a regular file of at most {most} bytes") });
    }
    std::fs::read(path).map_err(io)
}
