//! `turbowan verify`: every operation, on every machine there is, against the f64 oracle.
//!
//! An operation is one [`Op`] in a file under `ops`: its name, its axes, its cases as data, and `prepare`, which makes
//! inputs and truth of a case. What it prepares runs on the host, runs on a device, and holds either's results to the truth
//! with a bound and the reason for it. A new operation is a file there and a line in [`ops::ALL`].

pub mod case;
pub mod checks;
pub mod fuzz;
pub mod held;
pub mod ops;
pub mod report;
pub mod runner;

use rayon::prelude::*;
use turbowan_cuda::device::Device;

pub use case::{Axis, Case, Kind};
pub use checks::{Check, Far};
pub use held::{Held, Output};
pub use runner::{Fault, Machine, Modes, Place, Queued, Stand};

use runner::CHIPS;

/// An operation.
#[derive(Clone, Copy)]
pub struct Op {
    /// Its name, as `--op` takes it.
    pub name: &'static str,
    /// What it computes.
    pub about: &'static str,
    /// The numbers of a case's shape.
    pub axes: &'static [Axis],
    /// Its cases.
    pub cases: fn() -> Vec<Case>,
    /// Makes a drawn shape one that the operation takes.
    pub tame: fn(&mut Case),
    /// The kernels that a chip takes; none where it has none, or the operation no kernel.
    pub kernels: fn((u32, u32)) -> Vec<&'static str>,
    /// Launches whose offsets lie past 2^31.
    pub far: &'static [Far],
    /// Inputs and truth of a case.
    pub prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>,
}

/// For operations that take every shape.
pub fn as_drawn(_: &mut Case) {}

/// For operations without a kernel.
pub fn no_kernels(_: (u32, u32)) -> Vec<&'static str> {
    Vec::new()
}

/// A case with its inputs and its truth.
pub trait Prepared: Sync {
    /// What the host twin makes of it; none where there is no twin.
    ///
    /// # Errors
    /// What the operation says.
    fn host(&self) -> Result<Vec<Output>, Fault>;

    /// What the kernel makes of it.
    ///
    /// # Errors
    /// What the operation or the driver says.
    fn device(&self, _stand: &Stand) -> Result<Vec<Output>, Fault> {
        Err(Fault::HostOnly)
    }

    /// Holds results to the truth.
    ///
    /// # Errors
    /// What the oracle's own inputs say.
    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault>;
}

/// How a case went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every result kept its bound.
    Passed,
    /// One did not, or the operation refused.
    Failed(Option<String>),
    /// It could not be run here.
    Skipped(String),
}

/// A case on a machine.
#[derive(Debug, Clone)]
pub struct Row {
    /// The operation.
    pub op: &'static str,
    /// Where it ran.
    pub place: Place,
    /// The GPU's name, or the chip that the emulator stood for.
    pub chip: Option<String>,
    /// The kernels.
    pub kernels: Vec<&'static str>,
    /// The case as `--case` takes it.
    pub case: String,
    /// Which check it was, beside the comparison with the truth.
    pub check: Option<&'static str>,
    /// The results, each of the schedule where it was worst.
    pub held: Vec<Held>,
    /// Schedules that the emulator went through.
    pub modes: usize,
    /// How it went.
    pub outcome: Outcome,
}

impl Row {
    /// The result that takes most of its bound.
    pub fn worst(&self) -> Option<&Held> {
        self.held.iter().max_by(|a, b| a.used.total_cmp(&b.used))
    }
}

/// Counts of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped.
    pub skipped: usize,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, row: &Row) {
        match row.outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }
}

/// What is verified.
pub struct Plan {
    /// The operations.
    pub ops: Vec<Op>,
    /// The machines.
    pub machine: Machine,
    /// Schedules of the emulator.
    pub modes: Modes,
    /// Instead of the operations' own cases.
    pub only: Option<Case>,
    /// Whether the checks of [`Check`] are made too.
    pub checks: bool,
}

