//! What a clip shows: one shape of one colour, on one background, in one motion.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::random::{Random, Stream};

/// An attribute: a closed list of values with names.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident, $what:literal, $count:literal: $($(#[$value_doc:meta])* $value:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// All values, in the order of their indices.
            pub const ALL: [Self; $count] = [$(Self::$value),+];

            /// Its place in [`Self::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }

            /// Its name, one English word in lower case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self, Error> {
                Self::ALL.into_iter().find(|value| value.name() == word).ok_or_else(|| Error::UnknownValue {
                    attribute: $what,
                    word: word.to_owned(),
                    known: Self::ALL.map(Self::name).join(", "),
                })
            }
        }
    };
}

attribute! {
    /// The shape's outline.
    Shape, "shape", 4:
    /// A disc.
    Circle = "circle",
    /// A square, sides level.
    Square = "square",
    /// An equilateral triangle, point up.
    Triangle = "triangle",
    /// A star of five points, point up.
    Star = "star",
}

attribute! {
    /// The shape's colour.
    Colour, "colour", 6:
    /// Red.
    Red = "red",
    /// Green.
    Green = "green",
    /// Blue.
    Blue = "blue",
    /// Yellow.
    Yellow = "yellow",
    /// Purple.
    Purple = "purple",
    /// Orange.
    Orange = "orange",
}

attribute! {
    /// What lies behind the shape: one flat colour.
    Background, "background", 4:
    /// Black.
    Black = "black",
    /// White.
    White = "white",
    /// Gray.
    Gray = "gray",
    /// Cyan.
    Cyan = "cyan",
}

attribute! {
    /// What the shape does from the first frame to the last.
    Motion, "motion", 8:
    /// Moves left.
    Left = "left",
    /// Moves right.
    Right = "right",
    /// Moves up.
    Up = "up",
    /// Moves down.
    Down = "down",
    /// Stays where it is.
    Still = "still",
    /// Becomes larger.
    Grow = "grow",
    /// Becomes smaller.
    Shrink = "shrink",
    /// Goes once around the middle of the frame.
    Orbit = "orbit",
}

/// The four attributes of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// The outline.
    pub shape: Shape,
    /// The shape's colour.
    pub colour: Colour,
    /// The colour behind it.
    pub background: Background,
    /// What the shape does.
    pub motion: Motion,
}

impl Attributes {
    /// Number of combinations.
    pub const COUNT: usize = Shape::ALL.len() * Colour::ALL.len() * Background::ALL.len() * Motion::ALL.len();

    /// Combination `index` of [`Self::COUNT`]; the motion changes fastest.
    fn at(index: usize) -> Self {
        let (rest, motion) = (index / Motion::ALL.len(), Motion::ALL[index % Motion::ALL.len()]);
        let (rest, background) = (rest / Background::ALL.len(), Background::ALL[rest % Background::ALL.len()]);
        let (rest, colour) = (rest / Colour::ALL.len(), Colour::ALL[rest % Colour::ALL.len()]);
        Self { shape: Shape::ALL[rest % Shape::ALL.len()], colour, background, motion }
    }

    /// Every combination once, in a fixed order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self::at)
    }

    /// Whether no clip for training has this combination: `(7 colour + 3 background + 5 shape + 11 motion) mod 13 = 0` of the
    /// indices. Each value of each attribute still occurs in training, and so does nearly every pair.
    pub fn is_held_out(&self) -> bool {
        let sum = 7 * self.colour.index() + 3 * self.background.index() + 5 * self.shape.index() + 11 * self.motion.index();
        sum.is_multiple_of(13)
    }
}

impl fmt::Display for Attributes {
    /// `red circle on black, left`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {}, {}", self.colour, self.shape, self.background, self.motion)
    }
}

/// Which combinations are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Split {
    /// Those for training.
    #[default]
    Seen,
    /// Those kept from training, see [`Attributes::is_held_out`].
    HeldOut,
    /// Both.
    All,
}

impl Split {
    /// Whether a combination belongs to it.
    pub fn contains(self, attributes: &Attributes) -> bool {
        match self {
            Self::Seen => !attributes.is_held_out(),
            Self::HeldOut => attributes.is_held_out(),
            Self::All => true,
        }
    }

    /// One of its combinations, each as likely as another.
    pub fn draw(self, seed: u64) -> Attributes {
        let mut random = Random::new(seed, Stream::Attributes);
        loop {
            let attributes = Attributes::at(random.below(Attributes::COUNT));
            if self.contains(&attributes) {
                return attributes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_combination_occurs_once() {
        let all: BTreeSet<_> = Attributes::all().collect();
        assert_eq!((all.len(), Attributes::COUNT), (768, 768));
    }

    #[test]
    fn one_combination_in_thirteen_is_held_out_and_no_value_or_pair_is_lost() {
        let held: Vec<_> = Attributes::all().filter(Attributes::is_held_out).collect();
        assert!(held.len().abs_diff(768 / 13) <= 2, "{}", held.len());
        let red_circle = Attributes { shape: Shape::Circle, colour: Colour::Red, background: Background::Black, motion: Motion::Left };
        assert!(red_circle.is_held_out(), "the sum of zeros");
        let seen: Vec<_> = Attributes::all().filter(|a| Split::Seen.contains(a)).collect();
        let pairs: BTreeSet<_> = seen.iter().map(|a| (a.shape, a.motion)).collect();
        assert_eq!(pairs.len(), 32);
        let pairs: BTreeSet<_> = seen.iter().map(|a| (a.shape, a.colour)).collect();
        assert_eq!(pairs.len(), 24);
    }

    #[test]
    fn draws_are_even_and_keep_to_their_split() {
        const DRAWS: u64 = 24_000;
        let mut motions = [0u64; 8];
        let mut shapes = [0u64; 4];
        for seed in 0..DRAWS {
            let seen = Split::Seen.draw(seed);
            assert!(!seen.is_held_out() && Split::HeldOut.draw(seed).is_held_out());
            motions[seen.motion.index()] += 1;
            shapes[seen.shape.index()] += 1;
        }
        // Held-out combinations take 7 or 8 of each motion's 96 and 14 to 16 of each shape's 192; five deviations beside it.
        assert!(motions.iter().all(|count| count.abs_diff(DRAWS / 8) < 300), "{motions:?}");
        assert!(shapes.iter().all(|count| count.abs_diff(DRAWS / 4) < 400), "{shapes:?}");
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        assert!(Motion::ALL.into_iter().all(|motion| motion.name().parse() == Ok(motion)));
        let refusal = "hexagon".parse::<Shape>().unwrap_err();
        assert_eq!(refusal.to_string(), "\"hexagon\" is no shape: circle, square, triangle, star");
    }
}
