//! What the judge says: each attribute or why it cannot be read, faults, and the score against what was asked.

use std::fmt;

use crate::attributes::{Attributes, Background, Colour, Motion, Shape};

/// What was read of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Shape, colour, background and faults over all frames.
    pub look: Look,
    /// The motion, or why it cannot be read.
    pub motion: Result<Motion, Unreadable>,
    /// What frame 0 shows by itself. The first latent frame stands for one frame where others stand for four; it fails on its own.
    pub first_frame: Look,
}

/// What was read of some frames, apart from motion.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// The outline, or why it cannot be read.
    pub shape: Result<Shape, Unreadable>,
    /// The shape's colour, or why it cannot be read.
    pub colour: Result<Colour, Unreadable>,
    /// The background, or why it cannot be read.
    pub background: Result<Background, Unreadable>,
    /// What is wrong with the picture itself.
    pub faults: Vec<Fault>,
}

/// Why an attribute cannot be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unreadable {
    /// Nothing stands out from the background.
    NoFigure {
        /// In so many frames.
        frames: usize,
    },
    /// The border is not one flat colour.
    Patchy {
        /// Share of it that is.
        share: f64,
    },
    /// A colour that is in no palette.
    StrangeColour {
        /// The colour, 8-bit RGB.
        rgb: [u8; 3],
    },
    /// Frames, or pixels, do not agree.
    Mixed {
        /// Share of them that the most frequent value has.
        share: f64,
    },
    /// An outline that looks like no shape.
    Unlike {
        /// Overlap with the nearest, in `[0, 1]`.
        overlap: f64,
    },
    /// An outline that looks like two shapes.
    Between {
        /// The nearer.
        first: Shape,
        /// The other.
        second: Shape,
    },
    /// Too few frames to show a motion.
    TooFewFrames {
        /// So many.
        frames: usize,
    },
    /// A motion that is no straight line, no orbit, and no change of size alone.
    Wandering,
    /// A motion between rest and movement.
    Slight {
        /// Way from end to end over the frame's side.
        way: f64,
        /// Last radius over first.
        ratio: f64,
    },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFigure { frames } => write!(f, "nothing stands out in {frames} frames"),
            Self::Patchy { share } => write!(f, "only {:.0}% of the border is one colour", share * 100.0),
            Self::StrangeColour { rgb: [r, g, b] } => write!(f, "rgb({r}, {g}, {b}) is in no palette"),
            Self::Mixed { share } => write!(f, "no more than {:.0}% agree", share * 100.0),
            Self::Unlike { overlap } => write!(f, "the nearest shape overlaps by {overlap:.2}"),
            Self::Between { first, second } => write!(f, "between {first} and {second}"),
            Self::TooFewFrames { frames } => write!(f, "{frames} frames show no motion"),
            Self::Wandering => f.write_str("the way is none of the motions"),
            Self::Slight { way, ratio } => write!(f, "moves by {way:.2} of the side and grows {ratio:.2} times"),
        }
    }
}

/// What is wrong with a picture, whatever it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The figure is not one connected region.
    InPieces {
        /// In so many frames.
        frames: usize,
        /// Share of the figure that its largest region has, where that is least.
        share: f64,
    },
    /// Part of the figure has another hue.
    ForeignHue {
        /// Share of the figure's pixels.
        share: f64,
    },
    /// Frames without a figure.
    Vanishes {
        /// So many.
        frames: usize,
    },
    /// Frame 0 alone cannot be read, or has a fault of its own.
    FirstFrame,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InPieces { frames, share } => write!(f, "in {frames} frames the shape is in pieces, the largest {:.0}%", share * 100.0),
            Self::ForeignHue { share } => write!(f, "{:.0}% of the shape has another hue", share * 100.0),
            Self::Vanishes { frames } => write!(f, "no shape in {frames} frames"),
            Self::FirstFrame => f.write_str("frame 0 alone cannot be read"),
        }
    }
}