/// The device that a case runs on, and what the table says of it.
struct Bench {
    place: Place,
    chip: Option<String>,
    kernels: Vec<&'static str>,
    /// None for the host.
    devices: Vec<Device>,
    /// Why it cannot run.
    skipped: Option<String>,
}

impl Plan {
    /// Runs everything, showing each row as soon as its operation is done.
    pub fn run(&self, mut show: impl FnMut(&Op, &Row)) -> Counts {
        let mut counts = Counts::default();
        for op in &self.ops {
            let cases = self.only.clone().map_or_else(op.cases, |case| vec![case]);
            let rows: Vec<Vec<Row>> = cases.par_iter().map(|case| self.case(op, case)).collect();
            let checks = if self.checks { self.check(op, &cases) } else { Vec::new() };
            for row in rows.iter().flatten().chain(&checks) {
                counts.add(row);
                show(op, row);
            }
        }
        counts
    }

    /// One case on every machine.
    pub fn case(&self, op: &Op, case: &Case) -> Vec<Row> {
        let prepared = match (op.prepare)(case) {
            Ok(prepared) => prepared,
            Err(fault) => {
                let place = self.machine.places.first().copied().unwrap_or(Place::Host);
                return vec![row(op, case, &Bench::host(place), Vec::new(), Outcome::Failed(Some(fault.to_string())))];
            }
        };
        self.benches(op, case.seed).iter().map(|bench| run_on(op, case, prepared.as_ref(), bench)).collect()
    }

    fn check(&self, op: &Op, cases: &[Case]) -> Vec<Row> {
        // the last shape with plain values is the largest that the operation names
        let case = cases.iter().rev().find(|case| case.kind == Kind::Plain).or_else(|| cases.last());
        let Some(case) = case else { return Vec::new() };
        let Ok(prepared) = (op.prepare)(case) else { return Vec::new() };
        let mut rows = Vec::new();
        for bench in self.benches(op, case.seed) {
            for check in Check::of(bench.place) {
                let (held, outcome) = match (&bench.skipped, checks::run(check, prepared.as_ref(), bench.devices.first())) {
                    (Some(why), _) => (Vec::new(), Outcome::Skipped(why.clone())),
                    (None, Ok(held)) => {
                        let outcome = if held.iter().all(Held::passes) { Outcome::Passed } else { Outcome::Failed(None) };
                        (held, outcome)
                    }
                    (None, Err(fault)) => (Vec::new(), failed(&fault)),
                };
                rows.push(Row { check: Some(check.name()), ..row(op, case, &bench, held, outcome) });
            }
            if bench.place != Place::Host && bench.skipped.is_none() {
                rows.extend(op.far.iter().map(|far| self.far(op, far, &bench)));
            }
        }
        rows
    }

    fn far(&self, op: &Op, far: &Far, bench: &Bench) -> Row {
        let case = Case::new(Kind::Plain, far.shape);
        let gpu = self.machine.gpu.as_ref().filter(|_| bench.place == Place::Cuda);
        let capability = bench.devices.first().map_or((8, 0), |device| device.chip().capability);
        let held = || -> Result<Vec<Held>, Fault> {
            let prepared = (op.prepare)(&case)?;
            prepared.hold(&prepared.device(&far.stand(gpu, capability)?)?, bench.place)
        };
        let (held, outcome) = match held() {
            Ok(held) => {
                let outcome = if held.iter().all(Held::passes) { Outcome::Passed } else { Outcome::Failed(None) };
                (held, outcome)
            }
            Err(fault) => (Vec::new(), failed(&fault)),
        };
        Row { check: Some("past 2^31"), modes: 1, ..row(op, &case, bench, held, outcome) }
    }

