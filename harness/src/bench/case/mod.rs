//! Cases are data: what is timed, on which shape, and what its result is held to.
//!
//! ```toml
//! [[case]]
//! name    = "1.3B 480p self-attention"      # a shape a user meets
//! op      = "attention/sage"
//! shape   = { heads = 12, len = 32760, head_dim = 128 }
//! against = ["attention/dense"]             # other operations of the same shape, or "naive"; timed in turns with it
//! bound   = { cosine = 0.999, rows = 64 }   # at this length the oracle works out 64 seeded rows
//! ```

mod cost;
mod op;
mod shape;

use std::path::Path;

use serde::{Deserialize, Serialize};
use turbowan_reference::metrics::Bound;

use super::error::Error;
pub use op::Op;
pub use shape::{
    Attention, BLOCKS, Block, Convolution, Crops, Decode, Generation, HeadGrid, HeadRows, Latents, Linear, Model, Rows, Text, TextRows,
};

/// The suites that the program carries: name and text.
pub const SUITES: [(&str, &str); 6] = [
    ("host-smoke", include_str!("../../../../benches/cases/host-smoke.toml")),
    ("host", include_str!("../../../../benches/cases/host.toml")),
    ("networks", include_str!("../../../../benches/cases/networks.toml")),
    ("pairs", include_str!("../../../../benches/cases/pairs.toml")),
    ("report", include_str!("../../../../benches/cases/report.toml")),
    ("device", include_str!("../../../../benches/cases/device.toml")),
];

/// What a result is held to.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Largest absolute difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f64>,
    /// Relative L2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_l2: Option<f64>,
    /// Cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Seeded rows that the oracle works out.
    #[serde(default = "sixteen")]
    pub rows: usize,
}

impl Held {
    /// Its limits.
    pub fn bound(&self) -> Bound {
        Bound { max_abs: self.max_abs, relative_l2: self.relative_l2, cosine: self.cosine }
    }
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What a user would call it.
    pub name: String,
    /// What is timed.
    #[serde(flatten)]
    pub op: Op,
    /// Operations of the same shape that are timed in turns with it; `naive` is a plain one of our own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// What its result is held to.
    pub bound: Held,
}

#[derive(Deserialize)]
struct File {
    case: Vec<Case>,
}

/// The cases of a suite's text.
///
/// # Errors
/// What the text is not: no TOML, an unknown operation, a shape without a side, a case without a bound, a name twice.
pub fn parse(name: &Path, text: &str) -> Result<Vec<Case>, Error> {
    let File { case: cases } = toml::from_str(text).map_err(|why| Error::file(name, why))?;
    for (index, case) in cases.iter().enumerate() {
        if case.bound.bound() == Bound::default() {
            return Err(Error::file(name, format!("case {:?} is held to nothing", case.name)));
        }
        if cases[..index].iter().any(|earlier| earlier.name == case.name) {
            return Err(Error::file(name, format!("two cases are called {:?}", case.name)));
        }
        case.op.check().map_err(|why| Error::file(name, format!("case {:?}: {why}", case.name)))?;
        for other in case.against.iter().filter(|other| *other != "naive") {
            case.op.of_same_shape(other).map_err(|why| Error::file(name, format!("case {:?}: against {other:?}: {why}", case.name)))?;
        }
    }
    Ok(cases)
}

/// The cases of a suite that the program carries.
///
/// # Errors
/// When there is none of that name.
pub fn suite(name: &str) -> Result<Vec<Case>, Error> {
    let known = || SUITES.map(|(name, _)| name).join(", ");
    let (_, text) = SUITES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| Error::file(name, format!("no such suite; there are {}", known())))?;
    parse(Path::new(name), text)
}

const fn sixteen() -> usize {
    16
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("own.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_suite_is_whole_and_every_case_is_held_to_something() {
        for (name, _) in SUITES {
            let cases = suite(name).unwrap();
            assert!(!cases.is_empty(), "{name}");
            for case in cases {
                if let Some(cost) = case.op.cost(name == "device") {
                    assert!(cost.bytes > 0 && cost.actual <= cost.operations.max(cost.actual), "{name}: {}", case.name);
                }
            }
        }
        assert!(suite("nothing").unwrap_err().to_string().contains("host-smoke"));
    }

    #[test]
    fn a_case_reads_as_it_is_written_and_a_bad_one_is_named() {
        let good = r#"[[case]]
name = "x"
op = "attention/sage"
shape = { heads = 12, len = 4096, head_dim = 128, topk = 0.1 }
against = ["naive", "attention/dense"]
bound = { cosine = 0.999, rows = 4 }"#;
        let case = &parse(Path::new("own.toml"), good).unwrap()[0];
        assert_eq!((case.op.name().as_str(), case.op.family().as_str()), ("attention/sage", "attention"));
        assert_eq!(case.op.shape(), json!({ "batch": 1, "heads": 12, "len": 4096, "head_dim": 128, "topk": 0.1 }));
        // 6 of 64 key blocks
        let cost = case.op.cost(false).unwrap();
        assert_eq!(cost.actual * 64, cost.operations * 6);
        for (from, to, says) in [
            ("attention/sage", "attention/none", "unknown variant"),
            ("heads = 12", "heads = 0", "a side of its shape is zero"),
            ("topk = 0.1", "topk = 1.5", "topk lies in (0, 1]"),
            ("head_dim = 128", "width = 128", "head_dim"),
            ("cosine = 0.999, ", "", "held to nothing"),
            ("attention/dense", "linear/f32", "against"),
        ] {
            assert!(error(&good.replace(from, to)).contains(says), "{from} -> {to}: {}", error(&good.replace(from, to)));
        }
        assert!(error(&format!("{good}\n{good}")).contains("two cases"));
    }
}
