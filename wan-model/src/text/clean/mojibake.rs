//! UTF-8 that was read in a single-byte encoding, read as UTF-8 again.
//!
//! What [`is_bad`] points at is turned back into bytes with the first encoding that has them all; if the bytes are
//! UTF-8 (or nearly: a no-break space turned into a space, a character already lost) that is the text. Otherwise single
//! stretches are tried alone. The method, its order and its exceptions are those of `ftfy` 6.3.1 (`fix_encoding`).

use std::collections::HashSet;
use std::sync::OnceLock;

use regex::bytes::{Captures, Regex};

use super::badness::is_bad;
use super::characters::control_to_windows;
use super::codepage::{self, CODE_PAGES, CodePage, LATIN_1, MAC_ROMAN, WINDOWS_1252};

/// UTF-8 sequences in which a space stands for byte 0xa0, where the result is a likely character.
const SPACED: &str = r"(?xs-u)
    [\xc2\xc3\xc5\xce\xd0\xd9] \x20
    | [\xe2\xe3] \x20 [\x80-\x84\x86-\x9f\xa1-\xbf]
    | [\xe0-\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf] \x20
    | \xf0 \x20 [\x80-\xbf] [\x80-\xbf]
    | \xf0 [\x80-\xbf] \x20 [\x80-\xbf]
    | \xf0 [\x80-\xbf] [\x80-\xbf] \x20";

/// UTF-8 sequences (and pairs of surrogates) in which a byte was lost: 0x1a stands for it, now and then `?`.
const LOSSY: &str = r"(?xs-u)
    [\xc2-\xdf] \x1a
    | [\xc2-\xc3] \?
    | \xed [\xa0-\xaf] [\x1a?] \xed [\xb0-\xbf] [\x1a?\x80-\xbf]
    | \xed [\xa0-\xaf] [\x1a?\x80-\xbf] \xed [\xb0-\xbf] [\x1a?]
    | [\xe0-\xef] [\x1a?] [\x1a\x80-\xbf]
    | [\xe0-\xef] [\x1a\x80-\xbf] [\x1a?]
    | [\xf0-\xf4] [\x1a?] [\x1a\x80-\xbf] [\x1a\x80-\xbf]
    | [\xf0-\xf4] [\x1a\x80-\xbf] [\x1a?] [\x1a\x80-\xbf]
    | [\xf0-\xf4] [\x1a\x80-\xbf] [\x1a\x80-\xbf] [\x1a?]
    | \x1a";

/// Repairs a text until nothing changes any more.
pub fn fix_encoding(mut text: String) -> String {
    while let Some(fixed) = fix_once(&text).filter(|fixed| *fixed != text) {
        text = fixed;
    }
    text
}

/// One repair, where there is one to make.
fn fix_once(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    if let Some(fixed) = CODE_PAGES.iter().find_map(|page| reread(page, text)) {
        return Some(fixed);
    }
    if let Some(fixed) = fix_stretches(text) {
        return Some(fixed);
    }
    // Latin-1 that was meant as Windows-1252: all controls have a meaning there, or only some have.
    let whole: Option<String> = LATIN_1.encode(text).and_then(|bytes| bytes.into_iter().map(assigned_in_windows).collect());
    if let Some(fixed) = whole.filter(|fixed| fixed != text) {
        return Some(fixed);
    }
    Some(text.chars().map(control_to_windows).collect())
}

/// The character of a byte that Windows-1252 assigns.
fn assigned_in_windows(byte: u8) -> Option<char> {
    match byte {
        codepage::LOST => Some(char::from(byte)),
        0x81 | 0x8d | 0x8f | 0x90 | 0x9d => None,
        _ => Some(WINDOWS_1252.decode_byte(byte)),
    }
}

