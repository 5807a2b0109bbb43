//! Cases are data: what is timed, on which shape, and what its result is held to.
//!
//! ```toml
//! [[case]]
//! name    = "1.3B 480p self-attention"      # a shape a user meets
//! op      = "attention/sage"
//! shape   = { heads = 12, len = 32760, head_dim = 128 }
//! against = ["attention/dense"]             # other operations of the same shape, or "naive"; timed in turns with it
//! bound   = { cosine = 0.999, rows = 64 }   # at this length the oracle works out 64 seeded rows
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use turbowan_reference::metrics::Bound;
use turbowan_sla::Density;

use super::cost::{self, Cost, Format};
use super::error::Error;

/// The suites that the program carries: name and text.
pub const SUITES: [(&str, &str); 5] = [
    ("host-smoke", include_str!("../../../benches/cases/host-smoke.toml")),
    ("host", include_str!("../../../benches/cases/host.toml")),
    ("networks", include_str!("../../../benches/cases/networks.toml")),
    ("pairs", include_str!("../../../benches/cases/pairs.toml")),
    ("device", include_str!("../../../benches/cases/device.toml")),
];

/// Query rows and key rows of a block of the map, in every case.
pub const BLOCKS: (usize, usize) = (128, 64);

/// A product with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Rows: tokens.
    pub rows: usize,
    /// Columns of the result.
    pub out: usize,
    /// Columns of the rows.
    pub input: usize,
}

/// Attention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Samples.
    #[serde(default = "one")]
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Query rows.
    pub len: usize,
    /// Key rows, where they are not as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<usize>,
    /// Channels of a head.
    pub head_dim: usize,
    /// Share of key blocks that each query block sees; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topk: Option<f64>,
}

/// Rows of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Rows: tokens, or pixels.
    pub rows: usize,
    /// Channels.
    pub width: usize,
}

/// Heads over a grid of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadGrid {
    /// Tokens in time, height and width.
    pub grid: [usize; 3],
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// A causal convolution over frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convolution {
    /// Frames that are made.
    pub frames: usize,
    /// Height and width of a frame.
    pub size: [usize; 2],
    /// Channels read.
    pub input: usize,
    /// Channels written.
    pub output: usize,
    /// Taps in time, height and width.
    pub kernel: [usize; 3],
}

/// One transformer block on a latent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// `1.3b`, `14b` or `tiny`.
    pub model: Model,
    /// Frames, height and width of the latent; four of its pixels are a token.
    pub latent: [usize; 3],
}

/// The width of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// The embedded one.
    Tiny,
    /// 1536 channels.
    #[serde(rename = "1.3b")]
    Wan13B,
    /// 5120 channels.
    #[serde(rename = "14b")]
    Wan14B,
}

/// A latent that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// Channels of the first stage; 96 are released.
    pub width: usize,
    /// Frames, height and width of the latent.
    pub latent: [usize; 3],
}

/// A text that is encoded by the embedded model's encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Tokens.
    pub tokens: usize,
}

/// A whole generation with the embedded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Frames.
    pub frames: usize,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Network calls.
    pub steps: usize,
}

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
    /// Self-attention as the transformer calls it, exact.
    #[serde(rename = "self-attention/original")]
    SelfOriginal(Attention),
    /// The same, INT8.
    #[serde(rename = "self-attention/sage")]
    SelfSage(Attention),
    /// The same, sparse-linear; block map and linear branch are a part of it.
    #[serde(rename = "self-attention/sla")]
    SelfSla(Attention),
    /// The same, sparse-linear with an INT8 sparse branch.
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
    /// Prompt to frames.
    #[serde(rename = "generate/tiny")]
    GenerateTiny(Generation),
}

/// What a result is held to.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Largest absolute difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f64>,
    /// Relative L2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_l2: Option<f64>,
    /// Cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Seeded rows that the oracle works out.
    #[serde(default = "sixteen")]
    pub rows: usize,
}

impl Held {
    /// Its limits.
    pub fn bound(&self) -> Bound {
        Bound { max_abs: self.max_abs, relative_l2: self.relative_l2, cosine: self.cosine }
    }
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What a user would call it.
    pub name: String,
    /// What is timed.
    #[serde(flatten)]
    pub op: Op,
    /// Operations of the same shape that are timed in turns with it; `naive` is a plain one of our own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// What its result is held to.
    pub bound: Held,
}

