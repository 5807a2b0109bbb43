//! Checkpoints: names to tensors, read as untrusted bytes, under their official names whatever layout the file has.
//!
//! ```no_run
//! # fn main() -> turbowan_wan_model::Result<()> {
//! use turbowan_wan_model::checkpoint::{Checkpoint, Kind, TensorSource};
//!
//! let checkpoint = Checkpoint::open("TurboWan2.1-T2V-1.3B-480P-quant.pth")?;
//! if let Kind::Dit { config, traits, .. } = checkpoint.kind(None)? {
//!     checkpoint.check(&config.tensors(traits), |_| false)?;
//!     let bias = checkpoint.take("patch_embedding.bias")?.to_f32();
//!     assert_eq!(bias.len(), config.dim);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A file is mapped or read, its container is walked with every bound checked ([`Format`]), its key layout is recognised
//! from the names ([`Layout`]), and what it is follows from names and shapes ([`Kind`]). Bytes are copied only where a
//! pickle describes a strided view.

mod asked;
mod convert;
mod fit;
mod folder;
mod format;
mod hub;
mod kind;
mod layout;
mod shards;
mod statement;
pub mod tensor;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use asked::{AttentionName, attention_of};
pub use convert::{Conversion, Converted, Floats};
pub use folder::{Arrangement, FoundDit, ModelFolder, Parts, Task};
pub use format::Format;
use format::Source;
pub use format::source::Access;
use format::stored::Stored;
pub use hub::{HubCache, ModelName};
pub use kind::{HeadsFrom, Kind};
pub use layout::Layout;
use layout::Renaming;
use shards::Shards;
pub use statement::Statement;
pub use tensor::{Dtype, TensorSource, TensorView};
pub use write::write_safetensors;

use crate::error::Misfit;
use crate::{Error, Result};

/// Largest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// The tensors of a checkpoint, of one file or of several shards, under their official names.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<ShardFile>,
    tensors: BTreeMap<String, Tensor>,
    layout: Option<Layout>,
    metadata: BTreeMap<String, String>,
    config: Option<serde_json::Value>,
    globals: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct ShardFile {
    path: PathBuf,
    bytes: Source,
    format: Format,
}

#[derive(Debug)]
struct Tensor {
    file: usize,
    stored: Stored,
}

