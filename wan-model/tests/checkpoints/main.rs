//! Checkpoints as they come: good files of every layout, and files that lie.

mod folders;
mod forge;
mod golden;
mod hostile;
mod layouts;
mod memory;
mod random;
