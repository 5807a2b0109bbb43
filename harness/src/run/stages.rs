//! The stages of a run, one after another, each with the networks that it needs and no others.

use std::path::Path;

use turbowan_rcm::{Expert, FewStep, Guidance, NoiseKind, NoiseSource, Sampler, Schedule, Solver, Teacher};
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::backend::device::vae::DeviceFrames;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::text::TextBackend;
use turbowan_wan_model::backend::vae::VaeBackend;
use turbowan_wan_model::backend::{Backend, NormRule};
use turbowan_wan_model::checkpoint::TensorSource;
use turbowan_wan_model::config::TextConfig;
use turbowan_wan_model::dit::{DitOptions, Grid};
use turbowan_wan_model::image::RgbImage;
use turbowan_wan_model::pipeline::sampling::Border;
use turbowan_wan_model::pipeline::{Conditions, Event, Sampling, Snapshot, WanNetwork, Watch};
use turbowan_wan_model::resolution::{FrameCount, FrameSize, LatentShape};
use turbowan_wan_model::text::{StateKey, TextEncoder, TextStates, clean_prompt};
use turbowan_wan_model::vae::Side;

use crate::error::Error;
use crate::progress::Progress;
use crate::request::{FileRef, Precision, Request, SamplerChoice};
use crate::run::autoencoder::Autoencoder;
use crate::run::processor::Processor;
use crate::run::store::FolderStore;
use crate::run::watch::{Follow, check_stop};
use crate::video::{FrameRate, Frames};

/// A request's stages.
pub struct Stages<'a> {
    request: &'a Request,
    progress: &'a Progress,
    host: Host,
    processor: Processor,
}

impl<'a> Stages<'a> {
    /// The stages of `request`, on the host.
    pub fn new(request: &'a Request, progress: &'a Progress) -> Self {
        Self { request, progress, host: Host { rounding: request.precision.rounding() }, processor: Processor::Host }
    }

    /// The same with networks that work there.
    #[must_use]
    pub fn on(self, processor: &Processor) -> Self {
        Self { processor: processor.clone(), ..self }
    }

    /// The shape of one sample's latent.
    ///
    /// # Errors
    /// A size or a number of frames that cannot be.
    pub fn latent(&self) -> Result<LatentShape, Error> {
        let size = FrameSize::new(self.request.width, self.request.height)?;
        Ok(size.latent(FrameCount::new(self.request.num_frames)?))
    }

    /// Values of all samples' latents.
    pub fn latent_values(&self) -> usize {
        self.latent().map_or(0, |shape| shape.values()) * self.request.num_samples
    }