impl Checkpoint {
    /// Opens a `.safetensors`, `.pth`, `.pt` or `.bin` file, a `*.index.json` with its shards, or a folder with one of them.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Format`] when it is not what it claims to be.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Access::Map)
    }

    /// As [`Checkpoint::open`], with a say in how the bytes are brought in.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        let path = path.as_ref();
        let shards = Shards::of(path)?;
        let mut files = Vec::new();
        for file in shards.files {
            let bytes = Source::open(&file, access)?;
            files.push((file, bytes));
        }
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        // Only a help: a folder may hold anything under this name.
        let config = folder.and_then(|folder| shards::read_small(&folder.join("config.json"), MAX_CONFIG).ok());
        let config = config.and_then(|text| serde_json::from_slice(&text).ok());
        Self::assemble(path, files, shards.promised, config)
    }

    /// Reads a checkpoint that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Self> {
        let path = name.as_ref();
        Self::assemble(path, vec![(path.to_path_buf(), Source::Static(bytes))], BTreeMap::new(), None)
    }

    /// Reads a checkpoint that lies in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn from_vec(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        let path = name.as_ref();
        Self::assemble(path, vec![(path.to_path_buf(), Source::Owned(bytes))], BTreeMap::new(), None)
    }

    fn assemble(
        path: &Path,
        sources: Vec<(PathBuf, Source)>,
        promised: BTreeMap<String, PathBuf>,
        config: Option<serde_json::Value>,
    ) -> Result<Self> {
        let (mut files, mut globals, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let mut metadata = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (number, (path, bytes)) in sources.into_iter().enumerate() {
            let refuse = |reason| Error::Format { path: path.clone(), reason };
            let contents = format::read(&bytes).map_err(refuse)?;
            for (name, stored) in contents.tensors {
                if let Some(Tensor { file, .. }) = found.get(&name) {
                    let other: &ShardFile = &files[*file];
                    return Err(refuse(format!("{name:?} is also in {}", other.path.display())));
                }
                found.insert(name, Tensor { file: number, stored });
            }
            metadata.extend(contents.metadata);
            globals.extend(contents.globals);
            notes.extend(contents.notes);
            files.push(ShardFile { path, bytes, format: contents.format });
        }
        let broken: Vec<_> = promised.keys().filter(|name| !found.contains_key(*name)).collect();
        if let Some(first) = broken.first() {
            let reason = format!("{} tensors of the index are not in its shards, {first:?} among them; download them again", broken.len());
            return Err(Error::Format { path: path.to_path_buf(), reason });
        }
        globals.sort();
        globals.dedup();
        let mut checkpoint =
            Self { path: path.to_path_buf(), files, tensors: BTreeMap::new(), layout: None, metadata, config, globals, notes };
        checkpoint.present(found)?;
        Ok(checkpoint)
    }

    /// Puts the file's tensors under their official names and shapes.
    fn present(&mut self, found: BTreeMap<String, Tensor>) -> Result<()> {
        let refuse = |path: &Path, reason| Err(Error::Format { path: path.to_path_buf(), reason });
        let renaming = Renaming::of(found.keys().map(String::as_str));
        self.layout = renaming.layout();
        let mut left_out = 0;
        for (name, tensor) in found {
            match renaming.official(&name) {
                None => left_out += 1,
                Some(official) => {
                    if self.tensors.contains_key(&official) {
                        return refuse(&self.path, format!("two tensors are {official:?} without their prefixes"));
                    }
                    self.tensors.insert(official, tensor);
                }
            }
        }
        if !renaming.prefix().is_empty() {
            self.notes.push(format!("names are read without {:?}", renaming.prefix()));
        }
        if left_out > 0 {
            self.notes.push(format!("{left_out} tensors that belong to other networks are left out"));
        }
        // The same numbers as a convolution over patches and as a linear layer over the values of one patch.
        if let Some(patches) = self.tensors.get_mut("patch_embedding.weight") {
            match &mut patches.stored.shape {
                shape if shape.len() == 5 => {
                    let (rows, patch) = shape.split_at(1);
                    *shape = vec![rows[0], patch.iter().product()];
                }
                shape if shape.len() == 2 && self.layout == Some(Layout::Official) => self.layout = Some(Layout::Turbo),
                _ => {}
            }
        }
        Ok(())
    }

    /// What was opened: a file, an index or a folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors, in the order of their names, with their formats and sizes in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Format, usize)> {
        self.files.iter().map(|file| (file.path.as_path(), file.format, file.bytes.len()))
    }

    /// Official names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape under which a tensor is presented.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.stored.shape.as_slice())
    }

    /// A tensor's number format.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|tensor| tensor.stored.dtype)
    }

    /// Whose names the file uses; `None` when it holds no network that we know.
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// Text that the file carries beside its tensors (`__metadata__` of safetensors).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Classes and functions that the file's pickle names; all of them are ones that describe tensors.
    pub fn globals(&self) -> &[String] {
        &self.globals
    }

    /// What a user should know about how the file was read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// BLAKE3 of the file's bytes; of several shards, of their hashes in the order of their names.
    ///
    /// Reads everything once: keep it together with the files' sizes and times of change.
    pub fn content_hash(&self) -> String {
        let of = |file: &ShardFile| blake3::Hasher::new().update_rayon(&file.bytes).finalize();
        match &self.files[..] {
            [file] => of(file).to_hex().to_string(),
            shards => {
                let mut whole = blake3::Hasher::new();
                for shard in shards {
                    whole.update(of(shard).as_bytes());
                }
                whole.finalize().to_hex().to_string()
            }
        }
    }
}

impl TensorSource for Checkpoint {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name).map(|tensor| tensor.stored.view(&self.files[tensor.file].bytes))
    }

    fn take(&self, name: &str) -> Result<TensorView<'_>> {
        self.get(name).ok_or_else(|| Error::Misfits {
            path: self.path.clone(),
            misfits: vec![Misfit::Missing { name: name.to_owned(), expected: Vec::new() }],
        })
    }
}

/// Every class or function that a torch file's pickle names, whether allowed or not; nothing is resolved or executed.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] when there is no pickle to be found.
pub fn pickle_globals(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let bytes = Source::open(path, Access::Map)?;
    format::torch::globals(&bytes).map_err(|reason| Error::Format { path: path.to_path_buf(), reason })
}
