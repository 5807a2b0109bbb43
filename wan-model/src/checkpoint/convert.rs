//! A checkpoint in other number formats: int8 blocks for a transformer's linears, 16 or 32 bits for the rest.

use half::{bf16, f16};
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::quant::{BLOCK, QuantizedWeight};

use super::{Checkpoint, Dtype, Kind, TensorSource, TensorView};
use crate::config::TensorSpec;
use crate::dit::DitTraits;
use crate::{Error, Result};

/// What is made of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// The linears of a transformer's blocks become int8, as `-quant` checkpoints have them.
    pub int8: bool,
    /// Everything else, but for what stays f32: scales, and SLA's projection, as in the official files.
    pub floats: Floats,
}

/// A floating-point format that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floats {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits: finer than bf16, up to 65504.
    F16,
    /// The upper half of 32 bits.
    Bf16,
}

impl Floats {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        }
    }

    /// Whether a value stays finite.
    fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 => value.is_finite(),
            Self::F16 => f16::from_f32(value).is_finite(),
            Self::Bf16 => bf16::from_f32(value).is_finite(),
        }
    }
}

/// A tensor of the new checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// Its name.
    pub name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Converted {
    /// As [`write_safetensors`](super::write_safetensors) takes it.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: &self.bytes }
    }
}

impl Conversion {
    /// Every tensor of a whole network, converted. What is int8 already stays as it is.
    ///
    /// Weights are rounded to bf16 before they become int8: the official script casts its network first, and so does
    /// loading with `quantise` in bf16.
    ///
    /// # Errors
    /// [`Error::Misfits`] for a checkpoint that is no whole network, [`Error::NotFinite`] for a value that the format does
    /// not hold.
    pub fn convert(self, checkpoint: &Checkpoint) -> Result<Vec<Converted>> {
        let specs = match checkpoint.kind(None)? {
            Kind::Dit { config, traits, .. } => {
                let specs = config.tensors(traits);
                checkpoint.check(&specs, |_| false)?;
                if self.int8 {
                    return self.tensors(checkpoint, &config.tensors(DitTraits { quantised: true, ..traits }));
                }
                specs
            }
            Kind::Vae(config) => config.tensors(),
            Kind::Text(config) => config.tensors(),
            Kind::Unknown => {
                let reason = "holds no network that is known; `turbowan inspect` says what is in it".to_owned();
                return Err(Error::Format { path: checkpoint.path().to_path_buf(), reason });
            }
        };
        checkpoint.check(&specs, |_| false)?;
        self.tensors(checkpoint, &specs)
    }

    fn tensors(self, checkpoint: &Checkpoint, specs: &[TensorSpec]) -> Result<Vec<Converted>> {
        let mut tensors = Vec::with_capacity(specs.len());
        for TensorSpec { name, shape } in specs {
            if let Some(view) = checkpoint.get(name) {
                tensors.push(self.kept(name, view)?);
            } else if let Some(layer) = name.strip_suffix(".int8_weight") {
                tensors.extend(quantised(layer, shape, checkpoint.take(&format!("{layer}.weight"))?)?);
            }
            // A scale that is not there was made with its weight.
        }
        Ok(tensors)
    }

    /// A tensor in the format of its kind.
    fn kept(self, name: &str, TensorView { dtype, shape, bytes }: TensorView<'_>) -> Result<Converted> {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        if dtype == Dtype::I8 || name.ends_with(".scale") {
            return Ok(Converted { name, dtype, shape, bytes: bytes.to_vec() });
        }
        let floats = if name.contains("proj_l") { Floats::F32 } else { self.floats };
        let values = TensorView { dtype, shape: &shape, bytes }.to_f32();
        match values.iter().find(|value| !floats.holds(**value)) {
            Some(value) => Err(Error::NotFinite { place: name, fault: format!("{value} does not fit {}", floats.dtype().name()) }),
            None => Ok(Converted { name, dtype: floats.dtype(), shape, bytes: floats.bytes(&values) }),
        }
    }
}

