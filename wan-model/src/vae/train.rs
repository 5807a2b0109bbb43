//! An autoencoder that learns: reconstruction and KL divergence over a batch of crops.
//!
//! ```text
//! z = mu + exp(logvar / 2) noise,  y = decode(z)
//! loss = l1 mean |y - x| + edges (mean |d/dh (y - x)| + mean |d/dw (y - x)|) + kl mean (mu^2 + exp(logvar) - 1 - logvar) / 2
//! ```
//!
//! It is the network of [`Vae`] on [`TapeFrames`]. Latents are those of the network, not yet normalised; [`fold_statistics`](super::fold_statistics)
//! gives them the mean and deviation that Wan's pipelines expect, inside the weights.

use super::blocks::{Layer, Memory, feed};
use super::latent::{Clip, LatentStatistics};
use super::layers::Side;
use super::{COLORS, Vae};
use crate::backend::tape::{Gradients, Parameters, TapeFrame, TapeFrames};
use crate::backend::vae::{FrameSize, VaeBackend};
use crate::checkpoint::TensorSource;
use crate::config::VaeConfig;
use crate::{Error, Result};

/// What is asked of an autoencoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VaeObjective {
    /// Weight of the mean absolute error of pixels in -1 to 1.
    pub l1: f64,
    /// Weight of the mean absolute error of differences between neighbouring lines and columns.
    pub edges: f64,
    /// Weight of the KL divergence from a standard normal, a mean over latent values.
    pub kl: f64,
    /// The encoder only answers, with its mean; the decoder learns.
    pub freezes_encoder: bool,
    /// Deviation of noise that is added to the latent of a frozen encoder, in units of the latent.
    pub latent_noise: f32,
}

/// What a step has to tell: each term before its weight.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VaeLosses {
    /// Mean absolute error.
    pub l1: f64,
    /// Mean absolute error of differences.
    pub edges: f64,
    /// KL divergence; 0 where the encoder is frozen.
    pub kl: f64,
}

/// An autoencoder with its parameters and their gradients.
pub struct TrainVae {
    vae: Vae<TapeFrames>,
}

impl std::fmt::Debug for TrainVae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainVae").field("config", &self.vae.config).finish_non_exhaustive()
    }
}

impl TrainVae {
    /// Takes both sides from `source`; all parameters learn.
    ///
    /// # Errors
    /// [`Error::Misfits`] with every tensor that is missing or does not fit.
    pub fn load(source: &dyn TensorSource, config: &VaeConfig) -> Result<Self> {
        let backend = TapeFrames::new(Parameters::read(source, &config.tensors())?);
        let statistics = LatentStatistics { mean: vec![0.0; config.z_dim], std: vec![1.0; config.z_dim] };
        Ok(Self { vae: Vae::load(backend, source, config, statistics, &[Side::Encoder, Side::Decoder])? })
    }

    /// Its widths and depths.
    pub fn config(&self) -> &VaeConfig {
        &self.vae.config
    }

