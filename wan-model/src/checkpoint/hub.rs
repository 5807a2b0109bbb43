//! The Hugging Face cache on disk, read offline: a model's name becomes the folder of one of its snapshots.
//!
//! ```text
//! <cache>/models--ORG--NAME/refs/main            the name of a snapshot
//!                           snapshots/<commit>/  links into blobs/
//!                           blobs/
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::shards::{list, read_small};
use crate::{Error, Result};

/// Longest name of a snapshot in `refs/`, in bytes.
const MAX_REF: u64 = 256;

/// A cache as `huggingface_hub` keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// The cache in `root`, the folder of `models--*`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The user's cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub` or
    /// `~/.cache/huggingface/hub`, whichever is set first. `None` without a home.
    pub fn of_user() -> Option<Self> {
        Self::of_variables(|key| std::env::var_os(key), std::env::home_dir())
    }

    /// As [`HubCache::of_user`], for given variables and home.
    pub fn of_variables(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<Self> {
        let set = |key: &str| variable(key).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("HF_HUB_CACHE")
            .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
            .or_else(|| home.map(|home| home.join(".cache/huggingface/hub")))
            .map(Self::at)
    }

    /// The folder of `models--*`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The snapshot of `ORG/NAME` or `ORG/NAME@REVISION`; without a revision `main`, or the only snapshot there is.
    ///
    /// # Errors
    /// [`Error::Format`] about the folder where it should be, when the model or its snapshot is not in the cache.
    pub fn snapshot(&self, name: &ModelName) -> Result<PathBuf> {
        let model = self.root.join(format!("models--{}--{}", name.organisation, name.model));
        let absent = |reason: String| Error::Format { path: model.clone(), reason };
        if !model.is_dir() {
            let download = format!("`hf download {}/{}`", name.organisation, name.model);
            return Err(absent(format!(
                "{name} is not in the Hugging Face cache; download it with {download}, nothing is downloaded here"
            )));
        }
        let snapshots = model.join("snapshots");
        let revision = name.revision.as_deref().unwrap_or("main");
        let mut candidates = vec![revision.to_owned()];
        if let Ok(commit) = read_small(&model.join("refs").join(revision), MAX_REF) {
            candidates.insert(0, String::from_utf8_lossy(&commit).trim().to_owned());
        }
        let known = candidates.iter().filter(|commit| is_plain(commit)).map(|commit| snapshots.join(commit)).find(|path| path.is_dir());
        if let Some(snapshot) = known {
            return Ok(snapshot);
        }
        let all: Vec<PathBuf> = list(&snapshots).unwrap_or_default().into_iter().filter(|path| path.is_dir()).collect();
        match (&all[..], &name.revision) {
            ([only], None) => Ok(only.clone()),
            _ => Err(absent(format!("{name}: no snapshot of {revision:?} among the {} in the cache", all.len()))),
        }
    }
}

/// `ORG/NAME`, with `@REVISION` where one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    organisation: String,
    model: String,
    revision: Option<String>,
}

impl ModelName {
    /// Reads a name; `None` when it could only be a path.
    pub fn parse(name: &str) -> Option<Self> {
        let (name, revision) = name.split_once('@').map_or((name, None), |(name, revision)| (name, Some(revision)));
        let (organisation, model) = name.split_once('/')?;
        let parts = [organisation, model].into_iter().chain(revision);
        parts.into_iter().all(is_plain).then(|| Self {
            organisation: organisation.to_owned(),
            model: model.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.organisation, self.model)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// A single name that cannot lead anywhere else.
fn is_plain(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        assert_eq!(ModelName::parse("Wan-AI/Wan2.1-T2V-1.3B").unwrap().to_string(), "Wan-AI/Wan2.1-T2V-1.3B");
        assert_eq!(ModelName::parse("a/b@v1").unwrap().revision.as_deref(), Some("v1"));
        for path in ["model", "./model", "../model", "a/b/c", "/a/b", "a/..", "a/", "a\\b/c", "a/b@../c", "a/b c", ""] {
            assert_eq!(ModelName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn variables_are_asked_in_the_usual_order() {
        let all = [("HF_HUB_CACHE", "/a"), ("HUGGINGFACE_HUB_CACHE", "/b"), ("HF_HOME", "/c"), ("XDG_CACHE_HOME", "/d")];
        let wants = ["/a", "/b", "/c/hub", "/d/huggingface/hub", "/home/.cache/huggingface/hub"];
        for (skipped, want) in wants.iter().enumerate() {
            let variable = |key: &str| all[skipped.min(4)..].iter().find(|(name, _)| *name == key).map(|(_, value)| value.into());
            assert_eq!(HubCache::of_variables(variable, Some("/home".into())), Some(HubCache::at(*want)));
        }
        assert_eq!(HubCache::of_variables(|_| None, None), None);
    }
}
