//! What the CPU offers: instruction sets found at run time and work spread over threads.

pub mod isa;

pub use isa::Isa;
