//! What can go wrong: what was asked, what was found.

use thiserror::Error;

/// Every way in which this crate refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A side that no clip has.
    #[error("a side of {side} pixels: clips have at least {least}, a multiple of 8")]
    Side {
        /// The side asked.
        side: usize,
        /// Least side.
        least: usize,
    },
    /// A length that no clip has.
    #[error("{frames} frames: clips have 4n + 1")]
    Length {
        /// Frames asked.
        frames: usize,
    },
    /// A frame past the end.
    #[error("frame {frame} of a clip of {frames}, counted from 0")]
    FrameIndex {
        /// The frame asked, from 0.
        frame: usize,
        /// Frames of the clip.
        frames: usize,
    },
    /// A buffer of another length than what is to be written or read.
    #[error("{what}: expected {expected} values, found {found}")]
    BufferLength {
        /// What the buffer holds.
        what: &'static str,
        /// Values that it should hold.
        expected: usize,
        /// Values that it holds.
        found: usize,
    },
    /// Frames too small to be read, or none.
    #[error("{frames} frames of {width}x{height} pixels cannot be read: at least one of {least}x{least}")]
    TooSmall {
        /// Frames given.
        frames: usize,
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Least side in pixels.
        least: usize,
    },
    /// A word that names no value of an attribute.
    #[error("{word:?} is no {attribute}: {known}")]
    UnknownValue {
        /// The attribute.
        attribute: &'static str,
        /// The word.
        word: String,
        /// The values that there are.
        known: String,
    },
}
