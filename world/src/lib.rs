#![forbid(unsafe_code)]

mod attributes;
pub mod caption;
mod clip;
mod error;
mod outline;
mod palette;
mod path;
mod random;
mod world;

pub use attributes::{Attributes, Background, Colour, Motion, Shape, Split};
pub use caption::{Language, Prompt};
pub use clip::{Clip, LEAST_SIDE, Size};
pub use error::Error;
pub use world::World;
