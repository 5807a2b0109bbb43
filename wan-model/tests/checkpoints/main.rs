//! Checkpoints as they come: good files of every layout, and files that lie.
#![allow(clippy::unwrap_used)] // a test panics on what it did not expect

mod folders;
mod forge;
mod golden;
mod hostile;
mod layouts;
mod memory;
mod random;
