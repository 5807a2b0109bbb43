//! The linear branch on a device: sums over the keys, the projection folded in, rows.

use std::time::Duration;

use half::bf16;
use turbowan_cuda::device::{Buffer, Stream, View};
use turbowan_cuda::{AttnShape, Rounding};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_sla::FeatureMap;
use turbowan_sla::device::linear::{Fold, LinearApply, LinearFold, LinearState, folded_values, partial_values, state_values};

use super::{Turn, copies, room, to_bf16, to_f32};
use crate::bench::case::Attention;
use crate::bench::error::Error;
use crate::bench::host::{PROJECTION, ends, linear_rows, shape_of};
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// The projection's bias is this times standard normal: as small as a row of attention over thousands of keys, so that none
/// of what is added up hides another.
const BIAS: f32 = 0.01;

/// The branch's features in every case.
pub const FEATURES: FeatureMap = FeatureMap::Softmax;

/// Sums over the keys with the projection folded in, in several copies.
pub struct Branch {
    layout: AttnShape,
    stream: Stream,
    sums: LinearState,
    fold: LinearFold,
    /// Weight and bias, on the host and there.
    projection: [Vec<f32>; 2],
    there: [Buffer<f32>; 2],
    partial: Buffer<f32>,
    state: Vec<Buffer<f32>>,
    folded: Vec<Buffer<bf16>>,
}

impl Branch {
    pub fn new(layout: &AttnShape, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let dim = layout.head_dim;
        let weight: Vec<f32> = normal(dim * dim, 5).iter().map(|w| w * PROJECTION).collect();
        let bias: Vec<f32> = normal(dim, 6).iter().map(|b| b * BIAS).collect();
        Ok(Self {
            layout: *layout,
            stream: stream.clone(),
            sums: LinearState::load(stream.device())?,
            fold: LinearFold::load(stream.device())?,
            there: [stream.upload(&weight)?, stream.upload(&bias)?],
            projection: [weight, bias],
            partial: stream.allocate(partial_values(layout))?,
            state: room(stream, state_values(layout), slots)?,
            folded: room(stream, folded_values(layout), slots)?,
        })
    }

    /// Queues the sums over keys and values, and folds the projection in.
    pub fn sum(&mut self, k: View<'_, bf16>, v: View<'_, bf16>, slot: usize) -> Result<(), Error> {
        let (state, folded) = (&mut self.state[slot], &mut self.folded[slot]);
        self.sums.run(&self.stream, &self.layout, FEATURES, k, v, self.partial.view_mut(), state.view_mut())?;
        let fold = Fold::Transposed(self.there[0].view());
        Ok(self.fold.run(&self.stream, self.layout.head_dim, state.view(), fold, folded.view_mut())?)
    }

    pub fn state(&self, slot: usize) -> View<'_, f32> {
        self.state[slot].view()
    }

    pub fn folded(&self, slot: usize) -> View<'_, bf16> {
        self.folded[slot].view()
    }

    pub fn weight(&self) -> View<'_, f32> {
        self.there[0].view()
    }

    pub fn bias(&self) -> View<'_, f32> {
        self.there[1].view()
    }

    /// Weight and bias on the host.
    pub fn projection(&self) -> [&[f32]; 2] {
        self.projection.each_ref().map(Vec::as_slice)
    }
}

/// The branch alone.
pub struct Alone {
    shape: Attention,
    layout: AttnShape,
    stream: Stream,
    branch: Branch,
    apply: LinearApply,
    host: [Vec<f32>; 3],
    qkv: [Vec<Buffer<bf16>>; 3],
    out: Vec<Buffer<bf16>>,
    turn: Turn,
}

impl Alone {
    pub fn new(shape: &Attention, stream: &Stream, slots: usize) -> Result<Self, Error> {
        let layout = shape_of(shape)?;
        let mut host = [normal(layout.query_values(), 1), normal(layout.key_values(), 2), normal(layout.key_values(), 3)];
        host.iter_mut().for_each(|values| Rounding::Bf16.apply_row(values));
        let there = |values: &[f32]| copies(stream, &to_bf16(values), slots);
        Ok(Self {
            shape: *shape,
            layout,
            stream: stream.clone(),
            branch: Branch::new(&layout, stream, slots)?,
            apply: LinearApply::load(stream.device())?,
            qkv: [there(&host[0])?, there(&host[1])?, there(&host[2])?],
            host,
            out: room(stream, layout.query_values(), slots)?,
            turn: Turn::default(),
        })
    }
}

impl Work for Alone {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let slot = self.turn.take(self.out.len());
        let [q, k, v] = self.qkv.each_ref().map(|copies| copies[slot].view());
        self.branch.sum(k, v, slot)?;
        let (folded, bias, out) = (self.branch.folded(slot), Some(self.branch.bias()), self.out[slot].view_mut());
        self.apply.run(&self.stream, &self.layout, FEATURES, q, folded, bias, false, out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let (dim, len, keys) = (self.shape.head_dim, self.shape.len, self.shape.key_len());
        let out = to_f32(&self.out[self.turn.last].to_vec()?);
        let rows = seeded_rows(len, rows);
        let [q, k, v] = &self.host;
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for problem in ends(self.shape.problems()) {
            let of = |len: usize| problem * len * dim..(problem + 1) * len * dim;
            want.extend(linear_rows([&q[of(len)], &k[of(keys)], &v[of(keys)]], dim, &rows, self.branch.projection()));
            got.extend(gather(&out[of(len)], dim, &rows));
        }
        Ok(Check::of(&got, &want, bound, "the f64 linear branch"))
    }
}
