//! One command a file: flags in, a report for a person or for a machine out.

pub mod bench;
pub mod compare;
pub mod conform;
pub mod doctor;
mod embedded;
pub mod eval;
pub mod flags;
pub mod generate;
pub mod init_tiny;
pub mod inspect;
mod locate;
pub mod merge;
pub mod plan;
pub mod quantize;
pub mod report;
pub mod rerun;
pub mod sweep;
pub mod train;
pub mod verify;
