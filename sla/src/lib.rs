//! Sparse-linear attention.

pub mod density;
pub mod features;

pub use density::Density;
pub use features::FeatureMap;
