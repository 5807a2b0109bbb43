//! How large a video is: in pixels, in latent cells, in tokens.
//!
//! The VAE makes one latent cell of 8 x 8 pixels and one latent frame of 4 frames (the first frame has a latent frame of its own); the
//! transformer makes one token of 2 x 2 cells. So a side is a multiple of 16 pixels and a clip has `4 n + 1` frames.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Channels of a latent.
pub const LATENT_CHANNELS: usize = 16;
/// Pixels along a latent cell's side.
pub const CELL: usize = 8;
/// Latent cells along a token's side.
pub const PATCH: usize = 2;
/// Frames in a latent frame, but for the first.
pub const FRAMES_PER_LATENT: usize = 4;
/// Longest side in pixels that is taken.
pub const MOST_SIDE: usize = 8192;
/// Most frames that are taken.
pub const MOST_FRAMES: usize = 4 * 1024 + 1;

/// A named picture size; with an aspect ratio it gives pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// `480p`: 832 x 480 at 16:9.
    P480,
    /// `720p`: 1280 x 720 at 16:9.
    P720,
    /// `480`: the older table, 768 x 432 at 16:9.
    Old480,
    /// `512`: the older table, 640 x 384 at 16:9.
    Old512,
    /// `720`: the older table, 1280 x 704 at 16:9.
    Old720,
}

/// Width to height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AspectRatio {
    /// 1:1.
    Square,
    /// 4:3.
    Landscape,
    /// 3:4.
    Portrait,
    /// 16:9.
    Wide,
    /// 9:16.
    Tall,
}

impl Resolution {
    /// Every resolution.
    pub const ALL: [Self; 5] = [Self::P480, Self::P720, Self::Old480, Self::Old512, Self::Old720];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P480 => "480p",
            Self::P720 => "720p",
            Self::Old480 => "480",
            Self::Old512 => "512",
            Self::Old720 => "720",
        }
    }

    /// Pixels at an aspect ratio.
    pub const fn size(self, ratio: AspectRatio) -> FrameSize {
        let (square, landscape, wide) = match self {
            Self::P480 => ((640, 640), (640, 480), (832, 480)),
            Self::P720 => ((960, 960), (960, 720), (1280, 720)),
            Self::Old480 => ((480, 480), (640, 480), (768, 432)),
            Self::Old512 => ((512, 512), (640, 512), (640, 384)),
            Self::Old720 => ((960, 960), (960, 704), (1280, 704)),
        };
        let (width, height) = match ratio {
            AspectRatio::Square => square,
            AspectRatio::Landscape => landscape,
            AspectRatio::Portrait => (landscape.1, landscape.0),
            AspectRatio::Wide => wide,
            AspectRatio::Tall => (wide.1, wide.0),
        };
        FrameSize { width, height }
    }
}

impl AspectRatio {
    /// Every ratio.
    pub const ALL: [Self; 5] = [Self::Square, Self::Landscape, Self::Portrait, Self::Wide, Self::Tall];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Square => "1:1",
            Self::Landscape => "4:3",
            Self::Portrait => "3:4",
            Self::Wide => "16:9",
            Self::Tall => "9:16",
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for AspectRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Resolution {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|resolution| resolution.name() == word);
        found.ok_or_else(|| setting("resolution", word, "480p, 720p, 480, 512 or 720"))
    }
}

impl FromStr for AspectRatio {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|ratio| ratio.name() == word);
        found.ok_or_else(|| setting("aspect ratio", word, "16:9, 9:16, 4:3, 3:4 or 1:1"))
    }
}

fn setting(what: &'static str, found: impl fmt::Display, must: &str) -> Error {
    Error::Setting { what, found: found.to_string(), must: format!("must be {must}") }
}

/// Pixels of a frame: both sides multiples of 16, in `16..=8192`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameSize {
    width: usize,
    height: usize,
}

impl FrameSize {
    /// Pixels along a token's side: what both sides are multiples of.
    pub const STRIDE: usize = CELL * PATCH;

