//! A fixture on disk: a `meta*.json` and the tensors beside it.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Why a fixture could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No fixture below the directory.
    #[error("{}: no meta*.json below this folder, so nothing ran", path.display())]
    NoFixture {
        /// The directory.
        path: PathBuf,
    },
    /// A fixture of a component without a runner.
    #[error("{}: unknown component {component:?} (known: {known})", path.display())]
    UnknownComponent {
        /// The meta file.
        path: PathBuf,
        /// What it says.
        component: String,
        /// What there is.
        known: String,
    },
    /// A runner that compared nothing.
    #[error("{}: nothing was compared", path.display())]
    NothingRan {
        /// The meta file.
        path: PathBuf,
    },
    /// Our code refused the fixture.
    #[error("{0}")]
    Model(String),
}

impl Error {
    /// Wraps an error of the code under test.
    pub fn model(error: impl std::fmt::Display) -> Self {
        Self::Model(error.to_string())
    }
}

/// One `meta*.json`.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The meta file.
    pub path: PathBuf,
    /// Its folder, where tensors lie.
    pub dir: PathBuf,
    /// Its contents.
    pub meta: Value,
}

impl Fixture {
    /// Every fixture at or below `dir`, in the order of their paths.
    ///
    /// # Errors
    /// When a folder cannot be read, a meta file is no JSON, or there is none.
    pub fn find(dir: &Path) -> Result<Vec<Self>, Error> {
        let mut fixtures = Vec::new();
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
            for entry in entries {
                let path = entry.map_err(|source| Error::Io { path: folder.clone(), source })?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.starts_with("meta") && name.ends_with(".json") {
                    let text = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
                    let meta = serde_json::from_slice(&text)
                        .map_err(|error| Error::Format { path: path.clone(), reason: format!("not JSON: {error}") })?;
                    fixtures.push(Self { dir: folder.clone(), path, meta });
                }
            }
        }
        if fixtures.is_empty() {
            return Err(Error::NoFixture { path: dir.to_path_buf() });
        }
        fixtures.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(fixtures)
    }

    /// The component that the fixture names.
    ///
    /// # Errors
    /// When it names none.
    pub fn component(&self) -> Result<String, Error> {
        self.meta["component"].as_str().map(str::to_owned).ok_or_else(|| self.broken("no \"component\""))
    }

    /// A number of the meta file by its JSON pointer, e.g. `/tolerance/f32_max_abs`.
    ///
    /// # Errors
    /// When there is no number.
    pub fn number(&self, pointer: &str) -> Result<f64, Error> {
        self.meta.pointer(pointer).and_then(Value::as_f64).ok_or_else(|| self.broken(format!("no number at {pointer}")))
    }

    /// A whole number of the meta file by its JSON pointer.
    ///
    /// # Errors
    /// When there is none.
    pub fn count(&self, pointer: &str) -> Result<usize, Error> {
        self.meta.pointer(pointer).and_then(Value::as_u64).map(|n| n as usize).ok_or_else(|| self.broken(format!("no count at {pointer}")))
    }

    /// The tensors of a `.safetensors` file beside the meta file.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn tensors(&self, file: &str) -> Result<Tensors, Error> {
        let path = self.dir.join(file);
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        if let Err(error) = SafeTensors::deserialize(&bytes) {
            return Err(Error::Format { path, reason: format!("malformed safetensors: {error}") });
        }
        Ok(Tensors { path, bytes })
    }

    /// An error about this meta file.
    pub fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Format { path: self.path.clone(), reason: reason.into() }
    }
}

/// The tensors of one file.
#[derive(Debug, Clone)]
pub struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    fn file(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| Error::Format { path: self.path.clone(), reason: error.to_string() })
    }

    fn missing(&self, name: &str) -> Error {
        Error::Format { path: self.path.clone(), reason: format!("no tensor {name:?}") }
    }

    /// Names of all tensors, sorted.
    ///
    /// # Errors
    /// When the file is malformed.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let file = self.file()?;
        let mut names: Vec<String> = file.names().into_iter().map(|name| name.to_string()).collect();
        names.sort();
        Ok(names)
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.file().is_ok_and(|file| file.tensor(name).is_ok())
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, Error> {
        Ok(self.file()?.tensor(name).map_err(|_| self.missing(name))?.shape().to_vec())
    }

    /// A tensor's number format.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn dtype(&self, name: &str) -> Result<Dtype, Error> {
        Ok(self.file()?.tensor(name).map_err(|_| self.missing(name))?.dtype())
    }

    /// A tensor's values as `f32`, whatever its number format.
    ///
    /// # Errors
    /// When there is no such tensor or its format has no values we read.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.f64(name)?.into_iter().map(|value| value as f32).collect())
    }

    /// A tensor's values as `f64`, whatever its number format (exact below 2^53).
    ///
    /// # Errors
    /// When there is no such tensor or its format has no values we read.
    pub fn f64(&self, name: &str) -> Result<Vec<f64>, Error> {
        let file = self.file()?;
        let view = file.tensor(name).map_err(|_| self.missing(name))?;
        let bytes = view.data();
        Ok(match view.dtype() {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
            Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            Dtype::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
            Dtype::I8 => bytes.iter().map(|b| f64::from(*b as i8)).collect(),
            Dtype::U8 | Dtype::BOOL => bytes.iter().map(|b| f64::from(*b)).collect(),
            other => return Err(Error::Format { path: self.path.clone(), reason: format!("{name}: {other:?} is not read here") }),
        })
    }

    /// A tensor's values as integers.
    ///
    /// # Errors
    /// As [`Tensors::f64`].
    pub fn i64(&self, name: &str) -> Result<Vec<i64>, Error> {
        Ok(self.f64(name)?.into_iter().map(|value| value as i64).collect())
    }
}
