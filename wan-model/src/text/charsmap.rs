//! Checks a `precompiled_charsmap`, the table of character replacements inside a tokenizer file, before anyone walks it.
//!
//! The table is a double-array trie followed by replacement texts: `u32 size, size / 4 units of u32, texts`. The
//! library that reads it follows its offsets without looking, so a forged table could send it out of bounds. Here every
//! state that text can reach is visited once.

use serde::Deserialize;
use serde_json::Value;

/// The part of a tokenizer file that may hold such tables.
#[derive(Deserialize)]
struct Outline {
    normalizer: Option<Value>,
}

/// Checks every table in a tokenizer file.
///
/// # Errors
/// What is wrong, in words.
pub fn check_file(json: &[u8]) -> Result<(), String> {
    let outline: Outline = serde_json::from_slice(json).map_err(|error| format!("not a tokenizer file: {error}"))?;
    outline.normalizer.map_or(Ok(()), |normalizer| check_value(&normalizer))
}

fn check_value(value: &Value) -> Result<(), String> {
    match value {
        Value::Object(members) => members.iter().try_for_each(|(name, member)| match (name.as_str(), member) {
            ("precompiled_charsmap", Value::String(text)) => {
                let table = from_base64(text).ok_or("precompiled_charsmap: not base64")?;
                check_table(&table).map_err(|reason| format!("precompiled_charsmap: {reason}"))
            }
            _ => check_value(member),
        }),
        Value::Array(members) => members.iter().try_for_each(check_value),
        _ => Ok(()),
    }
}

/// One unit of the trie.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn has_leaf(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    fn label(self) -> u32 {
        self.0 & 0x8000_00ff
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 0x200) >> 6)
    }
}

fn check_table(table: &[u8]) -> Result<(), &'static str> {
    let (size, rest) = table.split_first_chunk().ok_or("too short")?;
    let units = u32::from_le_bytes(*size) as usize / 4;
    if units == 0 || units > rest.len() / 4 {
        return Err("its trie is longer than the table");
    }
    let (trie, texts) = rest.split_at(units * 4);
    let texts = std::str::from_utf8(texts).map_err(|_| "its texts are not UTF-8")?;
    let trie: Vec<Unit> = trie.as_chunks().0.iter().map(|bytes| Unit(u32::from_le_bytes(*bytes))).collect();
    let mut seen = vec![false; trie.len()];
    let mut states = vec![trie[0].offset()];
    while let Some(state) = states.pop() {
        for byte in 1..=255u8 {
            let at = state ^ usize::from(byte);
            let unit = *trie.get(at).ok_or("a state lies outside its trie")?;
            if unit.label() != u32::from(byte) || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ unit.offset();
            if unit.has_leaf() {
                let text = trie.get(next).ok_or("a leaf lies outside its trie")?.value();
                if !texts.is_char_boundary(text) {
                    return Err("a replacement does not start at a character");
                }
            }
            states.push(next);
        }
    }
    Ok(())
}

/// Standard base64 with padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    let bare = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut held, mut bits) = (0u32, 0);
    for byte in bare {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
        }
    }
    text.len().is_multiple_of(4).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(units: &[u32], texts: &[u8]) -> Vec<u8> {
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts);
        bytes
    }

    /// A trie of 512 units in which `a` leads to a leaf with `value`.
    fn one_letter(value: u32) -> Vec<u32> {
        let mut units = vec![0x8000_0000; 512];
        units[0] = 256 << 10;
        units[256 ^ 0x61] = u32::from(b'a') | 1 << 8 | (0x61 << 10);
        units[256] = value;
        units
    }

    #[test]
    fn a_sound_table_passes() {
        assert_eq!(check_table(&table(&one_letter(0), b"x\0")), Ok(()));
    }

    #[test]
    fn every_way_out_of_bounds_is_refused() {
        assert!(check_table(&[1, 0]).is_err());
        assert!(check_table(&0xffff_fff0u32.to_le_bytes()).is_err());
        assert!(check_table(&table(&[], b"")).is_err());
        assert!(check_table(&table(&one_letter(3), b"x\0")).is_err(), "a text past the end");
        assert!(check_table(&table(&one_letter(1), "é\0".as_bytes())).is_err(), "inside a character");
        assert!(check_table(&table(&one_letter(0), b"\xff\0")).is_err(), "no UTF-8");
        let mut outside = one_letter(0);
        outside[0] = 4096 << 10;
        assert!(check_table(&table(&outside, b"x\0")).is_err(), "a state outside");
    }

    #[test]
    fn base64_is_read() {
        assert_eq!(from_base64("aGVsbG8=").unwrap(), b"hello");
        assert_eq!(from_base64("").unwrap(), b"");
        assert!(from_base64("aGVsbG8").is_none() && from_base64("a*==").is_none());
    }
}
