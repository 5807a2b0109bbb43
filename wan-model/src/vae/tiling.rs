//! Large frames in tiles that overlap and are blended.
//!
//! A tile runs through all of time by itself, so the frames that causal kernels look back at are those of one tile. In the
//! overlap neighbours are mixed with weights that rise linearly from their edges. Attention in the middle of the network
//! sees one tile only, so a tiled result is near the whole one, not equal to it.

use super::latent::Window;
use crate::{Error, Result};

/// Whether frames are worked on whole or in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tiling {
    /// Whole, as the official code does.
    #[default]
    Whole,
    /// In square tiles.
    Tiles {
        /// Pixels on a side of a tile.
        side: usize,
        /// Pixels that neighbours share at least.
        overlap: usize,
    },
}

impl Tiling {
    /// Tiles of 256 pixels that share 64.
    pub const SMALL: Self = Self::Tiles { side: 256, overlap: 64 };
    /// Tiles of 512 pixels that share 64.
    pub const LARGE: Self = Self::Tiles { side: 512, overlap: 64 };

    /// Tiles of a frame of `[height, width]` latent positions, where one position is `factor` pixels.
    pub(super) fn cut(self, size: [usize; 2], factor: usize) -> Result<Tiles> {
        let [side, overlap] = match self {
            Self::Whole => [usize::MAX, 0],
            Self::Tiles { side, overlap } => [side / factor, overlap.div_ceil(factor)],
        };
        if side < 2 || overlap >= side {
            return Err(Error::Setting {
                what: "VAE tiles",
                found: format!("{self:?}"),
                must: format!("tiles of at least {} pixels, and an overlap smaller than a tile", 2 * factor),
            });
        }
        Ok(Tiles { size, overlap, rows: spans(size[0], side, overlap), columns: spans(size[1], side, overlap) })
    }
}

/// First position and length of each tile along one axis: all of one length, evenly spread, sharing `overlap` or more.
fn spans(length: usize, side: usize, overlap: usize) -> Vec<[usize; 2]> {
    if length <= side {
        return vec![[0, length]];
    }
    let count = (length - overlap).div_ceil(side - overlap);
    (0..count).map(|index| [index * (length - side) / (count - 1), side]).collect()
}

/// The tiles of a frame, in latent positions.
pub(super) struct Tiles {
    size: [usize; 2],
    overlap: usize,
    rows: Vec<[usize; 2]>,
    columns: Vec<[usize; 2]>,
}

impl Tiles {
    pub fn count(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    pub fn windows(&self) -> impl Iterator<Item = Window> + '_ {
        self.rows.iter().flat_map(|[top, height]| {
            self.columns.iter().map(|[left, width]| Window { top: *top, left: *left, height: *height, width: *width })
        })
    }

    /// An empty canvas for one frame whose positions are `factor` pixels (1 for a latent) of `channels` values.
    pub fn canvas(&self, factor: usize, channels: usize) -> Canvas {
        let [height, width] = self.size.map(|n| n * factor);
        let overlap = self.overlap * factor;
        Canvas { height, width, channels, factor, overlap, sums: vec![0.0; height * width * channels] }
    }

    /// Sum of the weights of all tiles at each line and each column of a canvas; a pixel's weight is their product.
    fn weights(&self, factor: usize) -> [Vec<f32>; 2] {
        [(&self.rows, self.size[0]), (&self.columns, self.size[1])].map(|(spans, length)| {
            let mut sums = vec![0.0; length * factor];
            for [start, len] in spans {
                let [start, len, length] = [start, len, &length].map(|n| n * factor);
                for place in 0..len {
                    sums[start + place] += weight(place, start, len, length, self.overlap * factor);
                }
            }
            sums
        })
    }
}

/// Weight of position `place` of a tile `start..start + len` of an axis of `length`: 1 inside and at the ends of the axis,
/// rising over `overlap` from an edge that has a neighbour.
fn weight(place: usize, start: usize, len: usize, length: usize, overlap: usize) -> f32 {
    let rise = |from_edge: usize| ((from_edge as f32 + 0.5) / overlap as f32).min(1.0);
    let before = if start == 0 || overlap == 0 { 1.0 } else { rise(place) };
    let after = if start + len == length || overlap == 0 { 1.0 } else { rise(len - 1 - place) };
    before * after
}

/// Tiles of one frame as they are added up, channels last.
pub(super) struct Canvas {
    height: usize,
    width: usize,
    channels: usize,
    factor: usize,
    overlap: usize,
    sums: Vec<f32>,
}

impl Canvas {
    /// Adds the pixels of the tile that stands at `window`, in latent positions.
    pub fn add(&mut self, window: Window, pixels: &[f32]) {
        let [top, left, height, width] = [window.top, window.left, window.height, window.width].map(|n| n * self.factor);
        for (line, from) in pixels.chunks_exact(width * self.channels).enumerate() {
            let vertical = weight(line, top, height, self.height, self.overlap);
            let to = &mut self.sums[((top + line) * self.width + left) * self.channels..][..width * self.channels];
            for (column, (to, from)) in to.chunks_exact_mut(self.channels).zip(from.chunks_exact(self.channels)).enumerate() {
                let weight = vertical * weight(column, left, width, self.width, self.overlap);
                to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
            }
        }
    }

    /// The blended frame, once every tile has been added.
    pub fn blend(mut self, tiles: &Tiles) -> Vec<f32> {
        let [lines, columns] = tiles.weights(self.factor);
        for (pixels, line) in self.sums.chunks_exact_mut(self.width * self.channels).zip(lines) {
            for (pixel, column) in pixels.chunks_exact_mut(self.channels).zip(&columns) {
                pixel.iter_mut().for_each(|value| *value /= line * column);
            }
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_axis_and_share_at_least_the_overlap() {
        for (length, side, overlap) in [(5, 8, 2), (8, 8, 2), (9, 8, 2), (100, 16, 4), (37, 8, 7), (64, 8, 0)] {
            let spans = spans(length, side, overlap);
            assert_eq!(spans[0][0], 0);
            assert_eq!(spans[spans.len() - 1].iter().sum::<usize>(), length);
            for pair in spans.windows(2) {
                assert!(pair[0][0] < pair[1][0] && pair[0][0] + pair[0][1] >= pair[1][0] + overlap, "{length} {side} {overlap}");
            }
        }
    }

    #[test]
    fn a_frame_cut_and_blended_is_itself() {
        let tiles = Tiling::Tiles { side: 64, overlap: 24 }.cut([13, 21], 8).unwrap();
        assert!(tiles.count() > 4);
        for (factor, channels) in [(1, 5), (8, 3)] {
            let (height, width) = (13 * factor, 21 * factor);
            let whole: Vec<f32> = (0..height * width * channels).map(|i| (i % 101) as f32 - 50.0).collect();
            let mut canvas = tiles.canvas(factor, channels);
            for window in tiles.windows() {
                let mut pixels = Vec::new();
                for line in window.top * factor..(window.top + window.height) * factor {
                    let from = (line * width + window.left * factor) * channels;
                    pixels.extend_from_slice(&whole[from..from + window.width * factor * channels]);
                }
                canvas.add(window, &pixels);
            }
            assert!(canvas.blend(&tiles).iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }

    #[test]
    fn tiles_without_room_are_refused() {
        for (side, overlap) in [(0, 0), (8, 0), (64, 64), (64, 80)] {
            assert!(Tiling::Tiles { side, overlap }.cut([8, 8], 8).is_err(), "{side} {overlap}");
        }
        assert_eq!(Tiling::Whole.cut([800, 800], 8).unwrap().count(), 1);
    }
}
