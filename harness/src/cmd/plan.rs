//! `turbowan plan`.

use std::path::PathBuf;

use clap::{Args, ValueEnum as _};
use serde_json::{Value, json};
use turbowan_wan_model::checkpoint::AttentionName;
use turbowan_wan_model::resolution::{AspectRatio, FrameCount, FrameSize, Resolution};
use turbowan_wan_model::tiny;

use crate::atomic_file;
use crate::cmd::flags::{AttentionFlag, Threads};
use crate::cmd::generate::{attention_named, check_rotary, sized};
use crate::error::Error;
use crate::plan::generation::{self, Asked};
use crate::plan::gpu::Gpu;
use crate::plan::model::{Model, NAMES};
use crate::plan::{Setting, launches, page};
use crate::record::process_peak_bytes;

/// What a generation takes, before anything is loaded.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct Plan {
    /// The model: Wan2.1-1.3B, Wan2.1-14B, Wan2.2-A14B (from an image), or embedded.
    #[arg(long, default_value = NAMES[0])]
    pub model: String,
    /// Size preset (480p, 720p, or WIDTHxHEIGHT in steps of 16). [default: 480p; Wan2.2-A14B: 720p; embedded: 128x128]
    #[arg(long)]
    pub resolution: Option<String>,
    /// Shape of a preset: 16:9, 9:16, 4:3, 3:4 or 1:1.
    #[arg(long = "aspect_ratio", alias = "aspect-ratio", default_value = "16:9")]
    pub aspect_ratio: String,
    /// Pixels across, instead of a preset.
    #[arg(long, requires = "height", conflicts_with = "resolution")]
    pub width: Option<usize>,
    /// Pixels down, instead of a preset.
    #[arg(long, requires = "width", conflicts_with = "resolution")]
    pub height: Option<usize>,
    /// Frames: 4n + 1; another number is rounded down to one. [default: 81; embedded: 33]
    #[arg(long = "num_frames", alias = "num-frames")]
    pub num_frames: Option<usize>,
    /// How the network attends to itself. [default: sagesla]
    #[arg(long = "attention_type", alias = "attention-type", value_enum)]
    pub attention_type: Option<AttentionFlag>,
    /// Share of key blocks that sparse attention keeps. [default: 0.1; embedded: that of its training]
    #[arg(long = "sla_topk", alias = "sla-topk")]
    pub sla_topk: Option<f64>,
    /// The transformer's linears are quantised to int8 (W8A8).
    #[arg(long = "quant_linear", alias = "quant-linear")]
    pub quant_linear: bool,
    /// A transformer of one's own, instead of the model's.
    #[arg(long = "dit_path", alias = "dit-path", value_name = "FILE")]
    pub dit_path: Option<PathBuf>,
    /// Steps, each one call of the transformer.
    #[arg(long = "num_steps", alias = "num-steps", default_value_t = 4)]
    pub num_steps: usize,
    /// The GPU, by its data sheet: H200, H100, A100, L40S, RTX4090, RTX5090 and others.
    #[arg(long, default_value = "H200")]
    pub gpu: String,
    /// What one step of the transformer launches, from a dry run of the network.
    #[arg(long)]
    pub launches: bool,
    /// The host's ceilings, for a predicted time there: records of `turbowan bench`.
    #[arg(long, value_name = "RECORD")]
    pub ceilings: Option<PathBuf>,
    /// What another value would change: gpu, model, resolution, num_frames, attention_type, sla_topk, quant_linear or num_steps.
    #[arg(long = "what-if", alias = "what_if", value_name = "FLAG=VALUE", conflicts_with = "launches")]
    pub what_if: Vec<String>,
    /// Also which card holds the released models at which size.
    #[arg(long, conflicts_with = "launches")]
    pub cards: bool,
    /// CPU threads.
    #[command(flatten)]
    pub threads: Threads,
    /// The plan as JSON, into this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Flags that cannot be, a step that the kernels cannot take, or a file that cannot be written.
pub fn run(args: &Plan) -> Result<(), Error> {
    if let Some(path) = &args.json {
        atomic_file::check(path)?;
    }
    args.threads.apply()?;
    let (setting, gpu) = (args.setting()?, Gpu::named(&args.gpu)?);
    if !args.launches {
        return generate(args, &setting, &gpu);
    }
    let list = launches::of(&setting, &gpu)?;
    print!("{}", page::launches(&setting, &gpu, &list));
    args.keep(&setting, json!({ "gpu": gpu.sheet, "is_prediction": true, "step": list }))
}

