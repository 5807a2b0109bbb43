//! One step of the transformer on a device that executes nothing: what it launches, moves and allocates.
//!
//! The step is the second of two, so that what is made once (rotary tables) is not in it. It is the network's own code, and
//! between its blocks the look for numbers that are none, as every run takes it; that look stands apart from the blocks.

use std::ops::Range;

use serde::Serialize;
use turbowan_cuda::device::{Device, Trace, Work};
use turbowan_wan_model::attention::Attention;
use turbowan_wan_model::backend::Backend;
use turbowan_wan_model::backend::device::{DeviceBackend, DeviceTensor};
use turbowan_wan_model::dit::{DitOptions, Observer, Place, WanDit};

use super::Setting;
use super::gpu::Gpu;
use super::model::Model;
use super::operations::Widths;
use super::price::{Alive, Line, Part, Price};
use super::zeros::Zeros;
use crate::error::Error;

/// The network's time of the first step; the list does not depend on it.
const FIRST_TIME: f32 = 1000.0;

/// Copies of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Copies {
    /// How many.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What one step asks of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Launches {
    /// Blocks of the transformer.
    pub blocks: usize,
    /// The block with the median number of launches.
    pub median_block: Part,
    /// All blocks.
    pub all_blocks: Part,
    /// Embeddings, the head, copies.
    pub outside: Part,
    /// The whole step.
    pub all: Part,
    /// The look for numbers that are none, after the patches, each block and the head.
    pub guard: Part,
    /// By kernel or kind, the longest predicted time first.
    pub lines: Vec<Line>,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Channels of a token.
    pub channels: usize,
    /// Bytes of the median block for each channel of each token; weights are among them.
    pub bytes_per_token_channel: f64,
    /// Copies from the host.
    pub from_host: Copies,
    /// Copies to the host.
    pub to_host: Copies,
    /// Allocations.
    pub allocations: usize,
    /// Times that the host waits: a copy from or to it is waited for.
    pub synchronisations: usize,
    /// Bytes on the device before the step: weights, and the prompt's keys and values.
    pub resident_bytes: u64,
    /// The most that the step adds to them.
    pub step_bytes: u64,
    /// Bytes of the network alone.
    pub weight_bytes: u64,
    /// The most that was in use, loading included.
    pub peak_bytes: u64,
}

/// Takes the network through two steps on a planned device and lists the second.
///
/// # Errors
/// What the network or a launcher refuses, such as a head dim without kernels.
pub fn of(setting: &Setting, gpu: &Gpu) -> Result<Launches, Error> {
    let options = setting.dit_options()?;
    let DryRun { trace, places, weight_bytes, resident_bytes, peak_bytes } = DryRun::of(setting, gpu, options)?;
    let (config, works) = (&setting.model.dit, trace.works());
    let block = match options.attention {
        Attention::Original | Attention::Sage => [1, 1],
        Attention::Sla(sparsity) | Attention::SageSla(sparsity) => [sparsity.block_q, sparsity.block_k],
    };
    let price = Price { sheet: gpu.sheet, widths: Widths { dim: config.dim, head_dim: config.head_dim(), block } };
    let part = |ranges: &[Range<usize>]| price.part(ranges.iter().flat_map(|range| &works[range.clone()]));
    let mut blocks: Vec<Part> = places.blocks.iter().map(|range| part(std::slice::from_ref(range))).collect();
    blocks.sort_by_key(|block| (block.launches, block.bytes));
    let median_block = blocks.get(blocks.len() / 2).copied().unwrap_or_default();
    let (all, all_blocks, guard) = (price.part(works), part(&places.blocks), part(&places.guards));
    let tokens = setting.grid().tokens();
    let [from_host, to_host, allocations] = [
        Copies::of(works, |work| matches!(work, Work::FromHost { .. })),
        Copies::of(works, |work| matches!(work, Work::ToHost { .. })),
        Copies::of(works, |work| matches!(work, Work::Allocate { .. })),
    ];
    Ok(Launches {
        blocks: blocks.len(),
        median_block,
        all_blocks,
        outside: all.without(all_blocks).without(guard),
        all,
        guard,
        lines: price.lines(works),
        tokens,
        channels: config.dim,
        bytes_per_token_channel: median_block.bytes as f64 / (tokens * config.dim) as f64,
        from_host,
        to_host,
        allocations: allocations.count,
        synchronisations: from_host.count + to_host.count,
        resident_bytes,
        step_bytes: trace.memory().map_err(turbowan_wan_model::Error::from)?.peak_bytes() as u64,
        weight_bytes,
        peak_bytes,
    })
}

