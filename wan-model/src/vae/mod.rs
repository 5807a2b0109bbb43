//! The video autoencoder of Wan 2.1: 8 x 8 pixels of 4 frames to a latent position, and back.
//!
//! ```text
//! encode   video -> conv, 3 stages down (2 in time), attention, head -> conv1 -> mu -> (mu - mean) / std
//! decode   latent * std + mean -> conv2 -> conv, attention, 3 stages up (2 in time), head -> video
//! ```
//! Every convolution looks back in time only, so a video is a stream: the first latent frame gives one video frame, each
//! later one four, and the frames of a prefix are the prefix of the frames. [`Vae::decode`] hands frames on as they are
//! made and keeps no more than kernels look back at.
//!
//! Source: `rcm/tokenizers/wan2pt1.py` of the official code.

mod blocks;
mod fold;
mod latent;
mod layers;
mod plan;
mod tiling;
mod train;

pub use fold::fold_statistics;
pub use latent::{Clip, LatentStatistics, Window, to_bytes};
pub use layers::{COLORS, Side};
pub use plan::VaePlan;
pub use tiling::Tiling;
pub use train::{TrainVae, VaeLosses, VaeObjective};

use crate::backend::vae::{FrameSize, VaeBackend};
use crate::checkpoint::TensorSource;
use crate::config::VaeConfig;
use crate::{Error, Result};
use blocks::{Layer, Loader, Memory, feed};

/// Something that happened while a clip was encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress<'a> {
    /// Frames have passed the network (those of every tile count).
    Passed {
        /// So far.
        done: usize,
        /// Of how many.
        of: usize,
    },
    /// A decoded frame is complete.
    Frame {
        /// Which, from 0.
        index: usize,
        /// Of how many.
        of: usize,
        /// `[height, width, 3]`, red, green and blue around -1 to 1, not clamped.
        pixels: &'a [f32],
    },
}

/// Sees [`Progress`]; an error, such as [`Error::Cancelled`], stops the work.
pub type Watch<'a> = dyn FnMut(Progress<'_>) -> Result<()> + 'a;

/// A loaded autoencoder, or one side of it.
pub struct Vae<B: VaeBackend> {
    backend: B,
    config: VaeConfig,
    statistics: LatentStatistics,
    encoder: Option<Vec<Layer<B>>>,
    decoder: Option<Vec<Layer<B>>>,
}

impl<B: VaeBackend> Vae<B> {
    /// Loads `sides` of an autoencoder whose tensors have been checked against [`VaeConfig::tensors`].
    ///
    /// # Errors
    /// A tensor that is missing or does not fit, or statistics of another number of channels.
    pub fn load(backend: B, source: &dyn TensorSource, config: &VaeConfig, statistics: LatentStatistics, sides: &[Side]) -> Result<Self> {
        statistics.check(config.z_dim)?;
        let loader = Loader { backend: &backend, source };
        let load = |side| -> Result<Option<Vec<Layer<B>>>> {
            let specs = layers::layers(config, side);
            sides.contains(&side).then(|| specs.iter().map(|spec| Layer::load(&loader, spec)).collect()).transpose()
        };
        let (encoder, decoder) = (load(Side::Encoder)?, load(Side::Decoder)?);
        Ok(Self { backend, config: config.clone(), statistics, encoder, decoder })
    }

    /// Its widths and depths.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Most bytes that frames have taken since the last clip began, weights not counted.
    pub fn peak_frame_bytes(&self) -> usize {
        self.backend.peak_frame_bytes()
    }

    /// Decodes a normalised latent `[z_dim, frames, height, width]`. Frames go to `watch` in order: one by one as they are
    /// made, or all at the end when there are several tiles.
    ///
    /// # Errors
    /// A latent that does not fit, a frame that is not finite or flat, or whatever `watch` returns.
    pub fn decode(&self, latent: &Clip, tiling: Tiling, watch: &mut Watch<'_>) -> Result<()> {
        let layers = self.side(Side::Decoder)?;
        self.expect_channels("latent channels", latent, self.config.z_dim)?;
        let factor = self.config.spatial_factor();
        let tiles = tiling.cut([latent.height, latent.width], factor)?;
        let frames = self.config.video_frames(latent.frames);
        let of = frames * tiles.count();
        let mut canvases = Vec::new();
        let mut done = 0;
        for window in tiles.windows() {
            self.backend.release();
            let mut index = 0;
            let upload = |frame: usize| {
                let mut pixels = latent.pixels(frame, window);
                self.statistics.restore(&mut pixels, self.backend.rounding());
                self.upload(&pixels, window, self.config.z_dim)
            };
            self.stream(layers, latent.frames, upload, &mut |frame| {
                let pixels = self.backend.download(&frame)?;
                drop(frame);
                sound(&pixels, || format!("VAE decode, frame {index} of {frames}"))?;
                done += 1;
                watch(Progress::Passed { done, of })?;
                if tiles.count() == 1 {
                    watch(Progress::Frame { index, of: frames, pixels: &pixels })?;
                } else {
                    if canvases.len() == index {
                        canvases.push(tiles.canvas(factor, COLORS));
                    }
                    canvases[index].add(window, &pixels);
                }
                index += 1;
                Ok(())
            })?;
        }
        for (index, canvas) in canvases.into_iter().enumerate() {
            watch(Progress::Frame { index, of: frames, pixels: &canvas.blend(&tiles) })?;
        }
        Ok(())
    }

