//! Two records side by side: what `turbowan verify --json` or `turbowan bench` wrote, on two machines or two days.
//!
//! A record is one JSON object, a list, or a line each. Whatever object in it has a name (`case`, `name` or `op`) is an entry;
//! its numbers are laid beside those of the entry of the same name in the other record.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::aligned;
use crate::error::Error;

/// Entries of a record: their numbers by their place.
pub type Record = BTreeMap<String, BTreeMap<String, f64>>;

/// Reads a record.
///
/// # Errors
/// When it cannot be read, is no JSON, or has no entry with a name and a number.
pub fn load(path: &Path) -> Result<Record, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        values.push(value.map_err(|error| Error::broken(path, format!("no record: {error}")))?);
    }
    let mut record = Record::new();
    values.iter().for_each(|value| gather(value, &mut record));
    if record.is_empty() {
        return Err(Error::broken(path, "no record: nothing in it has a name and a number"));
    }
    Ok(record)
}

/// The name of an entry, and where it ran.
fn name_of(value: &Value) -> Option<String> {
    let name = ["case", "name", "op"].into_iter().find_map(|key| value.get(key)?.as_str())?;
    let more = ["device", "chip", "check", "runner", "backend"].into_iter().filter_map(|key| value.get(key)?.as_str());
    Some(more.fold(name.to_owned(), |name, more| format!("{name} | {more}")))
}

fn gather(value: &Value, record: &mut Record) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| gather(value, record)),
        Value::Object(fields) => match name_of(value) {
            Some(name) => {
                let mut numbers = BTreeMap::new();
                fields.iter().for_each(|(key, value)| numbers_of(key, value, &mut numbers));
                if !numbers.is_empty() {
                    record.entry(name).or_default().extend(numbers);
                }
            }
            None => fields.values().for_each(|value| gather(value, record)),
        },
        _ => {}
    }
}

/// Numbers inside an entry; those in a list go by the name of their part, or by their place.
fn numbers_of(path: &str, value: &Value, numbers: &mut BTreeMap<String, f64>) {
    match value {
        Value::Number(number) => numbers.extend(number.as_f64().map(|number| (path.to_owned(), number))),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| numbers_of(&format!("{path}.{key}"), value, numbers)),
        Value::Array(values) => {
            // raw samples say nothing one by one
            for (index, value) in values.iter().enumerate().filter(|(_, value)| !value.is_number()) {
                let part = value.get("what").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
                numbers_of(&format!("{path}.{part}"), value, numbers);
            }
        }
        _ => {}
    }
}

/// Numbers of both records, where they differ; entries that one of them lacks are told at the end.
pub fn table(a: &Record, b: &Record) -> String {
    let mut lines = vec![["", "number", "A", "B", "B / A"].map(str::to_owned)];
    let mut equal = 0;
    for (name, numbers) in a {
        let Some(others) = b.get(name) else { continue };
        for (key, first) in numbers {
            let Some(second) = others.get(key) else { continue };
            if first == second {
                equal += 1;
                continue;
            }
            let ratio = if *first == 0.0 { "-".to_owned() } else { format!("{:.3}", second / first) };
            lines.push([name.clone(), key.clone(), format!("{first:.6e}"), format!("{second:.6e}"), ratio]);
        }
    }
    let mut text = if lines.len() > 1 { aligned(&lines) } else { String::new() };
    text += &format!("{equal} numbers are equal, {} differ\n", lines.len() - 1);
    for (what, from, other) in [("A", a, b), ("B", b, a)] {
        let alone = from.keys().filter(|name| !other.contains_key(*name)).count();
        if alone > 0 {
            text += &format!("{alone} entries are in {what} alone\n");
        }
    }
    text
}

/// The same for a machine.
pub fn json(a: &Record, b: &Record) -> Value {
    let mut pairs = Vec::new();
    for (name, numbers) in a {
        for (key, first) in numbers {
            if let Some(second) = b.get(name).and_then(|others| others.get(key)) {
                pairs.push(serde_json::json!({ "entry": name, "number": key, "a": first, "b": second }));
            }
        }
    }
    let alone = |from: &Record, other: &Record| from.keys().filter(|name| !other.contains_key(*name)).cloned().collect::<Vec<_>>();
    serde_json::json!({ "pairs": pairs, "only_a": alone(a, b), "only_b": alone(b, a) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_same_entry_lie_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let a = write(
            "a.jsonl",
            "{\"case\": \"one\", \"results\": [{\"what\": \"out\", \"share_of_bound\": 0.5}]}\n{\"event\": \"done\", \"passed\": 1}\n",
        );
        let b = write(
            "b.json",
            "{\"rows\": [{\"case\": \"one\", \"results\": [{\"what\": \"out\", \"share_of_bound\": 0.25}]}, {\"case\": \"two\", \"ms\": 1}]}",
        );
        let (a, b) = (load(&a).unwrap(), load(&b).unwrap());
        let text = table(&a, &b);
        assert!(text.contains("results.out.share_of_bound") && text.contains("0.500"), "{text}");
        assert!(text.contains("1 entries are in B alone"), "{text}");
        assert_eq!(json(&a, &b)["pairs"][0]["b"], 0.25);
        for text in ["", "{", "[1, 2]", "{\"a\": 1}"] {
            assert!(load(&write("c.json", text)).is_err(), "{text:?}");
        }
    }
}
