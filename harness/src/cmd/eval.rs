//! `turbowan eval`.

use std::path::PathBuf;

use clap::Args;
use turbowan_rcm::Expert;
use turbowan_wan_model::checkpoint::{Checkpoint, attention_of};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::resolution::{FrameCount, FrameSize};
use turbowan_wan_model::tiny;

use crate::atomic_file;
use crate::cmd::flags::{Guided, ModelPaths, Threads};
use crate::cmd::generate::{attention_name, check_network, check_rotary, sized};
use crate::cmd::locate;
use crate::cmd::verify::say;
use crate::error::Error;
use crate::eval::row::{self, Choices, Configuration, Net, Row};
use crate::eval::settings::{Settings, Source, Task};
use crate::eval::{self, Evaluation};
use crate::progress::{Progress, Style};
use crate::request::{AttentionChoice, FileRef, Mode, Models};
use crate::run::models::{OpenDit, vae_of};

/// Measures what a model makes of many captions: adherence by a judge that sees frames alone, fidelity to the dense
/// teacher, motion and flicker.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct Eval {
    /// The autoencoder alone: real clips through encoder and decoder.
    #[arg(long, conflicts_with_all = ["i2v", "prompts", "steps", "attention", "teacher"])]
    pub recon: bool,
    /// From real first frames, by the image-to-video model.
    #[arg(long, conflicts_with = "prompts")]
    pub i2v: bool,
    /// Captions of the world.
    #[arg(long, default_value_t = 200)]
    pub captions: usize,
    /// How many of them are combinations that training never sees. [default: a quarter]
    #[arg(long = "held_out", alias = "held-out")]
    pub held_out: Option<usize>,
    /// A file with a prompt on each line, instead of the world's captions.
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Steps, a row each: 1 to 4 for few steps, guided:N for Euler with guidance, teacher:N for that of the dense teacher.
    /// [default: 4,2,1; with --teacher: teacher:50,4,2,1]
    #[arg(long, value_name = "LIST")]
    pub steps: Option<String>,
    /// Ways of self-attention: original, sage, sla:SHARE, sagesla:SHARE. The first is the base; each other is a row at the
    /// first number of steps. [default: as the checkpoint has it]
    #[arg(long, value_name = "LIST")]
    pub attention: Option<String>,
    /// Arithmetics: bf16, f32, and either with +w8a8 for int8 linears. The first is the base; each other is a row.
    #[arg(long, value_name = "LIST", default_value = "bf16")]
    pub precision: String,
    /// Every way of attention with every arithmetic at every number of steps.
    #[arg(long)]
    pub cross: bool,
    /// The undistilled transformer: what fidelity is measured to, and the control beside every few-step row.
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// Its expert for times below the boundary, where it has one.
    #[arg(long = "teacher_low_noise", alias = "teacher-low-noise", value_name = "FILE", requires = "teacher")]
    pub teacher_low_noise: Option<PathBuf>,
    /// The diffusion transformer, as t2v takes it; without one the embedded model is evaluated.
    #[arg(long = "dit_path", alias = "dit-path", value_name = "FILE")]
    pub dit_path: Option<PathBuf>,
    /// Where the model's files are.
    #[command(flatten)]
    pub models: ModelPaths,
    /// WIDTHxHEIGHT in steps of 16. [default: 128x128]
    #[arg(long)]
    pub resolution: Option<String>,
    /// Frames: 4n + 1.
    #[arg(long = "num_frames", alias = "num-frames", default_value_t = tiny::FRAMES)]
    pub num_frames: usize,
    /// Seed of captions and noise.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Noise level of the first step. [default: 80; with --i2v: 200]
    #[arg(long = "sigma_max", alias = "sigma-max")]
    pub sigma_max: Option<f64>,
    /// Few steps without new noise between them.
    #[arg(long)]
    pub ode: bool,
    /// How the undistilled model is guided.
    #[command(flatten)]
    pub guided: Guided,
    /// Flow time below which the low-noise expert takes over. [default: 0.9 with --i2v, else 0.875]
    #[arg(long)]
    pub boundary: Option<f64>,
    /// Where the evaluation is recorded, a line a caption. [default: output/eval.jsonl]
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Goes on with a record whose evaluation was stopped; its settings are in it.
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    pub resume: Option<PathBuf>,
    /// The result as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A contact sheet: rows as in the table, the first captions across, three frames each.
    #[arg(long, value_name = "FILE.png")]
    pub sheet: Option<PathBuf>,
    /// Weights of LPIPS, as `lpips.LPIPS(net="alex").state_dict()` saves them: adds that distance to the fidelity.
    #[arg(long, value_name = "FILE")]
    pub lpips: Option<PathBuf>,
    /// CPU threads.
    #[command(flatten)]
    pub threads: Threads,
}

