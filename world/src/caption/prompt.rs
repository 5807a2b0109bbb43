//! A prompt read back: which attributes it names, and what in it this world does not have.

use std::fmt;

use super::lexicon::{self, Meaning};
use crate::attributes::{Attributes, Background, Colour, Motion, Shape};

/// What a prompt names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    /// The shape, if it is named.
    pub shape: Option<Shape>,
    /// The shape's colour, if it is named.
    pub colour: Option<Colour>,
    /// The background, if it is named.
    pub background: Option<Background>,
    /// The motion, if it is named.
    pub motion: Option<Motion>,
    /// Words that fit nowhere, in the order of the prompt.
    pub misfits: Vec<Misfit>,
}

/// A word that does not fit this world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The word, in lower case.
    pub word: String,
    /// Why it does not fit.
    pub reason: Reason,
}

/// Why a word does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No caption says anything of the kind.
    Unknown,
    /// A colour that backgrounds have and shapes do not.
    NotOfShapes,
    /// A colour that shapes have and backgrounds do not.
    NotOfBackgrounds,
    /// The attribute is named already, with another value.
    Second,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Unknown => write!(f, "{:?} is unknown", self.word),
            Reason::NotOfShapes => write!(f, "{:?} is no colour of shapes", self.word),
            Reason::NotOfBackgrounds => write!(f, "{:?} is no colour of backgrounds", self.word),
            Reason::Second => write!(f, "{:?} contradicts an earlier word", self.word),
        }
    }
}

impl Prompt {
    /// Reads a prompt in English, Chinese or both. Any text is read; what fits nowhere is listed.
    pub fn parse(text: &str) -> Self {
        let mut reader = Reader::default();
        let mut words: Vec<String> = Vec::new();
        for run in runs(&text.to_lowercase()) {
            match run {
                Run::Word(word) => words.push(word),
                Run::Han(text) => {
                    reader.english(&std::mem::take(&mut words));
                    reader.chinese(&text);
                }
            }
        }
        reader.english(&words);
        reader.free_tint();
        reader.prompt
    }

    /// The attributes, if all four are named.
    pub fn attributes(&self) -> Option<Attributes> {
        Some(Attributes { shape: self.shape?, colour: self.colour?, background: self.background?, motion: self.motion? })
    }

