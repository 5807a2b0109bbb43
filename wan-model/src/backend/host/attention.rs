//! Attention on the host: rows of `[batch * tokens, heads * head_dim]` go straight to the twins of `sla` and `sage`.

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, BlockMap, HeadLayout, Rounding};
use turbowan_sage::{Sage, ValuePrecision};
use turbowan_sla::{Attend, Keys, LinearBranch, Projection};

use super::HostTensor;
use crate::Result;
use crate::attention::{Attention, SlaProjection, Sparsity};
use crate::backend::Heads;

/// Self-attention of queries, keys and values.
pub(super) fn to_itself(
    rounding: Rounding,
    qkv: [&HostTensor; 3],
    heads: Heads,
    how: &Attention,
    projection: Option<&SlaProjection>,
) -> Result<HostTensor> {
    let shape = heads.self_shape(qkv[0].rows())?;
    let [q, k, v] = qkv.map(|x| &x.values[..]);
    let mut out = match how {
        Attention::Original => turbowan_sla::attend(q, k, v, &shape, &Attend { rounding, ..Attend::default() })?,
        Attention::Sage => {
            let sage = Sage { operands: rounding, ..Sage::default() }.with_values(ValuePrecision::Int8);
            turbowan_sage::forward(q, k, v, &shape, None, false, &sage)?
        }
        Attention::Sla(sparsity) => sparse_linear(rounding, qkv, heads, &shape, sparsity, projection, false)?,
        Attention::SageSla(sparsity) => sparse_linear(rounding, qkv, heads, &shape, sparsity, projection, true)?,
    };
    rounding.apply_row(&mut out);
    Ok(HostTensor { width: qkv[0].width, values: out })
}

/// The map is taken in the network's arithmetic; both branches work in the operation's own.
fn sparse_linear(
    rounding: Rounding,
    qkv: [&HostTensor; 3],
    heads: Heads,
    shape: &AttnShape,
    sparsity: &Sparsity,
    projection: Option<&SlaProjection>,
    int8: bool,
) -> Result<Vec<f32>> {
    let map = block_map(rounding, qkv[0], qkv[1], heads, sparsity)?;
    let rounds_inside = rounding != sparsity.inner;
    let inner = qkv.map(|x| {
        let mut values = x.values.clone();
        if rounds_inside {
            sparsity.inner.apply_row(&mut values);
        }
        values
    });
    let [q, k, v] = &inner;
    let mut out = if int8 {
        let sage = Sage::sagesla(sparsity.block_q, sparsity.block_k).with_values(ValuePrecision::Int8);
        turbowan_sage::forward(q, k, v, shape, Some(&map), false, &sage)?
    } else {
        let how = Attend { keys: Keys::Listed(&map), rounding: sparsity.inner, ..Attend::default() };
        turbowan_sla::attend(q, k, v, shape, &how)?
    };
    sparsity.inner.apply_row(&mut out);
    let projection = projection.map(|p| Projection { weight: &p.weight, bias: &p.bias });
    let branch = LinearBranch { features: sparsity.features, projection, rounding: sparsity.inner, isa: Isa::detect() };
    turbowan_sla::add_linear_branch(q, k, v, shape, &branch, &mut out)?;
    Ok(out)
}

/// Dense attention of `q` to the keys and values of a prompt; with `text_batch` 1 all samples read the same.
pub(super) fn to_text(rounding: Rounding, qkv: [&HostTensor; 3], heads: Heads, text_batch: usize) -> Result<HostTensor> {
    let [q, k, v] = qkv;
    // Samples that share their keys are one longer sample.
    let shape = AttnShape::cross(text_batch, heads.heads, q.rows() / text_batch, k.rows() / text_batch, heads.head_dim)?;
    let shape = shape.with_layout(HeadLayout::Blhd);
    let values = turbowan_sla::attend(&q.values, &k.values, &v.values, &shape, &Attend { rounding, ..Attend::default() })?;
    Ok(HostTensor { width: q.width, values })
}

/// The key blocks that each query block keeps, as the network's arithmetic picks them from `q` and `k`
/// `[batch * tokens, heads * head_dim]`.
///
/// # Errors
/// Rows that do not divide into samples.
pub fn block_map(rounding: Rounding, q: &HostTensor, k: &HostTensor, heads: Heads, sparsity: &Sparsity) -> Result<BlockMap> {
    let (shape, sides) = (heads.self_shape(q.rows())?, (sparsity.block_q, sparsity.block_k));
    Ok(turbowan_sla::block_map(&q.values, &k.values, &shape, sides, sparsity.density, rounding)?)
}
