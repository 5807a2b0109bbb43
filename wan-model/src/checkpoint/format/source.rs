//! The bytes of a file: mapped, read, or part of the program.

use std::fs::File;
use std::io::Read as _;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// How a checkpoint's bytes are brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Map the file; pages are read when they are used. Where a file cannot be mapped it is read.
    #[default]
    Map,
    /// Read the whole file. For network file systems, where a mapped file that another machine shortens kills the process.
    Read,
}

/// Bytes that live as long as the checkpoint.
#[derive(Debug)]
pub(crate) enum Source {
    Mapped(Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Source {
    /// Opens a regular file; anything else, a pipe or a device, would block or never end.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let about = std::fs::metadata(path).map_err(io)?;
        if !about.is_file() {
            return Err(Error::Format { path: path.to_path_buf(), reason: "not a regular file".into() });
        }
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        if len == 0 {
            return Err(Error::Format { path: path.to_path_buf(), reason: "the file is empty; download it again".into() });
        }
        if access == Access::Map {
            // SAFETY: the map is read-only and private to this value. A file that shrinks under it would fault, which no
            // check can prevent; checkpoints are written once and renamed into place, and `Access::Read` avoids the map.
            if let Ok(map) = unsafe { Mmap::map(&file) } {
                return Ok(Self::Mapped(map));
            }
        }
        let mut bytes = Vec::new();
        let reserved = usize::try_from(len).is_ok_and(|len| bytes.try_reserve_exact(len).is_ok());
        if !reserved {
            return Err(Error::Format { path: path.to_path_buf(), reason: format!("{len} bytes do not fit into memory") });
        }
        file.by_ref().take(len).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 != len {
            return Err(Error::Format { path: path.to_path_buf(), reason: format!("{} of {len} bytes could be read", bytes.len()) });
        }
        Ok(Self::Owned(bytes))
    }
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }
}
