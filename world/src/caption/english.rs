//! English captions.

use crate::attributes::{Attributes, Background, Colour, Motion, Shape};
use crate::random::Random;

/// Sentences; a word in capitals stands for a choice.
pub(super) const TEMPLATES: [&str; 8] = [
    "a COLOUR SHAPE MOTION on a BACKGROUND GROUND",
    "a COLOUR SHAPE on a BACKGROUND GROUND MOTION",
    "on a BACKGROUND GROUND a COLOUR SHAPE MOTION",
    "the COLOUR SHAPE MOTION over the BACKGROUND GROUND",
    "a COLOUR SHAPE MOTION against a BACKGROUND GROUND",
    "a BACKGROUND GROUND with a COLOUR SHAPE and it MOTION",
    "a video of a COLOUR SHAPE on BACKGROUND and it MOTION",
    "there is a COLOUR SHAPE on the BACKGROUND GROUND and it MOTION",
];

const GROUNDS: [&str; 5] = ["background", "backdrop", "ground", "canvas", "screen"];

fn shapes(shape: Shape) -> &'static [&'static str] {
    match shape {
        Shape::Circle => &["circle", "ball", "disc"],
        Shape::Square => &["square", "box", "block"],
        Shape::Triangle => &["triangle"],
        Shape::Star => &["star"],
    }
}

fn colours(colour: Colour) -> &'static [&'static str] {
    match colour {
        Colour::Red => &["red", "crimson", "scarlet"],
        Colour::Green => &["green", "emerald"],
        Colour::Blue => &["blue", "azure"],
        Colour::Yellow => &["yellow", "golden"],
        Colour::Purple => &["purple", "violet"],
        Colour::Orange => &["orange"],
    }
}

fn backgrounds(background: Background) -> &'static [&'static str] {
    match background {
        Background::Black => &["black"],
        Background::White => &["white"],
        Background::Gray => &["gray", "grey"],
        Background::Cyan => &["cyan"],
    }
}

fn motions(motion: Motion) -> &'static [&'static str] {
    match motion {
        Motion::Left => &["moves left", "slides to the left", "drifts leftward", "glides left", "goes to the left"],
        Motion::Right => &["moves right", "slides to the right", "drifts rightward", "glides right", "goes to the right"],
        Motion::Up => &["moves up", "rises", "drifts upward", "flies up", "goes upwards"],
        Motion::Down => &["moves down", "falls", "drifts downward", "slides down", "goes downwards"],
        Motion::Still => &["stays still", "rests", "is still", "stays steady"],
        Motion::Grow => &["grows", "expands", "grows bigger", "is growing"],
        Motion::Shrink => &["shrinks", "contracts", "grows smaller", "is shrinking"],
        Motion::Orbit => &["orbits", "moves in circles", "goes around", "circles around", "moves in a circle", "is orbiting"],
    }
}

/// The caption of one template.
pub(super) fn write(attributes: &Attributes, template: usize, random: &mut Random) -> String {
    let mut words: Vec<&str> = Vec::new();
    for slot in TEMPLATES[template].split(' ') {
        let phrase = match slot {
            "SHAPE" => random.pick(shapes(attributes.shape)),
            "COLOUR" => random.pick(colours(attributes.colour)),
            "BACKGROUND" => random.pick(backgrounds(attributes.background)),
            "MOTION" => random.pick(motions(attributes.motion)),
            "GROUND" => random.pick(&GROUNDS),
            word => word,
        };
        if words.last() == Some(&"a") && phrase.starts_with(['a', 'e', 'i', 'o', 'u']) {
            words.pop();
            words.push("an");
        }
        words.push(phrase);
    }
    words.join(" ")
}

/// Whatever a caption may hold, some of it several words long.
pub(super) fn phrases() -> impl Iterator<Item = &'static str> {
    let is_slot = |word: &&str| word.starts_with(|first: char| first.is_ascii_uppercase());
    let templates = TEMPLATES.into_iter().flat_map(|template| template.split(' ')).filter(move |word| !is_slot(word));
    templates
        .chain(["an"])
        .chain(GROUNDS)
        .chain(Shape::ALL.into_iter().flat_map(|shape| shapes(shape).iter().copied()))
        .chain(Colour::ALL.into_iter().flat_map(|colour| colours(colour).iter().copied()))
        .chain(Background::ALL.into_iter().flat_map(|background| backgrounds(background).iter().copied()))
        .chain(Motion::ALL.into_iter().flat_map(|motion| motions(motion).iter().copied()))
}
