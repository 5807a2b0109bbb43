//! Does a text look like UTF-8 that was read in another encoding?
//!
//! Two or three characters in a row tell: an accented letter before a currency sign, a C1 control anywhere. The classes
//! of characters and the sequences are those of `ftfy` 6.3.1 (Robyn Speer, Apache-2.0, `ftfy/badness.py`), where each
//! was weighed against real text; the answer has to be the same for the same prompts to be repaired.

use std::sync::OnceLock;

use regex::Regex;

/// Classes of characters, as they stand between the brackets of a pattern. `{name}` in [`SEQUENCES`] means one of them.
const CLASSES: [(&str, &str); 14] = [
    ("common", r"\xa0\xad·´–—―…’"),
    ("c1", r"\x80-\x9f"),
    ("bad", r"¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\x{fffd}ªº"),
    ("law", "¶§"),
    ("currency", "¢£¥₧€"),
    ("start", r"¡«¿©΄΅‘‚“„•‹\x{f8ff}"),
    ("end", r"®»\x{2dd}”›™"),
    ("numeric", "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№"),
    // Letters that faces are drawn with.
    ("face", "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°"),
    ("upper", "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ"),
    ("lower", "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ"),
    ("upper_common", "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я"),
    ("lower_common", "α-ωάέήίΰа-џ"),
    ("box", "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓"),
];

/// Sequences that real text does not hold; spaces are only for the eye.
const SEQUENCES: &[&str] = &[
    "[{c1}]",
    "[{bad}{lower}{upper}{box}{start}{end}{currency}{numeric}{law}] [{bad}]",
    "[a-zA-Z] [{lower_common}{upper_common}] [{bad}]",
    "[{bad}] [{lower}{upper}{box}{start}{end}{currency}{numeric}{law}]",
    "[{lower}{lower_common}{box}{end}{currency}{numeric}] [{upper}]",
    "[{box}{end}{currency}{numeric}] [{lower}]",
    "[{lower}{box}{end}] [{currency}]",
    "{space} [{upper}] [{currency}]",
    "[{upper}{box}] [{numeric}{law}]",
    "[{lower}{upper}{box}{currency}{end}] [{start}] [{numeric}]",
    "[{lower}{upper}{currency}{numeric}{box}{law}] [{end}] [{start}]",
    "[{currency}{numeric}{box}] [{start}]",
    "[a-z] [{upper}] [{start}{currency}]",
    "[{box}] [{face}]",
    "[{lower}{upper}{currency}{numeric}{start}{end}{law}] [{box}]",
    "[{box}] [{end}]",
    r"[{lower}{upper}] [{start}{end}] [\p{L}\p{N}_]",
    // A ligature with no plain letter after it; a degree sign after a capital.
    "[Œœ] [^A-Za-z]",
    "[{upper}] °",
    // Windows-1252, pairs that the above do not cover.
    r"[ÂÃÎÐ] [€œŠš¢£Ÿž\xa0\xad®©°·»{start}{end}–—´]",
    "× [²³]",
    // Arabic in Windows-1252: common characters, so two pairs are wanted.
    "[ØÙ] [{common}{currency}{bad}{numeric}{start}ŸŠ®°µ»] [ØÙ] [{common}{currency}{bad}{numeric}{start}ŸŠ®°µ»]",
    // South Asian alphabets in Windows-1252.
    "à [²µ¹¼½¾]",
    // Mac Roman.
    "√ [±∂†≠®™´≤≥¥µø]",
    "≈ [°¢]",
    "‚Ä [ìîïòôúùû†°¢π]",
    "‚ [âó] [àä°ê]",
    // Windows-1251: punctuation, then Latin-1 and Cyrillic letters, then both mistakes on top of one another.
    "вЂ",
    "[ВГРС] [{c1}{bad}{start}{end}{currency}°µ] [ВГРС]",
    "ГўВЂВ . [A-Za-z\\x20]",
    // `à`, `á` and the no-break space in Windows-1252.
    r"Ã [\xa0¡]",
    "[a-z] {space}? [ÃÂ] \\x20",
    "^ [ÃÂ] \\x20",
    "[a-z.,?!{end}] Â [\\x20{start}{end}]",
    // Windows-1253, and Windows-1257.
    r"β€ [™\xa0Ά\xad®°]",
    "[ΒΓΞΟ] [{c1}{bad}{start}{end}{currency}°] [ΒΓΞΟ]",
    "ā€",
];

/// Whether `text` holds a sequence that only a wrong encoding explains.
pub fn is_bad(text: &str) -> bool {
    static PATTERN: OnceLock<Regex> = OnceLock::new();
    PATTERN.get_or_init(|| Regex::new(&pattern()).expect("the pattern is a constant")).is_match(text)
}

fn pattern() -> String {
    let mut pattern = SEQUENCES.join("|").replace(' ', "").replace("{space}", r"[\s\x1c-\x1f]");
    for (name, members) in CLASSES {
        pattern = pattern.replace(&format!("{{{name}}}"), members);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mojibake_is_told_from_text() {
        for bad in ["schÃ¶n", "â€œquotedâ€\u{9d}", "РџСЂРёРІРµС‚", "ä½ å¥½", "voilÃ  le travail", "\u{85}"] {
            assert!(is_bad(bad), "{bad}");
        }
        for good in ["schön café", "naïve façade Ångström", "Привет, мир", "你好", "½ ² ³ ™ © ®", "(╯°□°)╯︵ ┻━┻", "L’été à Paris"]
        {
            assert!(!is_bad(good), "{good}");
        }
    }

    #[test]
    fn every_class_that_a_sequence_names_exists() {
        let pattern = pattern();
        assert!(!pattern.contains("{c") && !pattern.contains("{s"), "{pattern}");
    }
}
