//! `dit_t2v`, `dit_i2v`, `dit_sla`: the transformer against the official one; on a device in bf16 alone.

use std::path::Path;

use serde_json::Value;
use turbowan_cuda::Rounding;
use turbowan_reference::metrics::Bound;
use turbowan_sla::{Density, FeatureMap};
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::{Backend, NormRule};
use turbowan_wan_model::checkpoint::Checkpoint;
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, Grid, Observer, Place, WanDit};

use super::recordings::Recordings;
use super::{Error, Fixture, Rows, Tensors};
use crate::run::processor::Processor;

/// A transformer's `config` as a meta file states it.
pub(super) fn config(fixture: &Fixture, value: &Value) -> Result<DitConfig, Error> {
    let count = |key: &str| value[key].as_u64().map(|n| n as usize).ok_or_else(|| fixture.broken(format!("no whole number config.{key}")));
    Ok(DitConfig {
        dim: count("dim")?,
        ffn_dim: count("ffn_dim")?,
        freq_dim: count("freq_dim")?,
        text_dim: count("text_dim")?,
        text_len: count("text_len")?,
        in_dim: count("in_dim")?,
        out_dim: count("out_dim")?,
        heads: count("num_heads")?,
        layers: count("num_layers")?,
        eps: value["eps"].as_f64().unwrap_or(1e-6) as f32,
        clip_dim: value["clip_dim"].as_u64().map(|n| n as usize),
    })
}

/// What one forward pass reads.
pub(super) struct Inputs {
    pub latent: Vec<f32>,
    pub grid: Grid,
    pub times: Vec<f32>,
    pub text: Vec<f32>,
    pub clip: Option<Vec<f32>>,
}

impl Inputs {
    /// Reads `x` (with `y` behind it on the channel axis where there is one), `timestep`, `context`.
    pub fn read(io: &Tensors, config: &DitConfig) -> Result<Self, Error> {
        let shape = io.shape("x")?;
        let [batch, channels, frames, height, width] = shape[..] else {
            return Err(Error::Model(format!("x has shape {shape:?}, expected five axes")));
        };
        let grid = Grid { frames, height, width };
        let x = io.f32("x")?;
        let latent = match io.has("y") {
            false => x,
            true => {
                let y = io.f32("y")?;
                let (of_x, of_y) = (channels * grid.positions(), y.len() / batch);
                x.chunks(of_x).zip(y.chunks(of_y)).flat_map(|(x, y)| x.iter().chain(y).copied()).collect()
            }
        };
        let mut times = io.f32("timestep")?;
        if times.len() == 1 {
            times.resize(batch, times[0]);
        }
        let name = if io.has("context") { "context" } else { "context_valid_rows" };
        let text = pad(&io.f32(name)?, io.shape(name)?[0], config);
        Ok(Self { latent, grid, times, text, clip: None })
    }
}

/// One pass of the network in a file.
struct Pass<'a> {
    path: &'a Path,
    config: &'a DitConfig,
    attention: Attention,
    norms: NormRule,
    inputs: &'a Inputs,
}

impl Pass<'_> {
    fn run<B: Backend>(&self, backend: &B, observer: &mut impl Observer<B>) -> Result<Vec<f32>, Error> {
        let Inputs { latent, grid, times, text, clip } = self.inputs;
        let dit = load(backend, self.path, self.config, self.attention, self.norms)?;
        let text = dit.read_text(backend, text, clip.as_deref()).map_err(Error::model)?;
        dit.forward(backend, latent, times, &text, *grid, observer).map_err(Error::model)
    }

    /// In bf16, where the networks work.
    fn bf16(&self, processor: &Processor, recordings: &mut Recordings) -> Result<Vec<f32>, Error> {
        match processor {
            Processor::Host => self.run(&BF16, recordings),
            Processor::Device(device) => self.run(&DeviceBackend::load(device).map_err(Error::model)?, recordings),
        }
    }
}

/// Prompts of any number of rows, zero-padded to the network's.
fn pad(text: &[f32], prompts: usize, config: &DitConfig) -> Vec<f32> {
    let room = config.text_len * config.text_dim;
    let mut padded = Vec::with_capacity(prompts * room);
    for prompt in text.chunks(text.len() / prompts.max(1)) {
        padded.extend_from_slice(prompt);
        padded.resize(padded.len() + room.saturating_sub(prompt.len()), 0.0);
    }
    padded
}

pub(super) fn load<B: Backend>(
    backend: &B,
    path: &Path,
    config: &DitConfig,
    attention: Attention,
    norms: NormRule,
) -> Result<WanDit<B>, Error> {
    let checkpoint = Checkpoint::open(path).map_err(Error::model)?;
    WanDit::load(backend, &checkpoint, config, DitOptions { attention, norms, quantise: false }).map_err(Error::model)
}

