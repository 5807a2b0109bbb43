//! Operands of attention on a device, behind whole heads of zeros where offsets are to lie far out.

use half::bf16;
use turbowan_cuda::device::Buffer;
use turbowan_cuda::host::aligned::Plain;
use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_sla::device::{Map, Operands};

use crate::verify::ops::attention::Heads;
use crate::verify::ops::bf16s;
use crate::verify::{Fault, Stand};

/// Uploaded queries, keys, values and lists of a map.
pub(super) struct OnDevice<'a> {
    /// What is launched: the heads of zeros too.
    pub(super) shape: AttnShape,
    pub(super) q: Buffer<bf16>,
    pub(super) k: Buffer<bf16>,
    pub(super) v: Buffer<bf16>,
    map: Option<&'a BlockMap>,
    lists: Option<Buffer<u32>>,
    own: AttnShape,
    lead: usize,
}

impl<'a> OnDevice<'a> {
    /// Uploads `heads`, which are bf16 values. With heads of zeros before them a head's rows must lie together.
    pub(super) fn new(stand: &Stand, heads: &Heads, map: Option<&'a BlockMap>) -> Result<Self, Fault> {
        let (lead, own) = (stand.lead(), heads.shape);
        let behind = |values: usize| lead * (values / own.problems());
        let rows = |rows: &[f32]| stand.upload_behind(behind(rows.len()), &bf16s(rows).0);
        let lists = map.map(|map| stand.upload_behind(behind(map.lists().len()), map.lists())).transpose()?;
        let (q, k, v) = (rows(&heads.q)?, rows(&heads.k)?, rows(&heads.v)?);
        Ok(Self { shape: AttnShape { heads: lead + own.heads, ..own }, q, k, v, map, lists, own, lead })
    }

    /// The map alone, where nothing else is read.
    pub(super) fn map(&self) -> Option<Map<'_>> {
        self.map.zip(self.lists.as_ref()).map(|(map, lists)| Map {
            lists: lists.view(),
            block_q: map.block_q(),
            block_k: map.block_k(),
            kept: map.kept(),
        })
    }

    pub(super) fn operands(&self) -> Operands<'_> {
        Operands { q: self.q.view(), k: self.k.view(), v: self.v.view(), map: self.map() }
    }

    /// Room for `values` of the case's heads, behind as many for each head of zeros.
    pub(super) fn room<T: Plain>(&self, stand: &Stand, values: usize) -> Result<Buffer<T>, Fault> {
        stand.room_behind(self.lead * (values / self.own.problems()), values)
    }

    /// As [`OnDevice::room`], holding `values`.
    pub(super) fn upload<T: Plain>(&self, stand: &Stand, values: &[T]) -> Result<Buffer<T>, Fault> {
        stand.upload_behind(self.lead * (values.len() / self.own.problems()), values)
    }
}
