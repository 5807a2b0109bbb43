//! Mean and deviation of each latent channel, and clips in memory.

use turbowan_cuda::Rounding;

use crate::{Error, Result};

/// Values of a video or of a latent, `[channels, frames, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Colours or latent channels.
    pub channels: usize,
    /// Frames, or latent frames.
    pub frames: usize,
    /// Lines of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
    /// The values; colours lie between -1 and 1, though a decoder may overshoot.
    pub values: Vec<f32>,
}

impl Clip {
    /// A clip of `[channels, frames, height, width]`.
    ///
    /// # Errors
    /// When an axis is zero or the number of values is another.
    pub fn new([channels, frames, height, width]: [usize; 4], values: Vec<f32>) -> Result<Self> {
        for (what, found) in [("channels of a clip", channels), ("frames of a clip", frames), ("height", height), ("width", width)] {
            if found == 0 {
                return Err(turbowan_cuda::Error::Size { what, must: "at least 1", found }.into());
            }
        }
        let expected = [channels, frames, height, width].into_iter().try_fold(1usize, usize::checked_mul).unwrap_or(usize::MAX);
        turbowan_cuda::Error::expect_len("clip", &values, expected)?;
        Ok(Self { channels, frames, height, width, values })
    }

    /// All zero.
    ///
    /// # Errors
    /// When an axis is zero.
    pub fn zeros(shape: [usize; 4]) -> Result<Self> {
        Self::new(shape, vec![0.0; shape.iter().product()])
    }

    /// `[channels, frames, height, width]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.channels, self.frames, self.height, self.width]
    }

    /// Lines `top..top + height` and columns `left..left + width` of frame `frame`, channels last.
    pub(super) fn pixels(&self, frame: usize, window: Window) -> Vec<f32> {
        let mut pixels = vec![0.0; window.height * window.width * self.channels];
        for channel in 0..self.channels {
            let plane = &self.values[(channel * self.frames + frame) * self.height * self.width..][..self.height * self.width];
            for line in 0..window.height {
                let from = &plane[(window.top + line) * self.width + window.left..][..window.width];
                let to = &mut pixels[line * window.width * self.channels..];
                for (to, from) in to.iter_mut().skip(channel).step_by(self.channels).zip(from) {
                    *to = *from;
                }
            }
        }
        pixels
    }

    /// Puts channels-last pixels of a whole frame in place.
    pub(super) fn set_pixels(&mut self, frame: usize, pixels: &[f32]) {
        let area = self.height * self.width;
        for channel in 0..self.channels {
            let plane = &mut self.values[(channel * self.frames + frame) * area..][..area];
            for (to, from) in plane.iter_mut().zip(pixels.iter().skip(channel).step_by(self.channels)) {
                *to = *from;
            }
        }
    }

    /// The whole of a frame.
    pub(super) fn window(&self) -> Window {
        Window { top: 0, left: 0, height: self.height, width: self.width }
    }
}

/// A rectangle of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First line.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Lines.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Mean and standard deviation of every latent channel: the network's latents are `(z - mean) / std`.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentStatistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, not zero.
    pub std: Vec<f32>,
}

impl LatentStatistics {
    /// Those of the Wan 2.1 autoencoder.
    pub fn wan_2_1() -> Self {
        Self {
            mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497,
                0.2503, -0.2921,
            ],
            std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251,
                1.9160,
            ],
        }
    }

    /// Those of Wan 2.1, or mean 0 and deviation 1 for another number of channels.
    pub fn of_channels(channels: usize) -> Self {
        let wan = Self::wan_2_1();
        if channels == wan.mean.len() { wan } else { Self { mean: vec![0.0; channels], std: vec![1.0; channels] } }
    }

    /// Checks that there is one finite pair for each of `channels` channels and no deviation is zero.
    pub(super) fn check(&self, channels: usize) -> Result<()> {
        turbowan_cuda::Error::expect_len("latent means", &self.mean, channels)?;
        turbowan_cuda::Error::expect_len("latent deviations", &self.std, channels)?;
        for (what, value, is_valid) in self
            .mean
            .iter()
            .map(|m| ("latent mean", m, m.is_finite()))
            .chain(self.std.iter().map(|s| ("latent deviation", s, s.is_normal())))
        {
            if !is_valid {
                return Err(Error::Setting { what, found: value.to_string(), must: "a finite number, and no deviation is 0".into() });
            }
        }
        Ok(())
    }

    /// `1 / std`, as the official code keeps it.
    fn inverse(&self, channel: usize, rounding: Rounding) -> f32 {
        rounding.apply(1.0 / rounding.apply(self.std[channel]))
    }

    /// `(z - mean) * (1 / std)` of channels-last pixels, each step rounded.
    pub(super) fn normalise(&self, pixels: &mut [f32], rounding: Rounding) {
        for pixel in pixels.chunks_exact_mut(self.mean.len()) {
            for (channel, z) in pixel.iter_mut().enumerate() {
                *z = rounding.apply(rounding.apply(*z - rounding.apply(self.mean[channel])) * self.inverse(channel, rounding));
            }
        }
    }

    /// `z / (1 / std) + mean` of channels-last pixels, each step rounded.
    pub(super) fn restore(&self, pixels: &mut [f32], rounding: Rounding) {
        for pixel in pixels.chunks_exact_mut(self.mean.len()) {
            for (channel, z) in pixel.iter_mut().enumerate() {
                let scaled = rounding.apply(rounding.apply(*z) / self.inverse(channel, rounding));
                *z = rounding.apply(scaled + rounding.apply(self.mean[channel]));
            }
        }
    }
}

/// Channel values around -1 to 1 as bytes: `trunc(clamp((1 + v) / 2) * 255 + 0.5)`.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().map(|value| ((1.0 + value.clamp(-1.0, 1.0)) / 2.0 * 255.0 + 0.5) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restoring_undoes_normalising() {
        let statistics = LatentStatistics::wan_2_1();
        let before: Vec<f32> = (0..48).map(|i| i as f32 * 0.1 - 2.0).collect();
        let mut pixels = before.clone();
        statistics.normalise(&mut pixels, Rounding::None);
        statistics.restore(&mut pixels, Rounding::None);
        assert!(before.iter().zip(&pixels).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_window_of_a_clip_is_read_channels_last_and_a_frame_is_put_back() {
        let clip = Clip::new([2, 2, 2, 3], (0..24).map(|v| v as f32).collect()).unwrap();
        assert_eq!(clip.pixels(1, Window { top: 1, left: 1, height: 1, width: 2 }), [10.0, 22.0, 11.0, 23.0]);
        let mut copy = Clip::zeros(clip.shape()).unwrap();
        for frame in 0..2 {
            copy.set_pixels(frame, &clip.pixels(frame, clip.window()));
        }
        assert_eq!(copy, clip);
    }

    #[test]
    fn clips_and_statistics_that_do_not_fit_are_refused() {
        assert!(Clip::new([3, 0, 2, 2], vec![]).is_err());
        assert!(Clip::new([3, 1, 2, 2], vec![0.0; 11]).is_err());
        assert!(Clip::new([usize::MAX, 2, 2, 2], vec![0.0; 8]).is_err());
        assert!(LatentStatistics::wan_2_1().check(16).is_ok());
        assert!(LatentStatistics::wan_2_1().check(8).is_err());
        assert!(LatentStatistics { mean: vec![0.0], std: vec![0.0] }.check(1).is_err());
    }
}
