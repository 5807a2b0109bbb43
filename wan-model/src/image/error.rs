//! What can be wrong with a picture.

/// Why a picture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No bytes.
    #[error("the image file is empty")]
    Empty,
    /// Neither JPEG nor PNG nor WebP.
    #[error("not a JPEG, PNG or WebP image")]
    UnknownFormat,
    /// A file beyond the limit.
    #[error("the image file has {found} bytes, at most {most} are read")]
    FileTooLarge {
        /// Its bytes.
        found: usize,
        /// Bytes allowed.
        most: usize,
    },
    /// A picture beyond the limits.
    #[error("the image has {width}x{height} pixels; at most {most_pixels} pixels and {most_side} a side are decoded")]
    TooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Pixels allowed.
        most_pixels: u64,
        /// Pixels allowed along a side.
        most_side: u32,
    },
    /// A picture without pixels.
    #[error("the image has {width}x{height} pixels")]
    NoPixels {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// Damaged, cut off, or of a kind that the decoder does not know.
    #[error("broken {format} image: {reason}")]
    Broken {
        /// The format that its first bytes name.
        format: &'static str,
        /// What the decoder met.
        reason: String,
    },
}
