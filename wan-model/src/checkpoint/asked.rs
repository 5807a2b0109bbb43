//! What a user asks of a checkpoint against what it holds.

use std::fmt;

use crate::{Error, Result};

/// The ways of self-attention, by the names that the command line has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionName {
    /// Dense, floating point.
    Original,
    /// Dense, INT8.
    Sage,
    /// Sparse-linear, floating point.
    Sla,
    /// Sparse-linear with an INT8 sparse branch.
    SageSla,
}

impl AttentionName {
    /// Whether it needs the `proj_l` weights of a checkpoint that was trained with SLA.
    pub fn needs_projection(self) -> bool {
        matches!(self, Self::Sla | Self::SageSla)
    }
}

impl fmt::Display for AttentionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Original => "original",
            Self::Sage => "sage",
            Self::Sla => "sla",
            Self::SageSla => "sagesla",
        })
    }
}

/// The attention that runs, and a note for the user where it is worth one.
///
/// Nothing asked: the file decides, and a file with `proj_l` gets `sagesla`, the official default. Dense attention asked
/// of such a file: its `proj_l` is left unused (the official loader refuses the file instead).
///
/// # Errors
/// [`Error::Setting`] when sparse-linear attention is asked of a file without `proj_l`.
pub fn attention_of(asked: Option<AttentionName>, has_projection: bool) -> Result<(AttentionName, Option<String>)> {
    match (asked, has_projection) {
        (None, true) => Ok((AttentionName::SageSla, None)),
        (None, false) => Ok((AttentionName::Original, None)),
        (Some(name), false) if name.needs_projection() => Err(Error::Setting {
            what: "attention",
            found: name.to_string(),
            must: "the checkpoint has no proj_l weights, which sparse-linear attention needs; take `original` or `sage`, or a \
                   checkpoint that was trained with SLA"
                .into(),
        }),
        (Some(name), true) if !name.needs_projection() => {
            Ok((name, Some(format!("the checkpoint was trained with sparse-linear attention; `{name}` leaves its proj_l weights unused"))))
        }
        (Some(name), _) => Ok((name, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_wish_the_file_decides() {
        assert_eq!(attention_of(None, true).unwrap(), (AttentionName::SageSla, None));
        assert_eq!(attention_of(None, false).unwrap(), (AttentionName::Original, None));
    }

    #[test]
    fn dense_attention_leaves_the_projection_and_says_so() {
        for name in [AttentionName::Original, AttentionName::Sage] {
            let (chosen, note) = attention_of(Some(name), true).unwrap();
            assert!(chosen == name && note.is_some_and(|note| note.contains("proj_l")));
            assert_eq!(attention_of(Some(name), false).unwrap(), (name, None));
        }
    }

    #[test]
    fn sparse_linear_attention_without_a_projection_is_one_clear_error() {
        for name in [AttentionName::Sla, AttentionName::SageSla] {
            assert_eq!(attention_of(Some(name), true).unwrap(), (name, None));
            let error = attention_of(Some(name), false).unwrap_err().to_string();
            assert!(error.contains(&name.to_string()) && error.contains("`original`"), "{error}");
        }
    }
}
