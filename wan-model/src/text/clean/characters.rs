//! Characters that nobody meant to type: curled quotes, ligatures, wide forms, stray controls.

use std::sync::OnceLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use super::codepage::WINDOWS_1252;

/// The repairs of `ftfy` that look at characters alone, in its order, ending in Unicode's composed form (NFC).
pub fn fix(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b'\t' | b'\n' | b'\x0c' | b' '..=b'~')) {
        return text.to_owned();
    }
    let plain: String = text.chars().map(control_to_windows).flat_map(split_ligature).flat_map(to_common_width).map(uncurl).collect();
    let plain = plain.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
    let plain = terminal_escape().replace_all(&plain, "");
    plain.chars().filter(|c| !is_stray_control(*c)).nfc().collect()
}

/// A C1 control, which nobody uses, as the Windows-1252 character of that byte.
pub fn control_to_windows(c: char) -> char {
    match c {
        '\u{80}'..='\u{9f}' => WINDOWS_1252.decode_byte(c as u8),
        _ => c,
    }
}

/// Ligatures of Latin letters, and digraphs that exist for the sake of old encodings, as their letters.
fn split_ligature(c: char) -> impl Iterator<Item = char> {
    let letters = match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => "",
    };
    letters.is_empty().then_some(c).into_iter().chain(letters.chars())
}

/// Half-width and full-width forms, and the ideographic space, as the usual characters.
fn to_common_width(c: char) -> impl Iterator<Item = char> {
    let (same, other) = match c {
        '\u{3000}' => (Some(' '), None),
        '\u{ff01}'..='\u{ffef}' => (None, Some(c)),
        _ => (Some(c), None),
    };
    same.into_iter().chain(other.into_iter().nfkc())
}

fn uncurl(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        _ => c,
    }
}

/// Controls that do not belong in text. Whitespace, joiners, direction marks and emoji tags do.
fn is_stray_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// A terminal's colour and cursor commands.
fn terminal_escape() -> &'static Regex {
    static ESCAPE: OnceLock<Regex> = OnceLock::new();
    ESCAPE.get_or_init(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("the pattern is a constant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_character_is_repaired() {
        for (text, want) in [
            ("“a” ‘b’ ʼ", "\"a\" 'b' '"),
            ("ﬃ ĳ", "ffi ij"),
            ("Ｕﾀｰﾝ\u{3000}ﾊﾞ", "Uターン バ"),
            ("a\r\nb\rc\u{2028}d", "a\nb\nc\nd"),
            ("\u{1b}[36;44mblue\u{1b}[0m\u{7}", "blue"),
            ("e\u{301}\u{200d}", "é\u{200d}"),
            ("\u{85}\u{80}", "…€"),
        ] {
            assert_eq!(fix(text), want);
        }
    }
}