    /// The parameters, to be changed between steps.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        self.vae.backend.parameters_mut()
    }

    /// Adds to the gradients what the crops, `[3, frames, height, width]` each and all of one size, have to say. `noise` gives that many
    /// standard normals: those of the latents.
    ///
    /// # Errors
    /// Crops of different sizes or of a size that the network cannot take, or a number of values from `noise` that was not asked for.
    pub fn step(&mut self, crops: &[Clip], objective: &VaeObjective, noise: &mut dyn FnMut(usize) -> Vec<f32>) -> Result<VaeLosses> {
        let batch = Crops::new(crops, &self.vae.config)?;
        let backend = &self.vae.backend;
        let encode = || batch.frames.iter().map(|frame| backend.upload(frame, batch.size)).collect::<Result<Vec<_>>>();
        let (moments, encoding) = if objective.freezes_encoder {
            (self.pass(Side::Encoder, encode()?)?, None)
        } else {
            let (moments, encoding) = backend.recorded(|| self.pass(Side::Encoder, encode()?))?;
            (moments, Some(encoding))
        };
        let latents = moments.iter().map(|moments| Latent::draw(moments, objective, noise)).collect::<Result<Vec<_>>>()?;
        let inputs = latents.iter().map(|latent| backend.variable(latent.z.clone(), latent.size)).collect::<Result<Vec<_>>>()?;
        let (frames, decoding) = backend.recorded(|| self.pass(Side::Decoder, inputs.clone()))?;

        let mut losses = VaeLosses::default();
        let mut gradients = Gradients::default();
        let share = 1.0 / batch.frames.len() as f64;
        for (frame, target) in frames.iter().zip(&batch.frames) {
            let error: Vec<f32> = frame.values().iter().zip(target).map(|(y, x)| y - x).collect();
            let mut gradient = vec![0.0; error.len()];
            losses.l1 += share * absolute_error(&error, objective.l1 * share, &mut gradient);
            losses.edges += share * edge_error(&error, batch.size, objective.edges * share, &mut gradient);
            backend.seed(&mut gradients, frame, gradient)?;
        }
        backend.backward(decoding, &mut gradients)?;
        if let Some(encoding) = encoding {
            let share = 1.0 / latents.len() as f64;
            for ((latent, input), moments) in latents.iter().zip(&inputs).zip(&moments) {
                let of_z = backend.gradient_of(&gradients, input).unwrap_or(&[]);
                let (kl, gradient) = latent.backward(moments.values(), of_z, objective.kl * share);
                losses.kl += share * kl;
                backend.seed(&mut gradients, moments, gradient)?;
            }
            backend.backward(encoding, &mut gradients)?;
        }
        Ok(losses)
    }

    /// Feeds frames through one side.
    fn pass(&self, side: Side, frames: Vec<TapeFrame>) -> Result<Vec<TapeFrame>> {
        let layers: &[Layer<TapeFrames>] = self.vae.side(side)?;
        let mut memories: Vec<_> = layers.iter().map(|_| Memory::default()).collect();
        let mut out = Vec::new();
        for frame in frames {
            feed(&self.vae.backend, layers, &mut memories, frame, &mut |frame| {
                out.push(frame);
                Ok(())
            })?;
        }
        Ok(out)
    }
}

/// Crops as the network takes them: frame by frame, all pictures of a frame together, channels last.
struct Crops {
    size: FrameSize,
    frames: Vec<Vec<f32>>,
}

impl Crops {
    fn new(crops: &[Clip], config: &VaeConfig) -> Result<Self> {
        let refused = |found: String, must: String| Error::Setting { what: "crops of a step", found, must };
        let Some(first) = crops.first() else { return Err(refused("none".to_owned(), "at least one".to_owned())) };
        let shape = first.shape();
        if let Some(other) = crops.iter().find(|crop| crop.shape() != shape) {
            return Err(refused(format!("{:?} beside {shape:?}", other.shape()), "all of one size".to_owned()));
        }
        let (space, time) = (config.spatial_factor(), config.temporal_factor());
        let [channels, frames, height, width] = shape;
        if channels != COLORS || !(frames - 1).is_multiple_of(time) || !height.is_multiple_of(space) || !width.is_multiple_of(space) {
            let must = format!("{COLORS} colours, one frame more than a multiple of {time}, sides that are multiples of {space}");
            return Err(refused(format!("{shape:?}"), must));
        }
        let frame = |frame| crops.iter().flat_map(|crop| crop.pixels(frame, crop.window())).collect();
        Ok(Self { size: FrameSize { height, width, channels }, frames: (0..frames).map(frame).collect() })
    }
}

/// A latent frame that was drawn.
struct Latent {
    size: FrameSize,
    z: Vec<f32>,
    noise: Vec<f32>,
}

