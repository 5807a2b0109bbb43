//! What a transformer makes of captions, read back by the judge of the world of shapes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use turbowan_rcm::{
    AtBoundary, Branch, Call, Expert, FewStep, Guidance, LatentRounding, Network, NoiseKind, NoiseSource, Sampler, Schedule, Solver,
    Teacher, TimeRounding, VelocityNet,
};
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::resolution::LatentShape;
use turbowan_wan_model::vae::{Clip, Progress as VaeProgress, Side, Tiling, Vae, to_bytes};
use turbowan_world::{Frames, Tally, judge};

use super::clips::{Asked, Data};
use super::models::Models;
use super::network::{DitNet, Told};
use super::settings::ExpertName;
use super::states::States;
use crate::atomic_file;
use crate::error::Error;
use crate::run::watch::check_stop;
use crate::train::Metrics;
use crate::train::sheet::Sheet;

/// What a look asks for and how it samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LookSettings {
    /// Clips of combinations that no clip for training has.
    pub held_out: u64,
    /// Clips of combinations that were learnt from.
    pub seen: u64,
    /// Step counts of guided sampling, a row each.
    pub guided: Vec<usize>,
    /// Step counts, 1 to 4, of the few-step sampler, a row each.
    pub few: Vec<usize>,
    /// Solver of the guided rows.
    pub solver: SolverName,
    /// Guidance of the guided rows.
    pub guidance: f64,
    /// Shift of the guided rows' times towards noise.
    pub shift: f64,
    /// Noise level that every row starts at.
    pub sigma_max: f64,
    /// Weights of the other of two experts, which works on its side of the boundary; without them the one that learns works on both.
    pub other_expert: Option<PathBuf>,
    /// Clips at a time.
    pub batch: usize,
    /// Seed of the noise that clips are made from.
    pub seed: u64,
}

impl Default for LookSettings {
    fn default() -> Self {
        Self {
            held_out: 24,
            seen: 24,
            guided: vec![16],
            few: Vec::new(),
            solver: SolverName::Unipc,
            guidance: 3.0,
            shift: 3.0,
            sigma_max: 80.0,
            other_expert: None,
            batch: 16,
            seed: 1,
        }
    }
}

/// A solver, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SolverName {
    /// First order.
    Euler,
    /// Second order.
    Unipc,
}

/// A way of sampling: a row of what a look tells.
#[derive(Debug, Clone, PartialEq)]
enum Row {
    Guided(Teacher),
    Few(FewStep),
}

/// Everything that looks need, made once.
pub struct Looks {
    settings: LookSettings,
    asked: Asked,
    told: Vec<Told>,
    shape: LatentShape,
    vae: Option<Vae<HostFrames>>,
    rows: Vec<(String, Row)>,
    other: Option<Other>,
}

/// The expert that does not learn here.
#[derive(Debug)]
struct Other {
    works_as: Expert,
    net: DitNet,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl LookSettings {
    /// What the looks of a run ask for.
    ///
    /// # Errors
    /// As [`Data::asked`].
    pub fn asked(&self, data: &Data, models: &Models, images: bool) -> Result<Asked, Error> {
        data.asked(self.held_out, self.seen, models, images)
    }
}

impl Looks {
    /// Looks at `asked`, whose captions `states` holds and whose first frames stand behind the first `images` of the tables.
    ///
    /// # Errors
    /// Step counts and levels that no sampler has; an autoencoder that cannot be read.
    pub fn new(settings: &LookSettings, asked: Asked, states: &States, images: usize, data: &Data, models: &Models) -> Result<Self, Error> {
        if settings.batch == 0 {
            return Err(Error::flag("look.batch", "at least 1"));
        }
        let LookSettings { solver, guidance, shift, sigma_max, .. } = *settings;
        let mut rows = Vec::new();
        for steps in &settings.guided {
            let (name, solver) = match solver {
                SolverName::Euler => ("euler", Solver::Euler),
                SolverName::Unipc => ("unipc", Solver::UniPc),
            };
            let teacher = Teacher::new(solver, *steps, sigma_max, shift, Guidance::uniform(guidance))?;
            rows.push((format!("{name}_{steps}"), Row::Guided(teacher)));
        }
        for steps in &settings.few {
            rows.push((format!("few_{steps}"), Row::Few(FewStep::new(Schedule::few_step(sigma_max, *steps)?, Sampler::Sde))));
        }
        let image = |index: usize| (!asked.conditions.is_empty()).then(|| (images + index) as u32);
        let told = asked.captions.iter().enumerate().map(|(index, caption)| Told { prompt: states.index(caption), image: image(index) });
        let told: Vec<Told> = told.collect();
        let vae = if told.is_empty() { None } else { Some(models.vae(&[Side::Decoder])?) };
        Ok(Self { settings: settings.clone(), told, asked, shape: data.shape()?, vae, rows, other: None })
    }

