//! A network's weights, random, of a stated shape.

use std::collections::HashMap;

use turbowan_reference::inputs::normal;
use turbowan_wan_model::checkpoint::{Dtype, TensorSource, TensorView};
use turbowan_wan_model::config::TensorSpec;

/// Random f32 tensors for a list of names and shapes, scaled so that signals keep their size.
#[derive(Debug, Default)]
pub struct RandomTensors {
    tensors: HashMap<String, (Vec<usize>, Vec<u8>)>,
}

impl RandomTensors {
    /// Tensors for every spec; equal seeds give equal tensors.
    pub fn new(specs: &[TensorSpec], seed: u64) -> Self {
        let tensors = specs.iter().enumerate().map(|(index, spec)| {
            let count = spec.shape.iter().product();
            let inputs = spec.shape.iter().skip(1).product::<usize>().max(1) as f32;
            let values = normal(count, seed + index as u64);
            let bytes = values.iter().flat_map(|value| (value * inputs.powf(-0.5)).to_le_bytes()).collect();
            (spec.name.clone(), (spec.shape.clone(), bytes))
        });
        Self { tensors: tensors.collect() }
    }
}

impl TensorSource for RandomTensors {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let (shape, bytes) = self.tensors.get(name)?;
        Some(TensorView { dtype: Dtype::F32, shape, bytes })
    }
}