/// The text as bytes of `page`, read as UTF-8.
fn reread(page: &CodePage, text: &str) -> Option<String> {
    let mut bytes = page.encode(text)?;
    // In Mac Roman these bytes are an en dash and a space: common text.
    if !std::ptr::eq(page, &MAC_ROMAN) {
        bytes = restore_no_break_spaces(bytes);
    }
    if page.marks_losses {
        bytes = compiled(&LOSSY_PATTERN, LOSSY).replace_all(&bytes, "\u{fffd}".as_bytes()).into_owned();
    }
    if bytes.contains(&0xed) || bytes.contains(&0xc0) { decode_variants(&bytes) } else { String::from_utf8(bytes).ok() }
}

static SPACED_PATTERN: OnceLock<Regex> = OnceLock::new();
static LOSSY_PATTERN: OnceLock<Regex> = OnceLock::new();

fn compiled<'a>(cell: &'a OnceLock<Regex>, pattern: &str) -> &'a Regex {
    cell.get_or_init(|| Regex::new(pattern).expect("the pattern is a constant"))
}

/// Puts 0xa0 back where a space cut a sequence in two.
fn restore_no_break_spaces(bytes: Vec<u8>) -> Vec<u8> {
    let pattern = compiled(&SPACED_PATTERN, SPACED);
    if !pattern.is_match(&bytes) {
        return bytes;
    }
    let bytes = separate_a_grave(&bytes);
    let restored = |found: &Captures<'_>| -> Vec<u8> { found[0].iter().map(|byte| if *byte == b' ' { 0xa0 } else { *byte }).collect() };
    pattern.replace_all(&bytes, restored).into_owned()
}

