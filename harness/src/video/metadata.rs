//! The request inside a video, read back.
//!
//! The format is recognised by its first bytes, not by its name. A file from outside is untrusted: every length is checked against the
//! file before it is used, nothing of a size that the file states is allocated beyond [`LARGEST_REQUEST`], and pictures are skipped, not read.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde_json::Value;
use turbowan_wan_model::error::unread;

use super::name::numbered;
use super::source::{Fault, LARGEST_REQUEST, Source};
use super::{gif, mp4, png, webp};

/// A file has no request to give back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("{}: {source}{}", path.display(), unread(source))]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not one of the formats that we write.
    #[error("{}: neither MP4, WebP, GIF, PNG nor JSON", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// The format is right, the content is not.
    #[error("{}: broken {format} at byte {at}: {what}", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
        /// Where in the file.
        at: u64,
        /// What is wrong there, in words.
        what: &'static str,
    },
    /// A sound file that was not made by Turbowan, or lost its request on the way.
    #[error("{}: this {format} carries no request of Turbowan's", path.display())]
    Absent {
        /// Which file.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
    },
    /// The request is not JSON.
    #[error("{}: the request inside is not JSON: {source}", path.display())]
    NotJson {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The request is longer than [`LARGEST_REQUEST`].
    #[error("{}: a request of {length} bytes; at most {LARGEST_REQUEST} are read", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// As the file states it.
        length: u64,
    },
}

/// The request that made the video at `path`, or the content of a JSON sidecar. For numbered PNG frames, the name that was asked for
/// (`clip.png`) stands for the first of them (`clip-0001.png`).
///
/// # Errors
/// [`ReadError`], whatever the file holds.
pub fn read_metadata(path: &Path) -> Result<Value, ReadError> {
    let first_frame = numbered(path, 1);
    let path = if !path.exists() && first_frame.exists() { &first_frame } else { path };
    let file = File::open(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    read_from(BufReader::new(file), path)
}

/// As [`read_metadata`], from anything that can be read and sought; `path` is for the messages.
///
/// # Errors
/// [`ReadError`], whatever the bytes are.
pub fn read_from(reader: impl Read + Seek, path: &Path) -> Result<Value, ReadError> {
    let path = || path.to_owned();
    let mut format = "file";
    let text = find(reader, &mut format).map_err(|fault| match fault {
        Fault::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            ReadError::Broken { path: path(), format, at: 0, what: "it ends too early" }
        }
        Fault::Io(source) => ReadError::Io { path: path(), source },
        Fault::Broken { at, what } => ReadError::Broken { path: path(), format, at, what },
        Fault::Absent => ReadError::Absent { path: path(), format },
        Fault::TooLong { length } => ReadError::TooLong { path: path(), length },
    })?;
    let text = text.ok_or_else(|| ReadError::Foreign { path: path() })?;
    serde_json::from_slice(&text).map_err(|source| ReadError::NotJson { path: path(), source })
}

/// The request's bytes; `None` for a format that is none of ours.
fn find(reader: impl Read + Seek, format: &mut &'static str) -> Result<Option<Vec<u8>>, Fault> {
    let mut source = Source::new(reader)?;
    let mut head = [0; 12];
    let known = usize::try_from(source.length).unwrap_or(usize::MAX).min(head.len());
    source.fill(&mut head[..known])?;
    source.seek(0)?;
    let found = match &head[..known] {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
            *format = "MP4";
            mp4::reader::request(&mut source)
        }
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => {
            *format = "WebP";
            webp::request(&mut source)
        }
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => {
            *format = "GIF";
            gif::request(&mut source)
        }
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => {
            *format = "PNG";
            png::request(&mut source)
        }
        [b'{', ..] => {
            let length = source.length;
            source.take(length)
        }
        _ => return Ok(None),
    };
    found.map(Some)
}