#[derive(Deserialize)]
struct File {
    case: Vec<Case>,
}

/// The cases of a suite's text.
///
/// # Errors
/// What the text is not: no TOML, an unknown operation, a shape without a side, a case without a bound, a name twice.
pub fn parse(name: &Path, text: &str) -> Result<Vec<Case>, Error> {
    let File { case: cases } = toml::from_str(text).map_err(|why| Error::file(name, why))?;
    for (index, case) in cases.iter().enumerate() {
        if case.bound.bound() == Bound::default() {
            return Err(Error::file(name, format!("case {:?} is held to nothing", case.name)));
        }
        if cases[..index].iter().any(|earlier| earlier.name == case.name) {
            return Err(Error::file(name, format!("two cases are called {:?}", case.name)));
        }
        case.op.check().map_err(|why| Error::file(name, format!("case {:?}: {why}", case.name)))?;
        for other in case.against.iter().filter(|other| *other != "naive") {
            case.op.of_same_shape(other).map_err(|why| Error::file(name, format!("case {:?}: against {other:?}: {why}", case.name)))?;
        }
    }
    Ok(cases)
}

/// The cases of a suite that the program carries.
///
/// # Errors
/// When there is none of that name.
pub fn suite(name: &str) -> Result<Vec<Case>, Error> {
    let known = || SUITES.map(|(name, _)| name).join(", ");
    let (_, text) = SUITES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| Error::file(name, format!("no such suite; there are {}", known())))?;
    parse(Path::new(name), text)
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
    fn check(&self) -> Result<(), String> {
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
            | Self::SelfOriginal(shape)
            | Self::SelfSage(shape)
            | Self::SelfSla(shape)
            | Self::SelfSageSla(shape)
            | Self::SlaBackward(shape)
            | Self::BlockMap(shape) => Some(shape),
            _ => None,
        }
    }

    /// What one run costs; `on_device` says which formats the operands have. Networks have none: they are not one formula.
    pub fn cost(&self, on_device: bool) -> Option<Cost> {
        let float = if on_device { Format::Bf16 } else { Format::F32 };
        let int8 = Format::Int8 { block_rows: 128 };
        Some(match *self {
            Self::LinearF32(Linear { rows, out, input }) => cost::linear(rows, out, input, Format::F32, Format::F32, Format::F32),
            Self::LinearBf16(Linear { rows, out, input }) => cost::linear(rows, out, input, float, Format::Bf16, float),
            Self::LinearInt8(Linear { rows, out, input }) => cost::linear(rows, out, input, int8, int8, float),
            Self::LinearW8a8(Linear { rows, out, input }) => cost::linear(rows, out, input, float, int8, float),
            Self::AttentionDense(ref shape) | Self::SelfOriginal(ref shape) => shape.cost(float, float),
            // on a device the operands are quantised before
            Self::AttentionSage(ref shape) if on_device => shape.cost(int8, float),
            Self::AttentionSage(ref shape) | Self::AttentionSageF32(ref shape) | Self::SelfSage(ref shape) => shape.cost(float, float),
            Self::SelfSla(ref shape) | Self::SelfSageSla(ref shape) => shape.cost(float, float) + shape.linear_branch(),
            // five products where the forward pass has two; the linear branch has six for three
            Self::SlaBackward(ref shape) => {
                let (forward, branch) = (shape.cost(float, float), shape.linear_branch());
                let once = forward.operations / 2 * 5;
                Cost { operations: once, actual: forward.actual / 2 * 5 + 2 * branch.actual, bytes: 2 * forward.bytes }
            }
            Self::BlockMap(ref shape) => {
                let (queries, keys) = shape.blocks();
                let map = cost::block_map(shape.problems(), queries, keys, shape.kept_blocks(), shape.head_dim, float);
                let rows = shape.problems() * (shape.len + shape.key_len());
                if on_device { map } else { map + Cost::moved(float.bytes(rows, shape.head_dim)) }
            }
            Self::NormLayer(Rows { rows, width }) => {
                let to = if on_device { Format::Int8 { block_rows: 1 } } else { float };
                Cost::moved(float.bytes(rows, width) + to.bytes(rows, width))
            }
            Self::NormRms(Rows { rows, width }) | Self::NormChannel(Rows { rows, width }) => Cost::moved(2 * float.bytes(rows, width)),
            Self::NormRmsRope(HeadGrid { grid, heads, head_dim }) | Self::Rope(HeadGrid { grid, heads, head_dim }) => {
                Cost::moved(2 * float.bytes(grid.iter().product(), heads * head_dim))
            }
            Self::QuantiseOfficial(Rows { rows, width }) => Cost::moved(float.bytes(rows, width) + int8.bytes(rows, width)),
            Self::QuantisePerToken(Rows { rows, width }) => {
                Cost::moved(float.bytes(rows, width) + Format::Int8 { block_rows: 1 }.bytes(rows, width))
            }
            Self::Conv3d(Convolution { frames, size, input, output, kernel }) => {
                let frame = size[0] * size[1];
                cost::convolution(frames * frame, (frames + kernel[0] - 1) * frame, input, output, kernel.iter().product(), float)
            }
            Self::BlockF32(_)
            | Self::BlockW8a8(_)
            | Self::BlockSage(_)
            | Self::BlockSageSla(_)
            | Self::DecodeF32(_)
            | Self::DecodeBf16(_)
            | Self::TextTiny(_)
            | Self::GenerateTiny(_) => return None,
        })
    }
}

