//! Pages that a command writes from what the program holds.

pub mod bars;
pub mod bench;
pub mod chart;
pub mod host;
pub mod kernels;
pub mod training;
