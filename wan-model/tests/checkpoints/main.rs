//! Checkpoints as they come: good files of every layout, and files that lie.

mod forge;
mod golden;
mod hostile;
mod layouts;
mod memory;
mod random;