    /// The machines that an operation runs on: the host, each chip of the emulator that takes other kernels than those
    /// before it, the GPU.
    fn benches(&self, op: &Op, seed: u64) -> Vec<Bench> {
        let mut benches = Vec::new();
        let mut seen: Vec<Vec<&'static str>> = Vec::new();
        for place in &self.machine.places {
            match place {
                Place::Host => benches.push(Bench::host(Place::Host)),
                Place::Emulator => {
                    for capability in CHIPS {
                        let kernels = (op.kernels)(capability);
                        if kernels.is_empty() || seen.contains(&kernels) {
                            continue;
                        }
                        seen.push(kernels.clone());
                        benches.push(Bench::emulator(capability, kernels, self.modes, seed));
                    }
                }
                Place::Cuda => {
                    let Some(device) = &self.machine.gpu else { continue };
                    let (chip, kernels) = (device.chip(), (op.kernels)(device.chip().capability));
                    if !kernels.is_empty() {
                        let (major, minor) = chip.capability;
                        let chip = Some(format!("{} ({major}.{minor})", chip.name));
                        benches.push(Bench { place: *place, chip, kernels, devices: vec![device.clone()], skipped: None });
                    }
                }
            }
        }
        benches
    }
}

impl Bench {
    fn host(place: Place) -> Self {
        Self { place, chip: None, kernels: Vec::new(), devices: Vec::new(), skipped: None }
    }

    fn emulator(capability: (u32, u32), kernels: Vec<&'static str>, modes: Modes, seed: u64) -> Self {
        let devices: Vec<Device> =
            modes.options(capability, seed).into_iter().filter_map(|options| Device::emulated(options).ok()).collect();
        let missing = kernels.iter().find(|kernel| !runner::is_emulated(kernel));
        let skipped = missing.map(|kernel| format!("{kernel} was left out of this build"));
        Self { place: Place::Emulator, chip: Some(format!("{}.{}", capability.0, capability.1)), kernels, devices, skipped }
    }
}

fn row(op: &Op, case: &Case, bench: &Bench, held: Vec<Held>, outcome: Outcome) -> Row {
    Row {
        op: op.name,
        place: bench.place,
        chip: bench.chip.clone(),
        kernels: bench.kernels.clone(),
        case: case.text(op.name, op.axes),
        check: None,
        held,
        modes: bench.devices.len().max(1),
        outcome,
    }
}

fn failed(fault: &Fault) -> Outcome {
    fault.excuse().map_or_else(|| Outcome::Failed(Some(fault.to_string())), Outcome::Skipped)
}

fn run_on(op: &Op, case: &Case, prepared: &dyn Prepared, bench: &Bench) -> Row {
    if let Some(why) = &bench.skipped {
        return row(op, case, bench, Vec::new(), Outcome::Skipped(why.clone()));
    }
    let on = |device: Option<&Device>| -> Result<Vec<Held>, Fault> {
        let outputs = outputs(prepared, device, Queued::Eagerly)?;
        prepared.hold(&outputs, bench.place)
    };
    let ways: Vec<Option<&Device>> = if bench.devices.is_empty() { vec![None] } else { bench.devices.iter().map(Some).collect() };
    let mut worst: Vec<Held> = Vec::new();
    for (way, held) in ways.into_iter().map(|device| (device, on(device))) {
        match held {
            Err(fault) => {
                let outcome = match (failed(&fault), way.filter(|_| bench.devices.len() > 1)) {
                    (Outcome::Failed(Some(why)), Some(device)) => Outcome::Failed(Some(format!("{why} ({device:?})"))),
                    (outcome, _) => outcome,
                };
                return row(op, case, bench, worst, outcome);
            }
            Ok(held) => {
                for held in held {
                    match worst.iter_mut().find(|known| known.what == held.what) {
                        Some(known) if known.used < held.used => *known = held,
                        Some(_) => {}
                        None => worst.push(held),
                    }
                }
            }
        }
    }
    let outcome = if worst.iter().all(Held::passes) { Outcome::Passed } else { Outcome::Failed(None) };
    row(op, case, bench, worst, outcome)
}

/// What the host twin or a kernel makes of a case.
///
/// # Errors
/// What the operation or the driver says.
pub fn outputs(prepared: &dyn Prepared, device: Option<&Device>, queued: Queued) -> Result<Vec<Output>, Fault> {
    match device {
        None => prepared.host(),
        Some(device) => prepared.device(&Stand::new(device, queued)?),
    }
}
