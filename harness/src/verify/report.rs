//! What is shown: a table for a person, a JSON line a case for a machine.

use serde_json::{Value, json};

use super::{Counts, Held, Machine, Op, Outcome, Row};
use crate::record;

/// The form of the JSON lines.
pub const SCHEMA: &str = "turbowan-verify/1";

/// The first JSON line: when, on what and with what.
pub fn json_head(machine: &Machine) -> Value {
    let looked = record::Machine::look(machine.gpu.as_ref().map(|device| device.chip()));
    json!({ "event": "begun", "schema": SCHEMA, "date": record::utc_now(), "machine": looked, "build": record::Build::look() })
}

/// The first lines of the table: what is verified on, and what is not.
pub fn head(machine: &Machine) -> String {
    let mut text = String::new();
    let places: Vec<_> = machine.places.iter().map(|place| place.name()).collect();
    text += &format!("verified on: {}\n", if places.is_empty() { "nothing".to_owned() } else { places.join(", ") });
    for (place, why) in &machine.missing {
        text += &format!("skipped: {} ({why})\n", place.name());
    }
    text
}

/// The line of an operation, before its rows.
pub fn title(op: &Op) -> String {
    format!("\n{}  {}\n", op.name, op.about)
}

/// A row of the table.
pub fn line(row: &Row) -> String {
    let on = row.chip.as_ref().map_or_else(|| row.place.name().to_owned(), |chip| format!("{} {chip}", row.place.name()));
    let case = row.case.split_once(' ').map_or(row.case.as_str(), |(_, case)| case);
    let case = row.check.map_or_else(|| case.to_owned(), |check| format!("{check}: {case}"));
    let verdict = match &row.outcome {
        Outcome::Passed => "pass".to_owned(),
        Outcome::Failed(None) => "FAIL".to_owned(),
        Outcome::Failed(Some(why)) => format!("FAIL: {why}"),
        Outcome::Skipped(why) => format!("skipped: {why}"),
    };
    let worst = row.worst().map(held).unwrap_or_default();
    let mut text = format!("  {on:<13} {:<68} {worst}{verdict}\n", case);
    if matches!(row.outcome, Outcome::Failed(_)) {
        for held in row.held.iter().filter(|held| !held.passes()) {
            text += &format!("      {}: got {:e}, want {:e}{}; {}\n", held.what, held.pair[0], held.pair[1], place(held), held.reason);
        }
        text += &format!("      again: {}\n", again(row));
    }
    text
}

fn held(held: &Held) -> String {
    let share = match held.used {
        0.0 => String::new(),
        used if used.is_finite() => format!(" ({:.0}%)", 100.0 * used),
        _ => " (past it)".to_owned(),
    };
    format!("{:<36} of {:<28} ", format!("{}: {}{}", held.what, held.error, place(held)), format!("{}{share}", held.bound))
}

fn place(held: &Held) -> String {
    if held.used == 0.0 {
        return String::new();
    }
    held.at.map_or_else(String::new, |[row, column]| format!(" at [{row}, {column}]"))
}

/// The command that runs just this case again.
pub fn again(row: &Row) -> String {
    let modes = if row.modes > 1 { " --modes all" } else { "" };
    format!("turbowan verify --device {}{modes} --case '{}'", row.place.name(), row.case)
}

/// A row as one JSON object.
pub fn json(row: &Row) -> Value {
    let (verdict, why) = match &row.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Failed(why) => ("failed", why.clone()),
        Outcome::Skipped(why) => ("skipped", Some(why.clone())),
    };
    // a share of a bound that is broken without measure is no JSON number
    let finite = |value: f64| value.is_finite().then_some(value);
    let results: Vec<_> = row
        .held
        .iter()
        .map(|held| {
            json!({
                "what": held.what,
                "error": held.error,
                "share_of_bound": finite(held.used),
                "passes": held.passes(),
                "at": held.at,
                "got": finite(held.pair[0]),
                "want": finite(held.pair[1]),
                "bound": held.bound,
                "reason": held.reason,
            })
        })
        .collect();
    json!({
        "event": "case",
        "op": row.op,
        "device": row.place.name(),
        "chip": row.chip,
        "kernels": row.kernels,
        "case": row.case,
        "check": row.check,
        "modes": row.modes,
        "verdict": verdict,
        "why": why,
        "results": results,
    })
}

/// The last line.
pub fn foot(counts: Counts) -> String {
    format!("\n{} passed, {} failed, {} skipped\n", counts.passed, counts.failed, counts.skipped)
}

/// The last JSON line.
pub fn json_foot(counts: Counts, machine: &Machine) -> Value {
    let missing: Vec<_> = machine.missing.iter().map(|(place, why)| json!({ "device": place.name(), "why": why })).collect();
    json!({ "event": "done", "passed": counts.passed, "failed": counts.failed, "skipped": counts.skipped, "missing": missing })
}