    /// Lets `net` work on the side of `boundary` that the expert `own` leaves it.
    ///
    /// # Errors
    /// A boundary that is no flow time; an expert that leaves nothing.
    pub fn set_other(&mut self, net: DitNet, own: ExpertName, boundary: f64) -> Result<(), Error> {
        let works_as = match own {
            ExpertName::Only => return Err(Error::flag("look.other_expert", "there is one only where expert is \"high\" or \"low\"")),
            ExpertName::High => Expert::Low,
            ExpertName::Low => Expert::High,
        };
        for (_, row) in &mut self.rows {
            *row = match row.clone() {
                Row::Guided(run) => Row::Guided(run.with_boundary(boundary)?),
                Row::Few(run) => Row::Few(run.with_boundary(boundary)?),
            };
        }
        self.other = Some(Other { works_as, net });
        Ok(())
    }

    /// First frames of what is asked for, `[20, T, H, W]` each: they stand behind those of training in the tables.
    pub fn conditions(&self) -> &[Vec<f32>] {
        &self.asked.conditions
    }

    /// Makes every clip by every row, judges them, and leaves a sheet and a table of each row in `folder`.
    ///
    /// # Errors
    /// Numbers that are none, files that cannot be written, a stop.
    pub fn look(&mut self, net: &mut DitNet, folder: &Path, step: u64) -> Result<Metrics, Error> {
        let mut metrics = Metrics::new();
        for (name, row) in self.rows.clone() {
            let latents = self.sampled(net, &row)?;
            let Some(vae) = self.vae.as_ref().filter(|_| !latents.is_empty()) else { return Ok(metrics) };
            let clips = self.decoded(vae, &latents)?;
            let [_, frames, height, width] = self.pixels();
            let readings = clips.par_iter().map(|rgb| Ok(judge(&Frames::new([frames, height, width], rgb)?)));
            let readings = readings.collect::<Result<Vec<_>, Error>>()?;
            let (mut all, mut held_out) = (Tally::default(), Tally::default());
            for (index, (asked, reading)) in self.asked.attributes.iter().zip(&readings).enumerate() {
                all.add(asked, reading);
                if (index as u64) < self.settings.held_out {
                    held_out.add(asked, reading);
                }
            }
            let tell = |what: &str, value| (format!("{name}.{what}"), value);
            metrics.extend(all.attributes().map(|confusion| tell(confusion.attribute, confusion.accuracy())));
            let rest = [("mean", all.mean()), ("constant", all.constant()), ("first_frame", all.first_frame()), ("passed", all.passed())];
            metrics.extend(rest.map(|(what, value)| tell(what, value)));
            metrics.push(tell("held_out_mean", held_out.mean()));
            let file = |suffix: &str| folder.join(format!("step-{step:06}-{name}.{suffix}"));
            let mut sheet = Sheet::new(height);
            for clips in clips.chunks(ACROSS) {
                sheet.row(clips.iter().flat_map(|rgb| shown(rgb, frames)));
            }
            sheet.save(&file("png"))?;
            let lines = self.asked.attributes.iter().zip(&self.asked.captions).zip(&readings);
            let lines: String = lines.map(|((asked, caption), reading)| format!("{asked} | {caption} | {reading}\n")).collect();
            atomic_file::write(&file("txt"), format!("{all}\n\nheld out:\n{held_out}\n\n{lines}").as_bytes())?;
        }
        Ok(metrics)
    }

