//! `turbowan t2v` and `turbowan i2v`: flags become a request, a request becomes files.

use std::path::PathBuf;

use serde_json::json;
use turbowan_cuda::Rounding;
use turbowan_rcm::Expert;
use turbowan_sla::Density;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::checkpoint::{AttentionName, attention_of};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::image::RgbImage;
use turbowan_wan_model::resolution::{AspectRatio, FrameCount, FrameSize, Resolution};
use turbowan_wan_model::tiny;

use crate::cmd::flags::{AttentionFlag, ImageToVideo, PrecisionFlag, SamplerFlag, Shared, TextToVideo};
use crate::cmd::{embedded, locate};
use crate::error::Error;
use crate::progress::{Progress, Style};
use crate::request::{AttentionChoice, FileRef, Mode, Models, Precision, Request, SamplerChoice};
use crate::run::Run;
use crate::run::capture::Capture;
use crate::run::models::OpenDit;
use crate::run::state::SavedRun;
use crate::video::Output;

/// Longest prompt that is read, in bytes; the tokenizer keeps 512 tokens of it.
const LONGEST_PROMPT: usize = 1 << 20;
/// Positions of the network's rotary table along each axis.
const ROTARY_POSITIONS: usize = 128;
/// Steps of an undistilled model where none are asked for.
const TEACHER_STEPS: usize = 50;

/// `turbowan t2v`.
///
/// # Errors
/// One error, with the next step in it.
pub fn text_to_video(args: &TextToVideo) -> Result<(), Error> {
    let progress = Progress::new(Style::detect(args.shared.json).listener());
    run(&args.shared, Mode::T2v, &progress, || {
        let models = looked_at(&progress, || locate::text_to_video(args.dit_path.as_deref(), &args.shared.models))?;
        let draft = Draft { mode: Mode::T2v, models, sigma_max: args.sigma_max, image: None, clip: None, adaptive: false };
        draft.request(&args.shared, &progress)
    })
}

/// `turbowan i2v`.
///
/// # Errors
/// One error, with the next step in it.
pub fn image_to_video(args: &ImageToVideo) -> Result<(), Error> {
    let progress = Progress::new(Style::detect(args.shared.json).listener());
    run(&args.shared, Mode::I2v, &progress, || {
        let path =
            args.image_path.as_ref().ok_or_else(|| Error::flag("--image_path", "the first frame is needed: a JPG, PNG or WebP file"))?;
        let image = FileRef::of(path)?;
        let draft = Draft {
            mode: Mode::I2v,
            models: looked_at(&progress, || locate::image_to_video(&args.shared.models))?,
            sigma_max: args.sigma_max,
            image: Some(image),
            clip: args.clip_embedding.as_deref().map(FileRef::of).transpose()?,
            adaptive: args.adaptive_resolution,
        };
        draft.request(&args.shared, &progress)
    })
}

/// Finding files and hashing them: a stage of its own, for real checkpoints have tens of gigabytes.
fn looked_at(progress: &Progress, find: impl FnOnce() -> Result<Models, Error>) -> Result<Models, Error> {
    let stage = progress.stage("files", None);
    let models = find()?;
    stage.end();
    Ok(models)
}

fn run(shared: &Shared, mode: Mode, progress: &Progress, make: impl FnOnce() -> Result<Request, Error>) -> Result<(), Error> {
    if shared.serve {
        return Err(Error::flag("--serve", "this command makes one request; leave --serve out"));
    }
    shared.threads.apply()?;
    let (request, save_path, resumed) = match &shared.resume {
        None => {
            let request = make()?;
            if let Some(remark) = embedded::remark(&request) {
                progress.note(remark);
            }
            (request, shared.save_path.clone(), None)
        }
        Some(path) => {
            let saved = SavedRun::load(path)?;
            if saved.request.mode != mode {
                return Err(Error::flag("--resume", format!("this run was started by `turbowan {}`", saved.request.mode.command())));
            }
            saved.request.verify()?;
            (saved.request.clone(), saved.save_path.clone(), Some(saved))
        }
    };
    let output = Output::new(&save_path)?;
    let capture = match &shared.capture {
        Some(folder) => Some(Capture::new(folder, &request, &shared.capture_blocks, &shared.capture_steps)?),
        None => None,
    };
    let processor = shared.place.open()?;
    finish(Run { request: &request, output, resumed, cache: shared.cache_dir.clone(), capture, processor, progress }, shared.json)
}

