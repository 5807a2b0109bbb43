//! What the encoder and the decoder consist of, layer by layer: the one description from which tensors are named,
//! networks are built and memory is planned.

use crate::config::{TensorSpec, VaeConfig};

/// Frames of a causal kernel in time.
pub(super) const KERNEL_FRAMES: usize = 3;
/// Channels of a video frame: red, green, blue.
pub const COLORS: usize = 3;

/// Half of the autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Video to latent.
    Encoder,
    /// Latent to video.
    Decoder,
}

/// A layer and its official name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerSpec {
    pub name: String,
    pub kind: LayerKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerKind {
    /// A causal 3 x 3 x 3 convolution.
    Convolution { input: usize, output: usize },
    /// Two causal convolutions with their norms, and a shortcut.
    Residual { input: usize, output: usize },
    /// Attention between the pixels of a frame.
    Attention { channels: usize },
    /// Half the side, and half the frames where `in_time`.
    Downsample { channels: usize, in_time: bool },
    /// Twice the side at half the channels, and twice the frames where `in_time`.
    Upsample { channels: usize, in_time: bool },
    /// Norm, SiLU and a causal 3 x 3 x 3 convolution.
    Head { input: usize, output: usize },
    /// A 1 x 1 x 1 convolution between latent and network.
    Pointwise { channels: usize },
}

impl LayerSpec {
    /// Names and shapes of its tensors, in the official order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut tensors = Vec::new();
        let mut conv = |part: &str, shape: &[usize]| {
            tensors.push(TensorSpec::new(format!("{}{part}.weight", self.name), shape));
            tensors.push(TensorSpec::new(format!("{}{part}.bias", self.name), &shape[..1]));
        };
        match self.kind {
            LayerKind::Convolution { input, output } => conv("", &[output, input, 3, 3, 3]),
            LayerKind::Pointwise { channels } => conv("", &[channels, channels, 1, 1, 1]),
            LayerKind::Residual { input, output } => {
                conv(".residual.2", &[output, input, 3, 3, 3]);
                conv(".residual.6", &[output, output, 3, 3, 3]);
                if input != output {
                    conv(".shortcut", &[output, input, 1, 1, 1]);
                }
                tensors.insert(0, TensorSpec::new(format!("{}.residual.0.gamma", self.name), &[input, 1, 1, 1]));
                tensors.insert(3, TensorSpec::new(format!("{}.residual.3.gamma", self.name), &[output, 1, 1, 1]));
            }
            LayerKind::Attention { channels } => {
                conv(".to_qkv", &[3 * channels, channels, 1, 1]);
                conv(".proj", &[channels, channels, 1, 1]);
                tensors.insert(0, TensorSpec::new(format!("{}.norm.gamma", self.name), &[channels, 1, 1]));
            }
            LayerKind::Downsample { channels, in_time } => {
                conv(".resample.1", &[channels, channels, 3, 3]);
                if in_time {
                    conv(".time_conv", &[channels, channels, KERNEL_FRAMES, 1, 1]);
                }
            }
            LayerKind::Upsample { channels, in_time } => {
                conv(".resample.1", &[channels / 2, channels, 3, 3]);
                if in_time {
                    conv(".time_conv", &[2 * channels, channels, KERNEL_FRAMES, 1, 1]);
                }
            }
            LayerKind::Head { input, output } => {
                conv(".2", &[output, input, 3, 3, 3]);
                tensors.insert(0, TensorSpec::new(format!("{}.0.gamma", self.name), &[input, 1, 1, 1]));
            }
        }
        tensors
    }
}