    /// The sampler with its times.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn sampling(&self) -> Result<Sampling, Error> {
        let request = self.request;
        let model = turbowan_wan_model::Error::from;
        let guided = |solver, guidance, shift| -> Result<Sampling, Error> {
            let run = Teacher::new(solver, request.num_steps, request.sigma_max, shift, Guidance::uniform(guidance)).map_err(model)?;
            let run = match request.boundary {
                Some(boundary) => run.with_boundary(boundary).map_err(model)?,
                None => run,
            };
            Ok(Sampling::Teacher(run))
        };
        match request.sampler {
            SamplerChoice::Rcm { ode } => {
                let kind = if ode { Sampler::Ode } else { Sampler::Sde };
                let run = FewStep::new(Schedule::few_step(request.sigma_max, request.num_steps).map_err(model)?, kind);
                Ok(Sampling::FewStep(match request.boundary {
                    Some(boundary) => run.with_boundary(boundary).map_err(model)?,
                    None => run,
                }))
            }
            SamplerChoice::Euler { guidance, shift } => guided(Solver::Euler, guidance, shift),
            SamplerChoice::Unipc { guidance, shift } => guided(Solver::UniPc, guidance, shift),
        }
    }

    /// The noise before its first draw.
    ///
    /// # Errors
    /// An unknown generator, or a file without recorded noise.
    pub fn noise(&self) -> Result<NoiseSource, Error> {
        match self.request.rng.strip_prefix("file:") {
            Some(path) => recorded_noise(Path::new(path)),
            None => {
                let kind: NoiseKind = self.request.rng.parse().map_err(turbowan_wan_model::Error::from)?;
                Ok(NoiseSource::seeded(kind, self.request.seed))
            }
        }
    }

    /// What the network is told beside the latent: prompt, negative prompt, image.
    ///
    /// # Errors
    /// A network or an image that cannot be used.
    pub fn conditions(&self, cache: Option<&Path>, is_guided: bool, follow: &mut Follow<'_>) -> Result<Conditions, Error> {
        let text_len = self.request.models.dit(self.request.mode, Expert::High)?.config.text_len;
        follow.stage("text", None);
        let prompt = self.text(&self.request.prompt, text_len, cache)?;
        let negative = if is_guided { Some(self.text(&self.request.negative_prompt, text_len, cache)?) } else { None };
        follow.end_stage();
        let image = match &self.request.image {
            Some(image) => Some(self.image(image, follow)?),
            None => None,
        };
        let clip = match &self.request.clip {
            Some(file) => Some(only_tensor(&file.path, "clip_fea")?.1),
            None => None,
        };
        Ok(Conditions { prompt, negative, image, clip })
    }

    fn text(&self, prompt: &str, text_len: usize, cache: Option<&Path>) -> Result<Vec<f32>, Error> {
        let models = &self.request.models;
        let cleaned = clean_prompt(prompt);
        // A device's states differ in the last bits from the host's, whose key has no name.
        let identity = match &self.processor {
            Processor::Host => models.text_identity(),
            device => format!("{} on {}", models.text_identity(), device.name()),
        };
        let key = StateKey { model: &identity, rounding: self.host.rounding, text_len, prompt: &cleaned };
        let states_of = || -> Result<_, Error> {
            let tokens = models.tokenizer()?.encode(&cleaned, text_len)?;
            if let Some(cut) = &tokens.cut {
                self.progress.note(cut.to_string());
            }
            let (source, config) = models.text()?;
            match &self.processor {
                Processor::Host => encode(&self.host, &source, &config, &tokens.ids),
                Processor::Device(device) => encode(&DeviceBackend::load(device)?, &source, &config, &tokens.ids),
            }
        };
        let states = match cache {
            Some(folder) => key.kept_or(&FolderStore(folder.to_owned()), states_of)?.0,
            None => states_of()?,
        };
        Ok(states.padded(text_len))
    }

    fn image(&self, image: &FileRef, follow: &mut Follow<'_>) -> Result<Vec<f32>, Error> {
        let (width, height, frames) = (self.request.width, self.request.height, self.request.num_frames);
        let bytes = std::fs::read(&image.path).map_err(|source| Error::Read { path: image.path.clone(), source })?;
        let picture = RgbImage::decode(&bytes).map_err(|error| Error::broken(&image.path, error))?;
        let size = FrameSize::new(width, height)?;
        follow.stage("image", Some(frames as u64));
        let (first, frames) = (picture.frame(size), FrameCount::new(frames)?);
        let each = &mut |done, of| follow.event(Event::Frames { done, of });
        let (files, sides) = (self.request.models.vae()?, [Side::Encoder]);
        let condition = match &self.processor {
            Processor::Host => Autoencoder::load(&files, self.host.rounding, &sides)?.condition(&first, size, frames, each)?,
            Processor::Device(device) => {
                Autoencoder::load_on(DeviceFrames::load(device)?, &files, &sides)?.condition(&first, size, frames, each)?
            }
        };
        follow.end_stage();
        Ok(condition)
    }

    /// Runs the steps that are left.
    ///
    /// # Errors
    /// A network that cannot be used, a value that is not finite, or a stop.
    pub fn denoise(
        &self,
        from: Snapshot,
        sampling: &Sampling,
        noise: &mut NoiseSource,
        conditions: &Conditions,
        follow: &mut Follow<'_>,
    ) -> Result<Snapshot, Error> {
        match &self.processor {
            Processor::Host => self.denoise_on(&self.host, from, sampling, noise, conditions, follow),
            Processor::Device(device) => self.denoise_on(&DeviceBackend::load(device)?, from, sampling, noise, conditions, follow),
        }
    }

    fn denoise_on<B: Backend>(
        &self,
        backend: &B,
        from: Snapshot,
        sampling: &Sampling,
        noise: &mut NoiseSource,
        conditions: &Conditions,
        follow: &mut Follow<'_>,
    ) -> Result<Snapshot, Error> {
        let request = self.request;
        let layers = request.models.dit(request.mode, Expert::High)?.config.layers;
        follow.stage("denoise", Some((sampling.steps() * layers) as u64));
        let shape = self.latent()?;
        let grid = Grid { frames: shape.frames, height: shape.height, width: shape.width };
        let options = self.dit_options()?;
        let open = |expert| {
            let dit = request.models.dit(request.mode, expert).map_err(into_model)?;
            dit.load(backend, options)
        };
        let network = WanNetwork::new(backend, Box::new(open), conditions, grid, request.num_samples, follow);
        let done = sampling.finish(from, network, self.border(), noise)?;
        follow.end_stage();
        Ok(done)
    }

    /// The arithmetic between sampler and network.
    pub fn border(&self) -> Border {
        match self.request.precision {
            Precision::Bf16 => Border::OFFICIAL,
            Precision::F32 => Border::EXACT,
        }
    }

    /// What is chosen when the transformer is loaded.
    ///
    /// # Errors
    /// A share of key blocks that is none.
    pub fn dit_options(&self) -> Result<DitOptions, Error> {
        // In f32 throughout, the operation's inside is f32 too.
        let attention = self.request.attention.with(self.host.rounding)?;
        let norms = if self.request.default_norm { NormRule::Standard } else { NormRule::Fast };
        Ok(DitOptions { attention, norms, quantise: self.request.quant_linear })
    }

    /// Frames of every sample's latent.
    ///
    /// # Errors
    /// An autoencoder that cannot be used, frames that are not finite or flat, or a stop.
    pub fn decode(&self, latents: &[f64], follow: &mut Follow<'_>) -> Result<Vec<Frames>, Error> {
        let (files, sides) = (self.request.models.vae()?, [Side::Decoder]);
        match &self.processor {
            Processor::Host => self.decode_on(|| Autoencoder::load(&files, self.host.rounding, &sides), latents, follow),
            Processor::Device(device) => {
                self.decode_on(|| Autoencoder::load_on(DeviceFrames::load(device)?, &files, &sides), latents, follow)
            }
        }
    }

    fn decode_on<B: VaeBackend>(
        &self,
        load: impl FnOnce() -> Result<Autoencoder<B>, Error>,
        latents: &[f64],
        follow: &mut Follow<'_>,
    ) -> Result<Vec<Frames>, Error> {
        let request = self.request;
        let (width, height, shape) = (request.width, request.height, self.latent()?);
        follow.stage("decode", Some((request.num_frames * request.num_samples) as u64));
        let autoencoder = load()?;
        if autoencoder.tiles(shape) {
            self.progress.note(format!("frames of {width}x{height} are decoded in tiles"));
        }
        let rate = FrameRate::new(request.fps, 1)?;
        let of = request.num_frames * request.num_samples;
        let mut videos = Vec::new();
        for latent in latents.chunks_exact(shape.values()) {
            let before = videos.len() * request.num_frames;
            let mut each = |index| follow.event(Event::Frames { done: before + index + 1, of });
            videos.push(autoencoder.decode(latent, shape, rate, &mut each)?);
        }
        follow.end_stage();
        Ok(videos)
    }
}

