//! Operations that only move values: rows of an embedding table, and the patches of a latent.

pub mod device;
pub mod gradient;

use crate::{Error, Rounding};

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

/// `out[i] = table[ids[i]]` for rows of `width`, rounded to bf16: what the kernel stores.
///
/// # Errors
/// [`Error::Size`] for a width of zero or a number that the table does not have, [`Error::Length`] when the table is no whole
/// rows.
pub fn embed(table: &[f32], width: usize, ids: &[u32]) -> Result<Vec<f32>, Error> {
    if width == 0 {
        return Err(Error::Size { what: "width of a row", must: "at least 1", found: 0 });
    }
    Error::expect_len("embedding table", table, table.len() / width * width)?;
    check_ids(ids, table.len() / width)?;
    let mut out: Vec<f32> = ids.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect();
    Rounding::Bf16.apply_row(&mut out);
    Ok(out)
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
    /// Rows of `(channel, 1, 2, 2)` features, tokens in `(t, h, w)` order, rounded to bf16: the kernel's rows of these channels
    /// alone.
    ///
    /// # Errors
    /// [`Error::Length`] when the values do not fit.
    pub fn patches(&self, x: &[f32]) -> Result<Vec<f32>, Error> {
        Error::expect_len("planes of a latent", x, self.values())?;
        let mut rows = vec![0.0; x.len()];
        for (index, value) in x.iter().enumerate() {
            let (token, channel, corner) = self.patch_of(index);
            rows[(token * self.channels + channel) * 4 + corner] = Rounding::Bf16.apply(*value);
        }
        Ok(rows)
    }

    /// Planes from rows of `(1, 2, 2, channel)` features.
    ///
    /// # Errors
    /// [`Error::Length`] when the values do not fit.
    pub fn unpatches(&self, rows: &[f32]) -> Result<Vec<f32>, Error> {
        Error::expect_len("rows of patches", rows, self.values())?;
        let value = |index: usize| {
            let (token, channel, corner) = self.patch_of(index);
            rows[(token * 4 + corner) * self.channels + channel]
        };
        Ok((0..rows.len()).map(value).collect())
    }

    /// Token, channel and corner of a plane's value.
    fn patch_of(&self, index: usize) -> (usize, usize, usize) {
        let (w, line) = (index % self.width, index / self.width);
        let (h, plane) = (line % self.height, line / self.height);
        let (t, channel, sample) = (plane % self.frames, plane / self.frames % self.channels, plane / self.frames / self.channels);
        let token = ((sample * self.frames + t) * (self.height / 2) + h / 2) * (self.width / 2) + w / 2;
        (token, channel, h % 2 * 2 + w % 2)
    }
}
