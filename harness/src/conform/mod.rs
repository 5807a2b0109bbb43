//! `turbowan conform DIR`: recorded runs of the official code, replayed through ours.
//!
//! Every `meta*.json` below the directory names a component; its runner reads the recorded inputs, runs our code and
//! holds each result to the fixture's own tolerance.

mod dit;
pub mod fixture;
mod pipeline;
mod quant_linear;
mod rcm_sampler;
mod sage;
mod sla;
mod umt5;
mod vae;

use std::path::Path;

pub use fixture::{Error, Fixture, Tensors};
use turbowan_reference::metrics::{Bound, Verdict};

/// One result held to its bound.
#[derive(Debug, Clone)]
pub struct Row {
    /// Component, e.g. `dit_t2v`.
    pub component: String,
    /// What was compared, e.g. `topk0.25 output (bf16)`.
    pub case: String,
    /// The measured distance and the bound; `None` for facts that are equal or not (names, counts).
    pub verdict: Option<Verdict>,
    /// Whether it passed.
    pub passes: bool,
    /// Anything a reader should know: how many entries differ, which rule was used.
    pub note: String,
}

/// Rows as a component's runner collects them.
#[derive(Debug, Default)]
pub struct Rows {
    component: String,
    rows: Vec<Row>,
}

impl Rows {
    /// An empty list for a component.
    pub fn of(component: impl Into<String>) -> Self {
        Self { component: component.into(), rows: Vec::new() }
    }

    /// Holds `got` to `want`. Slices of different length fail.
    pub fn compare<A: Into<f64> + Copy, B: Into<f64> + Copy>(&mut self, case: impl Into<String>, got: &[A], want: &[B], bound: Bound) {
        if got.len() != want.len() {
            let note = format!("{} values where the fixture has {}", got.len(), want.len());
            return self.fact(case, false, note);
        }
        let verdict = Verdict::of(got, want, bound);
        let (passes, component) = (verdict.passes(), self.component.clone());
        self.rows.push(Row { component, case: case.into(), verdict: Some(verdict), passes, note: String::new() });
    }

    /// Records something that holds or does not.
    pub fn fact(&mut self, case: impl Into<String>, passes: bool, note: impl Into<String>) {
        let component = self.component.clone();
        self.rows.push(Row { component, case: case.into(), verdict: None, passes, note: note.into() });
    }

    /// Equality of integers, allowing `other_by_one` of them (a share) to differ by one.
    pub fn integers<T: Into<i64> + Copy>(&mut self, case: impl Into<String>, got: &[T], want: &[T], other_by_one: f64) {
        if got.len() != want.len() {
            return self.fact(case, false, format!("{} values where the fixture has {}", got.len(), want.len()));
        }
        let (mut by_one, mut by_more) = (0usize, 0usize);
        for (g, w) in got.iter().zip(want) {
            match ((*g).into() - (*w).into()).abs() {
                0 => {}
                1 => by_one += 1,
                _ => by_more += 1,
            }
        }
        let passes = by_more == 0 && by_one as f64 <= other_by_one * got.len() as f64;
        self.fact(case, passes, format!("{by_one} of {} differ by one, {by_more} by more (allowed: {other_by_one:e})", got.len()));
    }

    /// What was collected.
    pub fn into_vec(self) -> Vec<Row> {
        self.rows
    }
}

/// A component's runner: what it is called in `meta.json` and what replays it.
type Runner = (&'static str, fn(&Fixture, &mut Rows) -> Result<(), Error>);

/// Every component that can be replayed. A component's file adds its line here.
const RUNNERS: &[Runner] = &[
    ("pipeline", pipeline::replay),
    ("dit_t2v", dit::text_to_video),
    ("dit_i2v", dit::image_to_video),
    ("dit_sla", dit::sparse_linear),
    ("quant_linear", quant_linear::run),
    ("rcm_sampler", rcm_sampler::run),
    ("sla_op", sla::replay),
    ("sage_op", sage::run),
    ("sage_op / SageSLA", sage::run_sagesla),
    ("umt5", umt5::run),
    ("vae", vae::run),
];

/// Replays every fixture found below `dir`.
///
/// # Errors
/// When `dir` cannot be read, holds no fixture, or names a component that nobody knows.
pub fn run(dir: &Path) -> Result<Vec<Row>, Error> {
    let fixtures = Fixture::find(dir)?;
    let mut all = Vec::new();
    for fixture in &fixtures {
        let component = fixture.component()?;
        let Some((_, runner)) = RUNNERS.iter().find(|(name, _)| *name == component) else {
            let known = RUNNERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownComponent { path: fixture.path.clone(), component, known });
        };
        let mut rows = Rows::of(&component);
        if let Err(error) = runner(fixture, &mut rows) {
            rows.fact("the whole fixture", false, error.to_string());
        }
        let rows = rows.into_vec();
        if rows.is_empty() {
            return Err(Error::NothingRan { path: fixture.path.clone() });
        }
        all.extend(rows);
    }
    Ok(all)
}