    /// A size of one's own.
    ///
    /// # Errors
    /// [`Error::Setting`] unless both sides are multiples of 16 in `16..=8192`.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        let good = |side: usize| side.is_multiple_of(Self::STRIDE) && (Self::STRIDE..=MOST_SIDE).contains(&side);
        if good(width) && good(height) {
            Ok(Self { width, height })
        } else {
            Err(setting("frame size", format_args!("{width}x{height}"), "a multiple of 16 from 16 to 8192 on both sides"))
        }
    }

    /// The size with about `area`'s pixels and an image's own aspect ratio.
    ///
    /// # Errors
    /// [`Error::Setting`] for an image without pixels or so long and thin that a side would vanish or pass 8192.
    pub fn adaptive(area: Self, image_width: usize, image_height: usize) -> Result<Self> {
        let thin = || setting("image size", format_args!("{image_width}x{image_height}"), "less extreme in its aspect ratio");
        if image_width == 0 || image_height == 0 {
            return Err(setting("image size", format_args!("{image_width}x{image_height}"), "at least one pixel"));
        }
        let (width, height) = Self::ideal(area, image_width, image_height);
        // Python's round: half to even.
        let side = |pixels: f64| (pixels / Self::STRIDE as f64).round_ties_even() as usize * Self::STRIDE;
        Self::new(side(width), side(height)).map_err(|_| thin())
    }

    /// Width and height of [`FrameSize::adaptive`] before they are rounded to multiples of 16.
    pub fn ideal(area: Self, image_width: usize, image_height: usize) -> (f64, f64) {
        let pixels = (area.width * area.height) as f64;
        let height_per_width = image_height as f64 / image_width as f64;
        ((pixels / height_per_width).sqrt(), (pixels * height_per_width).sqrt())
    }

    /// Pixels across.
    pub const fn width(self) -> usize {
        self.width
    }

    /// Pixels down.
    pub const fn height(self) -> usize {
        self.height
    }

    /// The latent of a clip of this size.
    pub const fn latent(self, frames: FrameCount) -> LatentShape {
        LatentShape { frames: frames.latent_frames(), height: self.height / CELL, width: self.width / CELL }
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// Frames of a clip: `4 n + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameCount(usize);

impl FrameCount {
    /// The default clip: 81 frames, five seconds.
    pub const DEFAULT: Self = Self(81);

    /// Exactly `frames`.
    ///
    /// # Errors
    /// [`Error::Setting`] unless `frames` is `4 n + 1` and at most 4097.
    pub fn new(frames: usize) -> Result<Self> {
        let count = Self::at_most(frames)?;
        if count.0 == frames { Ok(count) } else { Err(setting("frames", frames, "4 n + 1, such as 77 or 81")) }
    }

    /// The largest count of the form `4 n + 1` that is not above `frames`. Compare [`FrameCount::get`] with what was asked, to say so
    /// when they differ.
    ///
    /// # Errors
    /// [`Error::Setting`] for no frames or more than 4097.
    pub fn at_most(frames: usize) -> Result<Self> {
        if frames == 0 || frames > MOST_FRAMES {
            return Err(setting("frames", frames, "from 1 to 4097"));
        }
        Ok(Self((frames - 1) / FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1))
    }

    /// The count.
    pub const fn get(self) -> usize {
        self.0
    }

    /// Latent frames: the first frame alone, then one for every four.
    pub const fn latent_frames(self) -> usize {
        (self.0 - 1) / FRAMES_PER_LATENT + 1
    }
}

/// A latent `[16, frames, height, width]`, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LatentShape {
    /// Latent frames.
    pub frames: usize,
    /// Cells down.
    pub height: usize,
    /// Cells across.
    pub width: usize,
}

impl LatentShape {
    /// `[channels, frames, height, width]`.
    pub const fn dims(self) -> [usize; 4] {
        [LATENT_CHANNELS, self.frames, self.height, self.width]
    }

    /// Cells of one channel.
    pub const fn positions(self) -> usize {
        self.frames * self.height * self.width
    }

    /// Values in all channels.
    pub const fn values(self) -> usize {
        LATENT_CHANNELS * self.positions()
    }

    /// Tokens of the transformer: one for every 2 x 2 cells.
    pub const fn tokens(self) -> usize {
        self.frames * (self.height / PATCH) * (self.width / PATCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_clips_have_the_published_token_counts() {
        let tokens = |resolution: Resolution| resolution.size(AspectRatio::Wide).latent(FrameCount::DEFAULT).tokens();
        assert_eq!((tokens(Resolution::P480), tokens(Resolution::P720)), (32_760, 75_600));
        assert_eq!(Resolution::P480.size(AspectRatio::Tall).latent(FrameCount::DEFAULT).dims(), [16, 21, 104, 60]);
    }

    #[test]
    fn every_named_size_is_a_legal_size_of_its_ratio() {
        for resolution in Resolution::ALL {
            for ratio in AspectRatio::ALL {
                let size = resolution.size(ratio);
                assert_eq!(FrameSize::new(size.width, size.height).unwrap(), size, "{resolution} {ratio}");
                assert_eq!(ratio.name().parse::<AspectRatio>().unwrap(), ratio);
                let turned = match ratio {
                    AspectRatio::Landscape => AspectRatio::Portrait,
                    AspectRatio::Wide => AspectRatio::Tall,
                    _ => continue,
                };
                let other = resolution.size(turned);
                assert_eq!((other.width, other.height), (size.height, size.width));
            }
            assert_eq!(resolution.name().parse::<Resolution>().unwrap(), resolution);
        }
        assert!("1080p".parse::<Resolution>().is_err() && "21:9".parse::<AspectRatio>().is_err());
    }

    #[test]
    fn adaptive_sizes_round_half_to_even_as_python_does() {
        let area = Resolution::P480.size(AspectRatio::Wide);
        let size = |w, h| FrameSize::adaptive(area, w, h).unwrap().to_string();
        assert_eq!(size(1920, 1080), "848x480");
        assert_eq!(size(1024, 1024), "624x624");
        // 40 x 40 pixels: both sides are 2.5 strides, which is 2 to even and 3 half up.
        let small = FrameSize { width: 40, height: 40 };
        assert_eq!(FrameSize::adaptive(small, 7, 7).unwrap().to_string(), "32x32");
    }

    #[test]
    fn images_without_pixels_or_thin_as_a_line_are_refused() {
        let area = Resolution::P720.size(AspectRatio::Square);
        for (width, height) in [(0, 5), (5, 0), (1, 100_000), (100_000, 1)] {
            assert!(matches!(FrameSize::adaptive(area, width, height), Err(Error::Setting { what: "image size", .. })));
        }
    }

    #[test]
    fn frames_come_in_fours_and_one() {
        for (asked, got, latent) in [(1, 1, 1), (4, 1, 1), (5, 5, 2), (80, 77, 20), (81, 81, 21), (84, 81, 21)] {
            let count = FrameCount::at_most(asked).unwrap();
            assert_eq!((count.get(), count.latent_frames()), (got, latent));
            assert_eq!(FrameCount::new(asked).is_ok(), asked == got);
        }
        assert!(FrameCount::at_most(0).is_err() && FrameCount::at_most(usize::MAX).is_err());
    }

    #[test]
    fn sizes_that_are_no_multiple_of_sixteen_are_refused() {
        for (width, height) in [(0, 16), (17, 16), (16, 8), (8208, 16), (usize::MAX, 16)] {
            assert!(FrameSize::new(width, height).is_err());
        }
    }
}
