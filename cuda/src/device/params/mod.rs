//! The parameter structs of the kernels, as their C headers declare them: one module a header of `kernels`.

mod dense;

pub use dense::*;
