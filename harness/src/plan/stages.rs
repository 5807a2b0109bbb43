//! The stages of a generation on a device that executes nothing: bytes at the highest, and predicted seconds.

use std::collections::HashMap;

use serde::Serialize;
use turbowan_cuda::device::{Device, Work};
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::resolution::FRAMES_PER_LATENT;
use turbowan_wan_model::text::TextEncoder;
use turbowan_wan_model::vae::{COLORS, Clip, LatentStatistics, Side, Vae};

use super::Setting;
use super::frames::PlannedFrames;
use super::gpu::Gpu;
use super::launches::{self, Launches};
use super::operations::Widths;
use super::price::{Alive, Part, Price};
use super::zeros::Zeros;
use crate::error::Error;
use crate::run::autoencoder::{decode_tiling, encode_tiling};

/// Frames that go through the autoencoder in a dry run: from the third group of four on, kernels that look back find all frames
/// there, and each group is like the one before.
const CODED_FRAMES: usize = 13;

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stage {
    /// Its name in a run.
    pub name: &'static str,
    /// Bytes that its networks take on the device once loaded.
    pub weight_bytes: u64,
    /// The most that is in use on the device, loading included.
    pub peak_bytes: u64,
    /// Its work, without loading: all steps of the denoising.
    pub work: Part,
}

/// Dry runs on one GPU. Stages that settings share are run once.
#[derive(Debug)]
pub struct DryRuns<'g> {
    gpu: &'g Gpu,
    known: HashMap<String, Stage>,
}

impl<'g> DryRuns<'g> {
    /// None so far.
    pub fn on(gpu: &'g Gpu) -> Self {
        Self { gpu, known: HashMap::new() }
    }

    /// The GPU.
    pub fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// All stages of a run with `steps` calls of the transformer: text, image where the model reads one, denoising, decoding.
    ///
    /// # Errors
    /// What a network or a launcher refuses.
    pub fn stages(&mut self, setting: &Setting, steps: usize) -> Result<Vec<Stage>, Error> {
        let (gpu, model, size) = (self.gpu, &setting.model, setting.size);
        let coded = format!("{size} {} {:?}", setting.frames.get(), model.vae);
        let mut stages = vec![self.once(format!("text {} {:?}", model.dit.text_len, model.text), || text(setting, gpu))?];
        if model.reads_image() {
            stages.push(self.once(format!("image {coded}"), || image(setting, gpu))?);
        }
        stages.push(denoise(&launches::of(setting, gpu)?, steps));
        stages.push(self.once(format!("decode {coded}"), || decode(setting, gpu))?);
        Ok(stages)
    }

    fn once(&mut self, key: String, run: impl FnOnce() -> Result<Stage, Error>) -> Result<Stage, Error> {
        if let Some(stage) = self.known.get(&key) {
            return Ok(*stage);
        }
        let stage = run()?;
        self.known.insert(key, stage);
        Ok(stage)
    }
}

/// A device that plans, and the place among its works where loading ended.
struct Watched<'g> {
    device: Device,
    gpu: &'g Gpu,
    loaded: usize,
}

impl<'g> Watched<'g> {
    fn new(gpu: &'g Gpu) -> Self {
        Self { device: Device::planned(gpu.chip()), gpu, loaded: 0 }
    }

    fn works(&self) -> Vec<Work> {
        self.device.planned_work().into_iter().flatten().flat_map(|trace| trace.works().to_vec()).collect()
    }

    /// What is loaded from here on is in use.
    fn is_loaded(&mut self) {
        self.loaded = self.works().len();
    }

    fn stage(&self, name: &'static str, widths: Widths) -> Stage {
        let works = self.works();
        let (loading, work) = works.split_at(self.loaded);
        let price = Price { sheet: self.gpu.sheet, widths };
        Stage { name, weight_bytes: Alive::after(loading).end_bytes, peak_bytes: Alive::after(&works).peak_bytes, work: price.part(work) }
    }
}

/// The prompt, as long as the transformer reads it.
fn text(setting: &Setting, gpu: &Gpu) -> Result<Stage, Error> {
    let (config, mut watched) = (&setting.model.text, Watched::new(gpu));
    let backend = DeviceBackend::load(&watched.device)?;
    let source = Zeros::of(config.tensors());
    let encoder = TextEncoder::load(&backend, &source, config)?;
    watched.is_loaded();
    encoder.encode(&backend, &vec![0; setting.model.dit.text_len], &mut |_, _| Ok(()))?;
    Ok(watched.stage("text", Widths { dim: config.dim_attn, head_dim: config.dim_attn / config.heads.max(1), block: [1, 1] }))
}

