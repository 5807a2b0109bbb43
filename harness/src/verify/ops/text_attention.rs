//! The text encoder's attention, with a bias for every distance and without a scale.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::bias_attention::device::{BiasAttention, KERNELS, Projected, TextShape};
use turbowan_reference::metrics::Bound;
use turbowan_reference::umt5 as truth;
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::backend::text::TextBackend;

use super::{FAR_ROWS, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `keys` of the rows are seen; `bf16` 0 keeps the host's results in f32, a device stores bf16; `joined` rows hold a query, a
/// key and a value.
const AXES: &[Axis] = &[
    Axis::new("rows", 1, 200, 1),
    Axis::new("keys", 1, 200, 1),
    Axis::new("heads", 1, 6, 1),
    Axis::new("dim", 8, 64, 8),
    Axis::choice("bf16", 1),
    Axis::choice("joined", 1),
];

/// It is one.
pub const OPS: [Op; 1] = [Op {
    name: "umt5-attention",
    about: "softmax_j(q . k_j + bias[j - i]) v over the first keys, no scale",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 7] = [
            &[1, 1, 1, 8, 0, 0],
            &[7, 7, 3, 40, 0, 1],
            &[64, 10, 2, 16, 0, 0],
            &[65, 65, 2, 64, 1, 0],
            &[130, 1, 1, 32, 0, 1],
            &[97, 61, 2, 8, 0, 0],
            &[130, 129, 1, 64, 1, 1],
        ];
        Case::cross(&shapes, &[65, 50, 2, 32, 0, 0], &Kind::ALL[1..])
    },
    tame: |case| case.shape[1] = case.shape[1].min(case.shape[0]),
    kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
    // one row, whose last heads lie past 2^31; a block has a head
    far: &[Far { shape: &[1, 1, 2, 64, 1, 0], lead: 2 * FAR_ROWS, blocks: (2 * FAR_ROWS as u64, 2) }],
    prepare: Attention::prepare,
}];

/// The largest score: one that rounds to bf16 moves its weight by no more than 1/64 then.
const LARGEST_SCORE: f32 = 4.0;

/// Makes queries of `heads` so small that no score `q . k` is past `largest`: what follows from large ones is a matter of the
/// rounding of one score, and no kernel can be held to it.
pub(super) fn moderate(q: &mut [f32], k: &[f32], width: usize, heads: usize, largest: f32) {
    let dim = width / heads;
    let product = |q: &[f32], k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>().abs();
    let most = q.chunks(width).flat_map(|q| k.chunks(width).map(move |k| (q, k))).flat_map(|(q, k)| q.chunks(dim).zip(k.chunks(dim)));
    let most = most.map(|(q, k)| product(q, k)).fold(0.0, f32::max);
    if most > largest {
        q.iter_mut().for_each(|q| *q *= largest / most);
    }
}

struct Attention {
    shape: TextShape,
    qkv: [(Vec<bf16>, Vec<f32>); 3],
    bias: Vec<f32>,
    is_joined: bool,
    rounding: Rounding,
    want: Vec<f64>,
}

impl Attention {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [rows, keys, heads, head_dim, is_bf16, joined] = case.sizes();
        let width = heads * head_dim;
        let [mut q, k, v] = [0, 1, 2].map(|more| case.kind.values(rows, width, case.seed + more));
        moderate(&mut q, &k, width, heads, LARGEST_SCORE);
        let qkv = [q, k, v].map(|values| bf16s(&values));
        let bias = bf16s(&Kind::Plain.values(heads, rows + keys - 1, case.seed + 3)).1;
        let want = truth::relative_attention(qkv.each_ref().map(|(_, wide)| &wide[..]), rows, heads, &bias, keys);
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        let shape = TextShape { rows, keys, heads, head_dim };
        Ok(Box::new(Self { shape, qkv, bias, is_joined: joined == 1, rounding, want }))
    }

    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    /// A query, a key and a value in each row.
    fn joined(&self) -> Vec<bf16> {
        let row = |row: usize| self.qkv.iter().flat_map(move |(x, _)| &x[row * self.width()..(row + 1) * self.width()]);
        (0..self.shape.rows).flat_map(row).copied().collect()
    }
}

impl Prepared for Attention {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let host = Host { rounding: self.rounding };
        let [q, k, v] = self.qkv.each_ref().map(|(_, wide)| HostTensor { width: self.width(), values: wide.clone() });
        let bias = HostTensor { width: self.shape.rows + self.shape.keys - 1, values: self.bias.clone() };
        let out = host.relative_attention([&q, &k, &v], &bias, self.shape.keys)?.rows;
        Ok(vec![Output::new("out", self.width(), &out.values)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let kernel = BiasAttention::load(stand.device())?;
        // heads that come before those of the case do so in every row
        if stand.lead() > 0 && (self.shape.rows > 1 || self.is_joined) {
            return Err(Fault::Case("one row behind heads"));
        }
        let shape = TextShape { heads: stand.lead() + self.shape.heads, ..self.shape };
        let before = stand.lead() * self.shape.head_dim;
        let bias = stand.upload_behind(stand.lead() * (self.shape.rows + self.shape.keys - 1), &self.bias)?;
        let mut out = stand.room_behind::<bf16>(before, self.want.len())?;
        if self.is_joined {
            let joined = stand.upload(&self.joined())?;
            stand.launch(|stream| Ok(kernel.run(stream, &shape, Projected::Joined(joined.view()), bias.view(), out.view_mut())?))?;
        } else {
            let [q, k, v] = self.qkv.each_ref().map(|(narrow, _)| stand.upload_behind(before, narrow));
            let (q, k, v) = (q?, k?, v?);
            let parts = Projected::Apart([q.view(), k.view(), v.view()]);
            stand.launch(|stream| Ok(kernel.run(stream, &shape, parts, bias.view(), out.view_mut())?))?;
        }
        Ok(vec![Output::new("out", self.width(), &stand.results(&out, self.want.len())?)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let is_bf16 = self.rounding == Rounding::Bf16 || place != Place::Host;
        let (bound, why) = if is_bf16 { (1.2e-2, "scores and weights round to bf16") } else { (4e-6, "sums in f32") };
        Ok(vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(bound), why)])
    }
}