/// Runs the command.
///
/// # Errors
/// A flag that cannot be, a network that cannot be used, or Ctrl-C: what was measured by then is in the record.
pub fn run(args: &Eval) -> Result<(), Error> {
    args.threads.apply()?;
    let progress = Progress::new(Style::detect(false).listener());
    let (settings, record) = match &args.resume {
        Some(path) => (eval::recorded(path)?, path.clone()),
        None => (settings(args)?, args.record.clone().unwrap_or_else(eval::default_record)),
    };
    if let Some(path) = &args.json {
        atomic_file::check(path)?;
    }
    let evaluation = Evaluation::new(&settings, &record, args.sheet.as_deref(), &progress);
    let evaluation = if args.resume.is_some() { evaluation.resumed()? } else { evaluation };
    let findings = evaluation.run()?;
    say(&findings.text)?;
    if let Some(path) = &args.json {
        atomic_file::write(path, format!("{:#}\n", findings.json).as_bytes())?;
    }
    if findings.is_stopped { Err(Error::Stopped { mode: "eval", place: "", state: record }) } else { Ok(()) }
}

/// The flags with every default resolved.
fn settings(args: &Eval) -> Result<Settings, Error> {
    let task = match (args.recon, args.i2v) {
        (true, _) => Task::Recon,
        (false, true) => Task::I2v,
        (false, false) => Task::T2v,
    };
    let (models, vae) = networks(args, task)?;
    let size = match &args.resolution {
        Some(word) => sized(word)?,
        None => FrameSize::new(tiny::SIDE, tiny::SIDE)?,
    };
    let frames = FrameCount::new(args.num_frames).map_err(|error| Error::flag("--num_frames", error.to_string()))?;
    let is_square = size.width() == size.height();
    if task != Task::T2v && !is_square {
        return Err(Error::flag("--resolution", format!("{size}: the world's clips are square")));
    }
    let teacher: Vec<FileRef> =
        [&args.teacher, &args.teacher_low_noise].into_iter().flatten().map(|path| FileRef::of(path)).collect::<Result<_, _>>()?;
    let has_two = match &models {
        Models::Embedded { .. } => task == Task::I2v,
        Models::Files(files) => files.low_noise.is_some(),
    };
    let mut settings = Settings {
        task,
        source: source(args)?,
        seed: args.seed,
        models,
        teacher,
        vae,
        width: size.width(),
        height: size.height(),
        num_frames: frames.get(),
        lpips: args.lpips.as_deref().map(FileRef::of).transpose()?,
        sigma_max: args.sigma_max.unwrap_or(if task == Task::I2v { 200.0 } else { 80.0 }),
        ode: args.ode,
        guidance: args.guided.guidance,
        shift: args.guided.shift,
        negative_prompt: args.guided.negative_prompt.clone(),
        boundary: boundary(args.boundary, task, has_two)?,
        rows: Vec::new(),
    };
    let precisions = row::arithmetic(&args.precision)?;
    let rows = if task == Task::Recon {
        if precisions.iter().any(|arithmetic| arithmetic.quant_linear) {
            return Err(Error::flag("--precision", "the autoencoder has no int8 linears; take bf16 or f32"));
        }
        precisions.into_iter().map(|arithmetic| Row::Reconstructed(arithmetic.precision)).collect()
    } else {
        check_rotary(size, frames.get())?;
        made_rows(args, &settings, precisions)?
    };
    let has_real = is_square && matches!(settings.source, Source::World { .. });
    settings.rows = has_real.then_some(Row::Real).into_iter().chain(rows).collect();
    Ok(settings)
}

