//! `turbowan compare A B --gate` on times that were really taken: a kernel that does its work twice is told from one that does
//! it once, and two runs of the same one are not told apart.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rayon::ThreadPoolBuilder;
use turbowan::bench::case::{self, Case};
use turbowan::bench::ceiling::Measured;
use turbowan::bench::error::Error;
use turbowan::bench::work::{Check, Work};
use turbowan::bench::{LEAST_REPEAT, Settings, Target, host, measure_prepared};
use turbowan::record::Build;
use turbowan_reference::metrics::Bound;

/// How often the gate is asked.
const TIMES: usize = 10;
/// Rounds of each side: more are taken as long as the noise of a machine with other work to do hides what is looked for.
const ROUNDS: std::ops::RangeInclusive<usize> = 5..=30;

/// Does its work so many times, and is right.
struct Repeated(Box<dyn Work>, usize);

impl Work for Repeated {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        for _ in 1..self.1 {
            self.0.run()?;
        }
        self.0.run().map(|_| None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        self.0.check(rows, bound)
    }
}

fn line(case: &Case, times: usize, build: &Build) -> String {
    let settings = Settings { suite: "own".into(), repeat: LEAST_REPEAT, naive: false, pair: None };
    let measured = || {
        let work = Repeated(host::prepare(&case.op, None).unwrap(), times);
        measure_prepared(case, Box::new(work), &mut Target::Host, &settings, &Measured::default(), build).unwrap()
    };
    // one thread: threads that wait for one another on a machine with other work to do say nothing of a kernel this small
    let record = ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(measured);
    serde_json::to_string(&record).unwrap() + "\n"
}

fn gate(a: &Path, b: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).arg("compare").args([a, b]).arg("--gate").output().unwrap()
}

#[test]
fn a_kernel_that_works_twice_is_slower_and_the_same_kernel_is_not_ten_times_of_ten() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "[[case]]\nname = \"small\"\nop = \"linear/f32\"\nshape = { rows = 64, out = 256, input = 256 }\nbound = { relative_l2 = 1e-5 }";
    let case = &case::parse(Path::new("own.toml"), text).unwrap()[0];
    let build = Build::look();
    for time in 0..TIMES {
        let [old, same, slowed]: [PathBuf; 3] = ["old", "same", "slowed"].map(|name| folder.path().join(name));
        let sides = [(&old, 1), (&same, 1), (&slowed, 2)];
        sides.iter().for_each(|(path, _)| std::fs::write(path, "").unwrap());
        let (mut equal, mut slower);
        let mut rounds = 0;
        loop {
            // in turns, as scripts/gate does it
            for (path, times) in sides {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(line(case, times, &build).as_bytes()).unwrap();
            }
            rounds += 1;
            if rounds < *ROUNDS.start() {
                continue;
            }
            (equal, slower) = (gate(&same, &old), gate(&slowed, &old));
            if slower.status.code() == Some(1) || rounds == *ROUNDS.end() {
                break;
            }
        }
        let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(equal.status.success(), "time {time}: {}", said(&equal));
        assert!(slower.status.code() == Some(1) && said(&slower).contains("SLOWER"), "time {time}: {}", said(&slower));
    }
}
