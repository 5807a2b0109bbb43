//! Random cases until the time is up or one fails.

use std::time::{Duration, Instant};

use turbowan_reference::inputs::Seeded;

use super::{Case, Counts, Outcome, Plan, Row};

/// What came of it.
#[derive(Debug)]
pub struct Fuzzed {
    /// How cases went.
    pub counts: Counts,
    /// The first that failed.
    pub failed: Option<Row>,
}

/// Draws operations, shapes, kinds and seeds from `seed` for as long as `time`; stops at the first case that fails.
pub fn run(plan: &Plan, time: Duration, seed: u64, mut show: impl FnMut(&Row)) -> Fuzzed {
    let (start, mut random) = (Instant::now(), Seeded::new(seed));
    let mut fuzzed = Fuzzed { counts: Counts::default(), failed: None };
    while start.elapsed() < time && !plan.ops.is_empty() && fuzzed.failed.is_none() {
        let op = &plan.ops[random.below(plan.ops.len())];
        let mut case = Case::draw(op.axes, &mut random);
        (op.tame)(&mut case);
        for row in plan.case(op, &case) {
            fuzzed.counts.add(&row);
            show(&row);
            if matches!(row.outcome, Outcome::Failed(_)) && fuzzed.failed.is_none() {
                fuzzed.failed = Some(row);
            }
        }
    }
    fuzzed
}
