//! Attention with a bias for every distance on a device: `kernels/bias_attention.cu`.

use half::bf16;

use crate::device::params::BiasAttentionParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Channels of the widest head.
pub const HEAD_DIM_LIMIT: usize = 64;

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] =
    [OpKernel { op: "attention with a position bias", choose: |_| (&kernels::BIAS_ATTENTION, "bias_attention") }];

/// Query rows of a block.
const TILE_Q: usize = 64;
const THREADS: u32 = 128;

/// Queries, keys and values of all heads.
#[derive(Debug, Clone, Copy)]
pub enum Projected<'a> {
    /// Three matrices `[rows, heads * head_dim]`.
    Apart([View<'a, bf16>; 3]),
    /// One matrix `[rows, 3 * heads * head_dim]`: in each row the query, the key, the value.
    Joined(View<'a, bf16>),
}

/// How many rows and heads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextShape {
    /// Rows: the tokens of one prompt, padding included.
    pub rows: usize,
    /// Rows from the first on that are seen.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

/// The attention of a device.
#[derive(Debug)]
pub struct BiasAttention {
    kernel: Kernel<BiasAttentionParams>,
}

impl BiasAttention {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues attention of every row to the first `keys` rows, without a scale:
    ///
    /// ```text
    /// out[i] = softmax_j( q[i] . k[j] + bias[h, j - i + rows - 1] ) v[j],   j < keys
    /// ```
    ///
    /// rounded to bf16 where bf16 tensor operations store: the product, the score, the weight, the row. `bias` is
    /// `[heads, rows + keys - 1]`, `out` `[rows, heads * head_dim]`.
    ///
    /// # Errors
    /// [`Error::Size`] when `head_dim` is no multiple of 8 or past [`HEAD_DIM_LIMIT`], when an axis is zero, or the keys are
    /// not between 1 and the rows; [`Error::Length`] when an operand does not fit, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        shape: &TextShape,
        projected: Projected<'_>,
        bias: View<'_, f32>,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let TextShape { rows, keys, heads, head_dim } = *shape;
        let width = check(shape)?;
        expect("position bias", bias.len(), heads.saturating_mul(rows + keys - 1))?;
        expect("output", out.len(), rows.saturating_mul(width))?;
        let (parts, stride, mut operands) = match projected {
            Projected::Apart(parts) => {
                for (what, part) in ["queries", "keys", "values"].into_iter().zip(&parts) {
                    expect(what, part.len(), rows * width)?;
                }
                let [q, k, v] = parts;
                (parts, width, vec![q.reads("q").aligned(16), k.reads("k").aligned(16), v.reads("v").aligned(16)])
            }
            Projected::Joined(all) => {
                expect("queries, keys and values", all.len(), 3 * rows * width)?;
                let part = |third: usize| all.slice(third * width..all.len());
                ([part(0)?, part(1)?, part(2)?], 3 * width, vec![all.reads("qkv").aligned(16)])
            }
        };
        let params = BiasAttentionParams {
            q: parts[0].address(),
            k: parts[1].address(),
            v: parts[2].address(),
            bias: bias.address(),
            out: out.address(),
            rows: rows as i64,
            keys: keys as i64,
            heads: heads as i64,
            head_dim: head_dim as i64,
            stride: stride as i64,
        };
        operands.extend([bias.reads("bias").aligned(4), out.writes("out").aligned(16)]);
        let launch = Launch::linear(heads.saturating_mul(rows.div_ceil(TILE_Q)), THREADS)?;
        self.kernel.launch(stream, launch, &params, &operands)
    }
}

/// Values of all heads of a row.
fn check(shape: &TextShape) -> Result<usize, Error> {
    let TextShape { rows, keys, heads, head_dim } = *shape;
    if head_dim == 0 || head_dim > HEAD_DIM_LIMIT || !head_dim.is_multiple_of(8) {
        return Err(Error::Size { what: "head dim of attention with a bias", must: "a multiple of 8, at most 64", found: head_dim });
    }
    for (what, found) in [("rows", rows), ("heads", heads)] {
        if found == 0 || u32::try_from(found).is_err() {
            return Err(Error::Size { what, must: "from 1 to 2^32 - 1", found });
        }
    }
    if keys == 0 || keys > rows {
        return Err(Error::Size { what: "keys that are seen", must: "between 1 and the number of rows", found: keys });
    }
    Ok(heads * head_dim)
}
