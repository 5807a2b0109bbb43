//! `turbowan verify`: every operation on the host and on the emulator, what it says of one that is wrong, and its flags.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use turbowan::verify::{
    Axis, Case, Fault, Held, Kind, Machine, Modes, Op, Outcome, Output as Computed, Place, Plan, Prepared, Row, as_drawn, fuzz, no_kernels,
    ops, report,
};

fn plan(place: Place) -> Plan {
    Plan { ops: ops::named(None), machine: Machine::look(&[place]), modes: Modes::First, only: None, checks: true }
}

/// Runs everything and returns what was left out.
fn demand_all_pass(plan: &Plan) -> Vec<String> {
    let (mut wrong, mut skipped) = (String::new(), Vec::new());
    let counts = plan.run(|_, row| match &row.outcome {
        Outcome::Passed => {}
        Outcome::Failed(_) => wrong += &report::line(row),
        Outcome::Skipped(why) => skipped.push(format!("{} {:?}: {why}", row.op, row.check)),
    });
    println!("{} cases passed, {} skipped", counts.passed, counts.skipped);
    assert!(counts.failed == 0, "{} cases failed:\n{wrong}", counts.failed);
    assert!(counts.passed > 0 || plan.machine.places.is_empty());
    skipped
}

#[test]
fn every_operation_keeps_its_bound_on_the_host() {
    assert_eq!(demand_all_pass(&plan(Place::Host)), [""; 0]);
}

#[test]
fn every_kernel_keeps_its_bound_on_the_emulator() {
    let plan = plan(Place::Emulator);
    if plan.machine.places.is_empty() {
        return println!("skipped: {:?}", plan.machine.missing);
    }
    // a machine may have too few addresses for offsets past 2^31, a kernel's blocks may walk through all tiles, and a build
    // may have left kernels out
    let skipped = demand_all_pass(&plan);
    skipped.iter().for_each(|skipped| println!("skipped: {skipped}"));
    if std::env::var_os("TURBOWAN_KERNELS").is_none() {
        assert!(skipped.iter().all(|skipped| skipped.contains("past 2^31")), "{skipped:?}");
    }
}

/// Twice its input, or a little more where a value is `wrong`.
struct Twice(Vec<f32>, bool);

impl Prepared for Twice {
    fn host(&self) -> Result<Vec<Computed>, Fault> {
        let twice: Vec<f32> = self.0.iter().map(|x| 2.0 * x + if self.1 && *x > 1.5 { 1e-3 } else { 0.0 }).collect();
        Ok(vec![Computed::new("twice", 8, &twice)])
    }

    fn hold(&self, outputs: &[Computed], _: Place) -> Result<Vec<Held>, Fault> {
        let want: Vec<f64> = self.0.iter().map(|x| 2.0 * f64::from(*x)).collect();
        Ok(vec![Held::each(&outputs[0], &want, |_, _| 1e-6, "1e-6", "a product with two is exact")])
    }
}

const AXES: &[Axis] = &[Axis::new("rows", 1, 60, 1)];

fn twice(prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    Op {
        name: "twice",
        about: "2 x",
        axes: AXES,
        cases: || Case::cross(&[&[1], &[40]], &[7], &[Kind::Zero]),
        tame: as_drawn,
        kernels: no_kernels,
        far: &[],
        prepare,
    }
}

