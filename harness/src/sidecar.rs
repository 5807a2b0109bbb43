//! JSON beside a video, and JSON whose bytes depend on its content alone.
//!
//! `NAME.mp4` has its sidecar at `NAME.json`. The sidecar is written last: where it stands, the video it speaks of is whole.
//! Keys are sorted at every depth, so that equal content gives equal bytes however the value was put together.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::atomic_file::{self, WriteError};

/// Where the sidecar of `video` lies.
pub fn path_beside(video: &Path) -> PathBuf {
    video.with_extension("json")
}

/// Writes `content` beside `video`, indented, and returns where.
///
/// # Errors
/// [`WriteError`]; a sidecar that stood there before still stands.
pub fn write(video: &Path, content: &Value) -> Result<PathBuf, WriteError> {
    let path = path_beside(video);
    let mut text = format!("{:#}", sorted(content));
    text.push('\n');
    atomic_file::write(&path, text.as_bytes())?;
    Ok(path)
}

/// `content` on one line with sorted keys: what goes into a video.
pub fn one_line(content: &Value) -> String {
    sorted(content).to_string()
}

/// A copy whose keys are in order, whether or not the map keeps the order of insertion.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_sidecar_lies_beside_the_video_with_sorted_keys() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("a.b.mp4");
        let path = write(&video, &json!({"z": 1, "a": {"y": [{"d": 1, "c": 2}], "x": null}})).unwrap();
        assert_eq!(path, folder.path().join("a.b.json"));
        let text = std::fs::read_to_string(path).unwrap();
        let keys: Vec<usize> = ["\"a\"", "\"x\"", "\"y\"", "\"c\"", "\"d\"", "\"z\""].iter().map(|key| text.find(key).unwrap()).collect();
        assert!(keys.is_sorted(), "{text}");
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        let one: Value = serde_json::from_str(r#"{"b":1,"a":[1.5,{"d":"\u00e9","c":true}]}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"a":[1.5,{"c":true,"d":"é"}],"b":1}"#).unwrap();
        assert_eq!(one_line(&one), one_line(&other));
        assert_eq!(one_line(&one), r#"{"a":[1.5,{"c":true,"d":"é"}],"b":1}"#);
    }
}
