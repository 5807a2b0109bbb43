//! `turbowan verify`.

use std::io::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::error::Error;
use crate::verify::{Case, Counts, Machine, Modes, Op, Place, Plan, fuzz, ops, report};

/// Runs every operation on every machine there is, and holds it to the f64 oracle.
#[derive(Debug, Args)]
pub struct Verify {
    /// Where: the host twins, the kernels on the emulator, the kernels on GPU 0.
    #[arg(long, value_enum, default_value_t = DeviceFlag::All)]
    pub device: DeviceFlag,
    /// Operations whose name contains this.
    #[arg(long, value_name = "NAME")]
    pub op: Option<String>,
    /// Which of the emulator's schedules.
    #[arg(long, value_enum, default_value_t = ModesFlag::First)]
    pub modes: ModesFlag,
    /// One case: 'op=NAME shape=AXIS:N,... kind=KIND seed=N'.
    #[arg(long, value_name = "CASE", conflicts_with_all = ["op", "fuzz"])]
    pub case: Option<String>,
    /// Random cases for this long, instead of the operations' own.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub fuzz: Option<f64>,
    /// Seed of the random cases.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Show operations, axes and kernels, and run nothing.
    #[arg(long)]
    pub list: bool,
    /// A JSON line for each case, one before them and one behind.
    #[arg(long)]
    pub json: bool,
}

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceFlag {
    /// The host twins.
    Host,
    /// The kernels on the emulator.
    Emulator,
    /// The kernels on GPU 0.
    Cuda,
    /// All that this machine has.
    All,
}

impl DeviceFlag {
    fn places(self) -> Vec<Place> {
        match self {
            Self::Host => vec![Place::Host],
            Self::Emulator => vec![Place::Emulator],
            Self::Cuda => vec![Place::Cuda],
            Self::All => Place::ALL.to_vec(),
        }
    }
}

/// `--modes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModesFlag {
    /// The first schedule.
    First,
    /// All eight.
    All,
}

/// Runs the command.
///
/// # Errors
/// A flag that cannot be, a machine that was asked for by name and is not there, or a case that failed.
pub fn run(args: &Verify) -> Result<(), Error> {
    let (ops, only) = chosen(args)?;
    if args.list {
        return say(&list(&ops, args.json));
    }
    let machine = Machine::look(&args.device.places());
    if let (DeviceFlag::Emulator | DeviceFlag::Cuda, Some((_, why))) = (args.device, machine.missing.first()) {
        return Err(Error::flag("--device", why.clone()));
    }
    let modes = if args.modes == ModesFlag::All { Modes::All } else { Modes::First };
    let checks = only.is_none() && args.fuzz.is_none();
    let plan = Plan { ops, machine, modes, only, checks };
    let counts = match args.fuzz {
        Some(seconds) => fuzzed(args, &plan, seconds)?,
        None => verified(args, &plan)?,
    };
    if counts.failed > 0 { Err(Error::Mismatch { failed: counts.failed, total: counts.passed + counts.failed }) } else { Ok(()) }
}

fn verified(args: &Verify, plan: &Plan) -> Result<Counts, Error> {
    say(&if args.json { format!("{}\n", report::json_head(&plan.machine)) } else { report::head(&plan.machine) })?;
    let (mut said, mut last) = (Ok(()), "");
    let counts = plan.run(|op, row| {
        let mut text = String::new();
        if args.json {
            text = format!("{}\n", report::json(row));
        } else {
            if last != op.name {
                text += &report::title(op);
            }
            text += &report::line(row);
        }
        last = op.name;
        if said.is_ok() {
            said = say(&text);
        }
    });
    said?;
    say(&if args.json { format!("{}\n", report::json_foot(counts, &plan.machine)) } else { report::foot(counts) })?;
    Ok(counts)
}

fn fuzzed(args: &Verify, plan: &Plan, seconds: f64) -> Result<Counts, Error> {
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| Error::flag("--fuzz", format!("{seconds} is no number of seconds")))?;
    say(&if args.json { format!("{}\n", report::json_head(&plan.machine)) } else { report::head(&plan.machine) })?;
    let mut said = Ok(());
    let fuzzed = fuzz::run(plan, time, args.seed, |row| {
        if args.json && said.is_ok() {
            said = say(&format!("{}\n", report::json(row)));
        }
    });
    said?;
    if let Some(row) = fuzzed.failed.as_ref().filter(|_| !args.json) {
        say(&report::line(row))?;
    }
    let counts = fuzzed.counts;
    say(&if args.json { format!("{}\n", report::json_foot(counts, &plan.machine)) } else { report::foot(counts) })?;
    Ok(counts)
}

/// The operations, and the case where one was given.
fn chosen(args: &Verify) -> Result<(Vec<Op>, Option<Case>), Error> {
    if let Some(text) = &args.case {
        let (name, case) = Case::parse(text, |name| ops::exactly(name).map(|op| op.axes))?;
        return Ok((ops::exactly(&name).into_iter().collect(), Some(case)));
    }
    let ops = ops::named(args.op.as_deref());
    if ops.is_empty() {
        let names: Vec<_> = ops::named(None).iter().map(|op| op.name).collect();
        return Err(Error::flag("--op", format!("no operation is called so; there are {}", names.join(", "))));
    }
    Ok((ops, None))
}

fn list(ops: &[Op], is_json: bool) -> String {
    let mut text = String::new();
    for op in ops {
        let mut kernels: Vec<_> = crate::verify::runner::CHIPS.iter().flat_map(|chip| (op.kernels)(*chip)).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let cases = (op.cases)().len();
        if is_json {
            let axes: Vec<_> = op
                .axes
                .iter()
                .map(|axis| json!({ "name": axis.name, "least": axis.least, "most": axis.most, "step": axis.step }))
                .collect();
            let entry = json!({ "op": op.name, "about": op.about, "axes": axes, "cases": cases, "kernels": kernels });
            text += &format!("{entry}\n");
            continue;
        }
        let axes: Vec<_> = op.axes.iter().map(|axis| axis.name).collect();
        let kernels = if kernels.is_empty() { "host alone".to_owned() } else { kernels.join(", ") };
        text += &format!("{:<24} {}\n{:24} {cases} cases of {}; {kernels}\n", op.name, op.about, "", axes.join(", "));
    }
    text
}

/// Writes to standard output.
pub(super) fn say(text: &str) -> Result<(), Error> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough: `turbowan verify | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Read { path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}
