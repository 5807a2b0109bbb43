//! A world of simple moving shapes: captioned clips from a seed, and a judge that reads frames back.
//!
//! A small video model is trained on clips that cost nothing to make and whose truth is known. A [`Clip`] is four [`Attributes`]
//! (4 shapes, 6 colours, 4 backgrounds, 8 motions: 768 combinations, one in thirteen held out) and a seed; it is a function of time, so that
//! 17 frames of 64x64 and 33 of 128x128 are one scene. Its radius is 0.20 to 0.28 of the side, its edges are a pixel soft, and it never leaves
//! the frame. Frames hold the same bytes on every machine and in any order of asking. [`caption`] words attributes in English or
//! Chinese and reads prompts back; [`judge`](judge()) sees frames alone and says what they show, or why it cannot be read.
//!
//! ```
//! use turbowan_world::{Frames, Prompt, Size, Split, World, judge};
//!
//! let size = Size::new(64, 17)?;
//! let world = World::new(7, Split::Seen);
//! let (clip, caption) = (world.clip(0), world.caption(0, 0));
//! let rgb = clip.frames(size); // [17, 64, 64, 3]
//! let reading = judge(&Frames::new([17, 64, 64], &rgb)?);
//! assert!(reading.score(&clip.attributes).passes(), "{caption}: {reading}");
//! assert_eq!(Prompt::parse(&caption).attributes(), Some(clip.attributes));
//! # Ok::<(), turbowan_world::Error>(())
//! ```
#![forbid(unsafe_code)]

mod attributes;
pub mod caption;
mod clip;
mod error;
pub mod judge;
mod outline;
mod palette;
mod path;
mod random;
mod world;

pub use attributes::{Attributes, Background, Colour, Motion, Shape, Split};
pub use caption::{Language, Prompt};
pub use clip::{Clip, LEAST_SIDE, Size};
pub use error::Error;
pub use judge::{Answer, Frames, Reading, Score, Tally, judge};
pub use world::World;