/// Layers of one side in the order in which a frame passes them, `conv1` of the encoder's latent and `conv2` of the
/// decoder's included.
pub(super) fn layers(config: &VaeConfig, side: Side) -> Vec<LayerSpec> {
    let mut layers = Vec::new();
    let mut push = |name: String, kind| layers.push(LayerSpec { name, kind });
    let widths: Vec<usize> = config.dim_mult.iter().map(|mult| config.dim * mult).collect();
    let (first, last) = (config.dim, widths.last().copied().unwrap_or(config.dim));
    let stages = widths.len();
    let mut index = 0;
    let mut next = |side: &str| {
        index += 1;
        format!("{side}.{}", index - 1)
    };
    match side {
        Side::Encoder => {
            push("encoder.conv1".into(), LayerKind::Convolution { input: COLORS, output: first });
            let mut input = first;
            for (stage, &output) in widths.iter().enumerate() {
                for _ in 0..config.num_res_blocks {
                    push(next("encoder.downsamples"), LayerKind::Residual { input, output });
                    input = output;
                }
                if stage + 1 < stages {
                    let in_time = config.temporal_downsample.get(stage).copied().unwrap_or(false);
                    push(next("encoder.downsamples"), LayerKind::Downsample { channels: output, in_time });
                }
            }
            middle(&mut push, "encoder", last);
            push("encoder.head".into(), LayerKind::Head { input: last, output: 2 * config.z_dim });
            push("conv1".into(), LayerKind::Pointwise { channels: 2 * config.z_dim });
        }
        Side::Decoder => {
            push("conv2".into(), LayerKind::Pointwise { channels: config.z_dim });
            push("decoder.conv1".into(), LayerKind::Convolution { input: config.z_dim, output: last });
            middle(&mut push, "decoder", last);
            let mut input = last;
            for (stage, &output) in widths.iter().rev().enumerate() {
                for _ in 0..=config.num_res_blocks {
                    push(next("decoder.upsamples"), LayerKind::Residual { input, output });
                    input = output;
                }
                if stage + 1 < stages {
                    let in_time = config.temporal_downsample.iter().rev().nth(stage).copied().unwrap_or(false);
                    push(next("decoder.upsamples"), LayerKind::Upsample { channels: output, in_time });
                    input = output / 2;
                }
            }
            push("decoder.head".into(), LayerKind::Head { input: widths.first().copied().unwrap_or(first), output: COLORS });
        }
    }
    layers
}

fn middle(push: &mut impl FnMut(String, LayerKind), side: &str, channels: usize) {
    push(format!("{side}.middle.0"), LayerKind::Residual { input: channels, output: channels });
    push(format!("{side}.middle.1"), LayerKind::Attention { channels });
    push(format!("{side}.middle.2"), LayerKind::Residual { input: channels, output: channels });
}

