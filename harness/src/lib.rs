//! The `turbowan` binary as a library, so that tests and benches drive the same code as a user.

pub mod allocator;
pub mod atomic_file;
pub mod bench;
pub mod cmd;
pub mod compare;
pub mod conform;
pub mod error;
pub mod eval;
pub mod metrics;
pub mod plan;
pub mod progress;
pub mod record;
pub mod report;
pub mod request;
pub mod run;
pub mod sidecar;
pub mod train;
pub mod verify;
pub mod video;

pub use error::Error;
