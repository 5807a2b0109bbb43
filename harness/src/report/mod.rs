//! Pages that a command writes from what the program holds.

pub mod chart;
pub mod kernels;
pub mod training;