    /// Names of the attributes that are not named.
    pub fn missing(&self) -> Vec<&'static str> {
        let named = [
            ("shape", self.shape.is_some()),
            ("colour", self.colour.is_some()),
            ("background", self.background.is_some()),
            ("motion", self.motion.is_some()),
        ];
        named.into_iter().filter(|(_, is_named)| !is_named).map(|(name, _)| name).collect()
    }

    /// One sentence that says what a model of this world cannot make of the prompt; none where it can make all of it.
    pub fn warning(&self) -> Option<String> {
        let mut parts: Vec<String> = self.misfits.iter().map(Misfit::to_string).collect();
        let missing = self.missing();
        if !missing.is_empty() {
            parts.push(format!("no {} is named", missing.join(", no ")));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// A piece of a prompt between separators.
enum Run {
    /// A word in letters.
    Word(String),
    /// Characters that are written without spaces.
    Han(String),
}

/// Words and runs of Chinese characters; whatever is neither letter nor digit separates.
fn runs(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut joins = false;
    for letter in text.chars() {
        let is_han = matches!(letter, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}');
        match (runs.last_mut(), letter) {
            (_, letter) if !letter.is_alphanumeric() => {
                joins = false;
                continue;
            }
            (Some(Run::Han(run)), letter) if joins && is_han => run.push(letter),
            (Some(Run::Word(run)), letter) if joins && !is_han => run.push(letter),
            (_, letter) if is_han => runs.push(Run::Han(letter.into())),
            (_, letter) => runs.push(Run::Word(letter.into())),
        }
        joins = true;
    }
    runs
}

/// A colour word that waits for what it belongs to.
#[derive(Debug, Clone)]
struct Tint {
    meaning: Meaning,
    word: String,
}

#[derive(Debug, Default)]
struct Reader {
    prompt: Prompt,
    tint: Option<Tint>,
}

impl Reader {
    fn english(&mut self, words: &[String]) {
        let mut at = 0;
        while at < words.len() {
            match lexicon::english(&words[at..]) {
                Some((meaning, count)) => {
                    self.take(meaning, &words[at..at + count].join(" "));
                    at += count;
                }
                None => {
                    self.unknown(&words[at]);
                    at += 1;
                }
            }
        }
    }

    /// Unknown characters side by side are one unknown word.
    fn chinese(&mut self, text: &str) {
        let mut rest = text;
        let mut unknown = String::new();
        while let Some(first) = rest.chars().next() {
            match lexicon::chinese(rest) {
                Some((meaning, bytes)) => {
                    if !unknown.is_empty() {
                        self.unknown(&std::mem::take(&mut unknown));
                    }
                    self.take(meaning, &rest[..bytes]);
                    rest = &rest[bytes..];
                }
                None => {
                    unknown.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        if !unknown.is_empty() {
            self.unknown(&unknown);
        }
    }

    fn take(&mut self, meaning: Meaning, word: &str) {
        match meaning {
            Meaning::Colour(_) | Meaning::Background(_) => {
                self.free_tint();
                self.tint = Some(Tint { meaning, word: word.to_owned() });
            }
            Meaning::Shape(shape) => {
                match self.tint.take() {
                    Some(Tint { meaning: Meaning::Background(_), word }) => self.misfit(word, Reason::NotOfShapes),
                    own => self.colour(own),
                }
                let is_second = set(&mut self.prompt.shape, shape);
                self.second(is_second, word);
            }
            Meaning::Ground => match self.tint.take() {
                Some(Tint { meaning: Meaning::Colour(_), word }) => self.misfit(word, Reason::NotOfBackgrounds),
                own => self.colour(own),
            },
            Meaning::Motion(motion) => {
                self.free_tint();
                let is_second = set(&mut self.prompt.motion, motion);
                self.second(is_second, word);
            }
            Meaning::Joins => self.free_tint(),
        }
    }

    /// A colour word that stands alone belongs to whatever has such colours.
    fn free_tint(&mut self) {
        let tint = self.tint.take();
        self.colour(tint);
    }

    fn colour(&mut self, tint: Option<Tint>) {
        let Some(Tint { meaning, word }) = tint else { return };
        let is_second = match meaning {
            Meaning::Colour(colour) => set(&mut self.prompt.colour, colour),
            Meaning::Background(background) => set(&mut self.prompt.background, background),
            _ => false,
        };
        self.second(is_second, &word);
    }

    fn unknown(&mut self, word: &str) {
        self.free_tint();
        self.misfit(word.to_owned(), Reason::Unknown);
    }

    fn second(&mut self, is_second: bool, word: &str) {
        if is_second {
            self.misfit(word.to_owned(), Reason::Second);
        }
    }

    fn misfit(&mut self, word: String, reason: Reason) {
        self.prompt.misfits.push(Misfit { word, reason });
    }
}

/// Keeps the first value; whether this one differs from it.
fn set<T: PartialEq>(slot: &mut Option<T>, value: T) -> bool {
    match slot {
        Some(first) => *first != value,
        None => {
            *slot = Some(value);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_the_world_is_said() {
        let prompt = Prompt::parse("A red ball bounces on BLUE ground.");
        assert_eq!((prompt.shape, prompt.colour, prompt.background, prompt.motion), (Some(Shape::Circle), Some(Colour::Red), None, None));
        assert_eq!(
            prompt.warning().unwrap(),
            "\"bounces\" is unknown; \"blue\" is no colour of backgrounds; no background, no motion is named"
        );
        assert_eq!(prompt.missing(), ["background", "motion"]);
    }

    #[test]
    fn a_colour_belongs_to_what_it_stands_before() {
        let prompt = Prompt::parse("black circle, white background");
        assert_eq!((prompt.background, prompt.colour), (Some(Background::White), None));
        assert_eq!(prompt.misfits, [Misfit { word: "black".into(), reason: Reason::NotOfShapes }]);
        let prompt = Prompt::parse("on gray, the star is violet and orbiting");
        let want = Attributes { shape: Shape::Star, colour: Colour::Purple, background: Background::Gray, motion: Motion::Orbit };
        assert_eq!((prompt.attributes(), prompt.warning()), (Some(want), None));
    }

    #[test]
    fn a_contradiction_keeps_the_first_word() {
        let prompt = Prompt::parse("a red circle and a red star on black moves left then right");
        assert_eq!((prompt.shape, prompt.motion), (Some(Shape::Circle), Some(Motion::Left)));
        let words: Vec<_> = prompt.misfits.iter().map(|misfit| (misfit.word.as_str(), misfit.reason)).collect();
        assert_eq!(words, [("star", Reason::Second), ("then", Reason::Unknown), ("right", Reason::Second)]);
    }

    #[test]
    fn languages_mix_and_unknown_characters_join() {
        let prompt = Prompt::parse("一只猫咪和红色的五角星 on black背景，向上移动");
        assert_eq!((prompt.shape, prompt.colour, prompt.motion), (Some(Shape::Star), Some(Colour::Red), Some(Motion::Up)));
        assert_eq!(prompt.background, Some(Background::Black));
        assert_eq!(prompt.misfits, [Misfit { word: "一只猫咪和".into(), reason: Reason::Unknown }]);
    }

    #[test]
    fn an_empty_prompt_names_nothing() {
        assert_eq!(Prompt::parse(" .,!"), Prompt::default());
        assert_eq!(Prompt::default().missing().len(), 4);
    }
}
