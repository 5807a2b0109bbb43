//! The parameter structs of the kernels, as their C headers declare them: one module a header of `kernels`.

mod attend;
mod block_select;
mod linear;

pub use attend::*;
pub use block_select::*;
pub use linear::*;
