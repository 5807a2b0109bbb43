//! The `turbowan` binary as a library, so that tests and benches drive the same code as a user.

pub mod atomic_file;
pub mod conform;
pub mod progress;
pub mod sidecar;
pub mod video;