fn f32_bound(fixture: &Fixture) -> Result<Bound, Error> {
    Ok(Bound {
        max_abs: Some(fixture.number("/tolerance/f32_max_abs")?),
        relative_l2: Some(fixture.number("/tolerance/f32_rel_l2")?),
        cosine: None,
    })
}

const EXACT: Host = Host { rounding: Rounding::None };
const BF16: Host = Host { rounding: Rounding::Bf16 };

/// Why a device does not replay what was recorded in f32.
pub(super) const F32_ALONE: &str = "recorded in f32, which the kernels do not work in";

/// `dit_t2v`: one network, its activations, its bf16 twin, and the same weights under diffusers' names.
pub(super) fn text_to_video(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let config = config(fixture, &fixture.meta["config"])?;
    let io = fixture.tensors("io.safetensors")?;
    let inputs = Inputs::read(&io, &config)?;
    let network = Recorded { fixture, config: &config, io: &io, inputs: &inputs, weights: "weights".to_owned(), case: String::new() };
    network.replay(processor, rows)
}

/// `dit_i2v`: Wan 2.2 (36 channels) and Wan 2.1 (CLIP context).
pub(super) fn image_to_video(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let cases = fixture.meta.as_object().into_iter().flatten().filter(|(_, case)| case["config"].is_object());
    let cases: Vec<_> =
        cases.map(|(name, case)| Ok((name, case, fixture.tensors(&format!("{name}_io.safetensors"))?))).collect::<Result<_, Error>>()?;
    // a network whose file has no inputs ran on those of the network that has
    let shared = cases.iter().map(|(_, _, io)| io).find(|io| io.has("x")).ok_or_else(|| fixture.broken("no network has inputs"))?;
    for (name, case, io) in &cases {
        let config = config(fixture, &case["config"])?;
        let mut inputs = Inputs::read(if io.has("x") { io } else { shared }, &config)?;
        if config.clip_dim.is_some() {
            inputs.clip = Some(io.f32("clip_fea")?);
        }
        let (weights, case) = (format!("{name}_weights"), format!("{name} "));
        Recorded { fixture, config: &config, io, inputs: &inputs, weights, case }.replay(processor, rows)?;
    }
    Ok(())
}

/// One network of a fixture, its inputs and what came out of it.
struct Recorded<'a> {
    fixture: &'a Fixture,
    config: &'a DitConfig,
    io: &'a Tensors,
    inputs: &'a Inputs,
    /// The weights' file, without its suffix.
    weights: String,
    /// What the rows begin with.
    case: String,
}

impl Recorded<'_> {
    fn replay(&self, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
        let Self { fixture, config, io, inputs, weights, case } = self;
        let path = fixture.dir.join(format!("{weights}.safetensors"));
        let pass = Pass { path: &path, config, attention: Attention::Original, norms: NormRule::Standard, inputs };
        match processor {
            Processor::Host => self.exact(&pass, rows)?,
            Processor::Device(_) => rows.skip(format!("{case}output f32, activations, diffusers names"), F32_ALONE),
        }
        // a network that was recorded in f32 alone: its bf16 run on a device stays as near to that
        let (output, what) = match (io.has("output_bf16"), processor) {
            (true, _) => ("output_bf16", "output bf16"),
            (false, Processor::Device(_)) => ("output", "output bf16, f32 recorded"),
            (false, Processor::Host) => return Ok(()),
        };
        let got = pass.bf16(processor, &mut Recordings::default())?;
        let bound = Bound::relative_l2(fixture.number("/tolerance/bf16_rel_l2")?);
        rows.compare(format!("{case}{what}"), &got, &io.f32(output)?, bound);
        Ok(())
    }

    /// What was recorded in f32, and the same weights under diffusers' names.
    fn exact(&self, pass: &Pass<'_>, rows: &mut Rows) -> Result<(), Error> {
        let Self { fixture, config, io, weights, case, .. } = self;
        let bound = f32_bound(fixture)?;
        let mut recordings = Recordings::of(io, "act.", config.layers)?;
        let output = pass.run(&EXACT, &mut recordings)?;
        rows.compare(format!("{case}output f32"), &output, &io.f32("output")?, bound);
        recordings.compare(rows, bound);
        let diffusers = fixture.dir.join(format!("{weights}_diffusers.safetensors"));
        if diffusers.exists() {
            let again = Pass { path: &diffusers, ..*pass }.run(&EXACT, &mut Recordings::default())?;
            rows.compare(format!("{case}output f32, diffusers names"), &again, &output, Bound::EXACT);
        }
        Ok(())
    }
}

