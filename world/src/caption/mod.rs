//! Captions: what a clip shows, worded in one of many ways in English or Chinese.

mod chinese;
mod english;
mod lexicon;
mod prompt;

use std::collections::BTreeSet;

pub use prompt::{Misfit, Prompt, Reason};

use crate::attributes::Attributes;
use crate::random::{Random, Stream};

/// Language of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// English, lower case, no punctuation.
    English,
    /// Chinese, without spaces.
    Chinese,
}

/// Of this many captions one is Chinese, see [`any`].
pub const CHINESE_ONE_IN: usize = 5;

/// The caption that a seed chooses among templates and synonyms of one language.
pub fn write(attributes: &Attributes, language: Language, seed: u64) -> String {
    let mut random = Random::new(seed, Stream::Caption);
    match language {
        Language::English => english::write(attributes, random.below(english::TEMPLATES.len()), &mut random),
        Language::Chinese => chinese::write(attributes, random.below(chinese::TEMPLATES.len()), &mut random),
    }
}

/// The caption that a seed chooses, one in [`CHINESE_ONE_IN`] in Chinese.
pub fn any(attributes: &Attributes, seed: u64) -> String {
    let language = match Random::new(seed, Stream::Attributes).below(CHINESE_ONE_IN) {
        0 => Language::Chinese,
        _ => Language::English,
    };
    write(attributes, language, seed)
}

/// Every piece that captions are made of, sorted: English words, and single Chinese characters. A tokenizer that knows these
/// never falls back to letters or bytes.
pub fn words() -> Vec<String> {
    let english = english::phrases().flat_map(|phrase| phrase.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let chinese = chinese::phrases().flat_map(|phrase| phrase.chars().map(String::from).collect::<Vec<_>>());
    let pieces: BTreeSet<String> = english.chain(chinese).collect();
    pieces.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every template of every language, with synonyms of `seed`.
    fn captions(attributes: &Attributes, seed: u64) -> Vec<String> {
        let mut random = Random::new(seed, Stream::Caption);
        let mut all: Vec<String> = (0..english::TEMPLATES.len()).map(|n| english::write(attributes, n, &mut random)).collect();
        all.extend((0..chinese::TEMPLATES.len()).map(|n| chinese::write(attributes, n, &mut random)));
        all
    }

    #[test]
    fn every_caption_is_read_back_and_made_of_listed_words() {
        let known: BTreeSet<String> = words().into_iter().collect();
        let mut used = BTreeSet::new();
        for attributes in Attributes::all() {
            for seed in 0..4 {
                for caption in captions(&attributes, seed) {
                    let prompt = Prompt::parse(&caption);
                    assert_eq!(prompt.attributes(), Some(attributes), "{caption}: {prompt:?}");
                    assert!(prompt.misfits.is_empty(), "{caption}: {:?}", prompt.misfits);
                    let pieces: Vec<String> = match caption.is_ascii() {
                        true => caption.split(' ').map(str::to_owned).collect(),
                        false => caption.chars().map(String::from).collect(),
                    };
                    assert!(pieces.iter().all(|piece| known.contains(piece)), "{caption}");
                    used.extend(pieces);
                }
            }
        }
        assert_eq!(used, known, "every listed word is used");
    }

    #[test]
    fn a_fifth_of_captions_is_chinese_and_a_seed_repeats() {
        let attributes = crate::Split::All.draw(3);
        let chinese = (0..5000).filter(|&seed| !any(&attributes, seed).is_ascii()).count();
        assert!(chinese.abs_diff(1000) < 150, "{chinese}");
        assert_eq!(any(&attributes, 9), any(&attributes, 9));
        let distinct: BTreeSet<String> = (0..200).map(|seed| any(&attributes, seed)).collect();
        assert!(distinct.len() > 80, "{}", distinct.len());
    }

    #[test]
    fn an_article_fits_its_word() {
        for attributes in Attributes::all() {
            for caption in captions(&attributes, 5).iter().filter(|caption| caption.is_ascii()) {
                let words: Vec<&str> = caption.split(' ').collect();
                for pair in words.windows(2) {
                    let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
                    assert!(!(pair[0] == "a" && vowel || pair[0] == "an" && !vowel), "{caption}");
                }
            }
        }
    }
}
