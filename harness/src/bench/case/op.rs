//! Operations by their names.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use turbowan_sla::Density;

use super::shape::{Attention, Block, Convolution, Crops, Decode, Generation, HeadGrid, HeadRows, Latents, Linear, Rows, Text, TextRows};

/// An operation and its shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "shape")]
pub enum Op {
    /// Product with an f32 weight.
    #[serde(rename = "linear/f32")]
    LinearF32(Linear),
    /// Product of bf16 rows and weight.
    #[serde(rename = "linear/bf16")]
    LinearBf16(Linear),
    /// Product of int8 rows and weight; the rows were quantised before.
    #[serde(rename = "linear/int8")]
    LinearInt8(Linear),
    /// Rows are quantised, then multiplied.
    #[serde(rename = "linear/w8a8")]
    LinearW8a8(Linear),
    /// Exact attention.
    #[serde(rename = "attention/dense")]
    AttentionDense(Attention),
    /// INT8 attention with the narrowest values: 8 bits on the host, what the chip prefers on a device. On the host
    /// quantising is a part of it, on a device it was done before.
    #[serde(rename = "attention/sage")]
    AttentionSage(Attention),
    /// INT8 attention with f32 values.
    #[serde(rename = "attention/sage-f32")]
    AttentionSageF32(Attention),
    /// INT8 attention with the linear branch in its end; operands and folded sums were made before. On a device.
    #[serde(rename = "attention/sagesla")]
    AttentionSageSla(Attention),
    /// Gradients of exact attention from what the forward pass left. On a device.
    #[serde(rename = "attention-backward/exact")]
    AttentionBackward(Attention),
    /// The linear branch alone: sums over the keys, the projection folded in, rows. On a device.
    #[serde(rename = "linear-branch")]
    LinearBranch(Attention),
    /// Self-attention as the transformer calls it, exact.
    #[serde(rename = "self-attention/original")]
    SelfOriginal(Attention),
    /// The same, INT8.
    #[serde(rename = "self-attention/sage")]
    SelfSage(Attention),
    /// The same, sparse-linear; block map and linear branch are a part of it.
    #[serde(rename = "self-attention/sla")]
    SelfSla(Attention),
    /// The same, sparse-linear with an INT8 sparse branch. On a device from bf16 queries, keys and values: means, quantisers,
    /// block map, linear branch and attention, all that a layer needs after its projections.
    #[serde(rename = "self-attention/sagesla")]
    SelfSageSla(Attention),
    /// Gradients of sparse-linear attention.
    #[serde(rename = "sla/backward")]
    SlaBackward(Attention),
    /// Key blocks are chosen: from queries and keys on the host, from pooled ones on a device.
    #[serde(rename = "block-map")]
    BlockMap(Attention),
    /// Layer norm and modulation; on a device to int8.
    #[serde(rename = "norm/layer")]
    NormLayer(Rows),
    /// RMS norm.
    #[serde(rename = "norm/rms")]
    NormRms(Rows),
    /// The autoencoder's norm and SiLU.
    #[serde(rename = "norm/channel")]
    NormChannel(Rows),
    /// RMS norm and rotary embedding.
    #[serde(rename = "norm/rms-rope")]
    NormRmsRope(HeadGrid),
    /// Rotary embedding.
    #[serde(rename = "rope")]
    Rope(HeadGrid),
    /// Rows to int8, 128 x 128 blocks.
    #[serde(rename = "quantise/128x128")]
    QuantiseOfficial(Rows),
    /// Rows to int8, 1 x 128 blocks.
    #[serde(rename = "quantise/1x128")]
    QuantisePerToken(Rows),
    /// RMS norm, rotary embedding, int8 queries, pooled queries and sums of keys in one pass. On a device.
    #[serde(rename = "prepare/qk")]
    PrepareQk(HeadGrid),
    /// Mean key, int8 keys and pooled keys. On a device.
    #[serde(rename = "prepare/keys")]
    PrepareKeys(HeadRows),
    /// Values in the format of INT8 attention: e4m3 where the chip has it, f16 elsewhere. On a device.
    #[serde(rename = "prepare/values")]
    PrepareValues(HeadRows),
    /// A layer's output times its gate is added to its input. On a device.
    #[serde(rename = "residual/gate")]
    ResidualGate(Rows),
    /// The text encoder's attention, with a bias for every distance. On a device.
    #[serde(rename = "text-attention")]
    TextAttention(TextRows),
    /// Causal 3-D convolution.
    #[serde(rename = "conv3d")]
    Conv3d(Convolution),
    /// A transformer block and the text states it reads: f32, exact attention.
    #[serde(rename = "dit-block/f32")]
    BlockF32(Block),
    /// The same with int8 linears.
    #[serde(rename = "dit-block/w8a8")]
    BlockW8a8(Block),
    /// The same with int8 linears and attention.
    #[serde(rename = "dit-block/w8a8-sage")]
    BlockSage(Block),
    /// The same with int8 linears and sparse-linear attention of share 0.1.
    #[serde(rename = "dit-block/w8a8-sagesla")]
    BlockSageSla(Block),
    /// The autoencoder's decoder, f32.
    #[serde(rename = "vae-decode/f32")]
    DecodeF32(Decode),
    /// The same in the official arithmetic.
    #[serde(rename = "vae-decode/bf16")]
    DecodeBf16(Decode),
    /// The text encoder.
    #[serde(rename = "text-encode/tiny")]
    TextTiny(Text),
    /// A step of training of the small transformer of 128 x 6: forward and backward.
    #[serde(rename = "train/dit")]
    TrainDit(Latents),
    /// A step of training of an autoencoder: both sides forward and backward.
    #[serde(rename = "train/vae")]
    TrainVae(Crops),
    /// Prompt to frames.
    #[serde(rename = "generate/tiny")]
    GenerateTiny(Generation),
}

