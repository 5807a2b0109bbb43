//! What can go wrong between a request and its frames: which stage, which tensor, which file.

use std::path::PathBuf;
use std::{fmt, io};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What to do about a file that could not be read, to be put behind what the system said: empty where that is enough.
pub fn unread(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path: it is taken from the current folder unless it begins with /",
        io::ErrorKind::IsADirectory => "; name a file in it",
        io::ErrorKind::PermissionDenied => "; ask for the right to read it, or name a copy",
        _ => "",
    }
}

/// Anything that stops a generation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: {source}{}", path.display(), unread(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it claims to be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and, where there is one, the next step.
        reason: String,
    },
    /// A checkpoint does not hold the tensors of the model that is asked for.
    #[error("{}: {} of the expected tensors do not fit:{}", path.display(), misfits.len(), Listed(misfits))]
    Misfits {
        /// The file.
        path: PathBuf,
        /// Every one of them.
        misfits: Vec<Misfit>,
    },
    /// A model folder lacks parts that the request needs, or has several where one is needed.
    #[error("{}: {} of a model's parts not found:{}", root.display(), missing.len(), Pieces(missing))]
    Pieces {
        /// The folder.
        root: PathBuf,
        /// Every one of them.
        missing: Vec<Piece>,
    },
    /// A setting is out of range or contradicts another.
    #[error("{what}: {found}: {must}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// What was given.
        found: String,
        /// What it must be.
        must: String,
    },
    /// A value that is not a number, is infinite, or a result that is flat.
    #[error(
        "{place}: {fault}; stopped before anything broken was written: fetch the checkpoint anew if it may be damaged, \
         or try another precision"
    )]
    NotFinite {
        /// Where it was born: tensor, block, step or stage.
        place: String,
        /// What was found.
        fault: String,
    },
    /// An operation refused its operands.
    #[error(transparent)]
    Operation(#[from] turbowan_cuda::Error),
    /// INT8 attention refused its operands.
    #[error(transparent)]
    Sage(#[from] turbowan_sage::Error),
    /// Sparse-linear attention refused its operands.
    #[error(transparent)]
    Sla(#[from] turbowan_sla::Error),
    /// The sampler refused its settings, its noise or a velocity.
    #[error(transparent)]
    Sampling(#[from] turbowan_rcm::Error),
    /// The first picture cannot be used.
    #[error(transparent)]
    Image(#[from] crate::image::error::ImageError),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// One part of a model that was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which part.
    pub what: &'static str,
    /// Where it was looked for, or which candidates there are.
    pub fault: String,
}

struct Pieces<'a>(&'a [Piece]);

impl fmt::Display for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| write!(f, "\n  {}: {}", piece.what, piece.fault))
    }
}

/// One tensor that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The model needs it and the file lacks it.
    Missing {
        /// Its official name.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// The file has it in another shape.
    Shape {
        /// Its official name.
        name: String,
        /// What the model needs.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// The file has it in a number format that the model cannot take.
    Dtype {
        /// Its official name.
        name: String,
        /// What the model takes.
        expected: &'static str,
        /// What the file has.
        found: &'static str,
    },
    /// The file has it and the model does not know it.
    Extra {
        /// Its name in the file.
        name: String,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, expected } => write!(f, "{name}: missing, expected {expected:?}"),
            Self::Shape { name, expected, found } => write!(f, "{name}: expected {expected:?}, found {found:?}"),
            Self::Dtype { name, expected, found } => write!(f, "{name}: expected {expected}, found {found}"),
            Self::Extra { name } => write!(f, "{name}: not a tensor of this model"),
        }
    }
}

struct Listed<'a>(&'a [Misfit]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        for misfit in self.0.iter().take(SHOWN) {
            write!(f, "\n  {misfit}")?;
        }
        if self.0.len() > SHOWN {
            write!(f, "\n  and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}