/// A lone `à` is a word of its own, so the space after it stays beside the restored byte; except before another space
/// and in Portuguese contractions (`àquele`, `às`).
fn separate_a_grave(bytes: &[u8]) -> Vec<u8> {
    const CONTRACTIONS: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        match tail.strip_prefix(b" ") {
            Some(after) if first == 0xc3 && !CONTRACTIONS.iter().any(|word| after.starts_with(word)) => {
                out.extend_from_slice(b"\xc3\xa0 ");
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// UTF-8 with Java's two-byte zero and with surrogates written as characters (CESU-8).
fn decode_variants(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        if let Some((c, len)) = variant(&bytes[at..]) {
            text.push_str(std::str::from_utf8(&bytes[start..at]).ok()?);
            text.push(c);
            at += len;
            start = at;
        } else {
            at += 1;
        }
    }
    text.push_str(std::str::from_utf8(&bytes[start..]).ok()?);
    Some(text)
}

/// A variant sequence at the start of `bytes`, and its length. A line feed that ends the text may stand for the last
/// byte: so do the official patterns read `$`.
fn variant(bytes: &[u8]) -> Option<(char, usize)> {
    match *bytes {
        [0xc0, 0x80, ..] | [0xc0, b'\n'] => Some(('\0', 2)),
        [0xed, b @ 0xa0..=0xaf, c @ 0x80..=0xbf, 0xed, e @ 0xb0..=0xbf, f, ref rest @ ..]
            if matches!(f, 0x80..=0xbf) || f == b'\n' && rest.is_empty() =>
        {
            let bits = |byte: u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
            let code = 0x1_0000 + bits(b, 0x0f, 16) + bits(c, 0x3f, 10) + bits(e, 0x0f, 6) + bits(f, 0x3f, 0);
            char::from_u32(code).map(|c| (c, 6))
        }
        _ => None,
    }
}

/// Which characters the bytes of UTF-8 become in the common encodings.
struct Roles {
    /// Of the lead bytes of two, three and four byte sequences.
    leads: [HashSet<char>; 3],
    /// Of the bytes that follow, and a space, which may have been one.
    continuations: HashSet<char>,
}

/// Characters of continuation bytes that also stand beside mojibake for their own sake.
const PUNCTUATION: &str = " –—―‘’‚“”„•…";

fn roles() -> &'static Roles {
    static ROLES: OnceLock<Roles> = OnceLock::new();
    ROLES.get_or_init(|| {
        let of = |bytes: &[u8]| -> HashSet<char> {
            CODE_PAGES[..7].iter().flat_map(|page| bytes.iter().map(|byte| page.decode_byte(*byte))).collect()
        };
        let range = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
        let mut continuations = of(&range(0x80, 0xbf));
        continuations.insert(' ');
        // Of four-byte leads only these two begin characters in use.
        Roles { leads: [of(&range(0xc2, 0xdf)), of(&range(0xe0, 0xef)), of(&[0xf0, 0xf3])], continuations }
    })
}

/// Repairs stretches that look like UTF-8, each alone, where the text as a whole has no single encoding.
fn fix_stretches(text: &str) -> Option<String> {
    let continuations = &roles().continuations;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut previous = None;
    while let Some(c) = rest.chars().next() {
        let follows_garble = previous.is_some_and(|p| continuations.contains(&p) && !PUNCTUATION.contains(p));
        let len = if follows_garble { 0 } else { stretch(rest) };
        let stretch = &rest[..len.max(c.len_utf8())];
        if len > 0 && len < text.len() && is_bad(stretch) {
            out.push_str(&fix_encoding(stretch.to_owned()));
        } else {
            out.push_str(stretch);
        }
        previous = stretch.chars().next_back();
        rest = &rest[stretch.len()..];
    }
    (out != text).then_some(out)
}

/// Bytes at the start of `text` that are sequences of a lead character and its continuations.
fn stretch(text: &str) -> usize {
    let roles = roles();
    let mut len = 0;
    'sequences: loop {
        for (extra, leads) in roles.leads.iter().enumerate() {
            let mut chars = text[len..].chars();
            let Some(lead) = chars.next() else { return len };
            let mut bytes = lead.len_utf8();
            let fits = leads.contains(&lead)
                && (0..=extra).all(|_| {
                    chars.next().is_some_and(|c| {
                        bytes += c.len_utf8();
                        roles.continuations.contains(&c)
                    })
                });
            if fits {
                len += bytes;
                continue 'sequences;
            }
        }
        return len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(text: &str) -> String {
        fix_encoding(text.to_owned())
    }

    #[test]
    fn text_read_in_each_encoding_is_read_again() {
        for text in ["“quoted” — “text”", "L’été à la plage", "Привет, мир", "你好，世界", "مرحبا بالعالم", "😀 smile"]
        {
            let bytes = text.as_bytes();
            let wrong: String = bytes.iter().map(|byte| WINDOWS_1252.decode_byte(*byte)).collect();
            assert_eq!(fixed(&wrong), text);
        }
        assert_eq!(fixed("ÃÂ¶"), "ö", "twice mistaken");
    }

    #[test]
    fn text_that_was_altered_on_the_way_is_repaired_as_far_as_it_goes() {
        assert_eq!(fixed("voilÃ le travail"), "voilà le travail");
        assert_eq!(fixed("â€œ like this â€\u{fffd}"), "“ like this \u{fffd}");
        assert_eq!(fixed("good text — and â€œbadâ€\u{9d} 中文"), "good text — and “bad” 中文");
    }

    #[test]
    fn good_text_is_left_alone() {
        for text in ["Ångström", "naïve café", "Ünïcödé ©®™", "Ελληνικά", "日本語、カタカナ", "ÀÉÎÕÜ"] {
            assert_eq!(fixed(text), text);
        }
    }

    #[test]
    fn surrogates_and_zeros_of_other_writers_are_read() {
        assert_eq!(decode_variants(b"\xed\xa0\xbd\xed\xb8\x8d!").unwrap(), "😍!");
        assert_eq!(decode_variants(b"a\xc0\x80b").unwrap(), "a\0b");
        assert!(decode_variants(b"\xed\xa0\xbd").is_none());
        assert!(decode_variants(b"\xc0\xaf").is_none());
        assert_eq!(decode_variants("한".as_bytes()).unwrap(), "한");
    }
}
