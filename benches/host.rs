//! The host cases through criterion. Each is checked before it is timed: a wrong answer ends the run.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use turbowan::bench::case::Case;
use turbowan::bench::error::Error;
use turbowan::bench::host;
use turbowan::bench::work::Work;
use turbowan_benches::{SMOKE, SUITES, cases};

/// The fewest that criterion takes: the long cases are seconds each.
const SAMPLES: usize = 10;

fn main() -> Result<(), Error> {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let mut criterion = Criterion::default().configure_from_args();
    for (suite, case) in cases(if is_test { &SMOKE } else { &SUITES })? {
        let mut group = criterion.benchmark_group(format!("{suite}/{}", case.op.name()));
        group.sample_size(SAMPLES).sampling_mode(SamplingMode::Flat);
        if let Some(cost) = case.op.cost(false) {
            group.throughput(if cost.actual > 0 { Throughput::Elements(cost.actual) } else { Throughput::Bytes(cost.bytes) });
        }
        // made when the first of its turns comes, so that a filtered case costs nothing
        let mut made: Option<Box<dyn Work>> = None;
        group.bench_function(&case.name, |bencher| {
            let work = made.get_or_insert_with(|| checked(&case).unwrap_or_else(|why| panic!("{}: {why}", case.name)));
            bencher.iter_custom(|runs| (0..runs).map(|_| timed(&mut **work)).sum());
        });
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}

fn checked(case: &Case) -> Result<Box<dyn Work>, Error> {
    let mut work = host::prepare(&case.op, None)?;
    work.run()?;
    let check = work.check(case.bound.rows, case.bound.bound())?;
    if check.verdict.passes() { Ok(work) } else { Err(Error::case(&case.name, check.verdict)) }
}

fn timed(work: &mut dyn Work) -> Duration {
    let started = Instant::now();
    match work.run() {
        Ok(part) => part.unwrap_or_else(|| started.elapsed()),
        // it ran when it was checked
        Err(why) => panic!("{why}"),
    }
}