/// Runs a request and tells where its videos are.
pub(super) fn finish(run: Run<'_>, wants_json: bool) -> Result<(), Error> {
    let request = run.request.clone();
    let progress = run.progress;
    let (width, height) = (request.width, request.height);
    progress.note(format!(
        "{width}x{height}, {} frames, {} steps, {}, seed {}",
        request.num_frames,
        request.num_steps,
        request.attention.name(),
        request.seed
    ));
    let files = run.finish()?;
    if wants_json {
        println!("{}", json!({ "event": "done", "files": files, "request": request, "stages": progress.times() }));
    } else {
        files.iter().for_each(|file| println!("{}", file.display()));
    }
    Ok(())
}

/// What the two commands differ in.
struct Draft {
    mode: Mode,
    models: Models,
    sigma_max: f64,
    image: Option<FileRef>,
    clip: Option<FileRef>,
    adaptive: bool,
}

impl Draft {
    fn request(self, flags: &Shared, progress: &Progress) -> Result<Request, Error> {
        let prompt = flags.prompt.clone().unwrap_or_default();
        if prompt.len() > LONGEST_PROMPT {
            return Err(Error::flag("--prompt", format!("{} bytes are more than the {LONGEST_PROMPT} that are read", prompt.len())));
        }
        let dit = self.models.dit(self.mode, Expert::High)?;
        check_network(self.mode, &dit.config, flags.model.as_deref())?;
        self.check_clip(&dit.config)?;
        let boundary = self.boundary(flags)?;
        let size = self.size(flags, progress)?;
        let num_frames = self.frames(flags, progress)?;
        check_rotary(size, num_frames)?;
        let (sampler, num_steps) = sampler(flags)?;
        if !(1..=64).contains(&flags.num_samples) {
            return Err(Error::flag("--num_samples", format!("{} is not between 1 and 64", flags.num_samples)));
        }
        if !(1..=240).contains(&flags.fps) {
            return Err(Error::flag("--fps", format!("{} is not between 1 and 240", flags.fps)));
        }
        let request = Request {
            mode: self.mode,
            prompt,
            negative_prompt: flags.guided.negative_prompt.clone(),
            image: self.image,
            clip: self.clip,
            width: size.width(),
            height: size.height(),
            num_frames,
            fps: flags.fps,
            num_samples: flags.num_samples,
            grid: flags.grid,
            seed: seed(flags.seed)?,
            rng: rng(&flags.rng)?,
            num_steps,
            sigma_max: self.sigma_max,
            boundary,
            sampler,
            attention: attention(flags, &dit, progress)?,
            precision: match flags.precision {
                PrecisionFlag::Bf16 => Precision::Bf16,
                PrecisionFlag::F32 => Precision::F32,
            },
            quant_linear: flags.quant_linear || dit.traits.quantised,
            default_norm: flags.default_norm,
            models: self.models,
        };
        Ok(request)
    }

    /// The experts' boundary, where there are two.
    fn boundary(&self, flags: &Shared) -> Result<Option<f64>, Error> {
        let has_two = match &self.models {
            Models::Embedded { .. } => self.mode == Mode::I2v,
            Models::Files(files) => files.low_noise.is_some(),
        };
        match (flags.boundary, has_two) {
            (Some(boundary), _) if !(0.0..=1.0).contains(&boundary) => {
                Err(Error::flag("--boundary", format!("{boundary} is not a flow time in [0, 1]")))
            }
            (Some(_), false) => Err(Error::flag("--boundary", "this model has one transformer; the boundary is between two experts")),
            (asked, true) => Ok(Some(asked.unwrap_or(if self.mode == Mode::I2v { 0.9 } else { 0.875 }))),
            (None, false) => Ok(None),
        }
    }

    fn check_clip(&self, config: &DitConfig) -> Result<(), Error> {
        match (config.clip_dim, &self.clip) {
            (Some(_), None) => {
                Err(Error::flag("--clip_embedding", "a Wan 2.1 image-to-video transformer needs the CLIP states of the first frame"))
            }
            (None, Some(_)) => Err(Error::flag("--clip_embedding", "this transformer reads no CLIP states; leave it out")),
            _ => Ok(()),
        }
    }

    fn is_embedded(&self) -> bool {
        matches!(self.models, Models::Embedded { .. })
    }

