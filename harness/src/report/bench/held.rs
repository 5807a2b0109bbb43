//! Operations held to the f64 truth, counted by operation and machine; what failed, told whole.

use std::collections::BTreeMap;

use serde_json::Value;

use super::source::Verified;
use crate::bench::table::Table;

/// Cases of one operation on one machine.
#[derive(Debug, Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// The largest share of a bound that was taken, and by what.
    worst: Option<(f64, String)>,
}

/// A row for each operation and machine.
pub fn table(verified: &Verified) -> Table {
    let mut counts: BTreeMap<(String, String), Count> = BTreeMap::new();
    for case in &verified.cases {
        let on = [case["device"].as_str(), case["chip"].as_str()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let count = counts.entry((case["op"].as_str().unwrap_or_default().to_owned(), on)).or_default();
        match case["verdict"].as_str() {
            Some("passed") => count.passed += 1,
            Some("skipped") => count.skipped += 1,
            _ => count.failed += 1,
        }
        for result in case["results"].as_array().into_iter().flatten() {
            let told = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
            // a share that is no number is past every bound
            let used = result["share_of_bound"].as_f64().unwrap_or(f64::INFINITY);
            if used > count.worst.as_ref().map_or(0.0, |worst| worst.0) {
                count.worst = Some((used, format!("{}: {} of {}", told("what"), told("error"), told("bound"))));
            }
        }
    }
    let mut table = Table::new(&["operation", "on", "passed", "failed", "skipped", "most of a bound", "by"]);
    for ((op, on), count) in counts {
        let (share, by) = match count.worst {
            Some((used, by)) if used.is_finite() => (format!("{:.0}%", 100.0 * used), by),
            Some((_, by)) => ("past it".to_owned(), by),
            None => ("exact".to_owned(), "-".to_owned()),
        };
        table.row([op, on, count.passed.to_string(), count.failed.to_string(), count.skipped.to_string(), share, by]);
    }
    table
}

/// Cases that failed or were skipped, a line each.
pub fn not_passed(verified: &Verified) -> Vec<String> {
    let is_told = |case: &&Value| case["verdict"] != "passed";
    let told = |case: &Value| {
        let text = |name: &str| case[name].as_str().unwrap_or_default();
        let why = case["why"].as_str().map_or_else(|| misses(case), str::to_owned);
        format!("{} on {}: {} ({})", text("verdict"), text("device"), text("case"), why)
    };
    verified.cases.iter().filter(is_told).map(told).collect()
}

/// The results of a case that broke their bound.
fn misses(case: &Value) -> String {
    let results = case["results"].as_array().into_iter().flatten().filter(|result| result["passes"] == false);
    let told = |result: &Value| {
        let text = |name: &str| result[name].as_str().unwrap_or_default();
        format!("{}: {} of {}", text("what"), text("error"), text("bound"))
    };
    results.map(told).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cases_are_counted_and_what_failed_is_told() {
        let result = |share: Option<f64>, passes: bool| json!([{ "what": "out", "error": "rel L2 2e-3", "bound": "rel L2 <= 1e-3", "share_of_bound": share, "passes": passes }]);
        let case = |verdict: &str, why: Option<&str>, results: Value| json!({ "op": "rope", "device": "host", "case": "op=rope seed=1", "verdict": verdict, "why": why, "results": results });
        let cases = vec![
            case("passed", None, result(Some(0.25), true)),
            case("failed", None, result(None, false)),
            case("skipped", Some("no memory"), json!([])),
        ];
        let mut verified = Verified { cases, ..Verified::default() };
        assert_eq!(table(&verified).rows()[1][2..6], ["1", "1", "1", "past it"]);
        let told = not_passed(&verified);
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("out: rel L2 2e-3 of rel L2 <= 1e-3") && told[1].contains("no memory"), "{told:?}");
        verified.cases.truncate(1);
        assert_eq!(table(&verified).rows()[1][2..6], ["1", "0", "0", "25%"]);
        assert!(not_passed(&verified).is_empty());
    }
}