impl Copies {
    fn of(works: &[Work], matches: fn(&Work) -> bool) -> Self {
        let bytes = works.iter().filter(|work| matches(work)).map(|work| work.moved().bytes());
        Self { count: bytes.clone().count(), bytes: bytes.sum() }
    }
}

/// The second step, and where its parts are among its works.
struct DryRun {
    trace: Trace,
    places: Places,
    weight_bytes: u64,
    resident_bytes: u64,
    peak_bytes: u64,
}

impl DryRun {
    fn of(setting: &Setting, gpu: &Gpu, options: DitOptions) -> Result<Self, Error> {
        let backend = DeviceBackend::load(&Device::planned(gpu.chip()))?;
        let config = &setting.model.dit;
        let has_linear_branch = matches!(options.attention, Attention::Sla(_) | Attention::SageSla(_));
        let source = Zeros::of(config.tensors(Model::traits(has_linear_branch)));
        let dit = WanDit::load(&backend, &source, config, options)?;
        let weight_bytes = Alive::after(&queued(&backend)).end_bytes;
        let text = dit.read_text(&backend, &vec![0.0; config.text_len * config.text_dim], None)?;
        let grid = setting.grid();
        let latent = vec![0.0; config.in_dim * grid.positions()];
        let step = || -> Result<Places, Error> {
            let mut places = Places { start: queued(&backend).len(), ..Places::default() };
            dit.forward(&backend, &latent, &[FIRST_TIME], &text, grid, &mut places)?;
            Ok(places)
        };
        step()?;
        let resident_bytes = Alive::after(&queued(&backend)).end_bytes;
        let (places, trace) = backend.stream().trace(|_| step())?;
        let peak_bytes = Alive::after(&queued(&backend)).peak_bytes;
        Ok(Self { trace, places, weight_bytes, resident_bytes, peak_bytes })
    }
}

/// Everything that a planned device was asked for so far.
fn queued(backend: &DeviceBackend) -> Vec<Work> {
    backend.stream().planned_work().map(|trace| trace.works().to_vec()).unwrap_or_default()
}

/// Sees where blocks begin and end among the works, and looks for numbers that are none as a run does.
#[derive(Default)]
struct Places {
    /// Works before the step.
    start: usize,
    /// The end of the last look.
    end: usize,
    blocks: Vec<Range<usize>>,
    guards: Vec<Range<usize>>,
}