    /// `[3, frames, height, width]` of a clip.
    fn pixels(&self) -> [usize; 4] {
        [3, 4 * (self.shape.frames - 1) + 1, 8 * self.shape.height, 8 * self.shape.width]
    }

    /// Latents of all clips, one behind the other.
    fn sampled(&mut self, net: &mut DitNet, row: &Row) -> Result<Vec<f64>, Error> {
        let mut latents = Vec::with_capacity(self.told.len() * self.shape.values());
        for (batch, told) in self.told.chunks(self.settings.batch).enumerate() {
            let mut noise = NoiseSource::seeded(NoiseKind::Native, self.settings.seed.wrapping_add(batch as u64));
            let negative = told.iter().map(|told| told.negative()).collect();
            let network = Sampled { net: &mut *net, other: self.other.as_mut(), told: told.to_vec(), negative };
            let mut network = AtBoundary { network, latent: LatentRounding::F32, time: TimeRounding::Exact };
            let room = vec![0.0; told.len() * self.shape.values()];
            latents.extend(match row {
                Row::Guided(run) => {
                    let start = run.start(room, &mut noise)?;
                    run.run(start, &mut network, |_| ControlFlow::Continue(()))?.into_state().latent
                }
                Row::Few(run) => {
                    let start = run.start(room, &mut noise)?;
                    run.run(start, &mut network, &mut noise, |_| ControlFlow::Continue(()))?.into_state().latent
                }
            });
        }
        Ok(latents)
    }

    /// Frames `[T, H, W, 3]` of every latent.
    fn decoded(&self, vae: &Vae<HostFrames>, latents: &[f64]) -> Result<Vec<Vec<u8>>, Error> {
        let decode = |latent: &[f64]| -> Result<Vec<u8>, Error> {
            let clip = Clip::new(self.shape.dims(), latent.iter().map(|value| *value as f32).collect())?;
            let mut rgb = Vec::with_capacity(self.pixels().iter().product());
            vae.decode(&clip, Tiling::Whole, &mut |progress| {
                if let VaeProgress::Frame { pixels, .. } = progress {
                    rgb.extend(to_bytes(pixels));
                }
                check_stop()
            })?;
            Ok(rgb)
        };
        latents.par_chunks_exact(self.shape.values()).map(decode).collect()
    }
}

/// Frames of a clip on a sheet, first and last among them.
const SHOWN: usize = 5;
/// Clips in a row of a sheet.
const ACROSS: usize = 3;

/// The frames of a clip, `[frames, height, width, 3]`, that a sheet shows.
fn shown(rgb: &[u8], frames: usize) -> impl Iterator<Item = &[u8]> {
    let (size, count) = (rgb.len() / frames.max(1), SHOWN.min(frames));
    (0..count).map(move |place| &rgb[place * (frames - 1) / (count - 1).max(1) * size..][..size])
}

/// A batch on its way through a sampler.
struct Sampled<'a> {
    net: &'a mut DitNet,
    other: Option<&'a mut Other>,
    told: Vec<Told>,
    negative: Vec<Told>,
}

impl Network for Sampled<'_> {
    type Error = turbowan_wan_model::Error;

    fn forward(&mut self, latent: &[f32], time: f32, call: Call) -> turbowan_wan_model::Result<Vec<f32>> {
        check_stop()?;
        let told = match call.branch {
            Branch::Conditional => &self.told,
            Branch::Unconditional => &self.negative,
        };
        let net = match &mut self.other {
            Some(other) if other.works_as == call.expert => &mut other.net,
            _ => &mut *self.net,
        };
        net.forward(latent, &vec![f64::from(time); told.len()], told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_frames_are_shown() {
        let rgb: Vec<u8> = (0..17).flat_map(|frame| [frame; 3]).collect();
        assert_eq!(shown(&rgb, 17).map(|frame| frame[0]).collect::<Vec<_>>(), [0, 4, 8, 12, 16]);
        assert_eq!(shown(&rgb[..9], 3).map(|frame| frame[0]).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(shown(&rgb[..3], 1).count(), 1);
    }
}
