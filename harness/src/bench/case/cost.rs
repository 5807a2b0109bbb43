//! What one run of an operation costs.

use super::{Attention, BLOCKS, Convolution, HeadGrid, HeadRows, Linear, Op, Rows, TextRows};
use crate::bench::cost::{self, Cost, Format};

impl Op {
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
            // of the branch the rows alone: sums and projection were made before
            Self::AttentionSageSla(ref shape) => {
                let (problems, dim) = (shape.problems(), shape.head_dim);
                let operands = float.bytes(problems * shape.len, dim) + float.bytes(problems * (dim + 1), dim);
                shape.cost(int8, float) + cost::branch_rows(problems, shape.len, dim) + Cost::moved(operands)
            }
            Self::LinearBranch(ref shape) => {
                let branch = cost::folded_branch(shape.problems(), shape.len, shape.key_len(), shape.head_dim);
                Cost::dense(branch.actual, shape.cost(float, float).bytes)
            }
            Self::SelfSageSla(ref shape) if on_device => {
                shape.cost(float, float) + cost::folded_branch(shape.problems(), shape.len, shape.key_len(), shape.head_dim)
            }
            Self::SelfSla(ref shape) | Self::SelfSageSla(ref shape) => shape.cost(float, float) + shape.linear_branch(),
            // five products where the forward pass has two, as everybody counts: kernels that make scores anew in each of two
            // passes carry out seven
            Self::AttentionBackward(ref shape) => {
                let forward = shape.cost(float, float);
                let (rows, keys) = (shape.problems() * shape.len, shape.problems() * shape.key_len());
                let gradients = Format::F32.bytes(rows + 2 * keys, shape.head_dim);
                let read = forward.bytes + float.bytes(rows, shape.head_dim) + Format::F32.bytes(rows, 1);
                Cost { operations: forward.operations / 2 * 5, actual: forward.actual / 2 * 5, bytes: read + gradients }
            }
            // the same; the linear branch has six for three
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
            Self::PrepareQk(HeadGrid { grid, heads, head_dim }) => {
                let (tokens, width) = (grid.iter().product::<usize>(), heads * head_dim);
                // both in, both out, queries as int8 too, and the sums of squares
                let sums = Format::F32.bytes(2 * tokens, width.div_ceil(128));
                Cost::moved(4 * float.bytes(tokens, width) + int8.bytes(tokens, width) + sums)
            }
            Self::PrepareKeys(ref shape) | Self::PrepareValues(ref shape) => {
                let HeadRows { batch, heads, len, head_dim } = *shape;
                Cost::moved(float.bytes(batch * heads * len, head_dim) + int8.bytes(batch * heads * len, head_dim))
            }
            Self::ResidualGate(Rows { rows, width }) => Cost::moved(3 * float.bytes(rows, width)),
            Self::TextAttention(TextRows { rows, keys, heads, head_dim }) => {
                let bias = Format::F32.bytes(heads, rows + keys - 1);
                cost::attention(heads, rows, keys, keys, head_dim, float, float) + Cost::moved(bias)
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
            | Self::TrainDit(_)
            | Self::TrainVae(_)
            | Self::GenerateTiny(_) => return None,
        })
    }
}

impl Attention {
    fn cost(&self, operand: Format, out: Format) -> Cost {
        let kept = self.kept_blocks() * BLOCKS.1;
        cost::attention(self.problems(), self.len, self.key_len(), kept, self.head_dim, operand, out)
    }

    fn linear_branch(&self) -> Cost {
        cost::linear_branch(self.problems(), self.len, self.key_len(), self.head_dim)
    }
}
