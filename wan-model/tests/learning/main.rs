//! Networks that learn: gradients against differences, results against inference, and that a loss goes down.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

mod differences;
mod text;
mod transformer;
mod vae;
