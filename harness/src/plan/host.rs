//! The most memory that a generation takes on the host.
//!
//! What a stage maps (its checkpoint's pages) and what it allocates are counted apart: mapped pages go with their stage, freed
//! allocations stay with the process (`allocator.rs`), so that the peak of a stage is its pages and the most that any stage up
//! to it has allocated. Rows are f32; a block's names live to its end, as the code in `dit/block.rs` has them.

use serde::Serialize;
use turbowan_wan_model::attention::Attention;
use turbowan_wan_model::config::TensorSpec;
use turbowan_wan_model::vae::{COLORS, Side};

use super::Setting;
use super::model::Model;
use crate::error::Error;
use crate::run::autoencoder::decode_tiling;

/// Columns and rows of a block of int8 weights.
const BLOCK: usize = 128;
/// Bytes that a token's 64 latent values take beside the network: two states in f64, the network's input twice in f32.
const SAMPLER_BYTES: usize = 64 * (2 * size_of::<f64>() + 2 * size_of::<f32>());
/// Scratch that a thread keeps (measured on two threads: about 6 MB).
const THREAD_BYTES: usize = 3 << 20;
/// What the allocator holds of a step's rows over what is in use (measured at width 512: 1.07).
const HELD: f64 = 1.08;

/// A stage's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HostStage {
    /// Its name in a run.
    pub name: &'static str,
    /// Pages of files.
    pub mapped_bytes: u64,
    /// Allocated at the highest.
    pub heap_bytes: u64,
}

/// A generation's memory on the host in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// The program itself: what this process has resident before it works, and its threads' scratch.
    pub program_bytes: u64,
    /// The stages.
    pub stages: Vec<HostStage>,
    /// The highest of all.
    pub peak_bytes: u64,
}

/// Plans the stages of a run with `threads` threads, for a program that takes `program_bytes` by itself.
///
/// # Errors
/// An attention or a tiling that cannot be.
pub fn of(setting: &Setting, program_bytes: u64, threads: usize) -> Result<HostPlan, Error> {
    let stages = vec![text(setting), denoise(setting, threads)?, decode(setting)?];
    let program_bytes = program_bytes + (threads * THREAD_BYTES) as u64;
    let (mut heap, mut peak_bytes) = (0, 0);
    for stage in &stages {
        heap = stage.heap_bytes.max(heap);
        peak_bytes = peak_bytes.max(program_bytes + stage.mapped_bytes + heap);
    }
    Ok(HostPlan { program_bytes, stages, peak_bytes })
}

fn values(specs: &[TensorSpec]) -> usize {
    specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum()
}

fn largest(specs: &[TensorSpec]) -> usize {
    specs.iter().map(|spec| spec.shape.iter().product()).max().unwrap_or(0)
}

/// The encoder's linears packed beside their pages; its table stays in the file but for a prompt's rows.
fn text(setting: &Setting) -> HostStage {
    let config = &setting.model.text;
    let specs: Vec<TensorSpec> = config.tensors().into_iter().filter(|spec| spec.shape.first() != Some(&config.vocab)).collect();
    let (weights, rows) = (2 * values(&specs), setting.model.dit.text_len);
    let activations = rows * (6 * config.dim + 2 * config.dim_ffn) * size_of::<f32>();
    HostStage { name: "text", mapped_bytes: weights as u64, heap_bytes: (weights + 2 * largest(&specs) + activations) as u64 }
}

/// Loading needs the file's pages, a step the rows of a block: the larger of the two, the rows beside the packed weights.
fn denoise(setting: &Setting, threads: usize) -> Result<HostStage, Error> {
    let (config, options) = (&setting.model.dit, setting.dit_options()?);
    let has_linear_branch = matches!(options.attention, Attention::Sla(_) | Attention::SageSla(_));
    let specs = config.tensors(Model::traits(has_linear_branch));
    let file = 2 * values(&specs);
    let in_block = |spec: &&TensorSpec| spec.name.starts_with("blocks.") && spec.shape.len() == 2 && !spec.name.contains("proj_l");
    let int8: usize = specs.iter().filter(in_block).map(|spec| packed_int8(&spec.shape)).sum();
    let linears: usize = specs.iter().filter(in_block).map(|spec| 2 * spec.shape.iter().product::<usize>()).sum();
    let (weights, loading) = if options.quantise { (file - linears + int8, 5 * largest(&specs)) } else { (file, 2 * largest(&specs)) };

    let tokens = setting.grid().tokens();
    let rows = tokens * config.dim * size_of::<f32>();
    // an activation keeps its int8 rows beside its own
    let activation = rows + if options.quantise { tokens * config.dim } else { 0 };
    let hidden = tokens * config.ffn_dim * (size_of::<f32>() + usize::from(options.quantise));
    let before = rows + activation + 3 * rows;
    let head = tokens * config.head_dim();
    // heads that are prepared at once: f32 rows of a third of each, then their int8 panels
    let prepared = threads.max(1) * head * (size_of::<f32>() + 4);
    let attending = match options.attention {
        Attention::Original => rows,
        Attention::Sage => rows + prepared,
        Attention::Sla(_) => 4 * rows,
        Attention::SageSla(_) => 4 * rows + prepared,
    };
    let behind = before + 4 * activation + hidden;
    let rotary = 3 * tokens * config.head_dim() / 2 * size_of::<f32>();
    let prompt = config.layers * 2 * config.text_len * config.dim * size_of::<f32>();
    let rows = (before + attending).max(behind) + rotary + tokens * SAMPLER_BYTES;
    let step = (rows as f64 * HELD) as usize + prompt;
    // once loaded, the pages have gone
    let (mapped, heap) = if file + weights + loading > weights + step { (file, weights + loading) } else { (0, weights + step) };
    Ok(HostStage { name: "denoise", mapped_bytes: mapped as u64, heap_bytes: heap as u64 })
}

/// An int8 weight as it is packed: whole blocks along a row, and a start of each sum.
fn packed_int8(shape: &[usize]) -> usize {
    let (out, input) = (shape[0], shape[1..].iter().product::<usize>());
    out * input.next_multiple_of(BLOCK) + out * input.div_ceil(BLOCK) * size_of::<i32>()
}

/// Decoder and frames by the autoencoder's own plan, and the pixels of all frames beside the half from which they grew last.
fn decode(setting: &Setting) -> Result<HostStage, Error> {
    let (config, grid) = (&setting.model.vae, setting.grid());
    let latent = [grid.frames, grid.height, grid.width];
    let plan = config.plan(Side::Decoder, latent, decode_tiling(config, latent))?;
    let file = values(&config.tensors_of(Side::Decoder)) * size_of::<f32>();
    let frame = setting.size.width() * setting.size.height() * COLORS;
    let frames = setting.frames.get();
    let pixels = frame * (frames + (1 << frames.ilog2()));
    let states = grid.tokens() * 3 * 64 * size_of::<f64>();
    let heap = plan.total() + pixels + 2 * frame * size_of::<f32>() + states;
    Ok(HostStage { name: "decode", mapped_bytes: file as u64, heap_bytes: heap as u64 })
}
