//! Attention with a bias for every distance, as a T5 encoder has it. The oracle is `turbowan_reference::umt5`.

pub mod device;
pub mod gradient;
