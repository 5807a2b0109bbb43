//! A plan as text for a person.

use std::fmt::Write as _;

use super::Setting;
use super::fit::{RESERVE_BYTES, Row};
use super::generation::{Asked, Generation};
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

/// A whole generation.
pub fn generation(setting: &Setting, gpu: &Gpu, asked: &Asked, plan: &Generation) -> String {
    let mut text = format!("{}, {} steps\n", heading(setting), asked.steps);
    for parameters in &plan.parameters {
        let _ = writeln!(text, "  {:<36} {:>10.3} M parameters", parameters.network, parameters.count as f64 / 1e6);
    }
    let _ = writeln!(text, "\non {} ({} GiB), by a dry run of the networks", gpu.sheet.chip, gpu.memory_gib);
    let _ = writeln!(text, "  {:<10} {:>11} {:>11} {:>9} {:>13}", "stage", "weights", "peak", "TFLOP", "predicted");
    for stage in &plan.device {
        let operations = (stage.work.float_operations + stage.work.int8_operations) as f64 / 1e12;
        let (weights, peak) = (bytes(stage.weight_bytes), bytes(stage.peak_bytes));
        let seconds = stage.work.predicted_seconds;
        let _ = writeln!(text, "  {:<10} {weights:>11} {peak:>11} {operations:>9.1} {seconds:>11.3} s", stage.name);
    }
    let (peak, reserve) = (bytes(plan.device_peak_bytes), bytes(RESERVE_BYTES));
    let verdict = if plan.fits { "fits" } else { "DOES NOT FIT" };
    let _ = writeln!(text, "  {verdict}: {peak}, and {reserve} that driver and allocator are assumed to keep, of {} GiB", gpu.memory_gib);
    for (number, fix) in plan.fixes.iter().enumerate() {
        let _ = writeln!(text, "  {}. {} would: {}", number + 1, fix.change, bytes(fix.peak_bytes));
    }
    let _ = writeln!(
        text,
        "  {:.2} s in all, without loading: a PREDICTION from the data sheet ({}), not a measurement",
        plan.device_predicted_seconds, gpu.sheet.source
    );
    let _ = writeln!(text, "\non this host, {} threads", asked.threads);
    let _ = writeln!(text, "  {:<10} {:>11} {:>11}", "stage", "files", "allocated");
    let _ = writeln!(text, "  {:<10} {:>11} {:>11}", "program", "", bytes(plan.host.program_bytes));
    for stage in &plan.host.stages {
        let _ = writeln!(text, "  {:<10} {:>11} {:>11}", stage.name, bytes(stage.mapped_bytes), bytes(stage.heap_bytes));
    }
    let _ = writeln!(text, "  peak {}", bytes(plan.host.peak_bytes));
    let _ = match plan.host_predicted_seconds {
        Some(seconds) => writeln!(text, "  {seconds:.1} s at least: a PREDICTION from the products' measured ceilings, not a measurement"),
        None => writeln!(text, "  no time is predicted: --ceilings RECORD takes the ceilings that `turbowan bench` measured"),
    };
    text
}

/// What another setting changes.
pub fn what_if(change: &str, base: &Generation, other: &Generation) -> String {
    let verdict = if other.fits { "fits" } else { "does not fit" };
    format!(
        "what if {change}: {} on the device instead of {} ({verdict}), {:.2} s predicted instead of {:.2} s, {} on the host instead of {}\n",
        bytes(other.device_peak_bytes),
        bytes(base.device_peak_bytes),
        other.device_predicted_seconds,
        base.device_predicted_seconds,
        bytes(other.host.peak_bytes),
        bytes(base.host.peak_bytes)
    )
}

/// Which card holds which setting.
pub fn cards(rows: &[Row], gpu: &Gpu) -> String {
    let mut text =
        format!("which card holds what, on a chip like the {}, the driver's {} among it\n", gpu.sheet.chip, bytes(RESERVE_BYTES));
    for row in rows {
        let card = row.card_gib.map_or_else(|| "no card".to_owned(), |gib| format!("{gib} GiB"));
        let _ = writeln!(text, "  {card:>8}  {:>10}  {}", bytes(row.peak_bytes), row.setting);
    }
    text
}

fn bytes(bytes: u64) -> String {
    size(usize::try_from(bytes).unwrap_or(usize::MAX))
}
