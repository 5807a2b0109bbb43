//! One clip: a function of attributes, seed and time that is drawn at any size and length.

use crate::attributes::{Attributes, Split};
use crate::error::Error;
use crate::palette::{JITTER, Rgb};
use crate::path::Path;
use crate::random::{Random, Stream};

/// Least side of a clip, in pixels.
pub const LEAST_SIDE: usize = 32;

/// Pixels from an edge's middle to where the shape or the background is pure: an edge about one pixel soft, at every size.
const SOFTNESS: f64 = 1.0;

/// Side and number of frames of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    side: usize,
    frames: usize,
}

impl Size {
    /// `frames` frames of `side` x `side` pixels.
    ///
    /// # Errors
    /// A side below 32 or no multiple of 8; a number of frames that is not `4n + 1`.
    pub fn new(side: usize, frames: usize) -> Result<Self, Error> {
        if side < LEAST_SIDE || !side.is_multiple_of(8) {
            return Err(Error::Side { side, least: LEAST_SIDE });
        }
        if frames % 4 != 1 {
            return Err(Error::Length { frames });
        }
        Ok(Self { side, frames })
    }

    /// Pixels of height and of width.
    pub fn side(self) -> usize {
        self.side
    }

    /// Number of frames.
    pub fn frames(self) -> usize {
        self.frames
    }

    /// Values of one frame: `side * side * 3`.
    pub fn frame_len(self) -> usize {
        self.side * self.side * 3
    }
}

/// A clip of the world. Size and length are chosen when it is drawn: the same clip at another size is the same scene.
///
/// A frame depends on attributes, seed, size and index alone, and holds the same bytes on every machine: the arithmetic is f64 sums,
/// products, quotients and square roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Clip {
    /// What it shows.
    pub attributes: Attributes,
    /// Chooses size, place and phase of the shape and the exact colours.
    pub seed: u64,
}

impl Clip {
    /// The clip of a seed, its attributes drawn from a split.
    pub fn draw(split: Split, seed: u64) -> Self {
        Self { attributes: split.draw(seed), seed }
    }

    /// Writes frame `index` as `[height, width, 3]`, 8-bit RGB.
    ///
    /// # Errors
    /// An index past the clip's end; a buffer that does not hold [`Size::frame_len`] values.
    pub fn frame(&self, size: Size, index: usize, rgb: &mut [u8]) -> Result<(), Error> {
        check(size, index, rgb.len())?;
        Scene::new(self).draw(size, index, |pixel, colour| rgb[pixel * 3..pixel * 3 + 3].copy_from_slice(&colour));
        Ok(())
    }

    /// Writes frame `index` as `[3, height, width]`, values `x / 127.5 - 1` of the 8-bit ones, in `[-1, 1]`.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn frame_signed(&self, size: Size, index: usize, values: &mut [f32]) -> Result<(), Error> {
        check(size, index, values.len())?;
        let plane = size.side * size.side;
        Scene::new(self).draw(size, index, |pixel, colour| {
            for (channel, value) in colour.into_iter().enumerate() {
                values[channel * plane + pixel] = signed(value);
            }
        });
        Ok(())
    }

    /// All frames, `[frames, height, width, 3]`, 8-bit RGB.
    pub fn frames(&self, size: Size) -> Vec<u8> {
        let scene = Scene::new(self);
        let mut rgb = vec![0; size.frames * size.frame_len()];
        for (index, frame) in rgb.chunks_exact_mut(size.frame_len()).enumerate() {
            scene.draw(size, index, |pixel, colour| frame[pixel * 3..pixel * 3 + 3].copy_from_slice(&colour));
        }
        rgb
    }

    /// All frames as a video autoencoder reads them, `[3, frames, height, width]` in `[-1, 1]`, see [`Self::frame_signed`].
    pub fn video(&self, size: Size) -> Vec<f32> {
        let scene = Scene::new(self);
        let (plane, len) = (size.side * size.side, size.frames * size.side * size.side);
        let mut values = vec![0.0; 3 * len];
        for index in 0..size.frames {
            scene.draw(size, index, |pixel, colour| {
                for (channel, value) in colour.into_iter().enumerate() {
                    values[channel * len + index * plane + pixel] = signed(value);
                }
            });
        }
        values
    }
}

/// An 8-bit value in `[-1, 1]`.
fn signed(value: u8) -> f32 {
    f32::from(value) / 127.5 - 1.0
}

fn check(size: Size, index: usize, found: usize) -> Result<(), Error> {
    if index >= size.frames {
        return Err(Error::FrameIndex { frame: index, frames: size.frames });
    }
    if found != size.frame_len() {
        return Err(Error::BufferLength { what: "a frame", expected: size.frame_len(), found });
    }
    Ok(())
}

/// A clip with its numbers drawn.
struct Scene {
    attributes: Attributes,
    path: Path,
    colour: Rgb,
    background: Rgb,
}

impl Scene {
    fn new(clip: &Clip) -> Self {
        let mut random = Random::new(clip.seed, Stream::Picture);
        let path = Path::draw(&clip.attributes, &mut random);
        let mut vary = |entry: [u8; 3]| entry.map(|value| f64::from(value) + random.between(-JITTER, JITTER));
        let (colour, background) = (vary(clip.attributes.colour.rgb()), vary(clip.attributes.background.rgb()));
        Self { attributes: clip.attributes, path, colour, background }
    }

    /// Gives every pixel, row by row, its colour.
    fn draw(&self, size: Size, index: usize, mut put: impl FnMut(usize, [u8; 3])) {
        let time = if size.frames == 1 { 0.0 } else { index as f64 / (size.frames - 1) as f64 };
        let place = self.path.at(time);
        let side = size.side as f64;
        let radius = place.radius * side;
        let flat = self.mix(0.0);
        // Past this distance from the centre, along an axis, all is background.
        let reach = self.attributes.shape.reach() * radius + SOFTNESS;
        for row in 0..size.side {
            let y = row as f64 + 0.5 - place.y * side;
            for column in 0..size.side {
                let x = column as f64 + 0.5 - place.x * side;
                let colour = if x.abs() > reach || y.abs() > reach {
                    flat
                } else {
                    let depth = -self.attributes.shape.distance(x / radius, y / radius) * radius;
                    self.mix(smooth_step((depth / SOFTNESS).clamp(-1.0, 1.0) * 0.5 + 0.5))
                };
                put(row * size.side + column, colour);
            }
        }
    }

    /// Share `cover` of the shape's colour over the background's, rounded to 8 bits.
    fn mix(&self, cover: f64) -> [u8; 3] {
        [0, 1, 2].map(|c| (self.background[c] + (self.colour[c] - self.background[c]) * cover + 0.5).clamp(0.0, 255.0) as u8)
    }
}

/// From 0 to 1 with level ends.
fn smooth_step(x: f64) -> f64 {
    x * x * (3.0 - 2.0 * x)
}
