//! The Wan diffusion transformer.

pub mod names;

pub use names::DitTraits;