    fn size(&self, flags: &Shared, progress: &Progress) -> Result<FrameSize, Error> {
        let ratio: AspectRatio = flags.aspect_ratio.parse().map_err(|error| Error::flag("--aspect_ratio", format!("{error}")))?;
        let preset = match (&flags.resolution, self.is_embedded(), self.mode) {
            (Some(word), ..) if word.contains(['x', 'X']) => sized(word)?,
            (Some(word), ..) => word.parse::<Resolution>().map_err(|error| Error::flag("--resolution", error.to_string()))?.size(ratio),
            (None, true, _) => FrameSize::new(tiny::SIDE, tiny::SIDE)?,
            (None, false, Mode::T2v) => Resolution::P480.size(ratio),
            (None, false, Mode::I2v) => Resolution::P720.size(ratio),
        };
        let Some(image) = &self.image else { return Ok(preset) };
        let bytes = std::fs::read(&image.path).map_err(|source| Error::Read { path: image.path.clone(), source })?;
        let picture = RgbImage::decode(&bytes).map_err(|error| Error::broken(&image.path, error))?;
        if !self.adaptive {
            return Ok(preset);
        }
        let size = FrameSize::adaptive(preset, picture.width(), picture.height())?;
        progress.note(format!("adaptive resolution: {size} for an image of {}x{}", picture.width(), picture.height()));
        Ok(size)
    }

    fn frames(&self, flags: &Shared, progress: &Progress) -> Result<usize, Error> {
        let default = if self.is_embedded() { tiny::FRAMES } else { FrameCount::DEFAULT.get() };
        let asked = flags.num_frames.unwrap_or(default);
        let frames = FrameCount::at_most(asked).map_err(|error| Error::flag("--num_frames", error.to_string()))?.get();
        if frames != asked {
            progress.note(format!("--num_frames {asked}: the model makes 4n + 1 frames, so {frames} will be made"));
        }
        Ok(frames)
    }
}

/// A size by its sides: `WIDTHxHEIGHT`.
pub(super) fn sized(word: &str) -> Result<FrameSize, Error> {
    let refuse = || Error::flag("--resolution", format!("{word:?} is not WIDTHxHEIGHT"));
    let (width, height) = word.split_once(['x', 'X']).ok_or_else(refuse)?;
    let side = |text: &str| text.parse::<usize>().map_err(|_| refuse());
    FrameSize::new(side(width)?, side(height)?).map_err(|error| Error::flag("--resolution", error.to_string()))
}

fn sampler(flags: &Shared) -> Result<(SamplerChoice, usize), Error> {
    let (guidance, shift) = (flags.guided.guidance, flags.guided.shift);
    let choice = match flags.sampler {
        SamplerFlag::Rcm => SamplerChoice::Rcm { ode: flags.ode },
        _ if flags.ode => return Err(Error::flag("--ode", "euler and unipc follow the flow already; --ode belongs to rcm")),
        SamplerFlag::Euler => SamplerChoice::Euler { guidance, shift },
        SamplerFlag::Unipc => SamplerChoice::Unipc { guidance, shift },
    };
    let is_few_step = flags.sampler == SamplerFlag::Rcm;
    let steps = flags.num_steps.unwrap_or(if is_few_step { 4 } else { TEACHER_STEPS });
    let most = if is_few_step { 4 } else { 1000 };
    if !(1..=most).contains(&steps) {
        return Err(Error::flag("--num_steps", format!("{steps} is not between 1 and {most}")));
    }
    Ok((choice, steps))
}

fn attention(flags: &Shared, dit: &OpenDit, progress: &Progress) -> Result<AttentionChoice, Error> {
    let asked = flags.attention_type.map(AttentionFlag::name);
    let (name, note) = attention_of(asked, dit.traits.sla)?;
    if let Some(note) = note {
        progress.note(note);
    }
    attention_named(name, flags.sla_topk.map_or_else(|| dit.topk(), Ok)?)
}

/// A way of self-attention with its share of key blocks.
pub(super) fn attention_named(name: AttentionName, topk: f64) -> Result<AttentionChoice, Error> {
    if !(topk > 0.0 && topk <= 1.0) {
        return Err(Error::flag("--sla_topk", format!("{topk} is not a share in (0, 1]")));
    }
    Ok(match name {
        AttentionName::Original => AttentionChoice::Original,
        AttentionName::Sage => AttentionChoice::Sage,
        AttentionName::Sla => AttentionChoice::Sla(topk),
        AttentionName::SageSla => AttentionChoice::SageSla(topk),
    })
}

/// The name of a way of self-attention, without its share.
pub(super) fn attention_name(choice: &AttentionChoice) -> AttentionName {
    match choice {
        AttentionChoice::Original => AttentionName::Original,
        AttentionChoice::Sage => AttentionName::Sage,
        AttentionChoice::Sla(_) => AttentionName::Sla,
        AttentionChoice::SageSla(_) => AttentionName::SageSla,
    }
}

