//! A checkpoint of the right shapes that holds nothing.

use std::collections::BTreeMap;

use turbowan_wan_model::checkpoint::{Dtype, TensorSource, TensorView};
use turbowan_wan_model::config::TensorSpec;

/// Tensors of zeros, all of them one memory: its pages are zeros that the system has not handed out, so that a network of any
/// size is read from here without memory, as long as nobody looks at the values. They are called integers, among which no loader
/// looks for values that are no numbers; a planned device takes a weight by its length alone.
pub struct Zeros {
    shapes: BTreeMap<String, Vec<usize>>,
    values: Vec<u8>,
}

impl Zeros {
    /// A checkpoint with these tensors.
    pub fn of(specs: Vec<TensorSpec>) -> Self {
        let shapes: BTreeMap<_, _> = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let largest = shapes.values().map(|shape| bytes(shape)).max().unwrap_or(0);
        Self { shapes, values: vec![0; largest] }
    }
}

fn bytes(shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * Dtype::I8.bytes()
}

impl TensorSource for Zeros {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let shape = self.shapes.get(name)?;
        Some(TensorView { dtype: Dtype::I8, shape, bytes: &self.values[..bytes(shape)] })
    }
}
