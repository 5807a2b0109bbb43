//! `turbowan conform DIR`: recorded runs of the official code, replayed through ours.
//!
//! Every `meta*.json` below the directory names a component; its runner reads the recorded inputs, runs our code and
//! holds each result to the fixture's own tolerance. On a device the networks run on its kernels; what kernels do not do is
//! skipped and says why.

mod dit;
pub mod fixture;
mod frames;
mod pipeline;
mod quant_linear;
mod rcm_sampler;
mod recordings;
mod sage;
mod sla;
mod umt5;
mod vae;

use std::path::Path;

pub use fixture::{Error, Fixture, Tensors};
use turbowan_reference::metrics::{Bound, Verdict};

use crate::run::processor::Processor;

/// What holds for every bound of a device.
pub const DEVICE_BOUNDS: &str = "A device rounds to bf16 where the recorded bf16 run does and sums in another order, so it is held to the \
     recording's own bf16 tolerance; int8 linears to that of the recorded int8 pass, frames to the PSNR that such latents give.";

/// Whether something held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Passed,
    /// It did not.
    Failed,
    /// It was not tried; the note says why.
    Skipped,
}

impl From<bool> for Outcome {
    fn from(passes: bool) -> Self {
        if passes { Self::Passed } else { Self::Failed }
    }
}

/// One result held to its bound.
#[derive(Debug, Clone)]
pub struct Row {
    /// Component, e.g. `dit_t2v`.
    pub component: String,
    /// What was compared, e.g. `topk0.25 output (bf16)`.
    pub case: String,
    /// The measured distance and the bound; `None` for facts that are equal or not (names, counts).
    pub verdict: Option<Verdict>,
    /// Whether it held.
    pub outcome: Outcome,
    /// Anything a reader should know: how many entries differ, which rule was used, why it was skipped.
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
        let (outcome, component) = (verdict.passes().into(), self.component.clone());
        self.rows.push(Row { component, case: case.into(), verdict: Some(verdict), outcome, note: String::new() });
    }

    /// Records something that holds or does not.
    pub fn fact(&mut self, case: impl Into<String>, passes: bool, note: impl Into<String>) {
        self.add(case, passes.into(), note);
    }

    /// Records something that is not tried, and why.
    pub fn skip(&mut self, case: impl Into<String>, why: impl Into<String>) {
        self.add(case, Outcome::Skipped, why);
    }

    fn add(&mut self, case: impl Into<String>, outcome: Outcome, note: impl Into<String>) {
        let component = self.component.clone();
        self.rows.push(Row { component, case: case.into(), verdict: None, outcome, note: note.into() });
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

/// What replays a component.
enum Runner {
    /// Networks, which also run on a device.
    Networks(fn(&Fixture, &Processor, &mut Rows) -> Result<(), Error>),
    /// Arithmetic that only the host has, or that is held to its truth elsewhere: why a device does not replay it.
    Host(fn(&Fixture, &mut Rows) -> Result<(), Error>, &'static str),
}

const SAMPLER: &str = "samplers work in f64 on the host, whatever the networks work on";
const HOSTS: &str = "the host's, whatever the networks work on";
const OPERATION: &str = "a single operation: `turbowan verify` holds its kernels to the f64 truth";

/// Every component that can be replayed, as `meta.json` calls it. A component's file adds its line here.
const RUNNERS: &[(&str, Runner)] = &[
    ("pipeline", Runner::Networks(pipeline::replay)),
    ("dit_t2v", Runner::Networks(dit::text_to_video)),
    ("dit_i2v", Runner::Networks(dit::image_to_video)),
    ("dit_sla", Runner::Networks(dit::sparse_linear)),
    ("quant_linear", Runner::Networks(quant_linear::run)),
    ("rcm_sampler", Runner::Host(rcm_sampler::run, SAMPLER)),
    ("sla_op", Runner::Host(sla::replay, OPERATION)),
    ("sage_op", Runner::Host(sage::run, OPERATION)),
    ("sage_op / SageSLA", Runner::Host(sage::run_sagesla, OPERATION)),
    ("umt5", Runner::Networks(umt5::run)),
    ("vae", Runner::Networks(vae::run)),
];

/// Replays every fixture found below `dir`, the networks on `processor`.
///
/// # Errors
/// When `dir` cannot be read, holds no fixture, or names a component that nobody knows.
pub fn run(dir: &Path, processor: &Processor) -> Result<Vec<Row>, Error> {
    let fixtures = Fixture::find(dir)?;
    let mut all = Vec::new();
    for fixture in &fixtures {
        let component = fixture.component()?;
        let Some((_, runner)) = RUNNERS.iter().find(|(name, _)| *name == component) else {
            let known = RUNNERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownComponent { path: fixture.path.clone(), component, known });
        };
        let mut rows = Rows::of(&component);
        let replayed = match (runner, processor) {
            (Runner::Networks(replay), _) => replay(fixture, processor, &mut rows),
            (Runner::Host(replay, _), Processor::Host) => replay(fixture, &mut rows),
            (Runner::Host(_, why), Processor::Device(_)) => {
                rows.skip("the whole fixture", *why);
                Ok(())
            }
        };
        if let Err(error) = replayed {
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
