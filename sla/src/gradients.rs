//! What a backward pass gives.

/// Gradients of a loss with respect to everything that the forward pass reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// In the layout of the queries.
    pub q: Vec<f32>,
    /// In the layout of the keys.
    pub k: Vec<f32>,
    /// In the layout of the values.
    pub v: Vec<f32>,
    /// `[head_dim, head_dim]`, output channel first.
    pub weight: Vec<f32>,
    /// `[head_dim]`.
    pub bias: Vec<f32>,
}