#[test]
fn a_wrong_value_fails_and_is_named_with_the_command_that_shows_it_again() {
    let machine = || Machine::look(&[Place::Host]);
    let wrong = twice(|case| Ok(Box::new(Twice(case.kind.values(case.sizes::<1>()[0], 8, case.seed), true))));
    let right = twice(|case| Ok(Box::new(Twice(case.kind.values(case.sizes::<1>()[0], 8, case.seed), false))));
    let of = |op| Plan { ops: vec![op], machine: machine(), modes: Modes::First, only: None, checks: true };
    let counts = of(right).run(|_, row| assert_eq!(row.outcome, Outcome::Passed, "{row:?}"));
    // three cases, and two laws
    assert_eq!((counts.passed, counts.failed), (5, 0));
    let mut failed: Vec<Row> = Vec::new();
    of(wrong).run(|_, row| failed.extend((row.outcome != Outcome::Passed).then(|| row.clone())));
    assert_eq!(failed.len(), 1, "{failed:?}");
    let worst = failed[0].worst().unwrap();
    assert!(worst.used > 900.0 && worst.pair[1] > 3.0, "{worst:?}");
    let text = report::line(&failed[0]);
    assert!(text.contains("FAIL") && text.contains("--case 'op=twice shape=rows:40 kind=plain seed=1'"), "{text}");
    assert_eq!(report::json(&failed[0])["verdict"], "failed");

    let fuzzed = fuzz::run(&of(wrong), std::time::Duration::from_secs(20), 1, |_| {});
    let row = fuzzed.failed.expect("one value in fifteen is wrong");
    let (op, case) = Case::parse(&row.case, |_| Some(AXES)).unwrap();
    assert_eq!(op, "twice");
    assert!(of(wrong).case(&wrong, &case).iter().any(|row| row.outcome != Outcome::Passed), "the same case fails again");
    let fuzzed = fuzz::run(&of(right), std::time::Duration::from_millis(200), 1, |_| {});
    assert!(fuzzed.failed.is_none() && fuzzed.counts.passed > 10);
}

#[test]
fn drawn_cases_of_every_operation_are_ones_that_it_takes() {
    let mut random = turbowan_reference::inputs::Seeded::new(20);
    let plan = Plan { checks: false, ..plan(Place::Host) };
    for op in &plan.ops {
        for _ in 0..4 {
            let mut case = Case::draw(op.axes, &mut random);
            (op.tame)(&mut case);
            for row in plan.case(op, &case) {
                assert_eq!(row.outcome, Outcome::Passed, "{}", report::line(&row));
            }
        }
    }
}

fn turbowan(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).args(arguments).output().unwrap()
}

#[test]
fn the_command_counts_its_cases_and_speaks_json() {
    let output = turbowan(&["verify", "--device", "host", "--op", "quantise-1x128", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, rows @ .., last] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((first["event"].as_str(), first["schema"].as_str()), (Some("begun"), Some(report::SCHEMA)));
    assert!(first["machine"]["cores"].as_u64() >= Some(1) && first["build"]["version"].is_string(), "{first}");
    assert_eq!(
        (last["event"].as_str(), last["passed"].as_u64(), last["failed"].as_u64()),
        (Some("done"), Some(rows.len() as u64), Some(0))
    );
    assert!(rows.iter().all(|row| row["verdict"] == "passed" && row["device"] == "host"));

    let case = "op=conv3d shape=input:3,output:50,height:4,width:6,kt:3,frames:1,stride:1,absent:0,parts:1,add:0,bf16:0 kind=plain seed=9";
    let output = turbowan(&["verify", "--device", "host", "--case", case]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed, 0 failed, 0 skipped") && text.contains("seed=9"), "{text}");

    let text = String::from_utf8(turbowan(&["verify", "--list"]).stdout).unwrap();
    assert!(ops::named(None).iter().all(|op| text.contains(op.name)), "{text}");
}

#[test]
fn flags_that_cannot_be_give_one_error_and_the_exit_code_of_flags() {
    for (arguments, part) in [
        (&["--op", "nothing"][..], "--op: no operation is called so"),
        (&["--case", "op=conv3d"], "--case: shape=AXIS:N,... is missing"),
        (&["--case", "op=quantise-1x128 shape=rows:1,width:128 kind=odd"], "no kind is called"),
        (&["--case", "op=quantise-1x128 shape=rows:1,width:0"], "width is at least 1"),
        (&["--fuzz", "-1"], "--fuzz: -1 is no number of seconds"),
        (&["--fuzz", "1", "--case", "op=x"], "cannot be used with"),
        (&["--device", "moon"], "possible values"),
    ] {
        let output = turbowan(&[&["verify"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(part), "{arguments:?}: {text}");
    }
    // a case that the operation itself refuses is a failure, and says why
    let odd = "op=rms-norm-rope shape=batch:1,time:1,height:1,width:1,heads:1,dim:7,gap:0,fast:0,turned:1,heads-first:0";
    let output = turbowan(&["verify", "--device", "host", "--case", odd]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("must be even"), "{text}");
}
