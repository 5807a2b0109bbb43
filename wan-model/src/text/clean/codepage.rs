//! Single-byte encodings that text is mistaken for, each as the 128 characters of its upper half.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A single-byte encoding, complete: bytes it leaves unassigned stand for the character of that number.
pub struct CodePage {
    /// Characters of the bytes 0x80 to 0xff.
    upper: &'static str,
    /// Whether byte 0x1a stands for U+FFFD, the mark of a character already lost. Windows' encodings are read so.
    pub marks_losses: bool,
    tables: OnceLock<Tables>,
}

struct Tables {
    decode: [char; 256],
    encode: HashMap<char, u8>,
}

/// The byte that stands for a lost character.
pub const LOST: u8 = 0x1a;

impl CodePage {
    const fn new(upper: &'static str, marks_losses: bool) -> Self {
        Self { upper, marks_losses, tables: OnceLock::new() }
    }

    fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| {
            let mut decode: [char; 256] = std::array::from_fn(|byte| char::from(byte as u8));
            if self.marks_losses {
                decode[usize::from(LOST)] = char::REPLACEMENT_CHARACTER;
            }
            for (slot, c) in decode[0x80..].iter_mut().zip(self.upper.chars()) {
                *slot = c;
            }
            let encode = decode.iter().enumerate().map(|(byte, c)| (*c, byte as u8)).collect();
            Tables { decode, encode }
        })
    }

    /// The character of a byte.
    pub fn decode_byte(&self, byte: u8) -> char {
        self.tables().decode[usize::from(byte)]
    }

    /// The bytes of a text, if every character has one.
    pub fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let encode = &self.tables().encode;
        text.chars().map(|c| encode.get(&c).copied()).collect()
    }
}

/// ISO 8859-1.
pub static LATIN_1: CodePage = CodePage::new("", false);
/// Western Europe.
pub static WINDOWS_1252: CodePage = CodePage::new(
    "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
     ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
    true,
);
/// Cyrillic.
pub static WINDOWS_1251: CodePage = CodePage::new(
    "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕї\
     АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя",
    true,
);
/// Central Europe.
pub static WINDOWS_1250: CodePage = CodePage::new(
    "€\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż\
     ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
    true,
);
/// Greek.
pub static WINDOWS_1253: CodePage = CodePage::new(
    "€\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\u{9e}\u{9f}\
     \u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏ\
     ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώÿ",
    true,
);
/// Turkish.
pub static WINDOWS_1254: CodePage = CodePage::new(
    "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
     ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ",
    true,
);
/// Baltic.
pub static WINDOWS_1257: CodePage = CodePage::new(
    "€\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\
     \u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ\
     ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙",
    true,
);
/// Central Europe, ISO.
pub static ISO_8859_2: CodePage = CodePage::new(
    "\u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\u{8f}\
     \u{90}\u{91}\u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\u{9e}\u{9f}\
     \u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žż\
     ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
    false,
);
/// Mac OS before X.
pub static MAC_ROMAN: CodePage = CodePage::new(
    "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ\
     ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ",
    false,
);
/// The IBM PC.
pub static CP437: CodePage = CodePage::new(
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
     αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
    false,
);

/// In the order in which a repair tries them.
pub static CODE_PAGES: [&CodePage; 10] =
    [&LATIN_1, &WINDOWS_1252, &WINDOWS_1251, &WINDOWS_1250, &WINDOWS_1253, &WINDOWS_1254, &WINDOWS_1257, &ISO_8859_2, &MAC_ROMAN, &CP437];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_every_page_has_its_own_character() {
        for page in CODE_PAGES {
            assert_eq!(page.tables().encode.len(), 256);
            let bytes: Vec<u8> = (0..=255).collect();
            let text: String = bytes.iter().map(|byte| page.decode_byte(*byte)).collect();
            assert_eq!(page.encode(&text).unwrap(), bytes);
        }
    }

    #[test]
    fn a_character_outside_a_page_has_no_bytes() {
        assert!(LATIN_1.encode("€").is_none());
        assert_eq!(WINDOWS_1252.encode("€\u{fffd}").unwrap(), [0x80, LOST]);
        assert!(WINDOWS_1252.encode("\u{1a}").is_none());
    }
}