    /// Decodes a latent into a clip `[3, 4 (frames - 1) + 1, 8 height, 8 width]`.
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode_clip(&self, latent: &Clip, tiling: Tiling) -> Result<Clip> {
        let factor = self.config.spatial_factor();
        let shape = [COLORS, self.config.video_frames(latent.frames), latent.height * factor, latent.width * factor];
        let mut clip = Clip::zeros(shape)?;
        self.decode(latent, tiling, &mut |progress| {
            if let Progress::Frame { index, pixels, .. } = progress {
                clip.set_pixels(index, pixels);
            }
            Ok(())
        })?;
        Ok(clip)
    }

    /// Encodes a video `[3, 4 n + 1, height, width]` into its normalised latent.
    ///
    /// # Errors
    /// A video whose frames are not one more than a multiple of four or whose sides are not multiples of eight, a latent that
    /// is not finite, or whatever `watch` returns.
    pub fn encode(&self, video: &Clip, tiling: Tiling, watch: &mut Watch<'_>) -> Result<Clip> {
        let z_dim = self.config.z_dim;
        let rounding = self.backend.rounding();
        let moments = self.moments(video, tiling, watch)?;
        let mut latent = Clip::zeros([z_dim, moments.frames, moments.height, moments.width])?;
        for frame in 0..moments.frames {
            let both = moments.pixels(frame, moments.window());
            let mut mean: Vec<f32> = both.chunks_exact(2 * z_dim).flat_map(|pixel| &pixel[..z_dim]).copied().collect();
            self.statistics.normalise(&mut mean, rounding);
            latent.set_pixels(frame, &mean);
        }
        Ok(latent)
    }

    /// Mean and logarithm of the variance that the encoder gives, `[2 z_dim, frames, height, width]`, not normalised.
    ///
    /// # Errors
    /// As [`Vae::encode`].
    pub fn moments(&self, video: &Clip, tiling: Tiling, watch: &mut Watch<'_>) -> Result<Clip> {
        let layers = self.side(Side::Encoder)?;
        self.expect_channels("video channels", video, COLORS)?;
        let (space, time) = (self.config.spatial_factor(), self.config.temporal_factor());
        let is_whole = video.height.is_multiple_of(space) && video.width.is_multiple_of(space);
        if !is_whole || !(video.frames - 1).is_multiple_of(time) {
            return Err(Error::Setting {
                what: "video to encode",
                found: format!("{} frames of {} x {}", video.frames, video.width, video.height),
                must: format!("one frame more than a multiple of {time}, and sides that are multiples of {space}"),
            });
        }
        let channels = 2 * self.config.z_dim;
        let tiles = tiling.cut([video.height / space, video.width / space], space)?;
        let mut moments = Clip::zeros([channels, self.config.latent_frames(video.frames), video.height / space, video.width / space])?;
        let of = video.frames * tiles.count();
        let mut done = 0;
        let mut canvases: Vec<_> = (0..moments.frames).map(|_| tiles.canvas(1, channels)).collect();
        for window in tiles.windows() {
            self.backend.release();
            let mut index = 0;
            let upload = |frame: usize| {
                let [top, left, height, width] = [window.top, window.left, window.height, window.width].map(|n| n * space);
                let window = Window { top, left, height, width };
                done += 1;
                watch(Progress::Passed { done, of })?;
                self.upload(&video.pixels(frame, window), window, COLORS)
            };
            self.stream(layers, video.frames, upload, &mut |frame| {
                let pixels = self.backend.download(&frame)?;
                finite(&pixels, || format!("VAE encode, latent frame {index}"))?;
                canvases[index].add(window, &pixels);
                index += 1;
                Ok(())
            })?;
        }
        for (frame, canvas) in canvases.into_iter().enumerate() {
            moments.set_pixels(frame, &canvas.blend(&tiles));
        }
        Ok(moments)
    }

    /// Feeds frames `0..frames` through all layers.
    fn stream(
        &self,
        layers: &[Layer<B>],
        frames: usize,
        mut upload: impl FnMut(usize) -> Result<B::Frame>,
        sink: &mut dyn FnMut(B::Frame) -> Result<()>,
    ) -> Result<()> {
        let mut memories: Vec<_> = layers.iter().map(|_| Memory::default()).collect();
        (0..frames).try_for_each(|frame| feed(&self.backend, layers, &mut memories, upload(frame)?, sink))
    }

    fn upload(&self, pixels: &[f32], window: Window, channels: usize) -> Result<B::Frame> {
        self.backend.upload(pixels, FrameSize { height: window.height, width: window.width, channels })
    }

    fn side(&self, side: Side) -> Result<&[Layer<B>]> {
        let (layers, name) = match side {
            Side::Encoder => (&self.encoder, "encoder"),
            Side::Decoder => (&self.decoder, "decoder"),
        };
        layers.as_deref().ok_or_else(|| Error::Setting {
            what: "VAE",
            found: format!("the {name} was not loaded"),
            must: "loaded with the side that is used".into(),
        })
    }

    fn expect_channels(&self, what: &'static str, clip: &Clip, expected: usize) -> Result<()> {
        if clip.channels == expected {
            return Ok(());
        }
        Err(Error::Setting { what, found: clip.channels.to_string(), must: format!("{expected} for this autoencoder") })
    }
}

/// Stops a frame with a value that is not finite.
fn finite(pixels: &[f32], place: impl Fn() -> String) -> Result<()> {
    match pixels.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::NotFinite { place: place(), fault: format!("{} at value {at}", pixels[at]) }),
    }
}

/// Stops a frame that is not finite or has one value everywhere.
fn sound(pixels: &[f32], place: impl Fn() -> String) -> Result<()> {
    finite(pixels, &place)?;
    match pixels.first() {
        Some(first) if pixels.iter().all(|value| value == first) => {
            Err(Error::NotFinite { place: place(), fault: format!("every value is {first}") })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