impl Latent {
    fn draw(moments: &TapeFrame, objective: &VaeObjective, noise: &mut dyn FnMut(usize) -> Vec<f32>) -> Result<Self> {
        let size = FrameSize { channels: moments.size().channels / 2, ..moments.size() };
        let count = moments.values().len() / 2;
        let noise = noise(count);
        turbowan_cuda::Error::expect_len("latent noise", &noise, count)?;
        let mut z = Vec::with_capacity(count);
        for (pixel, noise) in moments.values().chunks_exact(2 * size.channels).zip(noise.chunks_exact(size.channels)) {
            let (mean, log_variance) = pixel.split_at(size.channels);
            z.extend(mean.iter().zip(log_variance).zip(noise).map(|((mean, log_variance), noise)| {
                let deviation = if objective.freezes_encoder { objective.latent_noise } else { (0.5 * clamped(*log_variance)).exp() };
                mean + deviation * noise
            }));
        }
        Ok(Self { size, z, noise })
    }

    /// The mean KL divergence, and the gradient with respect to the moments for that of `z` and `weight` times the divergence.
    fn backward(&self, moments: &[f32], of_z: &[f32], weight: f64) -> (f64, Vec<f32>) {
        let channels = self.size.channels;
        let count = self.noise.len() as f64;
        let (mut total, mut gradient) = (0.0, vec![0.0; moments.len()]);
        let weight = (weight / count) as f32;
        for (index, (moments, gradient)) in moments.chunks_exact(2 * channels).zip(gradient.chunks_exact_mut(2 * channels)).enumerate() {
            for c in 0..channels {
                let (mean, log_variance) = (moments[c], clamped(moments[channels + c]));
                let (noise, of_z) = (self.noise[index * channels + c], of_z.get(index * channels + c).copied().unwrap_or(0.0));
                let variance = log_variance.exp();
                total += 0.5 * f64::from(mean * mean + variance - 1.0 - log_variance);
                gradient[c] = of_z + weight * mean;
                // outside the clamp the variance no longer moves
                if log_variance == moments[channels + c] {
                    gradient[channels + c] = of_z * noise * 0.5 * variance.sqrt() + 0.5 * weight * (variance - 1.0);
                }
            }
        }
        (total / count, gradient)
    }
}

/// The logarithm of a variance, kept where its exponential is a number to compute with.
fn clamped(log_variance: f32) -> f32 {
    log_variance.clamp(-30.0, 20.0)
}

/// The mean absolute value; adds `weight` times its gradient.
fn absolute_error(error: &[f32], weight: f64, gradient: &mut [f32]) -> f64 {
    let slope = (weight / error.len() as f64) as f32;
    let mut total = 0.0;
    for (error, gradient) in error.iter().zip(gradient) {
        total += f64::from(error.abs());
        *gradient += slope * sign(*error);
    }
    total / error.len() as f64
}

/// The mean absolute difference between neighbours, down plus across; adds `weight` times its gradient.
fn edge_error(error: &[f32], size: FrameSize, weight: f64, gradient: &mut [f32]) -> f64 {
    let line = size.width * size.channels;
    let images = error.len() / size.values();
    let pairs = [images * (size.height - 1) * line, images * size.height * (line - size.channels)];
    let mut totals = [0.0; 2];
    for image in 0..images {
        for y in 0..size.height {
            let start = image * size.values() + y * line;
            for at in start..start + line {
                for (axis, step, inside) in [(0, line, y + 1 < size.height), (1, size.channels, at + size.channels < start + line)] {
                    if inside {
                        let difference = error[at + step] - error[at];
                        let slope = (weight / pairs[axis] as f64) as f32 * sign(difference);
                        totals[axis] += f64::from(difference.abs());
                        gradient[at + step] += slope;
                        gradient[at] -= slope;
                    }
                }
            }
        }
    }
    totals.iter().zip(pairs).map(|(total, pairs)| total / pairs.max(1) as f64).sum()
}

/// -1, 0 or 1.
fn sign(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0f32.copysign(value) }
}
