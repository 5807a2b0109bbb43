//! An int8 weight laid out once for the product's inner loop.

use super::kernel::Int8Kernel;
use super::tile::TileColumns;
use crate::Error;
use crate::host::Aligned;
use crate::host::par::{Shared, for_each_task};
use crate::ops::quant::{BLOCK, QuantizedWeight};

/// An int8 weight `[out, input]` with its block scales, packed for one kernel: panels of a few output columns.
///
/// A column past `out` is zero, and so is what lies past `input` in a ragged last block of the sum.
pub struct PackedInt8 {
    out: usize,
    input: usize,
    kernel: Int8Kernel,
    /// `[panels][blocks][128 / group][columns][group]`.
    values: Aligned<i8>,
    /// `[panels][blocks][columns]`: what a sum starts from; empty where the kernel takes signed rows.
    starts: Aligned<i32>,
    /// `[panels][blocks]`: a panel lies inside one block of rows of the weight.
    scales: Vec<f32>,
}

impl PackedInt8 {
    /// Packs a weight for this machine.
    pub fn pack(weight: &QuantizedWeight) -> Self {
        Self::of(Int8Kernel::detect(), weight)
    }

    /// [`PackedInt8::pack`] for a chosen kernel.
    ///
    /// # Errors
    /// [`Error::MissingIsa`] when this machine cannot run it.
    pub fn pack_for(kernel: Int8Kernel, weight: &QuantizedWeight) -> Result<Self, Error> {
        if kernel.is_available() { Ok(Self::of(kernel, weight)) } else { Err(Error::MissingIsa(kernel.isa())) }
    }

    fn of(kernel: Int8Kernel, weight: &QuantizedWeight) -> Self {
        let (out, input) = (weight.out(), weight.input());
        let (cols, group, blocks) = (kernel.shape().cols, kernel.group(), input.div_ceil(BLOCK));
        let (panels, panel_values) = (out.div_ceil(cols), cols * blocks * BLOCK);
        let mut values = Aligned::<i8>::zeroed(panels * panel_values);
        let mut starts = Aligned::<i32>::zeroed(if kernel.is_vnni() { panels * blocks * cols } else { 0 });
        let (to, to_starts) = (Shared::new(&mut values), Shared::new(&mut starts));
        for_each_task(panels, |panel| {
            // SAFETY: every task has its own panel.
            let to = unsafe { to.part(panel * panel_values, panel_values) };
            for column in 0..cols.min(out - panel * cols) {
                let row = &weight.values()[(panel * cols + column) * input..][..input];
                let mut groups = to.chunks_exact_mut(cols * group).map(|to| &mut to[column * group..][..group]);
                let whole = row.chunks_exact(group);
                let rest = whole.remainder();
                for (from, to) in whole.zip(&mut groups) {
                    to.copy_from_slice(from);
                }
                if let Some(to) = groups.next() {
                    to[..rest.len()].copy_from_slice(rest);
                }
                if kernel.is_vnni() {
                    // SAFETY: every task has its own panel.
                    let starts = unsafe { to_starts.part(panel * blocks * cols, blocks * cols) };
                    for (block, row) in row.chunks(BLOCK).enumerate() {
                        starts[block * cols + column] = -128 * row.iter().map(|v| i32::from(*v)).sum::<i32>();
                    }
                }
            }
        });
        let scales = (0..panels).flat_map(|panel| &weight.scales()[panel * cols / BLOCK * blocks..][..blocks]).copied().collect();
        Self { out, input, kernel, values, starts, scales }
    }

    /// Output features: columns of the product.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Input features: the length of the sums.
    pub fn input(&self) -> usize {
        self.input
    }

    /// Blocks of the sum.
    pub(super) fn blocks(&self) -> usize {
        self.input.div_ceil(BLOCK)
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        self.values.bytes() + self.starts.bytes() + self.scales.len() * size_of::<f32>()
    }

    /// The kernel it was packed for, which this machine has.
    pub fn kernel(&self) -> Int8Kernel {
        self.kernel
    }

    /// Blocks `from .. from + count` of the sum in panel `index`.
    pub(super) fn columns(&self, index: usize, from: usize, count: usize) -> TileColumns<'_> {
        let cols = self.kernel.shape().cols;
        let first = index * self.blocks() + from;
        let starts = if self.kernel.is_vnni() { &self.starts[first * cols..(first + count) * cols] } else { &[] };
        TileColumns {
            values: &self.values[first * BLOCK * cols..(first + count) * BLOCK * cols],
            starts,
            scales: &self.scales[first..first + count],
        }
    }
}
