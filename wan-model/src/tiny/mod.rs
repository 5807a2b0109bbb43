//! A small model with the whole Wan architecture, made from a seed: it runs wherever no checkpoint is at hand.
//!
//! Its weights are random, so its videos show texture, not pictures; sizes, names, files and code paths are the real
//! ones. `turbowan init-tiny` writes the same set in the official layout.

pub mod vocabulary;

use std::collections::BTreeMap;

use half::bf16;
use turbowan_rcm::{NoiseKind, NoiseSource};

use crate::Result;
use crate::checkpoint::{Dtype, TensorSource, TensorView};
use crate::config::{DitConfig, TensorSpec, TextConfig, VaeConfig};
use crate::dit::DitTraits;

/// Seed of the set that runs when no checkpoint is named.
pub const DEFAULT_SEED: u64 = 1;

/// Side of the frames that it makes where no size is asked for, in pixels.
pub const SIDE: usize = 128;
/// Frames that it makes where no number is asked for.
pub const FRAMES: usize = 33;

/// The networks of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The text-to-video transformer.
    TextToVideo,
    /// The image-to-video expert for noisy times.
    HighNoise,
    /// The image-to-video expert for late times.
    LowNoise,
    /// The video autoencoder.
    Vae,
    /// The text encoder.
    Text,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::TextToVideo, Self::HighNoise, Self::LowNoise, Self::Vae, Self::Text];

    /// File name in the official layout.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::TextToVideo => "TurboWan2.1-T2V-tiny.safetensors",
            Self::HighNoise => "TurboWan2.2-I2V-tiny-high.safetensors",
            Self::LowNoise => "TurboWan2.2-I2V-tiny-low.safetensors",
            Self::Vae => "Wan2.1_VAE.safetensors",
            Self::Text => "models_t5_umt5-xxl-enc-bf16.safetensors",
        }
    }

    /// Its tensors' names and shapes.
    pub fn tensors(self) -> Vec<TensorSpec> {
        let traits = DitTraits { quantised: false, sla: true };
        match self {
            Self::TextToVideo => dit_config(16).tensors(traits),
            Self::HighNoise | Self::LowNoise => dit_config(36).tensors(traits),
            Self::Vae => vae_config().tensors(),
            Self::Text => text_config().tensors(),
        }
    }
}

/// Shape of the small transformer that reads `in_dim` latent channels.
pub fn dit_config(in_dim: usize) -> DitConfig {
    DitConfig {
        dim: 128,
        ffn_dim: 384,
        freq_dim: 256,
        text_dim: 128,
        text_len: 512,
        in_dim,
        out_dim: 16,
        heads: 2,
        layers: 6,
        eps: 1e-6,
        clip_dim: None,
    }
}

/// Shape of the small autoencoder.
pub fn vae_config() -> VaeConfig {
    VaeConfig::of_width(8)
}

/// Shape of the small text encoder.
pub fn text_config() -> TextConfig {
    TextConfig {
        vocab: vocabulary::tokenizer().vocab(),
        dim: 128,
        dim_attn: 128,
        dim_ffn: 256,
        heads: 4,
        layers: 2,
        buckets: 32,
        max_distance: 128,
    }
}

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
