//! Frames side by side in one picture, for a person to look at.

use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::video::{FrameRate, Frames, write_picture};

/// Square frames of one size, in rows.
#[derive(Debug, Clone)]
pub struct Sheet {
    side: usize,
    rows: Vec<Vec<Vec<u8>>>,
}

/// Pixels between two frames.
const GAP: usize = 2;

impl Sheet {
    /// An empty sheet of frames of `side` x `side` pixels.
    pub fn new(side: usize) -> Self {
        Self { side, rows: Vec::new() }
    }

    /// Adds a row of frames, each `[side, side, 3]`, 8-bit RGB; a frame of another size is left out.
    pub fn row<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) {
        let whole = self.side * self.side * 3;
        self.rows.push(frames.into_iter().filter(|frame| frame.len() == whole).map(<[u8]>::to_vec).collect());
    }

    /// Writes the sheet as a PNG, whole or not at all.
    ///
    /// # Errors
    /// When there is no frame, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        if columns == 0 || self.side == 0 {
            return Err(Error::broken(path, "a sheet without a frame"));
        }
        let pitch = self.side + GAP;
        let [width, height] = [columns, self.rows.len()].map(|count| count * pitch - GAP);
        let mut rgb = vec![0; width * height * 3];
        for (row, frames) in self.rows.iter().enumerate() {
            for (column, frame) in frames.iter().enumerate() {
                for (y, line) in frame.chunks_exact(self.side * 3).enumerate() {
                    let at = ((row * pitch + y) * width + column * pitch) * 3;
                    rgb[at..at + line.len()].copy_from_slice(line);
                }
            }
        }
        let sheet = Frames::new(width, height, FrameRate::WAN, rgb)?;
        Ok(write_picture(path, &sheet, &Value::Null)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_where_they_were_put() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut sheet = Sheet::new(2);
        assert!(sheet.save(&path).is_err());
        sheet.row([[10u8; 12].as_slice(), &[20; 12]]);
        sheet.row([[30u8; 12].as_slice()]);
        sheet.save(&path).unwrap();
        let picture = image::load_from_memory(&std::fs::read(&path).unwrap()).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (6, 6));
        let at = |x, y| picture.get_pixel(x, y).0[0];
        assert_eq!([at(1, 1), at(2, 0), at(4, 0), at(0, 4), at(4, 4)], [10, 0, 20, 30, 0]);
    }
}