impl Op {
    /// The operation's name: family, and variant behind a slash.
    pub fn name(&self) -> String {
        self.as_json()["op"].as_str().unwrap_or_default().to_owned()
    }

    /// What stands before the slash: operations of one family answer one question.
    pub fn family(&self) -> String {
        self.name().split('/').next().unwrap_or_default().to_owned()
    }

    /// Its shape.
    pub fn shape(&self) -> Value {
        self.as_json()["shape"].take()
    }

    fn as_json(&self) -> Value {
        // a plain struct of numbers always serialises
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Another operation of this shape.
    ///
    /// # Errors
    /// What serde says: no such operation, or one of another kind of shape.
    pub fn of_same_shape(&self, name: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_value(json!({ "op": name, "shape": self.shape() }))
    }

    /// Refuses a shape that has no side, and settings out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        fn sides(value: &Value) -> bool {
            match value {
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::Array(values) => values.iter().all(sides),
                Value::Object(values) => values.values().all(sides),
                _ => true,
            }
        }
        if !sides(&self.shape()) {
            return Err(format!("a side of its shape is zero: {}", self.shape()));
        }
        match self.attention() {
            Some(shape) if shape.topk.is_some_and(|topk| Density::new(topk).is_none()) => Err("topk lies in (0, 1]".to_owned()),
            _ => Ok(()),
        }
    }

    /// The shape of attention, of an operation that has one.
    pub fn attention(&self) -> Option<&Attention> {
        match self {
            Self::AttentionDense(shape)
            | Self::AttentionSage(shape)
            | Self::AttentionSageF32(shape)
            | Self::AttentionSageSla(shape)
            | Self::AttentionBackward(shape)
            | Self::LinearBranch(shape)
            | Self::SelfOriginal(shape)
            | Self::SelfSage(shape)
            | Self::SelfSla(shape)
            | Self::SelfSageSla(shape)
            | Self::SlaBackward(shape)
            | Self::BlockMap(shape) => Some(shape),
            _ => None,
        }
    }
}
