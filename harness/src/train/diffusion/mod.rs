//! The stages of diffusion: a transformer that learns from captioned clips (`teacher`), to attend sparsely (`sla`), and to make a clip in few
//! steps (`rcm`).
//!
//! ```text
//! clips -> autoencoder -> latents, kept in a file        captions -> text encoder -> states, in memory
//! batch: latents, indices of states (and of first frames) -> method of turbowan-rcm -> gradients -> optimiser, average
//! look: captions of combinations that were not learnt -> sampler -> autoencoder -> judge
//! ```

mod alignment;
mod batches;
mod cache;
mod clips;
mod folder;
mod look;
mod models;
mod network;
mod setting;
mod settings;
mod states;
mod student;
mod teacher;
mod terms;

pub use alignment::AlignmentSettings;
pub use student::StudentSettings;
pub use teacher::TeacherSettings;

#[cfg(test)]
mod tests;
