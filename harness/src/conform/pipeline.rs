//! `pipeline`: prompt and image to frames, everything together, in the real checkpoint layout with recorded noise.

use std::path::PathBuf;

use serde_json::Value;
use turbowan_cuda::Rounding;
use turbowan_cuda::device::Device;
use turbowan_rcm::{Expert, FewStep, LatentRounding, NoiseSource, Sampler, Schedule, TimeRounding};
use turbowan_reference::metrics::Bound;
use turbowan_sla::{Density, FeatureMap};
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::backend::device::vae::DeviceFrames;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::text::TextBackend;
use turbowan_wan_model::backend::vae::VaeBackend;
use turbowan_wan_model::checkpoint::{Checkpoint, Kind};
use turbowan_wan_model::config::{DitConfig, TextConfig, VaeConfig};
use turbowan_wan_model::dit::Grid;
use turbowan_wan_model::image::{RgbImage, conditioning};
use turbowan_wan_model::pipeline::sampling::Border;
use turbowan_wan_model::pipeline::{Conditions, Sampling, Unwatched, WanNetwork};
use turbowan_wan_model::resolution::{CELL, FrameCount, FrameSize, LatentShape};
use turbowan_wan_model::text::{PromptTokenizer, TextEncoder, clean_prompt};
use turbowan_wan_model::vae::{COLORS, Clip, LatentStatistics, Side, Tiling, Vae, to_bytes};

use super::{Error, Fixture, Rows, Tensors, dit, frames};
use crate::run::processor::Processor;

/// A fixture with its checkpoints found.
struct Recording<'a> {
    fixture: &'a Fixture,
    io: Tensors,
    files: PathBuf,
    dit: DitConfig,
    size: FrameSize,
    frames: usize,
}

/// One recorded run: `t2v.sla.bf16` and its settings.
struct RecordedRun<'a> {
    name: &'a str,
    settings: &'a Value,
    is_i2v: bool,
    attention: &'a str,
    rounding: Rounding,
    border: Border,
    size: FrameSize,
    shape: LatentShape,
    samples: usize,
}

/// Where the networks of a run work.
struct Machine<'a, B, V> {
    /// Text encoder and transformer.
    backend: B,
    /// The autoencoder's, one for each side.
    frames: Box<dyn Fn() -> turbowan_wan_model::Result<V> + 'a>,
}

impl Machine<'_, Host, HostFrames> {
    fn host(rounding: Rounding) -> Self {
        Self { backend: Host { rounding }, frames: Box::new(move || Ok(HostFrames::new(rounding))) }
    }
}

impl<'a> Machine<'a, DeviceBackend, DeviceFrames> {
    fn device(device: &'a Device) -> Result<Self, Error> {
        let backend = DeviceBackend::load(device).map_err(Error::model)?;
        Ok(Self { backend, frames: Box::new(|| DeviceFrames::load(device)) })
    }
}

/// Replays every run of the fixture.
pub(super) fn replay(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let recording = Recording::open(fixture)?;
    recording.prompt(processor, rows)?;
    let runs = fixture.meta["runs"].as_object().ok_or_else(|| fixture.broken("no \"runs\""))?;
    for (name, settings) in runs.iter().filter(|(_, settings)| settings.is_object()) {
        let run = RecordedRun::of(&recording, name, settings)?;
        match processor {
            Processor::Host => recording.run(&Machine::host(run.rounding), &run, rows)?,
            Processor::Device(_) if run.rounding == Rounding::None => rows.skip(run.name, dit::F32_ALONE),
            Processor::Device(device) => recording.run(&Machine::device(device)?, &run, rows)?,
        }
    }
    Ok(())
}

impl<'a> RecordedRun<'a> {
    fn of(recording: &Recording<'_>, name: &'a str, settings: &'a Value) -> Result<Self, Error> {
        let fixture = recording.fixture;
        let [mode, attention, arithmetic] = name.split('.').collect::<Vec<_>>()[..] else {
            return Err(fixture.broken(format!("run {name:?} is not named mode.attention.arithmetic")));
        };
        let (rounding, border) = match arithmetic {
            "f32" => (Rounding::None, Border::EXACT),
            "f32_tbf16" => (Rounding::None, Border { latent: LatentRounding::F32, time: TimeRounding::Bf16 }),
            "bf16" => (Rounding::Bf16, Border::OFFICIAL),
            other => return Err(fixture.broken(format!("run {name:?}: unknown arithmetic {other:?}"))),
        };
        // the image may have set the size
        let count = |axis: usize| settings["latent"][axis].as_u64().map(|n| n as usize);
        let size = match (count(4), count(3)) {
            (Some(width), Some(height)) => FrameSize::new(width * CELL, height * CELL).map_err(Error::model)?,
            _ => recording.size,
        };
        let shape = size.latent(FrameCount::new(recording.frames).map_err(Error::model)?);
        let (is_i2v, samples) = (mode == "i2v", count(0).unwrap_or(1).max(1));
        Ok(Self { name, settings, is_i2v, attention, rounding, border, size, shape, samples })
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.settings[key].as_f64()
    }
}

