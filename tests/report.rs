//! `turbowan report bench`, `report table` and the README's own table, from the records that lie in `reports` and from small ones.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use turbowan::bench::sample::Samples;
use turbowan::bench::table::time;

const RECORDS: &str = "reports/2026-11-30-zen5-2core";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn turbowan(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(root()).args(arguments).output().unwrap()
}

/// Makes a page; its HTML and its Markdown.
fn page(records: &[&str], out: &Path) -> [String; 2] {
    let output = turbowan(&[&["report", "bench"], records, &["--out", out.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ["index.html", "README.md"].map(|name| std::fs::read_to_string(out.join(name)).unwrap())
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows of the Markdown table that begins with `heading`, without its two first lines.
fn rows(markdown: &str, heading: &str) -> Vec<Vec<String>> {
    let table = markdown.split(heading).nth(1).unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    table.lines().skip(2).take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Whether every tag is closed where it should be.
fn demand_balance(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for rest in html.split('<').skip(1) {
        let (tag, _) = rest.split_once('>').unwrap_or_else(|| panic!("a tag without its end: {rest:.60}"));
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
        match name {
            "!DOCTYPE" | "meta" | "link" => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "closed at {rest:.60}"),
            _ if tag.ends_with('/') => {}
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn the_page_is_whole_by_itself_and_the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    let records = [RECORDS, "reports/training/eval"];
    let [html, markdown] = page(&records, folder.path());
    demand_balance(&html);
    // nothing is fetched and nothing runs: the only address is the name of SVG
    assert_eq!(html.replace("http://www.w3.org/2000/svg", "").matches("http").count(), 0);
    assert!(!html.contains("<script") && !html.contains("<img") && html.contains("prefers-color-scheme: dark"));
    assert!(html.contains("name=\"viewport\"") && !html.contains("NaN") && !html.contains("#808080"));
    for figure in ["Faster than the peer by", "All four attributes read right", "All four attributes read right, by steps"] {
        assert!(html.contains(&format!("<h4>{figure}</h4>")), "{figure}");
    }
    for lacking in
        ["Any GPU", "Operations against the f64 truth", "without the machine's ceilings", "no operation was timed at two lengths"]
    {
        assert!(markdown.contains(lacking), "{lacking}");
    }
    assert!(markdown.contains("turbowan report bench reports/2026-11-30-zen5-2core reports/training/eval --out"));
    assert_eq!(page(&records, folder.path()), [html, markdown]);
}

#[test]
fn every_time_in_the_tables_is_that_of_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let [_, markdown] = page(&[RECORDS], folder.path());
    let ours = lines(&root().join(RECORDS).join("ours.jsonl"));
    let peers = lines(&root().join(RECORDS).join("peers.jsonl"));
    let median = |all: &[Value], is_it: &dyn Fn(&Value) -> bool| {
        let samples = all
            .iter()
            .filter(|line| is_it(line))
            .flat_map(|line| line["samples_s"].as_array().unwrap())
            .map(|sample| sample.as_f64().unwrap());
        Samples(samples.collect()).summary().unwrap().median
    };
    let operations = rows(&markdown, "| case | operation | median |");
    assert_eq!(operations.len(), 15, "{operations:?}");
    for row in &operations {
        assert_eq!(row[2], time(median(&ours, &|line| line["name"] == row[0].as_str())), "{row:?}");
    }
    let pairs = rows(&markdown, "| case | operation | ours |");
    assert!(pairs.len() >= 12, "{pairs:?}");
    for row in &pairs {
        let record = ours.iter().find(|line| line["name"] == row[0].as_str()).unwrap();
        let is_pair = |line: &Value| {
            let sides = line["shape"].as_object().unwrap();
            row[6].ends_with(&format!("({})", line["name"].as_str().unwrap()))
                && sides.iter().all(|(side, length)| record["shape"][side] == *length)
        };
        let (own, other) = (median(&ours, &|line| line["name"] == row[0].as_str()), median(&peers, &is_pair));
        assert_eq!((&row[2], &row[3]), (&time(own), &time(other)), "{row:?}");
        let told: f64 = row[4].trim_end_matches('x').parse().unwrap();
        assert!((told / (other / own) - 1.0).abs() < 0.03, "{row:?}");
    }
}

/// A record of a case with ceilings and another side.
fn record(name: &str, op: &str, shape: &Value, seconds: f64) -> Value {
    let samples: Vec<f64> = (0..9).map(|index| seconds * (1.0 + 0.01 * f64::from(index))).collect();
    let slower: Vec<f64> = samples.iter().map(|sample| 2.0 * sample).collect();
    let summary = |samples: &[f64]| json!(Samples(samples.to_vec()).summary());
    let check = |error: f64| json!({ "truth": "f64 attention", "values": 8, "max_abs": error, "relative_l2": error, "cosine": 1.0, "bound": "cosine >= 0.99", "passes": true });
    let operations = shape["len"].as_f64().unwrap().powi(2) * 1e3;
    json!({
        "schema": "turbowan-bench/1", "date": "2026-12-01T00:00:00Z", "suite": "own", "name": name, "op": op, "shape": shape, "device": "host",
        "machine": { "cpu": "a & b", "isa": "avx2", "cores": 2, "threads": 2, "memory_bytes": 1000, "gpu": null },
        "build": { "version": "0.1.0", "profile": "release", "target": "x86_64-linux", "commit": "abc", "dirty": false },
        "how": { "clock": "monotonic", "warm_up": 2, "runs_a_sample": 1, "cache": "warm", "clock_rates": "unknown" },
        "check": check(1e-2), "samples_s": samples, "seconds": summary(&samples), "process_peak_bytes": null,
        "cost": { "operations": operations, "actual": operations, "bytes": operations / 50.0 },
        "rates": { "effective_tops": operations / seconds / 1e12, "actual_tops": operations / seconds / 1e12, "gigabytes_per_s": 1.0, "of_matmul": 0.5, "of_copy": 0.1, "of_measured_roofline": 0.5, "of_datasheet_roofline": null },
        "ceilings": { "measured": { "copy_gigabytes_per_s": 20.0, "triad_gigabytes_per_s": 20.0, "float_tops": 0.5, "int8_tops": 2.0 }, "data_sheet": null },
        "against": [{ "name": "attention/dense", "check": check(1e-6), "samples_s": slower, "seconds": summary(&slower), "ratio": [0.5, 0.5, 0.5] }],
    })
}

#[test]
fn lengths_ceilings_errors_and_failures_have_their_charts_and_rows() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [512u32, 1024, 2048].map(|len| {
        let shape = json!({ "batch": 1, "heads": 2, "len": len, "head_dim": 64 });
        // times that grow as the square
        record(&format!("attention <{len}>"), "attention/sage", &shape, 1e-9 * f64::from(len).powi(2)).to_string()
    });
    std::fs::write(folder.path().join("bench.jsonl"), cases.join("\n")).unwrap();
    let failed = json!({ "event": "case", "op": "rope", "device": "host", "chip": null, "case": "op=rope seed=7", "verdict": "failed", "why": null,
        "results": [{ "what": "out", "error": "max abs 2.0e0", "share_of_bound": 4.0, "passes": false, "bound": "max abs 0.5" }] });
    let done = json!({ "event": "done", "passed": 0, "failed": 1, "skipped": 0, "missing": [{ "device": "cuda", "why": "no driver" }] });
    std::fs::write(folder.path().join("verify.jsonl"), format!("{failed}\n{done}\n")).unwrap();
    std::fs::write(folder.path().join("other.json"), "{\"a\": 1}").unwrap();
    let path = folder.path().to_str().unwrap();
    let [html, markdown] = page(&[path], &folder.path().join("page"));
    demand_balance(&html);
    for title in [
        "Time against tokens",
        "Throughput against tokens",
        "Throughput under the measured ceilings",
        "Error against speed",
        "Faster than our own by",
        "Share of the measured roofline",
    ] {
        assert!(html.contains(&format!("<h4>{title}</h4>")), "{title}");
    }
    assert!(html.contains("attention/sage: length^2.00") && html.contains("attention/dense: length^2.00"), "the fitted exponents");
    assert!(
        html.contains("attention &lt;512&gt;")
            && !html.contains("attention <512>")
            && html.contains("a &amp; b, 2 of 2 cores, avx2, commit abc")
    );
    assert!(markdown.contains("failed on host: op=rope seed=7 (out: max abs 2.0e0 of max abs 0.5)"), "{markdown}");
    assert!(markdown.contains("not held to the truth on cuda: no driver") && markdown.contains("other.json"), "{markdown}");
    assert!(markdown.contains("Peers: no time of another library") && markdown.contains("no record of `turbowan eval`"), "{markdown}");
    assert!(rows(&markdown, "| operation | on | passed |").iter().any(|row| row[0] == "rope" && row[3] == "1" && row[5] == "400%"));
}

#[test]
fn what_holds_no_record_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let future = write("future.jsonl", "{\"schema\": \"turbowan-bench/99\"}");
    let none = write("none.json", "{\"a\": 1}");
    let peers = write(
        "peers.jsonl",
        "{\"peer\":\"p\",\"version\":\"1\",\"name\":\"n\",\"op\":\"linear\",\"shape\":{},\"threads\":2,\"median_s\":1,\"min_s\":1}",
    );
    for (path, says) in
        [(&future, "turbowan-bench/99"), (&none, "no record"), (&peers, "no record of bench"), (&folder.path().join("gone"), "gone")]
    {
        let output = turbowan(&["report", "bench", path.to_str().unwrap(), "--out", folder.path().join("page").to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{text}");
    }
    let output = turbowan(&["report", "table", RECORDS, "--case", "no such case"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_readmes_table_is_what_its_command_prints() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- turbowan ").unwrap();
    let (command, rest) = rest.split_once(" -->\n").unwrap();
    // words, those in quotes as they are
    let parts = command.split('"').enumerate();
    let words: Vec<&str> =
        parts.flat_map(|(index, part)| if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }).collect();
    let output = turbowan(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let table: String = rest.lines().take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    assert_eq!(table, printed, "README.md: paste what `turbowan {command}` prints");
}
