//! What can go wrong between decoded frames and a file.

use std::path::PathBuf;

use super::frames::Shape;
use crate::atomic_file::WriteError;

/// A video could not be built or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The name says no format that can be written.
    #[error("{}: {} names no video format; use .mp4, .webp, .gif or .png (numbered frames)", path.display(), shown(extension))]
    UnknownExtension {
        /// The name that was given.
        path: PathBuf,
        /// What stands behind its last dot.
        extension: Option<String>,
    },
    /// A video needs a pixel and a frame.
    #[error("no video to write: {width}x{height} pixels, {bytes} bytes")]
    Empty {
        /// Pixels in a row.
        width: usize,
        /// Rows in a frame.
        height: usize,
        /// Bytes that were given.
        bytes: usize,
    },
    /// The bytes are not a whole number of frames.
    #[error("{bytes} bytes are not whole RGB frames of {width}x{height} pixels")]
    Length {
        /// Pixels in a row.
        width: usize,
        /// Rows in a frame.
        height: usize,
        /// Bytes that were given.
        bytes: usize,
    },
    /// A frame rate outside what can be written.
    #[error("{text:?} frames a second: write a number from 0.001 to 1000, or a fraction such as 24000/1001")]
    FrameRate {
        /// As it was given.
        text: String,
    },
    /// The format cannot hold frames of this size.
    #[error("{width}x{height} pixels are too large for {format}: {limit}; use .png")]
    TooLarge {
        /// The format's name.
        format: &'static str,
        /// Pixels in a row.
        width: usize,
        /// Rows in a frame.
        height: usize,
        /// What the format allows, in words.
        limit: &'static str,
    },
    /// The encoder refused a frame, or gave back something that cannot be stored.
    #[error("{format} encoder, frame {frame}: {message}")]
    Encoder {
        /// The format's name.
        format: &'static str,
        /// Which frame, from 0.
        frame: usize,
        /// What the encoder said.
        message: String,
    },
    /// A grid of no samples.
    #[error("a grid needs at least one sample")]
    NoSample,
    /// Samples that cannot stand in one grid.
    #[error("a grid needs samples of one shape: sample 0 has {expected}, sample {sample} has {found}")]
    GridMisfit {
        /// Which sample differs, from 0.
        sample: usize,
        /// The first sample's shape.
        expected: Shape,
        /// The shape of the one that differs.
        found: Shape,
    },
}

fn shown(extension: &Option<String>) -> String {
    extension.as_ref().map_or_else(|| "a name without extension".to_owned(), |text| format!(".{text}"))
}