impl Attention {
    /// Heads over the batch.
    pub fn problems(&self) -> usize {
        self.batch * self.heads
    }

    /// Key rows.
    pub fn key_len(&self) -> usize {
        self.keys.unwrap_or(self.len)
    }

    /// Query and key blocks of a head.
    pub fn blocks(&self) -> (usize, usize) {
        (self.len.div_ceil(BLOCKS.0), self.key_len().div_ceil(BLOCKS.1))
    }

    /// Share of key blocks kept.
    pub fn density(&self) -> Density {
        self.topk.and_then(Density::new).unwrap_or(Density::DENSE)
    }

    /// Key blocks that a query block sees.
    pub fn kept_blocks(&self) -> usize {
        self.density().blocks(self.blocks().1)
    }

    fn cost(&self, operand: Format, out: Format) -> Cost {
        let kept = self.kept_blocks() * BLOCKS.1;
        cost::attention(self.problems(), self.len, self.key_len(), kept, self.head_dim, operand, out)
    }

    fn linear_branch(&self) -> Cost {
        cost::linear_branch(self.problems(), self.len, self.key_len(), self.head_dim)
    }
}

const fn one() -> usize {
    1
}

const fn sixteen() -> usize {
    16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("own.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_suite_is_whole_and_every_case_is_held_to_something() {
        for (name, _) in SUITES {
            let cases = suite(name).unwrap();
            assert!(!cases.is_empty(), "{name}");
            for case in cases {
                if let Some(cost) = case.op.cost(name == "device") {
                    assert!(cost.bytes > 0 && cost.actual <= cost.operations.max(cost.actual), "{name}: {}", case.name);
                }
            }
        }
        assert!(suite("nothing").unwrap_err().to_string().contains("host-smoke"));
    }

    #[test]
    fn a_case_reads_as_it_is_written_and_a_bad_one_is_named() {
        let good = r#"[[case]]
name = "x"
op = "attention/sage"
shape = { heads = 12, len = 4096, head_dim = 128, topk = 0.1 }
against = ["naive", "attention/dense"]
bound = { cosine = 0.999, rows = 4 }"#;
        let case = &parse(Path::new("own.toml"), good).unwrap()[0];
        assert_eq!((case.op.name().as_str(), case.op.family().as_str()), ("attention/sage", "attention"));
        assert_eq!(case.op.shape(), json!({ "batch": 1, "heads": 12, "len": 4096, "head_dim": 128, "topk": 0.1 }));
        // 6 of 64 key blocks
        let cost = case.op.cost(false).unwrap();
        assert_eq!(cost.actual * 64, cost.operations * 6);
        for (from, to, says) in [
            ("attention/sage", "attention/none", "unknown variant"),
            ("heads = 12", "heads = 0", "a side of its shape is zero"),
            ("topk = 0.1", "topk = 1.5", "topk lies in (0, 1]"),
            ("head_dim = 128", "width = 128", "head_dim"),
            ("cosine = 0.999, ", "", "held to nothing"),
            ("attention/dense", "linear/f32", "against"),
        ] {
            assert!(error(&good.replace(from, to)).contains(says), "{from} -> {to}: {}", error(&good.replace(from, to)));
        }
        assert!(error(&format!("{good}\n{good}")).contains("two cases"));
    }
}