/// States of a prompt's tokens.
fn encode<B: TextBackend>(backend: &B, source: &dyn TensorSource, config: &TextConfig, ids: &[u32]) -> Result<TextStates, Error> {
    let encoder = TextEncoder::load(backend, source, config)?;
    Ok(encoder.encode(backend, ids, &mut |_, _| check_stop())?)
}

/// Recorded draws, `[draws, ...]`.
fn recorded_noise(path: &Path) -> Result<NoiseSource, Error> {
    let (shape, values) = only_tensor(path, "noise")?;
    let draws = shape.first().copied().filter(|draws| *draws > 0 && !values.is_empty());
    let draws = draws.ok_or_else(|| Error::broken(path, "recorded noise must have the shape [draws, ...]"))?;
    Ok(NoiseSource::recorded(values.chunks(values.len().div_ceil(draws)).map(<[f32]>::to_vec).collect()))
}

/// Shape and values of the f32 tensor `name`, or of the only one, of a .safetensors file.
fn only_tensor(path: &Path, name: &str) -> Result<(Vec<usize>, Vec<f32>), Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| Error::broken(path, error))?;
    let tensors = file.tensors();
    let found = tensors.iter().find(|(known, _)| known == name).or_else(|| tensors.first().filter(|_| tensors.len() == 1));
    match found {
        Some((_, view)) if view.dtype() == safetensors::Dtype::F32 => {
            let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Ok((view.shape().to_vec(), values))
        }
        _ => Err(Error::broken(path, format!("expected one f32 tensor, or one called {name:?}"))),
    }
}

/// An error of ours inside a closure that must return the models'.
fn into_model(error: Error) -> turbowan_wan_model::Error {
    match error {
        Error::Model(error) => error,
        other => turbowan_wan_model::Error::Format { path: "model".into(), reason: other.to_string() },
    }
}