/// The model; for reconstructions an autoencoder may be named by itself.
fn networks(args: &Eval, task: Task) -> Result<(Models, Option<FileRef>), Error> {
    match (task, &args.models.vae_path) {
        (Task::Recon, Some(path)) => {
            vae_of(Checkpoint::open(path)?)?;
            Ok((Models::embedded(task.mode()), Some(FileRef::of(path)?)))
        }
        (Task::I2v, _) if args.dit_path.is_some() => {
            Err(Error::flag("--dit_path", "an image-to-video model is named by --high_noise_model_path (and --low_noise_model_path)"))
        }
        (Task::I2v, _) => Ok((locate::image_to_video(&args.models)?, None)),
        _ => Ok((locate::text_to_video(args.dit_path.as_deref(), &args.models)?, None)),
    }
}

/// The experts' boundary, where there are two.
pub(super) fn boundary(asked: Option<f64>, task: Task, has_two: bool) -> Result<Option<f64>, Error> {
    match (asked, has_two) {
        (Some(boundary), _) if !(0.0..=1.0).contains(&boundary) => {
            Err(Error::flag("--boundary", format!("{boundary} is not a flow time in [0, 1]")))
        }
        (Some(_), false) => Err(Error::flag("--boundary", "this model has one transformer; the boundary is between two experts")),
        (asked, true) => Ok(Some(asked.unwrap_or(if task == Task::I2v { 0.9 } else { 0.875 }))),
        (None, false) => Ok(None),
    }
}

fn source(args: &Eval) -> Result<Source, Error> {
    if let Some(path) = &args.prompts {
        return Ok(Source::Prompts(FileRef::of(path)?));
    }
    let captions = args.captions;
    if !(1..=100_000).contains(&captions) {
        return Err(Error::flag("--captions", format!("{captions} is not between 1 and 100000")));
    }
    let held_out = args.held_out.unwrap_or(captions / 4);
    if held_out > captions {
        return Err(Error::flag("--held_out", format!("{held_out} of {captions} captions")));
    }
    Ok(Source::World { captions, held_out })
}

/// The rows that transformers make, checked against what the transformers are.
fn made_rows(args: &Eval, settings: &Settings, arithmetic: Vec<row::Arithmetic>) -> Result<Vec<Row>, Error> {
    let mode = settings.task.mode();
    let dit = settings.models.dit(mode, Expert::High)?;
    let attention = attention(args.attention.as_deref(), mode, &dit)?;
    for file in &settings.teacher {
        let teacher = OpenDit::open(&file.path)?;
        check_network(mode, &teacher.config, None)?;
        without_clip(&teacher.config)?;
    }
    let default = if settings.teacher.is_empty() { "4,2,1" } else { "teacher:50,4,2,1" };
    let steps = row::steps(args.steps.as_deref().unwrap_or(default))?;
    let choices = Choices { steps, attention, arithmetic, cross: args.cross, has_teacher: !settings.teacher.is_empty() };
    Ok(as_stored(choices.rows(), &dit))
}

/// Reads `--attention` for a network that can be evaluated; without a list its own.
pub(super) fn attention(list: Option<&str>, mode: Mode, dit: &OpenDit) -> Result<Vec<AttentionChoice>, Error> {
    check_network(mode, &dit.config, None)?;
    without_clip(&dit.config)?;
    let attention = match list {
        Some(list) => row::attention(list, dit.topk()?)?,
        None if dit.traits.sla => row::attention("sagesla", dit.topk()?)?,
        None => vec![AttentionChoice::Original],
    };
    for choice in &attention {
        attention_of(Some(attention_name(choice)), dit.traits.sla)?;
    }
    Ok(attention)
}

/// Rows of a network: where its file has int8 linears, all are, and each is there once.
pub(super) fn as_stored(mut rows: Vec<Row>, dit: &OpenDit) -> Vec<Row> {
    for row in &mut rows {
        if let Row::Made(Configuration { net: Net::Model, quant_linear, .. }) = row {
            *quant_linear |= dit.traits.quantised;
        }
    }
    row::unique(rows)
}

fn without_clip(config: &DitConfig) -> Result<(), Error> {
    match config.clip_dim {
        Some(_) => Err(Error::flag("--i2v", "a Wan 2.1 image-to-video transformer needs CLIP states, which are not made here")),
        None => Ok(()),
    }
}
