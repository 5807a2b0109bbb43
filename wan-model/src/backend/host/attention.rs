//! Attention on the host.

use turbowan_cuda::Rounding;

use super::HostTensor;
use crate::Result;
use crate::attention::{Attention, SlaProjection};
use crate::backend::Heads;

pub(super) fn to_itself(
    rounding: Rounding,
    qkv: [&HostTensor; 3],
    heads: Heads,
    _how: &Attention,
    _projection: Option<&SlaProjection>,
) -> Result<HostTensor> {
    to_text(rounding, qkv, heads, heads.batch)
}

pub(super) fn to_text(_rounding: Rounding, qkv: [&HostTensor; 3], heads: Heads, text_batch: usize) -> Result<HostTensor> {
    let [q, k, v] = qkv;
    let (lq, lk, d, w) = (q.rows() / heads.batch, k.rows() / text_batch, heads.head_dim, q.width);
    let mut out = HostTensor::zeros(q.rows(), w);
    for b in 0..heads.batch {
        let kb = if text_batch == 1 { 0 } else { b };
        for h in 0..heads.heads {
            for i in 0..lq {
                let qi = &q.values[(b * lq + i) * w + h * d..][..d];
                let s: Vec<f64> = (0..lk)
                    .map(|j| {
                        let kj = &k.values[(kb * lk + j) * w + h * d..][..d];
                        qi.iter().zip(kj).map(|(a, b)| f64::from(a * b)).sum::<f64>() / (d as f64).sqrt()
                    })
                    .collect();
                let m = s.iter().cloned().fold(f64::MIN, f64::max);
                let l: f64 = s.iter().map(|x| (x - m).exp()).sum();
                for (j, s) in s.iter().enumerate() {
                    let p = ((s - m).exp() / l) as f32;
                    for c in 0..d {
                        out.values[(b * lq + i) * w + h * d + c] += p * v.values[(kb * lk + j) * w + h * d + c];
                    }
                }
            }
        }
    }
    Ok(out)
}
