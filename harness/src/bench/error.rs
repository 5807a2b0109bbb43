//! Why something was not timed.

use std::path::PathBuf;

/// Why something was not timed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of cases, or a record, is not one.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file, or the suite's name.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A case that cannot be run as it is.
    #[error("case {case:?}: {reason}")]
    Case {
        /// Its name.
        case: String,
        /// What is wrong.
        reason: String,
    },
    /// The device that was asked for cannot be timed.
    #[error("{0}")]
    Device(String),
    /// A kernel or a host twin refused.
    #[error(transparent)]
    Operation(#[from] turbowan_cuda::Error),
    /// Attention refused.
    #[error(transparent)]
    Sage(#[from] turbowan_sage::Error),
    /// Attention refused.
    #[error(transparent)]
    Sla(#[from] turbowan_sla::Error),
    /// A network refused.
    #[error(transparent)]
    Model(#[from] turbowan_wan_model::Error),
}

impl Error {
    /// A file that is not what it should be.
    pub fn file(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), reason: reason.to_string() }
    }

    /// The same of a case by its name; an operation's own words stay.
    #[must_use]
    pub fn of_case(self, case: &str) -> Self {
        match self {
            Self::Case { case: op, reason } => Self::case(case, format!("{op}: {reason}")),
            other => Self::case(case, other),
        }
    }

    /// A case that cannot be run.
    pub fn case(case: &str, reason: impl std::fmt::Display) -> Self {
        Self::Case { case: case.to_owned(), reason: reason.to_string() }
    }
}
