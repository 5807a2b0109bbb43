//! The autoencoder of a run, loaded: a first frame to what the network is told, clips to latents, latents to frames.

use turbowan_cuda::Rounding;
use turbowan_wan_model::Result as ModelResult;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::vae::VaeBackend;
use turbowan_wan_model::checkpoint::Checkpoint;
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::image::conditioning;
use turbowan_wan_model::resolution::{CELL, FrameCount, FrameSize, LATENT_CHANNELS, LatentShape};
use turbowan_wan_model::vae::{COLORS, Clip, LatentStatistics, Progress, Side, Tiling, Vae, to_bytes};

use crate::error::Error;
use crate::run::watch::check_stop;
use crate::video::{FrameRate, Frames};

/// Memory that decoding may take before it works in tiles; the same on every machine, for tiles change the bytes.
const DECODE_BUDGET: usize = 6 << 30;
/// Pixels of a frame above which it is encoded in tiles.
const WHOLE_FRAME: usize = 1280 * 720;

/// How a latent of `[frames, height, width]` positions is decoded.
pub fn decode_tiling(config: &VaeConfig, latent: [usize; 3]) -> Tiling {
    config.tiling_within(latent, DECODE_BUDGET)
}

/// How frames of `width x height` pixels are encoded.
pub fn encode_tiling(width: usize, height: usize) -> Tiling {
    if width * height > WHOLE_FRAME { Tiling::LARGE } else { Tiling::Whole }
}

/// A loaded autoencoder.
pub struct Autoencoder<B: VaeBackend = HostFrames> {
    vae: Vae<B>,
}

impl Autoencoder {
    /// Loads one side, or both, on the host.
    ///
    /// # Errors
    /// A tensor that the backend cannot take.
    pub fn load(files: &(Checkpoint, VaeConfig), rounding: Rounding, sides: &[Side]) -> Result<Self, Error> {
        Self::load_on(HostFrames::new(rounding), files, sides)
    }
}

impl<B: VaeBackend> Autoencoder<B> {
    /// Loads one side, or both.
    ///
    /// # Errors
    /// A tensor that the backend cannot take.
    pub fn load_on(backend: B, (source, config): &(Checkpoint, VaeConfig), sides: &[Side]) -> Result<Self, Error> {
        let statistics = LatentStatistics::of_channels(config.z_dim);
        Ok(Self { vae: Vae::load(backend, source, config, statistics, sides)? })
    }

    /// Whether latents of this shape are decoded in tiles.
    pub fn tiles(&self, shape: LatentShape) -> bool {
        self.decode_tiling(shape) != Tiling::Whole
    }

    fn decode_tiling(&self, shape: LatentShape) -> Tiling {
        decode_tiling(self.vae.config(), [shape.frames, shape.height, shape.width])
    }

    /// Frames of a latent; `each` hears the number of every one, from 0, and may stop the work.
    ///
    /// # Errors
    /// Frames that are not finite or flat, or a stop.
    pub fn decode(
        &self,
        latent: &[f64],
        shape: LatentShape,
        rate: FrameRate,
        each: &mut dyn FnMut(usize) -> ModelResult<()>,
    ) -> Result<Frames, Error> {
        let latent = latent.iter().map(|value| *value as f32).collect();
        self.decode_clip(&Clip::new([LATENT_CHANNELS, shape.frames, shape.height, shape.width], latent)?, shape, rate, each)
    }

    fn decode_clip(
        &self,
        latent: &Clip,
        shape: LatentShape,
        rate: FrameRate,
        each: &mut dyn FnMut(usize) -> ModelResult<()>,
    ) -> Result<Frames, Error> {
        let mut rgb = Vec::new();
        self.vae.decode(latent, self.decode_tiling(shape), &mut |progress| {
            if let Progress::Frame { pixels, index, .. } = progress {
                rgb.extend(to_bytes(pixels));
                each(index)?;
            }
            check_stop()
        })?;
        Ok(Frames::new(shape.width * CELL, shape.height * CELL, rate, rgb)?)
    }

    /// What an image-to-video network is told of a first frame `[3, height, width]` in `[-1, 1]`: `[20, T, H, W]`.
    ///
    /// # Errors
    /// A frame of another size, a latent that is not finite, or what `each` returns, which hears frames done and frames in all.
    pub fn condition(
        &self,
        first: &[f32],
        size: FrameSize,
        frames: FrameCount,
        each: &mut dyn FnMut(usize, usize) -> ModelResult<()>,
    ) -> Result<Vec<f32>, Error> {
        let (plane, count) = (size.width() * size.height(), frames.get());
        // The rest of the clip is grey: value 0.
        let mut clip = vec![0.0; COLORS * count * plane];
        for (to, from) in clip.chunks_exact_mut(count * plane).zip(first.chunks_exact(plane)) {
            to[..plane].copy_from_slice(from);
        }
        let clip = Clip::new([COLORS, count, size.height(), size.width()], clip)?;
        let latent = self.encode(&clip, each)?;
        let shape = size.latent(frames);
        let misfit = || turbowan_wan_model::Error::Setting {
            what: "encoded first frame",
            found: format!("{:?}", latent.shape()),
            must: format!("{:?}, the shape of the latent", shape.dims()),
        };
        Ok(conditioning(&latent.values, shape).ok_or_else(misfit)?)
    }

    /// A clip through encoder and decoder.
    ///
    /// # Errors
    /// A clip whose sides are no multiples of 16 or whose frames are not `4 n + 1`, values that are not finite, or a stop.
    pub fn reconstruct(&self, clip: &Clip, rate: FrameRate) -> Result<Frames, Error> {
        let shape = FrameSize::new(clip.width, clip.height)?.latent(FrameCount::new(clip.frames)?);
        let latent = self.encode(clip, &mut |_, _| check_stop())?;
        self.decode_clip(&latent, shape, rate, &mut |_| Ok(()))
    }

    fn encode(&self, clip: &Clip, each: &mut dyn FnMut(usize, usize) -> ModelResult<()>) -> Result<Clip, Error> {
        Ok(self.vae.encode(clip, encode_tiling(clip.width, clip.height), &mut |progress| match progress {
            Progress::Passed { done, of } => each(done, of),
            Progress::Frame { .. } => Ok(()),
        })?)
    }
}