impl VaeConfig {
    /// Every tensor of the autoencoder, encoder and decoder, under its official name.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        [Side::Encoder, Side::Decoder].into_iter().flat_map(|side| self.tensors_of(side)).collect()
    }

    /// Every tensor of one side.
    pub fn tensors_of(&self, side: Side) -> Vec<TensorSpec> {
        layers(self, side).iter().flat_map(LayerSpec::tensors).collect()
    }

    /// The configuration of a checkpoint, from the shapes of its tensors; `None` when it is no autoencoder of this family.
    ///
    /// `shape_of` gives the shape of a tensor by its official name. Whether every tensor fits is for a check against
    /// [`VaeConfig::tensors`].
    pub fn recognise(shape_of: impl Fn(&str) -> Option<Vec<usize>>) -> Option<Self> {
        let side = |name: &str, axis: usize| shape_of(name)?.get(axis).copied();
        let dim = side("encoder.conv1.weight", 0).filter(|dim| *dim > 0)?;
        let z_dim = side("conv2.weight", 0)?;
        let (mut dim_mult, mut temporal_downsample, mut num_res_blocks) = (Vec::new(), Vec::new(), 0);
        let mut width = 0;
        for index in 0.. {
            let name = |part: &str| format!("encoder.downsamples.{index}.{part}.weight");
            if let Some(output) = side(&name("residual.2"), 0) {
                width = output;
                num_res_blocks += usize::from(dim_mult.is_empty());
            } else {
                // a stage ends with a resampling layer, the last one with nothing
                if !width.is_multiple_of(dim) || width == 0 {
                    return None;
                }
                dim_mult.push(width / dim);
                if shape_of(&name("resample.1")).is_none() {
                    break;
                }
                temporal_downsample.push(shape_of(&name("time_conv")).is_some());
            }
        }
        Some(Self { dim, z_dim, dim_mult, num_res_blocks, temporal_downsample })
    }

    /// The name that diffusers' `AutoencoderKLWan` gives to an official one, `None` for a name that is not of this family.
    pub fn diffusers_name(&self, official: &str) -> Option<String> {
        let renamed = |part: &str| {
            [
                ("residual.0.", "norm1."),
                ("residual.2.", "conv1."),
                ("residual.3.", "norm2."),
                ("residual.6.", "conv2."),
                ("shortcut.", "conv_shortcut."),
            ]
            .into_iter()
            .find_map(|(from, to)| part.strip_prefix(from).map(|rest| format!("{to}{rest}")))
            .unwrap_or_else(|| part.to_owned())
        };
        let indexed = |rest: &str| -> Option<(usize, String)> {
            let (index, part) = rest.split_once('.')?;
            Some((index.parse().ok()?, renamed(part)))
        };
        for (from, to) in [("conv1.", "quant_conv."), ("conv2.", "post_quant_conv.")] {
            if let Some(rest) = official.strip_prefix(from) {
                return Some(format!("{to}{rest}"));
            }
        }
        let (side, rest) = official.split_once('.').filter(|(side, _)| matches!(*side, "encoder" | "decoder"))?;
        for (from, to) in [("conv1.", "conv_in."), ("head.0.", "norm_out."), ("head.2.", "conv_out.")] {
            if let Some(rest) = rest.strip_prefix(from) {
                return Some(format!("{side}.{to}{rest}"));
            }
        }
        if let Some((index, part)) = rest.strip_prefix("middle.").and_then(indexed) {
            let kind = if index == 1 { "attentions" } else { "resnets" };
            return Some(format!("{side}.mid_block.{kind}.{}.{part}", index / 2));
        }
        if let Some((index, part)) = rest.strip_prefix("downsamples.").and_then(indexed) {
            return Some(format!("{side}.down_blocks.{index}.{part}"));
        }
        let (index, part) = rest.strip_prefix("upsamples.").and_then(indexed)?;
        // a stage of the decoder: its residual blocks and the resampling layer
        let (stage, place) = (index / (self.num_res_blocks + 2), index % (self.num_res_blocks + 2));
        if place > self.num_res_blocks {
            return Some(format!("{side}.up_blocks.{stage}.upsamplers.0.{part}"));
        }
        Some(format!("{side}.up_blocks.{stage}.resnets.{place}.{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_released_autoencoder_has_its_known_tensors() {
        let tensors = VaeConfig::wan_2_1().tensors();
        let values: usize = tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!((tensors.len(), values), (194, 126_892_531));
        let shapes: HashMap<_, _> = tensors.into_iter().map(|t| (t.name, t.shape)).collect();
        assert_eq!(shapes["decoder.upsamples.4.residual.2.weight"], [384, 192, 3, 3, 3]);
        assert_eq!(shapes["decoder.upsamples.4.shortcut.weight"], [384, 192, 1, 1, 1]);
        assert_eq!(shapes["decoder.upsamples.7.time_conv.weight"], [768, 384, 3, 1, 1]);
        assert_eq!(shapes["encoder.downsamples.5.time_conv.bias"], [192]);
        assert_eq!(shapes["encoder.middle.1.norm.gamma"], [384, 1, 1]);
    }

    #[test]
    fn a_configuration_is_recognised_from_its_own_shapes() {
        let small = VaeConfig { dim: 4, z_dim: 8, dim_mult: vec![1, 3], num_res_blocks: 1, temporal_downsample: vec![true] };
        for config in [VaeConfig::wan_2_1(), VaeConfig::of_width(5), small] {
            let shapes: HashMap<_, _> = config.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
            assert_eq!(VaeConfig::recognise(|name| shapes.get(name).cloned()), Some(config));
        }
        assert_eq!(VaeConfig::recognise(|_| None), None);
        assert_eq!(VaeConfig::recognise(|name| (name == "encoder.conv1.weight").then(|| vec![0; 5])), None);
    }

    #[test]
    fn diffusers_names_are_one_for_one() {
        let config = VaeConfig::wan_2_1();
        let names: Vec<_> = config.tensors().iter().map(|t| config.diffusers_name(&t.name).unwrap()).collect();
        let mut distinct = names.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len());
        let of = |name: &str| config.diffusers_name(name);
        assert_eq!(of("decoder.upsamples.7.time_conv.bias").as_deref(), Some("decoder.up_blocks.1.upsamplers.0.time_conv.bias"));
        assert_eq!(of("decoder.upsamples.12.residual.6.weight").as_deref(), Some("decoder.up_blocks.3.resnets.0.conv2.weight"));
        assert_eq!(of("encoder.middle.2.residual.3.gamma").as_deref(), Some("encoder.mid_block.resnets.1.norm2.gamma"));
        assert_eq!(of("blocks.0.norm3.weight"), None);
    }
}
