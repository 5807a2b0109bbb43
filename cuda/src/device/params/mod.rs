//! The parameter structs of the kernels, as their C headers declare them: one module a header of `kernels`.

mod bias_attention;
mod dense;
mod elementwise;
mod gather;

pub use bias_attention::*;
pub use dense::*;
pub use elementwise::*;
pub use gather::*;