impl<'a> Recording<'a> {
    fn open(fixture: &'a Fixture) -> Result<Self, Error> {
        let io = fixture.tensors("io.safetensors")?;
        let count = |pointer: &str| fixture.count(pointer);
        let size = FrameSize::new(count("/resolution/width")?, count("/resolution/height")?).map_err(Error::model)?;
        let frames = count("/num_frames")?;
        let mut stated = fixture.meta["dit_config"].clone();
        stated["in_dim"] = fixture.meta["dit_config"]["t2v_in_dim"].clone();
        stated["num_layers"] = fixture.meta["dit_config"]["t2v_layers"].clone();
        let dit = dit::config(fixture, &stated)?;
        Ok(Self { fixture, io, files: fixture.dir.join("checkpoints"), dit, size, frames })
    }

    fn text_states(&self, backend: &impl TextBackend) -> Result<(Vec<u32>, Vec<f32>), Error> {
        let prompt = self.fixture.meta["prompt"].as_str().ok_or_else(|| self.fixture.broken("no prompt"))?;
        let tokenizer = PromptTokenizer::open(&self.files.join("google/umt5-xxl/tokenizer.json")).map_err(Error::model)?;
        let tokens = tokenizer.encode(&clean_prompt(prompt), self.dit.text_len).map_err(Error::model)?;
        let checkpoint = Checkpoint::open(self.find("models_t5")?).map_err(Error::model)?;
        let config = match checkpoint.kind(None).map_err(Error::model)? {
            Kind::Text(config) => TextConfig { heads: self.fixture.count("/t5_config/num_heads").unwrap_or(config.heads), ..config },
            _ => return Err(self.fixture.broken("the text encoder's file holds none")),
        };
        let encoder = TextEncoder::load(backend, &checkpoint, &config).map_err(Error::model)?;
        let states = encoder.encode(backend, &tokens.ids, &mut |_, _| Ok(())).map_err(Error::model)?;
        Ok((tokens.ids, states.values))
    }

