//! Two machines on the cases of `turbowan verify`: host twin against kernel, emulator against GPU.

use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_reference::metrics::Distance;

use super::{Pair, timed};
use crate::error::Error;
use crate::verify::{Case, Fault, Op, Place, Queued, outputs};

/// A machine that was named.
pub struct Runner {
    place: Place,
    device: Option<Device>,
}

impl Runner {
    /// Opens the machine that a word names; none for another word.
    ///
    /// # Errors
    /// When this machine has none.
    pub fn open(word: &str) -> Result<Option<Self>, Error> {
        let Some(place) = Place::ALL.into_iter().find(|place| place.name() == word) else { return Ok(None) };
        let device = match place {
            Place::Host => Ok(None),
            Place::Emulator => Device::emulated(EmulatorOptions::default()).map(Some),
            Place::Cuda => Device::open(0).map(Some),
        };
        device.map(|device| Some(Self { place, device })).map_err(|why| Error::flag("compare", why.to_string()))
    }
}

/// What comparing found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Each result of each case.
    pub pairs: Vec<Pair>,
    /// Cases that one of the two could not run, with the reason.
    pub skipped: Vec<String>,
}

/// A against B on the cases of `ops`, or on one case.
///
/// # Errors
/// A case that fails on either.
pub fn compare(runners: [&Runner; 2], ops: &[Op], only: Option<&Case>, runs: usize) -> Result<Compared, Error> {
    let mut compared = Compared::default();
    for op in ops {
        let cases = only.map_or_else(op.cases, |case| vec![case.clone()]);
        for case in &cases {
            let text = case.text(op.name, op.axes);
            match pairs(runners, op, case, runs) {
                Ok(pairs) => compared.pairs.extend(pairs),
                Err(fault) => match fault.excuse() {
                    Some(why) => compared.skipped.push(format!("{}: {why}", op.name)),
                    None => return Err(Error::flag("compare", format!("{text}: {fault}"))),
                },
            }
        }
    }
    compared.skipped.dedup();
    Ok(compared)
}

fn pairs(runners: [&Runner; 2], op: &Op, case: &Case, runs: usize) -> Result<Vec<Pair>, Fault> {
    for runner in runners {
        let capability = runner.device.as_ref().map(|device| device.chip().capability);
        if capability.is_some_and(|capability| (op.kernels)(capability).is_empty()) {
            return Err(Fault::HostOnly);
        }
    }
    let prepared = (op.prepare)(case)?;
    let [(a, a_ms), (b, b_ms)] = {
        let run = |runner: &Runner| timed(runs, || outputs(prepared.as_ref(), runner.device.as_ref(), Queued::Eagerly));
        [run(runners[0])?, run(runners[1])?]
    };
    // what the emulator takes says nothing of any machine
    let time = |runner: &Runner, ms: f64| (runner.place != Place::Emulator).then_some(ms);
    let mut pairs = Vec::new();
    for a in &a {
        let Some(b) = b.iter().find(|b| b.name == a.name && b.values.len() == a.values.len()) else { continue };
        let distance = Distance::between(&a.values, &b.values);
        let worst = match distance.max_abs {
            0.0 => "equal".to_owned(),
            _ => format!("[{}, {}]", distance.worst / a.width.max(1), distance.worst % a.width.max(1)),
        };
        let what = format!("{} {}", case.text(op.name, op.axes), a.name);
        pairs.push(Pair { what, distance, worst, milliseconds: [time(runners[0], a_ms), time(runners[1], b_ms)] });
    }
    Ok(pairs)
}
