//! Pages that a command writes from what the program holds.

pub mod kernels;
