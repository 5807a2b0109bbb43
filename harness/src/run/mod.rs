//! A request becomes files.

pub mod state;
pub mod watch;
