//! A plan as text for a person.

use std::fmt::Write as _;

use super::Setting;
use super::gpu::Gpu;
use super::launches::Launches;
use super::price::Part;
use crate::cmd::inspect::size;

/// What fused kernels are asked to move, and what the official code moves, in bytes per token-channel per layer.
const ASKED_BYTES: u32 = 90;
const OFFICIAL_BYTES: u32 = 510;

/// What is planned, in a line.
pub fn heading(setting: &Setting) -> String {
    let Setting { model, size, frames, attention, quant_linear } = setting;
    let linears = if *quant_linear { "int8 linears" } else { "bf16 linears" };
    format!("{}: {size}, {} frames, {}, {linears}, {} tokens", model.name, frames.get(), attention.name(), setting.grid().tokens())
}

/// The launch list of a step.
pub fn launches(setting: &Setting, gpu: &Gpu, list: &Launches) -> String {
    let mut text =
        format!("{}\none step on {} ({}), listed by a dry run of the network\n\n", heading(setting), gpu.sheet.chip, gpu.sheet.source);
    let total = list.all.predicted_seconds.max(f64::MIN_POSITIVE);
    let _ = writeln!(
        text,
        "{:<32} {:>6} {:>11} {:>11} {:>9} {:>11} {:>6}",
        "kernel", "count", "read", "written", "TFLOP", "predicted", "share"
    );
    for line in &list.lines {
        let _ = writeln!(
            text,
            "{:<32} {:>6} {:>11} {:>11} {:>9.3} {:>8.3} ms {:>5.1}%",
            line.name,
            line.count,
            bytes(line.read_bytes),
            bytes(line.written_bytes),
            line.operations as f64 / 1e12,
            line.predicted_seconds * 1e3,
            line.predicted_seconds / total * 100.0
        );
    }
    let part = |name: &str, part: Part| {
        format!("{name:<40} {:>5} launches {:>11} {:>9.3} ms\n", part.launches, bytes(part.bytes), part.predicted_seconds * 1e3)
    };
    text.push('\n');
    text += &part("a block (the median one)", list.median_block);
    text += &part(&format!("all {} blocks", list.blocks), list.all_blocks);
    text += &part("outside of blocks", list.outside);
    text += &part("the look for values that are no numbers", list.guard);
    let _ = writeln!(
        text,
        "\nbytes per token-channel per layer  {:.1}  (weights among them; asked for: {ASKED_BYTES}, official code: about {OFFICIAL_BYTES})",
        list.bytes_per_token_channel
    );
    let _ = writeln!(text, "copies from the host               {} ({})", list.from_host.count, bytes(list.from_host.bytes));
    let _ = writeln!(text, "copies to the host                 {} ({})", list.to_host.count, bytes(list.to_host.bytes));
    let _ = writeln!(text, "allocations                        {}", list.allocations);
    let _ = writeln!(text, "synchronisations                   {}  (each copy from or to the host is waited for)", list.synchronisations);
    let resident = format!(
        "{} of weights, keys and values of the prompt; {} more within the step",
        bytes(list.resident_bytes),
        bytes(list.step_bytes)
    );
    let _ = writeln!(text, "device memory                      {resident}");
    let _ = writeln!(
        text,
        "predicted time of the step         {:.1} ms  (a PREDICTION from the data sheet, not a measurement: every launch at the\n\
         {:35}full {} TOPS int8, {} TFLOPS bf16 or {} GB/s, one after another, without launch costs)",
        list.all.predicted_seconds * 1e3,
        "",
        gpu.sheet.int8_tops,
        gpu.sheet.bf16_tops,
        gpu.sheet.gigabytes_per_s
    );
    text
}

fn bytes(bytes: u64) -> String {
    size(usize::try_from(bytes).unwrap_or(usize::MAX))
}
