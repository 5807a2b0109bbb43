//! Feature maps of the linear branch.

/// What queries and keys pass through in the linear branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeatureMap {
    /// Softmax over the channels of a head.
    #[default]
    Softmax,
    /// `elu(x) + 1`.
    Elu,
    /// `max(x, 0)`.
    Relu,
}
