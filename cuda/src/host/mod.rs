//! What the CPU offers: instruction sets found at run time and work spread over threads.

pub mod aligned;
pub mod isa;
pub mod math;
pub mod par;
pub(crate) mod sums;
pub mod vectorised;

pub use aligned::Aligned;
pub use isa::Isa;