/// `dit_sla`: the network with sparse-linear attention at several densities.
pub(super) fn sparse_linear(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let config = config(fixture, &fixture.meta["config"])?;
    let io = fixture.tensors("io.safetensors")?;
    let inputs = Inputs::read(&io, &config)?;
    let path = fixture.dir.join("weights.safetensors");
    let features = match fixture.meta["feature_map"].as_str() {
        Some("softmax") | None => FeatureMap::Softmax,
        Some("elu") => FeatureMap::Elu,
        Some("relu") => FeatureMap::Relu,
        Some(other) => return Err(fixture.broken(format!("unknown feature map {other:?}"))),
    };
    let (block_q, block_k) = (fixture.count("/BLKQ")?, fixture.count("/BLKK")?);
    let densities = fixture.meta["topk"].as_object().ok_or_else(|| fixture.broken("no \"topk\""))?;
    for name in densities.keys() {
        let share: f64 = name.trim_start_matches("topk").parse().map_err(|_| fixture.broken(format!("{name} is no topkR")))?;
        let density = Density::new(share).ok_or_else(|| fixture.broken(format!("{share} is no density")))?;
        let variants = [
            ("output", EXACT, Rounding::None, f32_bound(fixture)?),
            ("output_sla_bf16", EXACT, Rounding::Bf16, Bound::relative_l2(fixture.number("/tolerance/sla_bf16_rel_l2")?)),
            ("output_full_bf16", BF16, Rounding::Bf16, Bound::relative_l2(fixture.number("/tolerance/full_bf16_rel_l2")?)),
        ];
        for (variant, host, inner, bound) in variants {
            let output = format!("{name}.{variant}");
            if !io.has(&output) {
                continue;
            }
            let sparsity = Sparsity { density, block_q, block_k, features, inner };
            let attention = Attention::Sla(sparsity);
            let pass = Pass { path: &path, config: &config, attention, norms: NormRule::Standard, inputs: &inputs };
            if let Processor::Device(_) = processor {
                match host.rounding {
                    Rounding::None => rows.skip(&output, F32_ALONE),
                    Rounding::Bf16 => rows.compare(&output, &pass.bf16(processor, &mut Recordings::default())?, &io.f32(&output)?, bound),
                }
                continue;
            }
            let mut recordings = Recordings::of_maps(sparsity);
            let got = pass.run(&host, &mut recordings)?;
            rows.compare(&output, &got, &io.f32(&output)?, bound);
            let prefix = if variant == "output_full_bf16" { format!("{name}.full_bf16") } else { name.clone() };
            for (block, got) in recordings.lists.iter().enumerate() {
                let lut = format!("{prefix}.block{block}.lut_sorted");
                if variant != "output_sla_bf16" && io.has(&lut) {
                    rows.integers(&lut, got, &io.i64(&lut)?, 0.0);
                }
            }
        }
    }
    Ok(())
}

/// A `-quant.pth` network: int8 linears, fast norms, SLA, bf16 throughout (part of `quant_linear`). `case` is its entry
/// in the meta file.
pub(super) fn quantised_forward(fixture: &Fixture, processor: &Processor, name: &str, case: &Value, rows: &mut Rows) -> Result<(), Error> {
    let config = config(fixture, &case["config"])?;
    let forward = &case["forward"];
    let io = fixture.tensors(forward["file"].as_str().ok_or_else(|| fixture.broken("no forward.file"))?)?;
    let bound = forward["tolerance_rel_l2"].as_f64().ok_or_else(|| fixture.broken("no forward.tolerance_rel_l2"))?;
    let share = topk(forward).ok_or_else(|| fixture.broken("no SLA topk in forward"))?;
    let sparsity = Sparsity::official(Density::new(share).ok_or_else(|| fixture.broken(format!("{share} is no density")))?);
    let inputs = Inputs::read(&io, &config)?;
    let plain = name.replace("quant", "plain");
    for (file, output) in [(format!("{name}.pth"), "output_quant"), (format!("{plain}.safetensors"), "output_plain_bf16")] {
        let path = fixture.dir.join(&file);
        if !path.exists() || !io.has(output) {
            continue;
        }
        // The plain network runs with the textbook norms, the quantised one with the fast ones that replace them.
        let norms = if output == "output_quant" { NormRule::Fast } else { NormRule::Standard };
        let pass = Pass { path: &path, config: &config, attention: Attention::Sla(sparsity), norms, inputs: &inputs };
        let mut recordings = Recordings::default();
        let block = "act.block0_out_quant";
        if output == "output_quant" && io.has(block) {
            recordings.activations.push((Place::Block(0), block.to_owned(), io.f32(block)?));
        }
        let got = pass.bf16(processor, &mut recordings)?;
        rows.compare(format!("{file} {output}"), &got, &io.f32(output)?, Bound::relative_l2(bound));
        recordings.compare(rows, Bound::relative_l2(bound));
    }
    Ok(())
}

/// The density that a case's description names: `topk` as a number, or the number behind "topk" in its text.
fn topk(forward: &Value) -> Option<f64> {
    if let Some(number) = forward["topk"].as_f64() {
        return Some(number);
    }
    let text = forward["dtype"].as_str()?;
    let tail = text.split("topk").nth(1)?.trim_start_matches([' ', '=']);
    tail.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.trim_end_matches('.').parse().ok()
}
