//! `turbowan plan`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use turbowan_wan_model::checkpoint::AttentionName;
use turbowan_wan_model::resolution::{AspectRatio, FrameCount, FrameSize, Resolution};
use turbowan_wan_model::tiny;

use crate::atomic_file;
use crate::cmd::flags::AttentionFlag;
use crate::cmd::generate::{attention_named, check_rotary, sized};
use crate::error::Error;
use crate::plan::gpu::Gpu;
use crate::plan::model::{Model, NAMES};
use crate::plan::{Setting, launches, page};

/// What a generation takes, before anything is loaded.
#[derive(Debug, Args)]
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
    /// The GPU, by its data sheet: H200, H100, A100, L40S, RTX4090, RTX5090 and others.
    #[arg(long, default_value = "H200")]
    pub gpu: String,
    /// What one step of the transformer launches, from a dry run of the network.
    #[arg(long)]
    pub launches: bool,
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
    let (setting, gpu) = (args.setting()?, Gpu::named(&args.gpu)?);
    let list = launches::of(&setting, &gpu)?;
    print!("{}", page::launches(&setting, &gpu, &list));
    args.keep(&setting, json!({ "gpu": gpu.sheet, "is_prediction": true, "step": list }))
}

impl Plan {
    fn setting(&self) -> Result<Setting, Error> {
        let model = Model::named(&self.model)?;
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