impl Observer<DeviceBackend> for Places {
    fn see(&mut self, backend: &DeviceBackend, place: Place, rows: &DeviceTensor) -> turbowan_wan_model::Result<()> {
        let before = queued(backend).len() - self.start;
        if let Place::Block(_) = place {
            self.blocks.push(self.end..before);
        }
        backend.first_not_finite(rows)?;
        self.end = queued(backend).len() - self.start;
        self.guards.push(before..self.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::AttentionChoice;
    use turbowan_wan_model::resolution::{AspectRatio, FrameCount, Resolution};

    fn setting(model: &str, resolution: Resolution, attention: AttentionChoice, quant_linear: bool) -> Setting {
        let (model, size) = (Model::named(model).unwrap(), resolution.size(AspectRatio::Wide));
        Setting { model, size, frames: FrameCount::DEFAULT, attention, quant_linear }
    }

    fn operations(launches: &Launches, prefix: &str) -> f64 {
        launches.lines.iter().filter(|line| line.name.starts_with(prefix)).map(|line| line.operations as f64 / 1e15).sum()
    }

    #[test]
    fn operations_are_those_of_the_roofline() {
        let gpu = Gpu::named("H200").unwrap();
        let launches = of(&setting("Wan2.1-1.3B", Resolution::P480, AttentionChoice::SageSla(0.1), true), &gpu).unwrap();
        assert_eq!((launches.tokens, launches.blocks, launches.channels), (32_760, 30, 1536));
        // 0.0821 PFLOP of linears, of which the prompt's keys and values are not in a step; 51 of 512 key blocks of
        // dense attention's 0.198 with the linear branch's 2 x 128 x 128 a token and head in its end, and 0.0031 of
        // cross-attention: worked out by hand for the roofline
        let [int8, sage, cross] = ["gemm_i8", "sage_attn", "attend_fwd"].map(|prefix| operations(&launches, prefix));
        assert!((int8 - 0.0820).abs() < 2e-4, "{int8}");
        assert!((sage - 0.0197 - 0.0004).abs() < 2e-4, "{sage}");
        assert!((cross - 0.0031).abs() < 1e-4, "{cross}");
        let sum: f64 = launches.lines.iter().map(|line| line.predicted_seconds).sum();
        assert!((sum - launches.all.predicted_seconds).abs() < 1e-9 * sum);
        let parts = [launches.all_blocks, launches.outside, launches.guard];
        assert!((parts.iter().map(|part| part.predicted_seconds).sum::<f64>() - sum).abs() < 1e-9 * sum);
        assert_eq!(launches.all_blocks.launches, 30 * launches.median_block.launches, "blocks are alike");
        // the look for a number that is none, behind the patches, 30 blocks and the head: a fill, a kernel, a copy
        assert_eq!(launches.guard.launches, 32 * 2);
        assert_eq!(launches.to_host.count, 32 + 1, "and the velocity");
        // int8 weights of the blocks, bf16 of the rest, and keys and values of the prompt
        let weights = 1.392e9 + 2.0 * 0.027e9 + 30.0 * 2.0 * 512.0 * 1536.0 * 2.0;
        assert!((launches.resident_bytes as f64 / weights - 1.0).abs() < 0.02, "{} of {weights}", launches.resident_bytes);
    }

    #[test]
    fn dense_attention_is_the_larger_share() {
        let gpu = Gpu::named("RTX4090").unwrap();
        let launches = of(&setting("Wan2.1-1.3B", Resolution::P480, AttentionChoice::Original, false), &gpu).unwrap();
        let dense = operations(&launches, "attend_fwd");
        assert!((dense - 0.198 - 0.0031).abs() < 1e-3, "{dense}");
        assert!(launches.lines[0].name.starts_with("attend_fwd"), "{:?}", launches.lines[0]);
        assert!((launches.all.predicted_seconds * 165.2e12 / 1e15 - dense) > 0.08, "{}", launches.all.predicted_seconds);
    }

    #[test]
    fn fourteen_billion_parameters_are_planned_without_their_memory() {
        let before = crate::record::process_peak_bytes();
        let gpu = Gpu::named("RTX5090").unwrap();
        let launches = of(&setting("Wan2.2-A14B", Resolution::P720, AttentionChoice::SageSla(0.1), true), &gpu).unwrap();
        assert_eq!((launches.tokens, launches.blocks), (75_600, 40));
        assert!(launches.resident_bytes > 13 << 30, "{}", launches.resident_bytes);
        if let (Some(before), Some(after)) = (before, crate::record::process_peak_bytes()) {
            assert!(after - before < 1 << 30, "{before} to {after}");
        }
    }
}
