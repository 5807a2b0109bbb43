//! Networks on a GPU, or on the emulator that runs the same kernels.

pub mod vae;
