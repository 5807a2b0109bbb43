//! Operations that only move values: rows of an embedding table, and the patches of a latent.

pub mod device;
pub mod gradient;

use crate::Error;

/// Refuses numbers that a table of `table_rows` rows does not have.
///
/// # Errors
/// [`Error::Size`] with the first of them.
pub fn check_ids(ids: &[u32], table_rows: usize) -> Result<(), Error> {
    match ids.iter().find(|id| **id as usize >= table_rows) {
        Some(id) => Err(Error::Size { what: "number of a table's row", must: "below the rows of the table", found: *id as usize }),
        None => Ok(()),
    }
}

/// Planes of a latent, `[samples, channels, frames, height, width]`, in patches of 1 x 2 x 2 positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planes {
    /// Samples.
    pub samples: usize,
    /// Channels of a sample.
    pub channels: usize,
    /// Planes of a channel.
    pub frames: usize,
    /// Rows of a plane, even.
    pub height: usize,
    /// Columns of a plane, even.
    pub width: usize,
}

impl Planes {
    /// Values of all planes.
    pub fn values(&self) -> usize {
        self.samples * self.channels * self.frames * self.height * self.width
    }

    /// Patches of a sample.
    pub fn tokens(&self) -> usize {
        self.frames * (self.height / 2) * (self.width / 2)
    }
}
