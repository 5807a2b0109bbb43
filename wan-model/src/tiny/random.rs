//! Random weights from a seed: right names, shapes and code paths; no pictures.

use std::collections::BTreeMap;

use half::bf16;
use turbowan_rcm::{NoiseKind, NoiseSource};

use super::Part;
use crate::Result;
use crate::checkpoint::{Dtype, TensorSource, TensorView};
use crate::config::TensorSpec;

/// One network's tensors in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyTensors {
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl TinyTensors {
    /// The tensors of `part` for `seed`: tensor `n` of part `p` is draw `n` of the native generator.
    ///
    /// # Errors
    /// None in practice: the generator has no end.
    pub fn generate(part: Part, seed: u64) -> Result<Self> {
        // SLA's projection and the autoencoder stay in f32, as in the official files.
        let is_exact = |name: &str| name.contains("proj_l") || part == Part::Vae;
        Self::draw(part.tensors(), is_exact, seed.wrapping_mul(Part::ALL.len() as u64).wrapping_add(part as u64))
    }

    /// Tensors of any names and shapes, where training starts: tensor `n` is draw `n` of the native generator, in f32 where `is_exact`
    /// says so of its name and in bf16 elsewhere.
    ///
    /// # Errors
    /// None in practice: the generator has no end.
    pub fn draw(specs: Vec<TensorSpec>, is_exact: impl Fn(&str) -> bool, seed: u64) -> Result<Self> {
        let mut noise = NoiseSource::seeded(NoiseKind::Native, seed);
        let mut tensors = BTreeMap::new();
        for spec in specs {
            let mut values = vec![0.0f32; spec.shape.iter().product()];
            noise.fill(&mut values)?;
            let (mean, spread) = distribution(&spec);
            let values = values.into_iter().map(|value| mean + spread * value);
            let (dtype, bytes) = if is_exact(&spec.name) {
                (Dtype::F32, values.flat_map(f32::to_le_bytes).collect())
            } else {
                (Dtype::Bf16, values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect())
            };
            tensors.insert(spec.name, Tensor { dtype, shape: spec.shape, bytes });
        }
        Ok(Self { tensors })
    }

    /// Names, number formats, shapes and bytes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.view()))
    }
}

impl Tensor {
    fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: &self.bytes }
    }
}

impl TensorSource for TinyTensors {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name).map(Tensor::view)
    }
}

/// Mean and standard deviation that keep a signal's size through the layers.
fn distribution(spec: &TensorSpec) -> (f32, f32) {
    let name = spec.name.as_str();
    let inputs = spec.shape.iter().skip(1).product::<usize>().max(1) as f32;
    let is_norm = name.ends_with("gamma") || name.contains("norm") && name.ends_with("weight") && spec.shape.len() == 1;
    if is_norm || name.starts_with("img_emb") && spec.shape.len() == 1 && name.ends_with("weight") {
        (1.0, 0.05)
    } else if name.ends_with("modulation") {
        (0.0, (*spec.shape.last().unwrap_or(&1) as f32).powf(-0.5))
    } else if name.ends_with("bias") {
        (0.0, 0.02)
    } else if name == "token_embedding.weight" {
        (0.0, 1.0)
    } else if name.contains("pos_embedding") {
        (0.0, 0.5)
    } else {
        (0.0, inputs.powf(-0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_every_tensor_and_parts_differ() {
        let first = TinyTensors::generate(Part::HighNoise, 4).unwrap();
        assert_eq!(first, TinyTensors::generate(Part::HighNoise, 4).unwrap());
        assert_ne!(first, TinyTensors::generate(Part::HighNoise, 5).unwrap());
        assert_ne!(first, TinyTensors::generate(Part::LowNoise, 4).unwrap());
    }

    #[test]
    fn every_tensor_has_its_shape_and_is_finite() {
        for part in Part::ALL {
            let tensors = TinyTensors::generate(part, 1).unwrap();
            for spec in part.tensors() {
                let view = tensors.get(&spec.name).unwrap();
                assert_eq!(view.shape, spec.shape, "{}", spec.name);
                assert!(view.to_f32().iter().all(|value| value.is_finite()), "{}", spec.name);
            }
        }
    }
}