fn denoise(step: &Launches, steps: usize) -> Stage {
    Stage { name: "denoise", weight_bytes: step.weight_bytes, peak_bytes: step.peak_bytes, work: step.all.times(steps) }
}

/// Frames of the decoder.
fn decode(setting: &Setting, gpu: &Gpu) -> Result<Stage, Error> {
    let (grid, config) = (setting.grid(), &setting.model.vae);
    let tiling = decode_tiling(config, [grid.frames, grid.height, grid.width]);
    of_frames(setting.frames.get(), |frames| {
        coded(setting, gpu, Side::Decoder, &|vae| {
            let latent = Clip::zeros([config.z_dim, config.latent_frames(frames), grid.height, grid.width])?;
            vae.decode(&latent, tiling, &mut |_| Ok(()))
        })
    })
}

/// The encoder over a first frame and the grey ones behind it.
fn image(setting: &Setting, gpu: &Gpu) -> Result<Stage, Error> {
    let (width, height) = (setting.size.width(), setting.size.height());
    of_frames(setting.frames.get(), |frames| {
        coded(setting, gpu, Side::Encoder, &|vae| {
            let clip = Clip::zeros([COLORS, frames, height, width])?;
            vae.moments(&clip, encode_tiling(width, height), &mut |_| Ok(())).map(drop)
        })
    })
}

/// A stage of many frames from the stages of few.
fn of_frames(frames: usize, few: impl Fn(usize) -> Result<Stage, Error>) -> Result<Stage, Error> {
    if frames <= CODED_FRAMES {
        return few(frames);
    }
    let (shorter, stage) = (few(CODED_FRAMES - FRAMES_PER_LATENT)?, few(CODED_FRAMES)?);
    let group = stage.work.without(shorter.work);
    Ok(Stage { work: stage.work + group.times((frames - CODED_FRAMES) / FRAMES_PER_LATENT), ..stage })
}

fn coded(
    setting: &Setting,
    gpu: &Gpu,
    side: Side,
    run: &dyn Fn(&Vae<PlannedFrames>) -> turbowan_wan_model::Result<()>,
) -> Result<Stage, Error> {
    let (config, mut watched) = (&setting.model.vae, Watched::new(gpu));
    let backend = PlannedFrames::load(&watched.device)?;
    let statistics = LatentStatistics::of_channels(config.z_dim);
    let vae = Vae::load(backend, &Zeros::of(config.tensors_of(side)), config, statistics, &[side])?;
    watched.is_loaded();
    run(&vae)?;
    let name = if side == Side::Encoder { "image" } else { "decode" };
    Ok(watched.stage(name, Widths { dim: 1, head_dim: 1, block: [1, 1] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::model::Model;
    use crate::request::AttentionChoice;
    use turbowan_wan_model::resolution::{FrameCount, FrameSize};

    #[test]
    fn few_frames_tell_what_many_take() {
        let gpu = Gpu::named("RTX4090").unwrap();
        let (model, size) = (Model::named("embedded").unwrap(), FrameSize::new(128, 96).unwrap());
        let of = |frames| Setting {
            model: model.clone(),
            size,
            frames: FrameCount::new(frames).unwrap(),
            attention: AttentionChoice::Original,
            quant_linear: false,
        };
        let grid = of(21).grid();
        let whole = coded(&of(21), &gpu, Side::Decoder, &|vae| {
            let latent = Clip::zeros([vae.config().z_dim, grid.frames, grid.height, grid.width])?;
            let tiling = decode_tiling(vae.config(), [grid.frames, grid.height, grid.width]);
            vae.decode(&latent, tiling, &mut |_| Ok(()))
        });
        let (whole, grown) = (whole.unwrap(), decode(&of(21), &gpu).unwrap());
        assert_eq!((grown.work.launches, grown.work.bytes), (whole.work.launches, whole.work.bytes));
        assert_eq!((grown.work.float_operations, grown.peak_bytes), (whole.work.float_operations, whole.peak_bytes));
        assert!((grown.work.predicted_seconds / whole.work.predicted_seconds - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_shared_stage_is_run_once() {
        let gpu = Gpu::named("H200").unwrap();
        let mut runs = DryRuns::on(&gpu);
        let mut count = 0;
        for _ in 0..2 {
            let run = || {
                count += 1;
                Ok(Stage { name: "text", weight_bytes: 1, peak_bytes: 2, work: Part::default() })
            };
            assert_eq!(runs.once("text".to_owned(), run).unwrap().peak_bytes, 2);
        }
        assert_eq!(count, 1);
    }
}
