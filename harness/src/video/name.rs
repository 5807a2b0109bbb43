//! Names of the files that one output becomes.

use std::path::{Path, PathBuf};

/// `clip.png` as frame `number`, from 1: `clip-0001.png`.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    with_suffix(path, &format!("-{number:04}"))
}

/// `clip.png` with `-a` behind the stem: `clip-a.png`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}
