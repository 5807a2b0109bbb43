//! File formats, read as untrusted bytes: bounds first, then views. Nothing here knows what a tensor is for.
//!
//! A reader takes the bytes of one file and gives the tensors that lie in them, or says in words why it will not. It
//! executes nothing, follows no path, and allocates no more than a few times what the file itself weighs.

pub(crate) mod foreign;
pub(crate) mod machine;
pub(crate) mod pickle;
pub(crate) mod safetensors;
pub(crate) mod source;
pub(crate) mod stored;
pub(crate) mod torch;
pub(crate) mod zip;

use std::collections::BTreeMap;

pub(crate) use source::Source;
pub(crate) use stored::Stored;

/// A reader's result: the reason is a clause that can follow the file's name.
pub(crate) type Read<T> = Result<T, String>;

/// How a file keeps its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON header and the bytes behind it.
    Safetensors,
    /// A zip archive of storages and the pickle that names them, as `torch.save` writes.
    Torch,
}

impl Format {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Torch => "torch zip",
        }
    }
}

/// What one file holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// How it is kept.
    pub format: Format,
    /// Tensors by the names in the file.
    pub tensors: Vec<(String, Stored)>,
    /// Free text beside them.
    pub metadata: BTreeMap<String, String>,
    /// Classes and functions that a pickle names; all of them allowed ones.
    pub globals: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Most axes a tensor may have; networks use five.
pub(crate) const MAX_RANK: usize = 16;
/// Longest name of a tensor, in bytes.
const MAX_NAME: usize = 1024;

/// Reads the contents of one file by what it begins with; its extension is not asked.
pub(crate) fn read(bytes: &[u8]) -> Read<Contents> {
    if safetensors::begins(bytes) {
        return safetensors::read(bytes);
    }
    match foreign::refusal(bytes) {
        Some(reason) => Err(reason),
        None if zip::begins(bytes) => torch::read(bytes),
        None => safetensors::read(bytes),
    }
}

/// Refuses names that no network has: they end up in messages and on screens.
pub(crate) fn check_name(name: &str) -> Read<()> {
    if name.len() > MAX_NAME {
        return Err(format!("a tensor's name of {} bytes, more than {MAX_NAME}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("a tensor's name with control characters: {name:?}"));
    }
    Ok(())
}

/// Bytes of a row-major tensor, or why there is no such tensor.
pub(crate) fn byte_len(shape: &[usize], bytes_each: usize) -> Read<usize> {
    if shape.len() > MAX_RANK {
        return Err(format!("a tensor of {} axes, more than {MAX_RANK}", shape.len()));
    }
    // A zero axis must not hide an overflow of the others: strides are made of them.
    let spanned = shape.iter().filter(|side| **side != 0).try_fold(bytes_each, |bytes, side| bytes.checked_mul(*side));
    match spanned {
        Some(bytes) => Ok(if shape.contains(&0) { 0 } else { bytes }),
        None => Err(format!("a tensor of shape {shape:?}, whose size overflows")),
    }
}
