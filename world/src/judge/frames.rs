//! The frames that are judged.

use crate::error::Error;
use crate::palette::Rgb;

/// Least side that is read, in pixels.
const LEAST_SIDE: usize = 16;

/// RGB frames and nothing else: `[frames, height, width, 3]`, 8-bit.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    count: usize,
    height: usize,
    width: usize,
    rgb: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Frames of shape `[frames, height, width]`.
    ///
    /// # Errors
    /// No frame; a side below 16; a buffer of another length than the shape's.
    pub fn new([count, height, width]: [usize; 3], rgb: &'a [u8]) -> Result<Self, Error> {
        if count == 0 || height < LEAST_SIDE || width < LEAST_SIDE {
            return Err(Error::TooSmall { frames: count, height, width, least: LEAST_SIDE });
        }
        let expected = [height, width, 3].into_iter().try_fold(count, usize::checked_mul).unwrap_or(usize::MAX);
        if rgb.len() != expected {
            return Err(Error::BufferLength { what: "frames", expected, found: rgb.len() });
        }
        Ok(Self { count, height, width, rgb })
    }

    /// Number of frames.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One by one.
    pub(super) fn iter(&self) -> impl Iterator<Item = Frame<'a>> + use<'a> {
        let (height, width) = (self.height, self.width);
        self.rgb.chunks_exact(height * width * 3).map(move |rgb| Frame { height, width, rgb })
    }
}

/// One frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) height: usize,
    pub(super) width: usize,
    rgb: &'a [u8],
}

impl Frame<'_> {
    /// A pixel, row by row.
    pub(super) fn pixel(&self, index: usize) -> Rgb {
        [0, 1, 2].map(|channel| f64::from(self.rgb[index * 3 + channel]))
    }

    /// The pixels within `depth` of the frame's edge.
    pub(super) fn border(&self, depth: usize) -> impl Iterator<Item = Rgb> + '_ {
        let is_border = move |index: &usize| {
            let (row, column) = (index / self.width, index % self.width);
            row.min(column).min(self.height - 1 - row).min(self.width - 1 - column) < depth
        };
        (0..self.height * self.width).filter(is_border).map(|index| self.pixel(index))
    }

    /// Every pixel averaged with its eight neighbours, weights 1 2 1 both ways: takes the noise off single pixels.
    pub(super) fn smoothed(&self) -> Vec<Rgb> {
        let (height, width) = (self.height, self.width);
        let mut rows = Vec::with_capacity(height * width);
        for row in 0..height {
            for column in 0..width {
                let at = |column: usize| self.pixel(row * width + column);
                let (before, here, after) = (at(column.saturating_sub(1)), at(column), at((column + 1).min(width - 1)));
                rows.push([0, 1, 2].map(|c| (before[c] + 2.0 * here[c] + after[c]) / 4.0));
            }
        }
        let mut smooth = Vec::with_capacity(height * width);
        for row in 0..height {
            for column in 0..width {
                let at = |row: usize| -> Rgb { rows[row * width + column] };
                let (before, here, after) = (at(row.saturating_sub(1)), at(row), at((row + 1).min(height - 1)));
                smooth.push([0, 1, 2].map(|c| (before[c] + 2.0 * here[c] + after[c]) / 4.0));
            }
        }
        smooth
    }
}
