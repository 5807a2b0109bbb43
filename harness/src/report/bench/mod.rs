//! `turbowan report bench`: one page from the records that `bench`, `verify`, `eval` and the scripts of peers wrote.
//!
//! Every number of the page is a record's, or is computed from a record's samples; the page of the same records is the same
//! bytes. Each machine has its own section and its own charts, and what the records lack is told by name.

mod accuracy;
mod adherence;
mod figure;
mod held;
mod lengths;
pub mod machine;
mod missing;
pub mod page;
mod roofline;
pub mod source;
mod speedup;
mod timing;

use super::chart::ChartError;
use crate::bench::case::SUITES;
use crate::bench::table::Table;
use page::{Page, Part};
use source::{Sources, Verified};

/// The page of records; `command` makes it again.
///
/// # Errors
/// What drawing says.
pub fn page(sources: &Sources, command: &str) -> Result<Page, ChartError> {
    let sections = machine::sections(sources);
    let mut parts = vec![Part::Text(
        "Every number on this page comes from a record, or is computed from a record's samples; none was typed. A case was checked before it was timed: a wrong answer has no time. \
         Machines stand in sections of their own, and host and GPU never in one chart."
            .to_owned(),
    )];
    for section in &sections {
        parts.extend(section.parts()?);
    }
    if !sources.evaluations.is_empty() {
        parts.push(Part::Section("What the model makes of captions".to_owned()));
        parts.push(Part::Text(
            "A judge that sees frames alone reads shape, colour, background and motion back; shares in percent with 95% intervals."
                .to_owned(),
        ));
    }
    for evaluation in &sources.evaluations {
        parts.push(Part::Heading(evaluation.name.clone()));
        parts.push(Part::Text(adherence::asked(evaluation)));
        parts.extend(adherence::table(evaluation).map(Part::Table));
        parts.push(Part::Table(adherence::pictures(evaluation)));
        let figures = adherence::figures(evaluation)?;
        if !figures.is_empty() {
            parts.push(Part::Figures(figures));
        }
    }
    if !sources.verified.is_empty() {
        parts.push(Part::Section("Operations held to the f64 truth".to_owned()));
    }
    for verified in &sources.verified {
        parts.extend(of_verified(verified));
    }
    parts.push(Part::Section("Not measured".to_owned()));
    parts.push(Part::List(missing::not_measured(sources, &sections)));
    parts.push(Part::Section("This page again".to_owned()));
    parts.push(Part::Command(command.to_owned()));
    parts.push(Part::Text("Its records anew, on a machine of one's own:".to_owned()));
    parts.push(Part::Command(commands(sources).join("\n")));
    parts.push(Part::Table(files(sources)));
    if !sources.passed_over.is_empty() {
        let names: Vec<String> = sources.passed_over.iter().map(|path| path.display().to_string()).collect();
        parts.push(Part::Text(format!("Passed over, since nothing known is in it: {}.", names.join(", "))));
    }
    Ok(Page { title: "Turbowan, measured".to_owned(), parts })
}

fn of_verified(verified: &Verified) -> Vec<Part> {
    let mut parts = vec![Part::Heading(verified.name.clone())];
    parts.push(Part::Text(match &verified.begun {
        Some(begun) => {
            let commit = begun.build.commit.as_deref().unwrap_or("unknown");
            let cpu = begun.machine.cpu.as_deref().unwrap_or("unknown processor");
            format!("{cpu}, {}, commit {commit}, begun {}.", begun.machine.isa, begun.date)
        }
        None => "The record does not tell its machine and commit.".to_owned(),
    }));
    parts.push(Part::Table(held::table(verified)));
    let not_passed = held::not_passed(verified);
    if !not_passed.is_empty() {
        parts.push(Part::List(not_passed));
    }
    parts
}

/// The commands that make such records.
fn commands(sources: &Sources) -> Vec<String> {
    let mut commands = Vec::new();
    let mut suites: Vec<&str> = sources.records.iter().map(|record| record.suite.as_str()).collect();
    suites.sort_unstable();
    suites.dedup();
    let is_known = |suite: &&&str| SUITES.iter().any(|(known, _)| known == *suite);
    commands.extend(suites.iter().filter(is_known).map(|suite| format!("turbowan bench --suite {suite} --json > {suite}.jsonl")));
    if !sources.peers.is_empty() {
        commands.push("benches/peers/pair_host.sh DIR".to_owned());
    }
    if !sources.verified.is_empty() {
        commands.push("turbowan verify --json > verify.jsonl".to_owned());
    }
    if !sources.evaluations.is_empty() {
        commands.push("turbowan eval --record eval.jsonl".to_owned());
    }
    commands.push("turbowan report host --out DIR    # all of a CPU's".to_owned());
    commands
}

fn files(sources: &Sources) -> Table {
    let mut table = Table::new(&["record", "holds", "BLAKE3"]);
    for file in &sources.files {
        table.row([file.path.display().to_string(), file.holds.clone(), file.hash[..16].to_owned()]);
    }
    table
}
