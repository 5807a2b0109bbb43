//! `turbowan sweep`.

use std::path::PathBuf;

use clap::Args;
use turbowan_rcm::Expert;
use turbowan_wan_model::resolution::{FrameCount, FrameSize};
use turbowan_wan_model::tiny;

use crate::atomic_file;
use crate::cmd::eval::{as_stored, attention, boundary};
use crate::cmd::flags::{Guided, ModelPaths, Threads};
use crate::cmd::generate::{check_rotary, sized};
use crate::cmd::locate;
use crate::cmd::verify::say;
use crate::error::Error;
use crate::eval::grid::Grid;
use crate::eval::row::{self, Row};
use crate::eval::settings::{Settings, Source, Task};
use crate::eval::{self, Evaluation, asked, pareto};
use crate::progress::{Progress, Style};
use crate::request::{FileRef, Models};
use crate::run::stages::Stages;

/// Prompts that go into one sweep at most, and seeds.
const MOST: usize = 1000;
/// What grows while a sweep is made, and what it goes on from.
const RECORD: &str = "sweep.jsonl";
/// First prompts and seeds across, ways down.
const SHEET: &str = "sheet.png";
/// Every number.
const JSON: &str = "sweep.json";
/// Closeness and adherence against time.
const PICTURE: &str = "pareto.svg";

/// The same prompts and seeds in every way that is listed: one table, one contact sheet, one Pareto chart.
///
/// Every list takes commas. All ways of attention with all arithmetics at all steps are made; each is held to dense attention in
/// f32 at the same steps from the same noise.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct Sweep {
    /// What the videos show; more than one with --prompts.
    #[arg(long, required_unless_present_any = ["prompts", "resume"], conflicts_with = "prompts")]
    pub prompt: Option<String>,
    /// A file with a prompt on each line.
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Seeds of the noise.
    #[arg(long, value_name = "LIST", default_value = "0")]
    pub seeds: String,
    /// Steps: 1 to 4 for few steps, guided:N for Euler with guidance.
    #[arg(long, value_name = "LIST", default_value = "4,2,1")]
    pub steps: String,
    /// Ways of self-attention: original, sage, sla:SHARE, sagesla:SHARE. [default: as the checkpoint has it]
    #[arg(long, value_name = "LIST")]
    pub attention: Option<String>,
    /// Arithmetics: bf16, f32, and either with +w8a8 for int8 linears.
    #[arg(long, value_name = "LIST", default_value = "bf16")]
    pub precision: String,
    /// Noise levels of the first of few steps.
    #[arg(long = "sigma_max", alias = "sigma-max", value_name = "LIST", default_value = "80")]
    pub sigma_max: String,
    /// Samplers of few steps: sde draws new noise between them, ode does not.
    #[arg(long, value_name = "LIST", default_value = "sde")]
    pub sampler: String,
    /// The diffusion transformer, as t2v takes it; without one the embedded model is swept.
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
    /// How guided steps are guided.
    #[command(flatten)]
    pub guided: Guided,
    /// Flow time below which the low-noise expert takes over. [default: 0.875]
    #[arg(long)]
    pub boundary: Option<f64>,
    /// The folder of sweep.jsonl, sweep.json, sheet.png and pareto.svg. [default: output/sweep]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Goes on with the sweep of a folder that was stopped; its settings are in it.
    #[arg(long, value_name = "FOLDER", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
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
/// A flag that cannot be, a network that cannot be used, or Ctrl-C: what was made by then is in the folder's record.
pub fn run(args: &Sweep) -> Result<(), Error> {
    args.threads.apply()?;
    let progress = Progress::new(Style::detect(false).listener());
    let folder = args.resume.as_ref().or(args.out.as_ref()).cloned().unwrap_or_else(|| PathBuf::from("output/sweep"));
    let place = |name: &str| folder.join(name);
    let settings = match &args.resume {
        Some(_) => eval::recorded(&place(RECORD))?,
        None => settings(args, &progress)?,
    };
    std::fs::create_dir_all(&folder).map_err(|source| Error::Read { path: folder.clone(), source })?;
    let (record, sheet) = (place(RECORD), place(SHEET));
    let evaluation = Evaluation::new(&settings, &record, Some(&sheet), &progress);
    let evaluation = if args.resume.is_some() { evaluation.resumed()? } else { evaluation };
    let findings = evaluation.run()?;
    say(&findings.text)?;
    if findings.is_stopped {
        return Err(Error::Stopped { mode: "sweep", place: "", state: folder });
    }
    atomic_file::write(&place(JSON), format!("{:#}\n", findings.json).as_bytes())?;
    let picture = pareto::picture(&settings.rows, &findings.scores).map_err(|error| Error::broken(&place(PICTURE), error))?;
    atomic_file::write(&place(PICTURE), picture.as_bytes())?;
    for name in [RECORD, JSON, SHEET, PICTURE] {
        println!("{}", place(name).display());
    }
    Ok(())
}