    /// The prompt's ids and states.
    fn prompt(&self, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
        let want: Vec<i64> = self.fixture.meta["prompt_ids"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
        for (name, rounding) in [("context.f32", Rounding::None), ("context.bf16", Rounding::Bf16)] {
            if !self.io.has(name) {
                continue;
            }
            let (ids, states) = match processor {
                Processor::Host => self.text_states(&Host { rounding })?,
                Processor::Device(_) if rounding == Rounding::None => {
                    rows.skip(name, dit::F32_ALONE);
                    continue;
                }
                Processor::Device(device) => self.text_states(&DeviceBackend::load(device).map_err(Error::model)?)?,
            };
            let bound = match rounding {
                Rounding::None => Bound::max_abs(self.fixture.number("/tolerance/context_max_abs")?),
                Rounding::Bf16 => Bound::relative_l2(self.fixture.number("/tolerance/bf16_latent_rel_l2")?),
            };
            rows.compare(name, &states, &self.io.f32(name)?, bound);
            if rounding == Rounding::None {
                rows.integers("prompt ids", &ids.into_iter().map(i64::from).collect::<Vec<_>>(), &want, 0.0);
            }
        }
        Ok(())
    }

    /// The checkpoint whose name holds `part`; `.pth` where both formats are there.
    fn find(&self, part: &str) -> Result<PathBuf, Error> {
        let entries = std::fs::read_dir(&self.files).map_err(|source| Error::Io { path: self.files.clone(), source })?;
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)));
        found.sort();
        found.into_iter().next().ok_or_else(|| self.fixture.broken(format!("no checkpoint with {part:?} in its name")))
    }

    fn vae<B, V: VaeBackend>(&self, machine: &Machine<'_, B, V>, side: Side) -> Result<Vae<V>, Error> {
        let checkpoint = Checkpoint::open(self.find("VAE")?).map_err(Error::model)?;
        let config = match checkpoint.kind(None).map_err(Error::model)? {
            Kind::Vae(config) => config,
            _ => VaeConfig::of_width(self.fixture.count("/vae_dim")?),
        };
        let statistics = LatentStatistics::of_channels(config.z_dim);
        let frames = (machine.frames)().map_err(Error::model)?;
        Vae::load(frames, &checkpoint, &config, statistics, &[side]).map_err(Error::model)
    }

    fn attention(&self, run: &RecordedRun<'_>) -> Result<Attention, Error> {
        if run.attention == "original" {
            return Ok(Attention::Original);
        }
        let share = self.fixture.number("/sla/topk")?;
        let density = Density::new(share).ok_or_else(|| self.fixture.broken(format!("{share} is no density")))?;
        let (block_q, block_k) = (self.fixture.count("/sla/BLKQ")?, self.fixture.count("/sla/BLKK")?);
        let sparsity = Sparsity { density, block_q, block_k, features: FeatureMap::Softmax, inner: run.rounding };
        match run.attention {
            "sla" => Ok(Attention::Sla(sparsity)),
            "sagesla" => Ok(Attention::SageSla(sparsity)),
            other => Err(self.fixture.broken(format!("run {}: unknown attention {other:?}", run.name))),
        }
    }

    fn conditions<B: TextBackend, V: VaeBackend>(
        &self,
        machine: &Machine<'_, B, V>,
        run: &RecordedRun<'_>,
        rows: &mut Rows,
    ) -> Result<Conditions, Error> {
        let (_, mut prompt) = self.text_states(&machine.backend)?;
        prompt.resize(self.dit.text_len * self.dit.text_dim, 0.0);
        let mut conditions = Conditions { prompt, ..Conditions::default() };
        if run.is_i2v {
            let path = self.fixture.dir.join("input.png");
            let bytes = std::fs::read(&path).map_err(|source| Error::Io { path, source })?;
            let image = RgbImage::decode(&bytes).map_err(Error::model)?;
            if run.settings["adaptive_resolution"].as_bool() == Some(true) {
                let ours = FrameSize::adaptive(self.size, image.width(), image.height()).map_err(Error::model)?;
                rows.fact(format!("{} adaptive size", run.name), ours == run.size, format!("{ours}, recorded {}", run.size));
            }
            let first = image.frame(run.size);
            let (width, height) = (run.size.width(), run.size.height());
            let mut video = vec![0.0; COLORS * self.frames * width * height];
            for (to, from) in video.chunks_exact_mut(self.frames * width * height).zip(first.chunks_exact(width * height)) {
                to[..from.len()].copy_from_slice(from);
            }
            let clip = Clip::new([COLORS, self.frames, height, width], video).map_err(Error::model)?;
            let latent = self.vae(machine, Side::Encoder)?.encode(&clip, Tiling::Whole, &mut |_| Ok(())).map_err(Error::model)?;
            let y = conditioning(&latent.values, run.shape).ok_or_else(|| self.fixture.broken("the image's latent has another size"))?;
            let bound = self.latent_bound(run)?;
            for (name, got) in [("i2v.encoded_latents", &latent.values), ("i2v.y", &y)] {
                if !self.io.has(name) {
                    continue;
                }
                // one tensor for all runs, of one size; stated once or for every sample
                let recorded = self.io.shape(name)?;
                if recorded[recorded.len().saturating_sub(3)..] == run.shape.dims()[1..] {
                    let every = got.repeat(recorded[0]);
                    rows.compare(format!("{} {name}", run.name), &every, &self.io.f32(name)?, bound);
                }
            }
            conditions.image = Some(y);
        }
        Ok(conditions)
    }

    fn latent_bound(&self, run: &RecordedRun<'_>) -> Result<Bound, Error> {
        let key = if run.rounding == Rounding::Bf16 { "/tolerance/bf16_latent_rel_l2" } else { "/tolerance/f32_latent_rel_l2" };
        Ok(Bound::relative_l2(self.fixture.number(key)?))
    }

    fn run<B: TextBackend, V: VaeBackend>(&self, machine: &Machine<'_, B, V>, run: &RecordedRun<'_>, rows: &mut Rows) -> Result<(), Error> {
        let conditions = self.conditions(machine, run, rows)?;
        let (sampling, mut noise) = self.sampling(run)?;
        let attention = self.attention(run)?;
        let open = |expert| {
            let name = match (run.is_i2v, expert) {
                (false, _) => "T2V",
                (true, Expert::High) => "high",
                (true, Expert::Low) => "low",
            };
            let path = self.find(name).map_err(in_model)?;
            let layers = if run.is_i2v { "/dit_config/i2v_layers" } else { "/dit_config/t2v_layers" };
            let in_dim = if run.is_i2v { "/dit_config/i2v_in_dim" } else { "/dit_config/t2v_in_dim" };
            let count = |pointer: &str, or| self.fixture.count(pointer).unwrap_or(or);
            let config = DitConfig { layers: count(layers, self.dit.layers), in_dim: count(in_dim, self.dit.in_dim), ..self.dit.clone() };
            dit::load(&machine.backend, &path, &config, attention, NormRule::Standard).map_err(in_model)
        };
        let grid = Grid { frames: run.shape.frames, height: run.shape.height, width: run.shape.width };
        let samples = run.samples;
        let start = sampling.start(run.shape.values() * samples, &mut noise).map_err(Error::model)?;
        let mut unwatched = Unwatched;
        let network = WanNetwork::new(&machine.backend, Box::new(open), &conditions, grid, samples, &mut unwatched);
        let done = sampling.finish(start, network, run.border, &mut noise).map_err(Error::model)?;
        let latent: Vec<f32> = done.latent.iter().map(|value| *value as f32).collect();
        let name = format!("{}.samples", run.name);
        rows.compare(&name, &latent, &self.io.f32(&name)?, self.latent_bound(run)?);
        self.frames_of(machine, run, &latent, rows)
    }

    fn sampling(&self, run: &RecordedRun<'_>) -> Result<(Sampling, NoiseSource), Error> {
        let missing = |key: &str| self.fixture.broken(format!("run {}: no {key}", run.name));
        let steps = run.settings["steps"].as_u64().ok_or_else(|| missing("steps"))? as usize;
        let sigma = run.number("sigma_max").ok_or_else(|| missing("sigma_max"))?;
        let kind = if run.settings["ode"].as_bool() == Some(true) { Sampler::Ode } else { Sampler::Sde };
        let mut few = FewStep::new(Schedule::few_step(sigma, steps).map_err(Error::model)?, kind);
        if let Some(boundary) = run.number("boundary") {
            few = few.with_boundary(boundary).map_err(Error::model)?;
        }
        let key = run.settings["noise_key"].as_str().ok_or_else(|| missing("noise_key"))?;
        let draws = self.io.shape(key)?[0];
        let values = self.io.f32(key)?;
        let noise = NoiseSource::recorded(values.chunks(values.len() / draws).map(<[f32]>::to_vec).collect());
        Ok((Sampling::FewStep(few), noise))
    }

    /// Compares decoded frames with whatever of them was recorded.
    fn frames_of<B, V: VaeBackend>(
        &self,
        machine: &Machine<'_, B, V>,
        run: &RecordedRun<'_>,
        latent: &[f32],
        rows: &mut Rows,
    ) -> Result<(), Error> {
        let prefix = format!("{}.frame", run.name);
        let recorded: Vec<String> = self.io.names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect();
        if recorded.is_empty() {
            return Ok(());
        }
        let vae = self.vae(machine, Side::Decoder)?;
        let mut shown: Vec<Vec<u8>> = Vec::new();
        for sample in latent.chunks_exact(run.shape.values()) {
            let clip = Clip::new(run.shape.dims(), sample.to_vec()).map_err(Error::model)?;
            let mut at = 0;
            let mut take = |progress: turbowan_wan_model::vae::Progress<'_>| {
                if let turbowan_wan_model::vae::Progress::Frame { pixels, .. } = progress {
                    match shown.get_mut(at) {
                        Some(left) => *left = frames::beside(left, &to_bytes(pixels), run.size.height()),
                        None => shown.push(to_bytes(pixels)),
                    }
                    at += 1;
                }
                Ok(())
            };
            vae.decode(&clip, Tiling::Whole, &mut take).map_err(Error::model)?;
        }
        if shown.is_empty() {
            return Err(self.fixture.broken(format!("run {}: no frames", run.name)));
        }
        for name in recorded {
            let want: Vec<u8> = self.io.i64(&name)?.into_iter().map(|value| value as u8).collect();
            let last = shown.len() - 1;
            let got: Vec<u8> = if name.contains("frames_0_and_last") {
                [&shown[0][..], &shown[last][..]].concat()
            } else if name.contains("frame_last") {
                shown[last].clone()
            } else {
                shown.concat()
            };
            frames::compare(rows, &name, run.rounding, &got, &want);
        }
        Ok(())
    }
}

/// An error of the fixture inside a closure that must return the models'.
fn in_model(error: Error) -> turbowan_wan_model::Error {
    turbowan_wan_model::Error::Format { path: PathBuf::from("fixture"), reason: error.to_string() }
}
