//! `turbowan compare A B`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use turbowan_cuda::Rounding;

use crate::cmd::bench::recorded as bench_records;
use crate::cmd::flags::PrecisionFlag;
use crate::cmd::verify::say;
use crate::compare::attention::{Input, Way};
use crate::compare::machines::Runner;
use crate::compare::{self, Pair, gate, records};
use crate::error::Error;
use crate::verify::{Case, ops};

/// Lays two things side by side: attention types, machines, or records.
///
/// Attention types are original (or dense), sage, sla and sagesla (sla:SHARE, sagesla:SHARE), run by the host on random
/// rows, on rows with outlier channels, and on captured ones. Machines are host, emulator and cuda, which run the cases of `turbowan verify`.
/// Records are files that `turbowan verify --json` or `turbowan bench` wrote; with `--gate` a slower A is an error.
#[derive(Debug, Args)]
pub struct Compare {
    /// What is judged.
    pub a: String,
    /// What it is judged by.
    pub b: String,
    /// Queries, keys and values that `--capture` kept, instead of drawn ones.
    #[arg(long, value_name = "FILE")]
    pub input: Vec<PathBuf>,
    /// Shape of drawn rows.
    #[arg(long, value_name = "TOKENSxHEADSxDIM", default_value = "1024x4x128")]
    pub shape: String,
    /// Share of key blocks where sla or sagesla names none.
    #[arg(long = "sla_topk", alias = "sla-topk", default_value_t = 0.1)]
    pub sla_topk: f64,
    /// Arithmetic of attention types.
    #[arg(long, value_enum, default_value_t = PrecisionFlag::Bf16)]
    pub precision: PrecisionFlag,
    /// Machines: operations whose name contains this.
    #[arg(long, value_name = "NAME")]
    pub op: Option<String>,
    /// Machines: one case, as `turbowan verify` takes it.
    #[arg(long, value_name = "CASE", conflicts_with = "op")]
    pub case: Option<String>,
    /// Seed of drawn rows.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Calls of each; the median is told.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Records of `turbowan bench`: whether A is slower than B beyond the noise of both, and a bad exit where it is. Rounds of
    /// the two that were taken in turns (scripts/gate) are compared round by round.
    #[arg(long)]
    pub gate: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Two things that cannot be compared, or one that cannot be run.
pub fn run(args: &Compare) -> Result<(), Error> {
    if args.gate {
        return held(args);
    }
    let ways = [Way::parse(&args.a, args.sla_topk)?, Way::parse(&args.b, args.sla_topk)?];
    if let [Some(a), Some(b)] = ways {
        return attention(args, [a, b]);
    }
    let is_file = [&args.a, &args.b].map(|word| Path::new(word).is_file());
    if is_file == [true, true] {
        return recorded(args);
    }
    if let [Some(a), Some(b)] = [Runner::open(&args.a)?, Runner::open(&args.b)?] {
        return machines(args, [&a, &b]);
    }
    let known = "attention types (original, sage, sla[:SHARE], sagesla[:SHARE]), machines (host, emulator, cuda) or two files";
    Err(Error::flag("compare", format!("{:?} and {:?} are not two {known}", args.a, args.b)))
}

fn attention(args: &Compare, ways: [Way; 2]) -> Result<(), Error> {
    let rounding = if args.precision == PrecisionFlag::Bf16 { Rounding::Bf16 } else { Rounding::None };
    let inputs = if args.input.is_empty() {
        let shape = shape(&args.shape)?;
        [false, true].map(|is_outlier| Input::drawn(is_outlier, shape, args.seed)).to_vec()
    } else {
        args.input.iter().map(|path| Input::captured(path)).collect::<Result<_, _>>()?
    };
    let pairs = inputs.iter().map(|input| compare::attention::compare(input, ways, rounding, args.runs)).collect::<Result<Vec<_>, _>>()?;
    let note = "sla and sagesla: the sparse branch alone; the linear branch's projection is a part of a trained model";
    let notes = ways.iter().any(|way| way.is_sparse()).then(|| note.to_owned()).into_iter().collect();
    tell(args, &pairs, ways.map(|way| way.to_string()), notes)
}

fn machines(args: &Compare, runners: [&Runner; 2]) -> Result<(), Error> {
    let (ops, only) = match &args.case {
        Some(text) => {
            let (name, case) = Case::parse(text, |name| ops::exactly(name).map(|op| op.axes))?;
            (ops::exactly(&name).into_iter().collect(), Some(case))
        }
        None => (ops::named(args.op.as_deref()), None),
    };
    if ops.is_empty() {
        return Err(Error::flag("--op", "no operation is called so; `turbowan verify --list` shows them"));
    }
    let compared = compare::machines::compare(runners, &ops, only.as_ref(), args.runs)?;
    let mut notes: Vec<_> = compared.skipped.iter().map(|why| format!("skipped: {why}")).collect();
    notes.push("times are of whole calls, copies included".to_owned());
    tell(args, &compared.pairs, [args.a.clone(), args.b.clone()], notes)
}

fn recorded(args: &Compare) -> Result<(), Error> {
    let (a, b) = (records::load(Path::new(&args.a))?, records::load(Path::new(&args.b))?);
    say(&if args.json { format!("{:#}\n", records::json(&a, &b)) } else { records::table(&a, &b) })
}

fn held(args: &Compare) -> Result<(), Error> {
    let [a, b] = [&args.a, &args.b].map(|path| bench_records(Path::new(path)));
    let (a, b) = (a?, b?);
    let judged = gate::judge(&a, &b).map_err(|reason| Error::flag("--gate", reason))?;
    say(&if args.json { format!("{:#}\n", gate::json(&judged)) } else { gate::text(&judged) })?;
    let slower = judged.iter().filter(|case| case.verdict.is_bad()).count();
    if slower > 0 { Err(Error::Slower { slower, total: judged.len() }) } else { Ok(()) }
}

fn tell(args: &Compare, pairs: &[Pair], names: [String; 2], notes: Vec<String>) -> Result<(), Error> {
    let names = names.each_ref().map(String::as_str);
    if args.json {
        let pairs: Vec<_> = pairs.iter().map(|pair| compare::json(pair, names)).collect();
        return say(&format!("{:#}\n", json!({ "pairs": pairs, "notes": notes })));
    }
    let notes: String = notes.iter().map(|note| format!("{note}\n")).collect();
    say(&format!("{}{notes}", compare::table(pairs, names)))
}

/// `[1, tokens, heads, head_dim]`.
fn shape(text: &str) -> Result<[usize; 4], Error> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    match sizes.as_deref() {
        Some([tokens, heads, head_dim]) => Ok([1, *tokens, *heads, *head_dim]),
        _ => Err(Error::flag("--shape", format!("{text:?} is not TOKENSxHEADSxDIM"))),
    }
}