impl Look {
    /// Whether frame 0 passes by itself: an outline that small may look like two shapes, but not like none.
    pub(super) fn stands_alone(&self) -> bool {
        let has_shape = matches!(self.shape, Ok(_) | Err(Unreadable::Between { .. }));
        has_shape && self.colour.is_ok() && self.background.is_ok() && self.faults.is_empty()
    }
}

impl Reading {
    /// The four attributes, if all can be read.
    pub fn attributes(&self) -> Option<Attributes> {
        let Look { shape, colour, background, .. } = self.look;
        Some(Attributes { shape: shape.ok()?, colour: colour.ok()?, background: background.ok()?, motion: self.motion.ok()? })
    }

    /// What it comes down to where `asked` was asked for.
    pub fn answer(&self, asked: &Attributes) -> Answer {
        let Look { shape, colour, background, .. } = self.look;
        let score = self.score(asked);
        Answer {
            shape: shape.ok(),
            colour: colour.ok(),
            background: background.ok(),
            motion: self.motion.ok(),
            sound: score.sound,
            first_frame: score.first_frame,
        }
    }

    /// Compares with what was asked. What cannot be read is wrong.
    pub fn score(&self, asked: &Attributes) -> Score {
        let first = &self.first_frame;
        Score {
            shape: self.look.shape == Ok(asked.shape),
            colour: self.look.colour == Ok(asked.colour),
            background: self.look.background == Ok(asked.background),
            motion: self.motion == Ok(asked.motion),
            sound: self.look.faults.is_empty(),
            first_frame: first.shape == Ok(asked.shape) && first.colour == Ok(asked.colour) && first.background == Ok(asked.background),
        }
    }
}

impl fmt::Display for Reading {
    /// Each attribute or why it cannot be read, then the faults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn put<T: fmt::Display>(f: &mut fmt::Formatter<'_>, name: &str, value: &Result<T, Unreadable>) -> fmt::Result {
            match value {
                Ok(value) => write!(f, "{name} {value}, "),
                Err(why) => write!(f, "{name} unreadable ({why}), "),
            }
        }
        put(f, "shape", &self.look.shape)?;
        put(f, "colour", &self.look.colour)?;
        put(f, "background", &self.look.background)?;
        put(f, "motion", &self.motion)?;
        match self.look.faults.as_slice() {
            [] => f.write_str("no fault"),
            faults => f.write_str(&faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// What of a reading is counted: each attribute where it can be read, and whether the picture is right besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// The shape read.
    pub shape: Option<Shape>,
    /// The colour read.
    pub colour: Option<Colour>,
    /// The background read.
    pub background: Option<Background>,
    /// The motion read.
    pub motion: Option<Motion>,
    /// No fault was found.
    pub sound: bool,
    /// Frame 0 alone shows the shape, colour and background that were asked for.
    pub first_frame: bool,
}

impl Answer {
    /// Whether all four attributes are as asked and the clip has no fault.
    pub fn passes(&self, asked: &Attributes) -> bool {
        let is_right = self.shape == Some(asked.shape)
            && self.colour == Some(asked.colour)
            && self.background == Some(asked.background)
            && self.motion == Some(asked.motion);
        is_right && self.sound
    }
}

/// A reading against what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// The shape is right.
    pub shape: bool,
    /// The colour is right.
    pub colour: bool,
    /// The background is right.
    pub background: bool,
    /// The motion is right.
    pub motion: bool,
    /// No fault was found.
    pub sound: bool,
    /// Frame 0 alone shows the right shape, colour and background; told apart, not part of [`Self::passes`].
    pub first_frame: bool,
}

impl Score {
    /// Right attributes, of four.
    pub fn count(&self) -> usize {
        [self.shape, self.colour, self.background, self.motion].into_iter().filter(|is_right| *is_right).count()
    }

    /// Whether all four are right and the clip has no fault.
    pub fn passes(&self) -> bool {
        self.count() == 4 && self.sound
    }
}
