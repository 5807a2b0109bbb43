//! Timings. Cases are data, in `benches/cases`; `turbowan bench` runs them and writes records. Here the host's go through
//! criterion as well, for whoever works on one operation and wants its distribution and a comparison with the last run:
//!
//! ```sh
//! cargo bench -p turbowan-benches -- self-attention
//! ```
//!
//! `benches/peers` holds the other side of the pairings, in PyTorch.

use turbowan::bench::case::{self, Case};
use turbowan::bench::error::Error;

/// Suites of the host, whole networks last.
pub const SUITES: [&str; 2] = ["host", "networks"];
/// What runs once where the benches are only tested.
pub const SMOKE: [&str; 1] = ["host-smoke"];

/// The suites' cases, each with its suite's name.
///
/// # Errors
/// When a suite is not whole.
pub fn cases(suites: &[&'static str]) -> Result<Vec<(&'static str, Case)>, Error> {
    let all = suites.iter().map(|suite| Ok(case::suite(suite)?.into_iter().map(|case| (*suite, case)).collect::<Vec<_>>()));
    Ok(all.collect::<Result<Vec<_>, Error>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criterion_runs_operations_and_networks() {
        let cases = cases(&SUITES).unwrap();
        for op in ["linear/", "attention/", "dit-block/", "vae-decode/", "text-encode/", "generate/"] {
            assert!(cases.iter().any(|(_, case)| case.op.name().starts_with(op)), "{op}");
        }
    }
}