/// `LAYER.int8_weight` and `LAYER.scale` of a weight.
fn quantised(layer: &str, shape: &[usize], weight: TensorView<'_>) -> Result<[Converted; 2]> {
    let &[out, input] = shape else {
        return Err(turbowan_cuda::Error::Size { what: "axes of a linear weight", must: "2", found: shape.len() }.into());
    };
    let mut values = weight.to_f32();
    Rounding::Bf16.apply_row(&mut values);
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::NotFinite { place: format!("{layer}.weight"), fault: format!("{value} does not fit bf16") });
    }
    let quantised = QuantizedWeight::quantise(&values, out, input)?;
    let bytes = quantised.values().iter().map(|value| value.to_le_bytes()[0]).collect();
    let scales = Floats::F32.bytes(quantised.scales());
    Ok([
        Converted { name: format!("{layer}.int8_weight"), dtype: Dtype::I8, shape: shape.to_vec(), bytes },
        Converted {
            name: format!("{layer}.scale"),
            dtype: Dtype::F32,
            shape: vec![out.div_ceil(BLOCK), input.div_ceil(BLOCK)],
            bytes: scales,
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::write_safetensors;
    use crate::tiny::{Part, Set, Weights};

    fn written(tensors: &[Converted]) -> Checkpoint {
        Checkpoint::from_vec("converted", bytes_of(tensors)).unwrap()
    }

    fn bytes_of(tensors: &[Converted]) -> Vec<u8> {
        let views: Vec<_> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.view())).collect();
        let mut bytes = Vec::new();
        write_safetensors(&mut bytes, &views, &std::collections::BTreeMap::new()).unwrap();
        bytes
    }

    #[test]
    fn a_transformer_becomes_a_quantised_one_near_the_first_and_again_itself() {
        let first = Set::random(3).open(Part::TextToVideo).unwrap();
        let conversion = Conversion { int8: true, floats: Floats::F16 };
        let tensors = conversion.convert(&first).unwrap();
        let quantised = written(&tensors);
        let Kind::Dit { config, traits, .. } = quantised.kind(Some(2)).unwrap() else { panic!("no transformer") };
        assert_eq!(traits, DitTraits { quantised: true, sla: true });
        quantised.check(&config.tensors(traits), |_| false).unwrap();
        let name = "blocks.3.ffn.0";
        let want = first.take(&format!("{name}.weight")).unwrap().to_f32();
        let (values, scales) =
            (quantised.take(&format!("{name}.int8_weight")).unwrap(), quantised.take(&format!("{name}.scale")).unwrap().to_f32());
        for (index, (value, want)) in values.to_f32().iter().zip(&want).enumerate() {
            let (row, column) = (index / config.dim, index % config.dim);
            let scale = scales[row / BLOCK * (config.dim / BLOCK) + column / BLOCK];
            // The largest value of a block is 128 steps and saturates at 127: one step off, the others half a step.
            assert!((value * scale - want).abs() <= scale * 1.01, "{index}: {} for {want}", value * scale);
        }
        let bias = |checkpoint: &Checkpoint| checkpoint.take("head.head.bias").unwrap().to_f32();
        assert!(bias(&quantised).iter().zip(bias(&first)).all(|(got, want)| (got - want).abs() <= want.abs() / 2048.0));
        assert_eq!(quantised.dtype("blocks.0.self_attn.attn_op.local_attn.proj_l.weight"), Some(Dtype::F32));
        assert_eq!(conversion.convert(&quantised).unwrap(), tensors);
    }

    #[test]
    fn the_embedded_transformer_becomes_an_embedded_int8_one() {
        let first = Set::embedded().open(Part::TextToVideo).unwrap();
        let tensors = Conversion { int8: true, floats: Floats::F16 }.convert(&first).unwrap();
        let set = Set::random(1).with(Part::TextToVideo, Box::leak(bytes_of(&tensors).into_boxed_slice()));
        assert!(matches!(set.weights(Part::TextToVideo), Weights::Trained { .. }));
        let embedded = set.open(Part::TextToVideo).unwrap();
        let (Kind::Dit { config: before, .. }, Kind::Dit { config, traits, .. }) =
            (first.kind(None).unwrap(), embedded.kind(Some(3)).unwrap())
        else {
            panic!("no transformer")
        };
        assert!(!before.dim.is_multiple_of(BLOCK) && traits.quantised);
        assert_eq!((config.dim, config.ffn_dim, config.layers), (before.dim, before.ffn_dim, before.layers));
        // widths that blocks do not divide: a ragged block has a scale of its own
        let blocks = |width: usize| width.div_ceil(BLOCK);
        assert_eq!(embedded.shape("blocks.0.ffn.0.int8_weight"), Some(&[config.ffn_dim, config.dim][..]));
        assert_eq!(embedded.shape("blocks.0.ffn.0.scale"), Some(&[blocks(config.ffn_dim), blocks(config.dim)][..]));
        embedded.check(&config.tensors(traits), |_| false).unwrap();
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        let mut tensors = Conversion { int8: false, floats: Floats::F32 }.convert(&Set::random(1).open(Part::Text).unwrap()).unwrap();
        let norm = tensors.iter_mut().find(|tensor| tensor.name == "norm.weight").unwrap();
        norm.bytes[..4].copy_from_slice(&1e6f32.to_le_bytes());
        let error = Conversion { int8: true, floats: Floats::F16 }.convert(&written(&tensors)).unwrap_err().to_string();
        assert!(error.contains("norm.weight") && error.contains("does not fit f16"), "{error}");
        assert!(Conversion { int8: true, floats: Floats::Bf16 }.convert(&written(&tensors)).is_ok());
    }
}