/// The flags with every default resolved.
fn settings(args: &Sweep, progress: &Progress) -> Result<Settings, Error> {
    let models = locate::text_to_video(args.dit_path.as_deref(), &args.models)?;
    let size = match &args.resolution {
        Some(word) => sized(word)?,
        None => FrameSize::new(tiny::SIDE, tiny::SIDE)?,
    };
    let frames = FrameCount::new(args.num_frames).map_err(|error| Error::flag("--num_frames", error.to_string()))?;
    check_rotary(size, frames.get())?;
    let has_two = matches!(&models, Models::Files(files) if files.low_noise.is_some());
    let sigma_max = numbers("--sigma_max", &args.sigma_max, "a noise level")?;
    let ode = samplers(&args.sampler)?;
    let mut settings = Settings {
        task: Task::T2v,
        source: Source::Seeds { prompts: prompts(args)?, seeds: numbers("--seeds", &args.seeds, "a seed: a whole number from 0")? },
        seed: 0,
        models,
        teacher: Vec::new(),
        vae: None,
        width: size.width(),
        height: size.height(),
        num_frames: frames.get(),
        lpips: args.lpips.as_deref().map(FileRef::of).transpose()?,
        sigma_max: sigma_max[0],
        ode: ode[0],
        guidance: args.guided.guidance,
        shift: args.guided.shift,
        negative_prompt: args.guided.negative_prompt.clone(),
        boundary: boundary(args.boundary, Task::T2v, has_two)?,
        rows: Vec::new(),
    };
    let dit = settings.models.dit(Task::T2v.mode(), Expert::High)?;
    let grid = Grid {
        steps: row::steps(&args.steps)?,
        sigma_max,
        ode,
        attention: attention(args.attention.as_deref(), Task::T2v.mode(), &dit)?,
        arithmetic: row::arithmetic(&args.precision)?,
    };
    settings.rows = as_stored(grid.rows()?, &dit);
    // what a sampler refuses is told before anything is loaded
    for row in &settings.rows {
        if let Row::Made(configuration) = row {
            Stages::new(&settings.request(configuration, 0, ""), progress).sampling()?;
        }
    }
    Ok(settings)
}

fn prompts(args: &Sweep) -> Result<Vec<String>, Error> {
    let prompts = match (&args.prompts, &args.prompt) {
        (Some(path), _) => asked::prompts_of(path)?,
        (None, prompt) => prompt.iter().cloned().collect(),
    };
    if prompts.len() > MOST {
        return Err(Error::flag("--prompts", format!("{} prompts are more than {MOST}", prompts.len())));
    }
    Ok(prompts)
}

/// A list of numbers, each once.
fn numbers<T: std::str::FromStr + PartialEq>(flag: &'static str, list: &str, what: &str) -> Result<Vec<T>, Error> {
    let mut numbers = Vec::new();
    for word in row::words(list) {
        let number = word.parse().map_err(|_| Error::flag(flag, format!("{word:?} is not {what}")))?;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    if numbers.len() > MOST {
        return Err(Error::flag(flag, format!("{} values are more than {MOST}", numbers.len())));
    }
    Ok(numbers)
}

/// `--sampler`: whether there is no new noise between few steps, each once.
fn samplers(list: &str) -> Result<Vec<bool>, Error> {
    let mut samplers = Vec::new();
    for word in row::words(list) {
        let is_ode = match word {
            "sde" => false,
            "ode" => true,
            _ => return Err(Error::flag("--sampler", format!("{word:?} is neither sde nor ode"))),
        };
        if !samplers.contains(&is_ode) {
            samplers.push(is_ode);
        }
    }
    Ok(samplers)
}
