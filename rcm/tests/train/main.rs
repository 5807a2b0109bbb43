//! Training, against sums written out, finite differences, another program's numbers, and models whose answers are known.

#![allow(clippy::unwrap_used)] // a test panics on what it did not expect

mod converge;
mod gradients;
mod laws;
mod official;
mod optimisers;
mod resume;
mod toy;
mod turns;
