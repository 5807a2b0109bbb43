//! The report as a page.

use super::{Report, Row};
use crate::bench::table::Table;

/// The page in Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# Kernels\n\n{} Made by `turbowan report kernels` from the kernels that the program holds: CUDA {}, cuobjdump {}; the same rows are in `kernels.json`.\n",
        report.what, report.cuda, report.cuobjdump
    );
    if !report.not_compiled.is_empty() {
        text += &format!("\nWithout machine code in this build: {}.\n", report.not_compiled.join(", "));
    }
    text += "\n| chip | numbers of | assumed |\n|---|---|---|\n";
    for chip in &report.chips {
        text += &format!("| {} | {} | {} |\n", chip.chip, chip.cards, chip.assumed);
    }
    text += "\nTheir limits, with sources, stand in `harness/src/report/kernels/chips.rs`.\n";
    text += "\n## What they take\n\nShared memory is static + dynamic; dynamic is the launcher's, `?` where it is not stated (occupancy is then the most there can be). No block fits where a launcher never takes the kernel on that chip.\n\n";
    text += &resources(report).markdown();
    text += "\n## Hot loops: prediction, not measured\n\n";
    text += "The innermost loop with the most matrix products. Clocks of a multiprocessor that one warp's pass takes on each pipe; the busiest is the bound, and the tensor pipe's share of it is the predicted share of the tensor peak (on 9.0 that of wgmma); 100% says only that no other pipe is busier. Counts and clocks are of all instructions, each once; where there are two shares, the first is of that and the second of the shortest way through the loop, which leaves out what a branch skips: tails, and copies where a branch guards them. The count knows no latencies, bank conflicts, memory waits or throttling: a kernel can be slower.\n\n";
    text += &loops(report).markdown();
    text += "\n## Kernels without a loop of products: prediction, not measured\n\n";
    text += "The whole kernel, each instruction once: loops and branches, so also what only some of its settings run. Clocks of a multiprocessor that one warp takes on each pipe; memory is every global access of the warp at the card's bandwidth, as if no cache held anything (small tables that all blocks read are counted too). The memory's share of the busiest pipe is the predicted share of the bandwidth.\n\n";
    text += &once(report).markdown();
    text
}

fn resources(report: &Report) -> Table {
    let mut table =
        Table::new(&["file", "kernel", "chip", "threads", "registers", "spills", "stack", "shared", "blocks", "warps", "limited by"]);
    for row in &report.kernels {
        let unknown = || "?".to_owned();
        let held = row.occupancy;
        let blocks = held.map_or_else(unknown, |held| if held.blocks == 0 { "none fits".to_owned() } else { held.blocks.to_string() });
        table.row([
            row.file.clone(),
            format!("`{}`", row.kernel),
            row.chip.clone(),
            row.threads.map_or_else(unknown, |threads| threads.to_string()),
            row.registers.to_string(),
            row.spill_bytes.to_string(),
            row.stack_bytes.to_string(),
            shared(row),
            blocks,
            held.map_or_else(unknown, |held| format!("{}/{}", held.warps, held.of_warps)),
            held.map_or_else(unknown, |held| format!("{:?}", held.limited_by).to_lowercase()),
        ]);
    }
    table
}

fn shared(row: &Row) -> String {
    let dynamic = row.dynamic_shared_bytes.map_or("?".to_owned(), |bytes| bytes.to_string());
    let at = row.at.map_or(String::new(), |shape| format!(" at {shape}"));
    format!("{} + {dynamic}{at}", row.static_shared_bytes)
}

fn loops(report: &Report) -> Table {
    let mut table = Table::new(&[
        "kernel",
        "chip",
        "instructions: all",
        "tensor",
        "special",
        "convert",
        "f32 + imad",
        "integer",
        "shared",
        "global",
        "branch",
        "sync",
        "other",
        "clocks: tensor",
        "issue",
        "special",
        "f32",
        "integer",
        "shared",
        "bound",
        "share of peak (predicted)",
    ]);
    for row in &report.kernels {
        let Some(hot) = &row.hot_loop else { continue };
        let (counts, clocks) = (&hot.counts, &hot.clocks);
        let one = |clocks: f64| format!("{clocks:.0}");
        let tensor = if counts.group_tensor > 0 { format!("{} of groups", counts.group_tensor) } else { counts.warp_tensor.to_string() };
        let counted = [counts.special, counts.convert].map(|count| count.to_string());
        let rest = [counts.alu, counts.shared, counts.global, counts.branch, counts.sync, counts.other].map(|count| count.to_string());
        table.row(
            [format!("`{}`", row.kernel), row.chip.clone(), counts.issued.to_string(), tensor]
                .into_iter()
                .chain(counted)
                .chain([format!("{} + {}", counts.fma, counts.imad)])
                .chain(rest)
                .chain([clocks.tensor, clocks.issue, clocks.special.max(clocks.convert), clocks.fma, clocks.alu, clocks.shared].map(one))
                .chain([hot.bound.to_owned(), shares(hot.share_of_peak, row.hot_way.map(|way| way.share_of_peak))]),
        );
    }
    table
}

fn once(report: &Report) -> Table {
    let mut table = Table::new(&[
        "kernel",
        "chip",
        "instructions",
        "special",
        "convert",
        "f32 + imad",
        "integer",
        "shared",
        "global",
        "clocks: memory",
        "issue",
        "special",
        "f32",
        "integer",
        "shared",
        "bound",
        "share of bandwidth (predicted)",
    ]);
    for row in &report.kernels {
        let Some(once) = &row.once else { continue };
        let (counts, clocks) = (&once.counts, &once.clocks);
        let times = [clocks.memory, clocks.issue, clocks.special.max(clocks.convert), clocks.fma, clocks.alu, clocks.shared];
        table.row(
            [format!("`{}`", row.kernel), row.chip.clone()]
                .into_iter()
                .chain([counts.issued, counts.special, counts.convert].map(|count| count.to_string()))
                .chain([format!("{} + {}", counts.fma, counts.imad)])
                .chain([counts.alu, counts.shared, counts.global].map(|count| count.to_string()))
                .chain(times.map(|clocks| format!("{clocks:.0}")))
                .chain([once.bound.to_owned(), format!("{:.0}%", once.share_of_peak * 100.0)]),
        );
    }
    table
}

/// Both shares of the peak, or one where they agree.
fn shares(all: f64, way: Option<f64>) -> String {
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    let way = way.map(percent).filter(|way| *way != percent(all));
    percent(all) + &way.map_or(String::new(), |way| format!(" to {way}"))
}
