//! The ground that everything fast stands on: the host runtime (SIMD chosen at run time, rayon) and the
//! dense operations of a Wan network, each with a contract and a host twin.
//!
//! It knows nothing of attention or of Wan. Shapes that attention crates share ([`AttnShape`], [`BlockMap`])
//! live here so that those crates need not know each other.

extern crate self as turbowan_cuda;

pub mod device;
pub mod element;
pub mod error;
pub mod host;
/// The kernel files of this crate, as its build embedded them.
pub mod kernels {
    crate::embed_kernels!();
}
pub mod ops;
pub mod shape;

pub use element::{Element, Rounding};
pub use error::Error;
pub use shape::{AttnShape, BlockMap, HeadLayout};