fn generate(args: &Plan, setting: &Setting, gpu: &Gpu) -> Result<(), Error> {
    let asked = Asked {
        steps: args.steps()?,
        program_bytes: process_peak_bytes().unwrap_or(0),
        threads: rayon::current_num_threads(),
        ceilings: args.ceilings.as_deref().map(generation::ceilings).transpose()?,
    };
    let changed = args.what_if.iter().map(|change| Ok((change, args.with(change)?))).collect::<Result<Vec<_>, Error>>()?;
    let plan = generation::of(setting, gpu, asked, args.cards)?;
    print!("{}", page::generation(setting, gpu, &asked, &plan));
    let mut others = Vec::new();
    for (change, other) in changed {
        let asked = Asked { steps: other.steps()?, ..asked };
        let other = generation::of(&other.setting()?, &Gpu::named(&other.gpu)?, asked, false)?;
        print!("\n{}", page::what_if(change, &plan, &other));
        others.push(json!({ "change": change, "generation": other }));
    }
    if args.cards {
        print!("\n{}", page::cards(&plan.table, gpu));
    }
    args.keep(setting, json!({ "gpu": gpu.sheet, "is_prediction": true, "generation": plan, "what_if": others }))
}

impl Plan {
    /// The same with one flag changed, `FLAG=VALUE`.
    fn with(&self, change: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::flag("--what-if", reason);
        let (flag, value) = change.split_once('=').ok_or_else(|| refuse(format!("{change:?} is not FLAG=VALUE, such as gpu=RTX5090")))?;
        let mut changed = self.clone();
        let number = || value.parse::<usize>().map_err(|_| refuse(format!("{value:?} is no number")));
        match flag.trim_start_matches('-').replace('-', "_").as_str() {
            "gpu" => value.clone_into(&mut changed.gpu),
            "model" => (changed.model, changed.dit_path) = (value.to_owned(), None),
            "resolution" => (changed.resolution, changed.width, changed.height) = (Some(value.to_owned()), None, None),
            "num_frames" => changed.num_frames = Some(number()?),
            "num_steps" => changed.num_steps = number()?,
            "attention_type" => changed.attention_type = Some(AttentionFlag::from_str(value, true).map_err(refuse)?),
            "sla_topk" => changed.sla_topk = Some(value.parse().map_err(|_| refuse(format!("{value:?} is no number")))?),
            "quant_linear" => changed.quant_linear = value.parse().map_err(|_| refuse(format!("{value:?} is neither true nor false")))?,
            _ => {
                let known = "gpu, model, resolution, num_frames, num_steps, attention_type, sla_topk and quant_linear";
                return Err(refuse(format!("{flag:?} is none of {known}")));
            }
        }
        Ok(changed)
    }

    fn steps(&self) -> Result<usize, Error> {
        let steps = self.num_steps;
        if (1..=1000).contains(&steps) { Ok(steps) } else { Err(Error::flag("--num_steps", format!("{steps} is not between 1 and 1000"))) }
    }

    fn setting(&self) -> Result<Setting, Error> {
        let mut model = Model::named(&self.model)?;
        if let Some(path) = &self.dit_path {
            model = model.with_transformer(path)?;
        }
        let size = self.size(&model)?;
        let default = if model.is_embedded() { tiny::FRAMES } else { FrameCount::DEFAULT.get() };
        let frames = self.num_frames.unwrap_or(default);
        let frames = FrameCount::at_most(frames).map_err(|error| Error::flag("--num_frames", error.to_string()))?;
        check_rotary(size, frames.get())?;
        let name = self.attention_type.map_or(AttentionName::SageSla, AttentionFlag::name);
        let attention = attention_named(name, self.sla_topk.unwrap_or(model.topk))?;
        Ok(Setting { model, size, frames, attention, quant_linear: self.quant_linear })
    }

    fn size(&self, model: &Model) -> Result<FrameSize, Error> {
        if let (Some(width), Some(height)) = (self.width, self.height) {
            return FrameSize::new(width, height).map_err(|error| Error::flag("--width and --height", error.to_string()));
        }
        let ratio: AspectRatio = self.aspect_ratio.parse().map_err(|error| Error::flag("--aspect_ratio", format!("{error}")))?;
        match &self.resolution {
            Some(word) if word.contains(['x', 'X']) => sized(word),
            Some(word) => Ok(word.parse::<Resolution>().map_err(|error| Error::flag("--resolution", error.to_string()))?.size(ratio)),
            None if model.is_embedded() => Ok(FrameSize::new(tiny::SIDE, tiny::SIDE)?),
            None if model.reads_image() => Ok(Resolution::P720.size(ratio)),
            None => Ok(Resolution::P480.size(ratio)),
        }
    }

    /// Writes the plan to the file that was asked for.
    fn keep(&self, setting: &Setting, plan: Value) -> Result<(), Error> {
        let Some(path) = &self.json else { return Ok(()) };
        let setting = json!({
            "model": setting.model.name,
            "width": setting.size.width(),
            "height": setting.size.height(),
            "num_frames": setting.frames.get(),
            "attention": setting.attention,
            "quant_linear": setting.quant_linear,
        });
        atomic_file::write(path, format!("{:#}\n", json!({ "setting": setting, "plan": plan })).as_bytes())?;
        Ok(())
    }
}
