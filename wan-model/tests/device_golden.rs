//! The transformer on the emulator against recorded runs of the official code in bf16.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sla::Density;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, Grid, Unobserved, WanDit};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

fn meta(component: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(component).join("meta.json")).unwrap()).unwrap()
}

fn config(stated: &Value) -> DitConfig {
    let count = |key: &str| stated[key].as_u64().unwrap() as usize;
    DitConfig {
        dim: count("dim"),
        ffn_dim: count("ffn_dim"),
        freq_dim: count("freq_dim"),
        text_dim: count("text_dim"),
        text_len: count("text_len"),
        in_dim: count("in_dim"),
        out_dim: count("out_dim"),
        heads: count("num_heads"),
        layers: count("num_layers"),
        eps: stated["eps"].as_f64().unwrap() as f32,
        clip_dim: stated["clip_dim"].as_u64().map(|n| n as usize),
    }
}

/// What one recorded pass read.
struct Inputs {
    latent: Vec<f32>,
    grid: Grid,
    times: Vec<f32>,
    text: Vec<f32>,
    clip: Option<Vec<f32>>,
}

impl Inputs {
    /// `x` with `y` behind it on the channel axis, `timestep`, and prompts padded with zeros.
    fn read(io: &Checkpoint, config: &DitConfig) -> Self {
        let x = io.take("x").unwrap();
        let [batch, channels, frames, height, width] = x.shape[..] else { panic!("x has shape {:?}", x.shape) };
        let grid = Grid { frames, height, width };
        let latent = match io.get("y") {
            None => x.to_f32(),
            Some(y) => {
                let (x, y) = (x.to_f32(), y.to_f32());
                let samples = x.chunks(channels * grid.positions()).zip(y.chunks(y.len() / batch));
                samples.flat_map(|(x, y)| x.iter().chain(y).copied()).collect()
            }
        };
        let mut times = io.take("timestep").unwrap().to_f32();
        times.resize(batch, times[0]);
        let prompts = io.get("context").or_else(|| io.get("context_valid_rows")).unwrap();
        let (values, count) = (prompts.to_f32(), prompts.shape[0]);
        let mut text = Vec::new();
        for (index, prompt) in values.chunks(values.len() / count).enumerate() {
            text.extend_from_slice(prompt);
            text.resize((index + 1) * config.text_len * config.text_dim, 0.0);
        }
        Self { latent, grid, times, text, clip: None }
    }

    fn hold(&self, weights: &Path, config: &DitConfig, options: DitOptions, recorded: &Checkpoint, output: &str, bound: f64) {
        let Ok(device) = Device::emulated(EmulatorOptions::default()) else { return println!("skipped: no device") };
        let device = DeviceBackend::load(&device).unwrap();
        let dit = WanDit::load(&device, &Checkpoint::open(weights).unwrap(), config, options).unwrap();
        let states = dit.read_text(&device, &self.text, self.clip.as_deref()).unwrap();
        let got = dit.forward(&device, &self.latent, &self.times, &states, self.grid, &mut Unobserved).unwrap();
        let verdict = Verdict::of(&got, &recorded.take(output).unwrap().to_f32(), Bound::relative_l2(bound));
        println!("{} {output}: relative L2 {} of {bound}", weights.display(), verdict.distance.relative_l2);
        verdict.demand(output);
    }
}

#[test]
fn image_to_video_networks_are_the_recorded_ones() {
    let (meta, folder) = (meta("dit_i2v"), fixture("dit_i2v"));
    let bound = meta["tolerance"]["bf16_rel_l2"].as_f64().unwrap();
    let options = DitOptions { attention: Attention::Original, norms: NormRule::Standard, quantise: false };
    let open = |name: &str| Checkpoint::open(folder.join(name)).unwrap();
    // the CLIP network ran on the inputs of the other
    let (plain, clip) = (open("wan22_io.safetensors"), open("wan21_clip_io.safetensors"));
    for (name, io) in [("wan22", &plain), ("wan21_clip", &clip)] {
        let config = config(&meta[name]["config"]);
        let mut inputs = Inputs::read(&plain, &config);
        inputs.clip = io.get("clip_fea").map(|states| states.to_f32());
        // one of them was recorded in f32 alone, which bf16 is to stay near
        let output = if io.get("output_bf16").is_some() { "output_bf16" } else { "output" };
        inputs.hold(&folder.join(format!("{name}_weights.safetensors")), &config, options, io, output, bound);
    }
}

#[test]
fn a_quantised_checkpoint_is_the_recorded_one() {
    let (meta, folder) = (meta("quant_linear"), fixture("quant_linear"));
    let case = &meta["cases"]["tiny-quant"];
    let config = config(&case["config"]);
    let io = Checkpoint::open(folder.join("tiny_forward.safetensors")).unwrap();
    let inputs = Inputs::read(&io, &config);
    let bound = case["forward"]["tolerance_rel_l2"].as_f64().unwrap();
    let attention = Attention::Sla(Sparsity::official(Density::new(0.5).unwrap()));
    // the quantised network runs with the fast norms that replace the textbook's
    for (file, output, norms) in
        [("tiny-quant.pth", "output_quant", NormRule::Fast), ("tiny-plain.safetensors", "output_plain_bf16", NormRule::Standard)]
    {
        inputs.hold(&folder.join(file), &config, DitOptions { attention, norms, quantise: false }, &io, output, bound);
    }
}
