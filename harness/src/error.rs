//! What ends a command: one error, its cause and the next step.

use std::path::{Path, PathBuf};

use turbowan_wan_model::error::unread;

/// Anything that ends a command badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or a combination of flags that cannot be.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file could not be read.
    #[error("{}: {source}{}", path.display(), unread(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] crate::atomic_file::WriteError),
    /// A video could not be written.
    #[error(transparent)]
    Video(#[from] crate::video::Error),
    /// A file holds no request.
    #[error(transparent)]
    Metadata(#[from] crate::video::ReadError),
    /// The models refused.
    #[error(transparent)]
    Model(#[from] turbowan_wan_model::Error),
    /// Training refused.
    #[error(transparent)]
    Method(#[from] turbowan_rcm::Error),
    /// The world of clips refused.
    #[error(transparent)]
    World(#[from] turbowan_world::Error),
    /// A number of a training step is none.
    #[error("{what} is not a finite number")]
    NotFinite {
        /// Which.
        what: String,
    },
    /// Training met no number but NaN or infinity for too long.
    #[error(
        "{skipped} steps in a row up to step {steps} gave no number ({reason}); lower the learning rate, or go on from the checkpoint in {}",
        folder.display()
    )]
    Diverged {
        /// The step, from 0.
        steps: u64,
        /// Steps in a row.
        skipped: u64,
        /// What the last one met.
        reason: Box<Error>,
        /// The run's folder.
        folder: PathBuf,
    },
    /// A training was stopped by the user; it can be taken up again.
    #[error("stopped after step {steps}; go on with: turbowan train {stage} CONFIG --out {} --resume", folder.display())]
    Paused {
        /// The stage.
        stage: &'static str,
        /// Steps done.
        steps: u64,
        /// The run's folder.
        folder: PathBuf,
    },
    /// A fixture could not be replayed.
    #[error(transparent)]
    Conform(#[from] crate::conform::Error),
    /// Something could not be timed.
    #[error(transparent)]
    Bench(#[from] crate::bench::error::Error),
    /// The run was stopped by the user; it can be taken up again.
    #[error("stopped; continue with: turbowan {mode}{place} --resume {}", state.display())]
    Stopped {
        /// The command.
        mode: &'static str,
        /// The flags that choose where the networks work, as [`Processor::flags`] has them.
        ///
        /// [`Processor::flags`]: crate::run::processor::Processor::flags
        place: &'static str,
        /// The saved run.
        state: PathBuf,
    },
    /// The run ended badly, and what it had done lies in a file.
    #[error("{reason}; all up to step {step} is kept, continue with: turbowan {mode}{place} --resume {}", state.display())]
    Interrupted {
        /// What ended it.
        reason: Box<Error>,
        /// Steps done.
        step: usize,
        /// The command.
        mode: &'static str,
        /// As [`Error::Stopped`] has it.
        place: &'static str,
        /// The saved run.
        state: PathBuf,
    },
    /// The run was stopped before there was anything to save.
    #[error("stopped before the first step; nothing was written")]
    StoppedEarly,
    /// A record is slower than the one that it was held to.
    #[error("{slower} of {total} cases are slower than they were, or wrong")]
    Slower {
        /// Slower ones.
        slower: usize,
        /// All that both records have.
        total: usize,
    },
    /// Something was compared and did not hold.
    #[error("{failed} of {total} comparisons failed")]
    Mismatch {
        /// Failed ones.
        failed: usize,
        /// All of them.
        total: usize,
    },
}

impl Error {
    /// A flag that cannot be.
    pub fn flag(flag: &'static str, reason: impl Into<String>) -> Self {
        Self::Flag { flag, reason: reason.into() }
    }

    /// A file that is not what it should be.
    pub fn broken(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Broken { path: path.to_owned(), reason: reason.to_string() }
    }

    /// Whether it is about NaN or infinity: a step of training that met it is skipped.
    pub fn is_not_finite(&self) -> bool {
        use turbowan_rcm::Error::GradientNotFinite;
        use turbowan_wan_model::Error as Model;
        matches!(
            self,
            Self::NotFinite { .. }
                | Self::Method(GradientNotFinite { .. })
                | Self::Model(Model::NotFinite { .. } | Model::Sampling(GradientNotFinite { .. }))
        )
    }

    /// The exit code of the process: 130 after Ctrl-C as shells do, 2 for flags, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped { .. } | Self::StoppedEarly | Self::Paused { .. } => 130,
            Self::Flag { .. } => 2,
            Self::Interrupted { reason, .. } => reason.exit_code(),
            _ => 1,
        }
    }
}
