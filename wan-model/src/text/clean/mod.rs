//! A prompt as the official code reads it: repaired, unescaped, with single spaces.
//!
//! ```text
//! ftfy.fix_text  ->  html.unescape twice  ->  strip  ->  runs of whitespace to one space  ->  strip
//! ```
//!
//! The order and the meaning of every step are those of `ftfy` 6.3.1 and of Python's `html` and `str`: the text encoder
//! was trained on text cleaned so. `cases.json` beside this file holds their answers.

mod badness;
mod characters;
mod codepage;
mod html;
mod mojibake;

/// Segments longer than this are cut, as `ftfy` does: the bound on what one repair may look at, in characters.
const SEGMENT: usize = 1_000_000;

/// The prompt as the tokenizer gets it.
///
/// ```
/// use turbowan_wan_model::text::clean_prompt;
/// assert_eq!(clean_prompt(" a  “cafÃ©” &amp;amp;\u{3000}ｂａｒ "), "a \"café\" & bar");
/// ```
pub fn clean_prompt(prompt: &str) -> String {
    let text = html::unescape(&html::unescape(&fix_text(prompt)));
    let mut clean = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    clean
}

/// `ftfy.fix_text`: line by line, each line until nothing changes any more. A `<` in a line says that the text is HTML
/// and that entities are meant, from there on.
fn fix_text(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut is_html = false;
    for line in text.split_inclusive('\n') {
        for segment in segments(line) {
            is_html |= segment.contains('<');
            fixed.push_str(&fix_segment(segment, !is_html));
        }
    }
    fixed
}

fn fix_segment(segment: &str, unescape: bool) -> String {
    let mut text = segment.to_owned();
    loop {
        let mut next = if unescape { html::unescape_terminated(&text) } else { text.clone() };
        next = mojibake::fix_encoding(next);
        next = characters::fix(&next);
        if next == text {
            return text;
        }
        text = next;
    }
}

/// A line in pieces of at most [`SEGMENT`] characters.
fn segments(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest.char_indices().nth(SEGMENT).map_or(rest.len(), |(at, _)| at);
        let (head, tail) = rest.split_at(cut);
        rest = tail;
        Some(head)
    })
}

/// What Python's `str.isspace` and `\s` call whitespace: Unicode's, and the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `ftfy` 6.3.1 and Python 3.11 made of each text (`make_cases.py`).
    const CASES: &str = include_str!("cases.json");

    #[test]
    fn every_recorded_text_is_cleaned_as_the_official_code_cleans_it() {
        let cases: Vec<[String; 2]> = serde_json::from_str(CASES).unwrap();
        assert!(cases.len() >= 200);
        let wrong: Vec<_> =
            cases.iter().map(|[text, want]| (text, clean_prompt(text), want)).filter(|(_, got, want)| got != *want).collect();
        assert!(wrong.is_empty(), "{} of {} differ: {wrong:#?}", wrong.len(), cases.len());
    }

    proptest! {
        #[test]
        fn any_text_comes_out_with_single_spaces(text in prop_oneof!["\\PC{0,40}", "[\\x00-\u{ff}\u{152}-\u{192}–-™]{0,40}", "(&(#x?)?[0-9a-zA-Z]{0,9};?){0,6}"]) {
            let clean = clean_prompt(&text);
            let words: Vec<&str> = clean.split(is_space).collect();
            prop_assert!(clean.is_empty() || words.iter().all(|word| !word.is_empty()));
            prop_assert!(clean.chars().all(|c| !is_space(c) || c == ' '));
        }
    }

    #[test]
    fn a_long_line_is_cut_without_losing_a_character() {
        let line = "é".repeat(SEGMENT + 3);
        assert_eq!(segments(&line).map(str::len).collect::<Vec<_>>(), [2 * SEGMENT, 6]);
        assert_eq!(segments("").count(), 0);
    }
}