/// A seed of -1 is drawn; it is printed and recorded, so that any video can be made again.
fn seed(flag: i64) -> Result<u64, Error> {
    match flag {
        -1 => {
            let mut bytes = [0u8; 4];
            getrandom::fill(&mut bytes)
                .map_err(|error| Error::flag("--seed", format!("no random number to be had ({error}); name a seed")))?;
            Ok(u64::from(u32::from_le_bytes(bytes)))
        }
        0.. => Ok(flag as u64),
        _ => Err(Error::flag("--seed", format!("{flag} is neither a seed (0 or above) nor -1 for a random one"))),
    }
}

/// The generator by its name in full, or the file of recorded noise.
fn rng(flag: &str) -> Result<String, Error> {
    match flag.parse::<turbowan_rcm::NoiseKind>() {
        Ok(kind) => Ok(kind.to_string()),
        Err(error) => {
            let path = PathBuf::from(flag);
            if path.is_file() {
                Ok(format!("file:{}", path.display()))
            } else {
                Err(Error::flag("--rng", format!("{error}, or a file of recorded noise")))
            }
        }
    }
}

pub(super) fn check_network(mode: Mode, config: &DitConfig, model: Option<&str>) -> Result<(), Error> {
    let expected = match mode {
        Mode::T2v => 16,
        Mode::I2v => 36,
    };
    if config.in_dim != expected {
        let other = if mode == Mode::T2v { "i2v" } else { "t2v" };
        let reason = format!(
            "this transformer reads {} latent channels, {} needs {expected}; try `turbowan {other}`",
            config.in_dim,
            mode.command()
        );
        return Err(Error::flag("--dit_path", reason));
    }
    let Some(model) = model else { return Ok(()) };
    let named = match model {
        "Wan2.1-1.3B" => DitConfig::WAN_1_3B,
        "Wan2.1-14B" => DitConfig::WAN_14B,
        "Wan2.2-A14B" if mode == Mode::I2v => DitConfig::WAN_A14B_I2V,
        "Wan2.2-A14B" => DitConfig::WAN_14B,
        _ => return Err(Error::flag("--model", format!("{model:?} is none of Wan2.1-1.3B, Wan2.1-14B, Wan2.2-A14B"))),
    };
    if (config.dim, config.layers) != (named.dim, named.layers) {
        let reason = format!(
            "{model} has {} blocks of width {}, the checkpoint has {} of width {}; leave --model out, it follows the checkpoint",
            named.layers, named.dim, config.layers, config.dim
        );
        return Err(Error::flag("--model", reason));
    }
    Ok(())
}

/// The network's rotary table has 128 positions an axis.
pub(super) fn check_rotary(size: FrameSize, frames: usize) -> Result<(), Error> {
    let patches = size.latent(FrameCount::at_most(frames)?);
    let (across, down) = (patches.width / 2, patches.height / 2);
    if across > ROTARY_POSITIONS || down > ROTARY_POSITIONS {
        let reason = format!("{size} is {across} x {down} patches; the network knows {ROTARY_POSITIONS} a side, which is 2048 pixels");
        return Err(Error::flag("--resolution", reason));
    }
    if patches.frames > ROTARY_POSITIONS {
        let most = 4 * (ROTARY_POSITIONS - 1) + 1;
        return Err(Error::flag("--num_frames", format!("{frames} is more than the {most} that the network knows positions for")));
    }
    Ok(())
}

impl AttentionChoice {
    /// The attention of a network, with what the operation rounds inside.
    ///
    /// # Errors
    /// A share of key blocks that is none.
    pub fn with(&self, inner: Rounding) -> Result<Attention, Error> {
        let sparsity = |share: f64| {
            let density = Density::new(share).ok_or_else(|| Error::flag("--sla_topk", format!("{share} is not a share in (0, 1]")))?;
            Ok::<_, Error>(Sparsity { inner, ..Sparsity::official(density) })
        };
        Ok(match *self {
            Self::Original => Attention::Original,
            Self::Sage => Attention::Sage,
            Self::Sla(share) => Attention::Sla(sparsity(share)?),
            Self::SageSla(share) => Attention::SageSla(sparsity(share)?),
        })
    }

    /// As `--attention_type` takes it, with the density where there is one.
    pub fn name(&self) -> String {
        match self {
            Self::Original => "original".to_owned(),
            Self::Sage => "sage".to_owned(),
            Self::Sla(share) => format!("sla {share}"),
            Self::SageSla(share) => format!("sagesla {share}"),
        }
    }
}

impl Request {
    /// Checks that every file still holds what it held when the request was made.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn verify(&self) -> Result<(), Error> {
        self.models.verify()?;
        [&self.image, &self.clip].into_iter().flatten().try_for_each(FileRef::verify)
    }
}
