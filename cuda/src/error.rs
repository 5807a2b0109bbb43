//! What can go wrong below the models.

/// An operation was asked for something it cannot do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A slice holds another number of values than its shape says.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which operand.
        what: &'static str,
        /// Values that the shape asks for.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// A size lies outside what the operation supports.
    #[error("{what}: {found} is not supported, it must be {must}")]
    Size {
        /// Which size.
        what: &'static str,
        /// What it must be, in words.
        must: &'static str,
        /// What was given.
        found: usize,
    },
    /// This machine lacks an instruction set.
    #[error("this machine has no {0:?} instructions")]
    MissingIsa(crate::host::Isa),
}

impl Error {
    /// Checks that `values` has `expected` elements.
    ///
    /// # Errors
    /// [`Error::Length`] when it has not.
    pub fn expect_len<T>(what: &'static str, values: &[T], expected: usize) -> Result<(), Self> {
        if values.len() == expected { Ok(()) } else { Err(Self::Length { what, expected, found: values.len() }) }
    }
}
