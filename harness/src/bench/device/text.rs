//! The text encoder's attention on a device.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream};
use turbowan_cuda::ops::bias_attention::device::{BiasAttention, Projected, TextShape};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_reference::umt5::relative_attention;

use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::TextRows;
use crate::bench::error::Error;
use crate::bench::host::ends;
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// Queries are this times standard normal: there is no scale, and a softmax of scores as large as the head dim has one key.
const QUERY: f32 = 0.125;

/// Attention with a bias for every distance.
pub struct Text {
    shape: TextRows,
    stream: Stream,
    kernel: BiasAttention,
    qkv: [Vec<Buffer<bf16>>; 3],
    bias: Vec<f32>,
    bias_there: Buffer<f32>,
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Text {
    pub fn new(shape: &TextRows, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let TextRows { rows, keys, heads, head_dim } = *shape;
        let values = rows * heads * head_dim;
        let queries: Vec<f32> = normal(values, 1).iter().map(|q| q * QUERY).collect();
        let there = |values: &[f32]| copies(stream, &to_bf16(values), slots);
        let bias = normal(heads * (rows + keys).saturating_sub(1), 4);
        Ok(Self {
            shape: *shape,
            stream: stream.clone(),
            kernel: BiasAttention::load(stream.device())?,
            qkv: [there(&queries)?, there(&normal(values, 2))?, there(&normal(values, 3))?],
            bias_there: stream.upload(&bias)?,
            bias,
            out: room(stream, values, slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Text {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let TextRows { rows, keys, heads, head_dim } = self.shape;
        let slot = self.turn.take(self.out.len());
        let projected = Projected::Apart(self.qkv.each_ref().map(|copies| copies[slot].view()));
        let shape = TextShape { rows, keys, heads, head_dim };
        self.kernel.run(&self.stream, &shape, projected, self.bias_there.view(), self.out[slot].view_mut())?;
        Ok(None)
    }

    fn check(&mut self, some: usize, bound: Bound) -> Result<Check, Error> {
        let (TextRows { rows, keys, heads, head_dim }, slot) = (self.shape, self.turn.last);
        let biases = rows + keys - 1;
        let out = to_f32(&self.out[slot].to_vec()?);
        let mut qkv = Vec::new();
        for part in &self.qkv {
            qkv.push(to_f32(&part[slot].to_vec()?));
        }
        let of_head = |values: &[f32], head: usize| -> Vec<f32> {
            values.chunks(heads * head_dim).flat_map(|row| &row[head * head_dim..][..head_dim]).copied().collect()
        };
        let some = seeded_rows(rows, some);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for head in ends(heads) {
            let [q, k, v] = [0, 1, 2].map(|part| of_head(&qkv[part], head));
            let all = relative_attention([&q, &k, &v], rows, 1, &self.bias[head * biases..][..biases], keys);
            want.extend(gather(&all, head_dim, &some));
            got.extend(gather(&of_head(&out, head), head_dim, &some));
        }
        Ok(Check::of(&got, &want, bound, "f64 attention with the same biases"))
    }
}
