//! HTML entities, with the two readings that prompts meet: Python's `html.unescape` (the HTML5 rules: a name or number
//! may lack its semicolon, the longest known prefix counts) and `ftfy`'s cautious one (the semicolon is required).

use std::collections::HashMap;
use std::sync::OnceLock;

use super::codepage;

/// Names of HTML5, one a line: name (`!` when it also stands without a semicolon), then its characters in hexadecimal.
const NAMES: &str = include_str!("entities.txt");
/// Longest name that is looked for, in characters.
const LONGEST_NAME: usize = 32;
/// Longest entity between `&` or `&#` and `;` that `ftfy` looks at.
const LONGEST_TERMINATED: usize = 24;

struct Entity {
    text: String,
    /// Whether the name also counts without its semicolon.
    may_be_open: bool,
}

fn names() -> &'static HashMap<&'static str, Entity> {
    static NAMED: OnceLock<HashMap<&str, Entity>> = OnceLock::new();
    NAMED.get_or_init(|| {
        let entry = |line: &'static str| {
            let (name, codes) = line.split_once(' ')?;
            let text = codes.split(' ').filter_map(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?)).collect();
            let bare = name.strip_suffix('!');
            Some((bare.unwrap_or(name), Entity { text, may_be_open: bare.is_some() }))
        };
        NAMES.lines().filter_map(entry).collect()
    })
}

/// Python's `html.unescape`.
pub fn unescape(text: &str) -> String {
    replace_after_ampersands(text, |rest| match rest.strip_prefix('#') {
        Some(number) => unescape_number(number),
        None => unescape_name(rest),
    })
}

/// `ftfy.fixes.unescape_html`: only entities that end in a semicolon, and upper-case spellings of lower-case names.
pub fn unescape_terminated(text: &str) -> String {
    replace_after_ampersands(text, |rest| {
        let (mark, name) = match rest.strip_prefix('#') {
            Some(number) => (1, number),
            None => (0, rest),
        };
        let len = name.bytes().take_while(u8::is_ascii_alphanumeric).count();
        if !(1..=LONGEST_TERMINATED).contains(&len) || name.as_bytes().get(len) != Some(&b';') {
            return None;
        }
        let replacement = if mark == 1 {
            let (text, read) = unescape_number(name)?;
            (read == len + 2 && text != ";").then_some(text)?
        } else {
            let name = &name[..len];
            match names().get(name) {
                Some(entity) => entity.text.clone(),
                None => shouted(name)?,
            }
        };
        Some((replacement, mark + len + 1))
    })
}

/// `&NTILDE;` as `Ñ`: a known lower-case name in upper case, unless upper case already means something.
fn shouted(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if lower.to_ascii_uppercase() != name || lower == name || unescape_name(&format!("{name};")).is_some() {
        return None;
    }
    names().get(lower.as_str()).map(|entity| entity.text.to_uppercase())
}

/// Calls `replacement` with what follows each `&`; it returns what stands for the `&` and how many bytes after it.
fn replace_after_ampersands(text: &str, replacement: impl Fn(&str) -> Option<(String, usize)>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match replacement(rest) {
            Some((entity, len)) => {
                out.push_str(&entity);
                rest = &rest[len..];
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    out
}

/// Reads `65;`, `65`, `x41;` or `x41`; returns the text and the bytes read, counting the `#` before them.
fn unescape_number(number: &str) -> Option<(String, usize)> {
    let (radix, digits, mark) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (16, digits, 2),
        None => (10, number, 1),
    };
    let len = digits.chars().take_while(|c| c.is_digit(radix)).count();
    if len == 0 {
        return None;
    }
    let code = digits[..len].chars().filter_map(|c| c.to_digit(radix)).fold(0u32, |code, d| code.saturating_mul(radix).saturating_add(d));
    let closed = usize::from(digits.as_bytes().get(len) == Some(&b';'));
    Some((numbered(code), mark + len + closed))
}

/// What a character number stands for.
fn numbered(code: u32) -> String {
    let c = match code {
        0 => '\u{fffd}',
        0x0d => '\r',
        0x80..=0x9f => codepage::WINDOWS_1252.decode_byte(code as u8),
        // Not characters at all: dropped.
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => return String::new(),
        _ if code <= 0x10_ffff && code & 0xfffe == 0xfffe => return String::new(),
        // A surrogate, or past the end of Unicode.
        _ => char::from_u32(code).unwrap_or('\u{fffd}'),
    };
    c.to_string()
}

/// Reads a name, or the longest prefix of it that may stand without a semicolon; what is left of it stays as it is.
fn unescape_name(rest: &str) -> Option<(String, usize)> {
    let stops = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let (mut end, mut count) = (0, 0);
    for c in rest.chars().take_while(|c| !stops(*c)).take(LONGEST_NAME) {
        end += c.len_utf8();
        count += 1;
    }
    let (name, closed) = (&rest[..end], rest[end..].starts_with(';'));
    if count == 0 {
        return None;
    }
    let open = |name: &str| names().get(name).filter(|entity| entity.may_be_open).map(|entity| entity.text.clone());
    if closed && let Some(entity) = names().get(name) {
        return Some((entity.text.clone(), end + 1));
    }
    // Prefixes of at least two characters; without a semicolon the whole name is one of them, even of one character.
    let whole = (!closed).then(|| open(name)).flatten().map(|text| (text, end));
    whole.or_else(|| {
        name.char_indices()
            .map(|(at, _)| at)
            .chain(closed.then_some(end))
            .skip(2)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .find_map(|cut| open(&name[..cut]).map(|text| (text, cut)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_html5() {
        assert_eq!(names().len(), 2125);
        assert_eq!(names().values().filter(|entity| entity.may_be_open).count(), 106);
        assert!(names().values().all(|entity| (1..=2).contains(&entity.text.chars().count())));
    }

    #[test]
    fn names_may_lack_their_semicolon_and_the_longest_prefix_counts() {
        for (text, want) in [
            ("&notit;", "¬it;"),
            ("&notin;", "∉"),
            ("&ampx", "&x"),
            ("&amp", "&"),
            ("&", "&"),
            ("&&amp;", "&&"),
            ("&unknown;", "&unknown;"),
            ("&a;", "&a;"),
        ] {
            assert_eq!(unescape(text), want, "{text}");
        }
    }

    #[test]
    fn numbers_follow_the_html5_rules() {
        for (text, want) in [
            ("&#65;&#x41&#X41;", "AAA"),
            ("&#0;", "\u{fffd}"),
            ("&#x80;&#129;", "€\u{81}"),
            ("&#xD800;&#x110000;&#99999999999999999999;", "\u{fffd}\u{fffd}\u{fffd}"),
            ("&#1;&#xFFFE;&#x1ffff", ""),
            ("&#x;&#;&#", "&#x;&#;&#"),
        ] {
            assert_eq!(unescape(text), want, "{text}");
        }
    }

    #[test]
    fn the_cautious_reading_wants_the_semicolon() {
        for (text, want) in [
            ("this&not that", "this&not that"),
            ("P&EACUTE;REZ &szlig;&SZLIG;", "PÉREZ ßSS"),
            ("&nTILDE;&AMP;", "&nTILDE;&"),
            ("&#59;&#65;&#65", "&#59;A&#65"),
        ] {
            assert_eq!(unescape_terminated(text), want, "{text}");
        }
    }
}
