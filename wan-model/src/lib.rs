//! Wan 2.1 and 2.2 on any machine: checkpoints, tokenizer, umT5, DiT and VAE, and the pipelines that join them.
//!
//! A network is written once, over a [`backend::Backend`] whose methods are its fused operations. What a file holds
//! is found out from its names and shapes ([`checkpoint`]); nothing here writes files, draws on a screen or reads a clock.

pub mod attention;
pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod dit;
pub mod error;
pub mod image;
pub mod pipeline;
pub mod resolution;
pub mod text;
pub mod tiny;
pub mod vae;

pub use error::{Error, Result};
