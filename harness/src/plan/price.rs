//! Works at the rates of a data sheet: seconds that are predicted, and bytes that are alive.

use std::collections::BTreeMap;

use serde::Serialize;
use turbowan_cuda::device::Work;

use super::operations::{self, Widths};
use crate::bench::ceiling::{Arithmetic, DataSheet, least_seconds};
use crate::bench::cost::Cost;

/// All launches of one kernel, or all work of one kind, in a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Line {
    /// The kernel, or the kind of work.
    pub name: &'static str,
    /// How often.
    pub count: usize,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Operations on tensor cores.
    pub operations: u64,
    /// Predicted from the data sheet; zero for copies to and from the host.
    pub predicted_seconds: f64,
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Part {
    /// Kernels, fills and copies on the device.
    pub launches: usize,
    /// Bytes read and written, each operand counted once a launch.
    pub bytes: u64,
    /// Floating-point operations on tensor cores.
    pub float_operations: u64,
    /// int8 operations on tensor cores.
    pub int8_operations: u64,
    /// Predicted from the data sheet.
    pub predicted_seconds: f64,
}

impl Part {
    /// What is left of it without a part of it.
    pub fn without(self, other: Self) -> Self {
        Self {
            launches: self.launches - other.launches,
            bytes: self.bytes - other.bytes,
            float_operations: self.float_operations - other.float_operations,
            int8_operations: self.int8_operations - other.int8_operations,
            predicted_seconds: self.predicted_seconds - other.predicted_seconds,
        }
    }

    /// The same `count` times.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self {
            launches: self.launches * count,
            bytes: self.bytes * count as u64,
            float_operations: self.float_operations * count as u64,
            int8_operations: self.int8_operations * count as u64,
            predicted_seconds: self.predicted_seconds * count as f64,
        }
    }
}

impl std::ops::Add for Part {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            launches: self.launches + other.launches,
            bytes: self.bytes + other.bytes,
            float_operations: self.float_operations + other.float_operations,
            int8_operations: self.int8_operations + other.int8_operations,
            predicted_seconds: self.predicted_seconds + other.predicted_seconds,
        }
    }
}

/// A data sheet, and what turns operands into operations.
pub struct Price {
    /// Rates.
    pub sheet: &'static DataSheet,
    /// Widths of the network.
    pub widths: Widths,
}

impl Price {
    /// One piece of work; nothing of one that does not run on the device.
    fn of(&self, work: &Work) -> Part {
        if !runs_on_device(work) {
            return Part::default();
        }
        let (operations, arithmetic) = operations::of(work, self.widths).unwrap_or((0, Arithmetic::Float));
        let bytes = work.moved().bytes();
        let (tops, [float_operations, int8_operations]) = match arithmetic {
            Arithmetic::Float => (self.sheet.bf16_tops, [operations, 0]),
            Arithmetic::Int8 => (self.sheet.int8_tops, [0, operations]),
        };
        let cost = Cost { operations, actual: operations, bytes };
        let seconds = least_seconds(&cost, Some(tops), Some(self.sheet.gigabytes_per_s));
        Part { launches: 1, bytes, float_operations, int8_operations, predicted_seconds: seconds.unwrap_or(0.0) }
    }

    /// All of some works.
    pub fn part<'w>(&self, works: impl IntoIterator<Item = &'w Work>) -> Part {
        works.into_iter().fold(Part::default(), |part, work| part + self.of(work))
    }

    /// The works by name, the longest predicted time first.
    pub fn lines(&self, works: &[Work]) -> Vec<Line> {
        let mut lines = BTreeMap::<&'static str, Line>::new();
        for work in works.iter().filter(|work| !matches!(work, Work::Allocate { .. } | Work::Free { .. })) {
            let name = work.name();
            let line = lines.entry(name).or_insert_with(|| Line { name, ..Line::default() });
            let (moved, part) = (work.moved(), self.of(work));
            line.count += 1;
            line.read_bytes += moved.read_bytes;
            line.written_bytes += moved.written_bytes;
            line.operations += part.float_operations + part.int8_operations;
            line.predicted_seconds += part.predicted_seconds;
        }
        let mut lines: Vec<Line> = lines.into_values().collect();
        lines.sort_by(|a, b| b.predicted_seconds.total_cmp(&a.predicted_seconds).then(b.count.cmp(&a.count)));
        lines
    }
}

/// Whether it is a launch: a copy from or to the host goes over another wire.
fn runs_on_device(work: &Work) -> bool {
    matches!(work, Work::Launch { .. } | Work::Fill { .. } | Work::Copy { .. })
}

/// Bytes that works leave alive, and the most that were at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alive {
    /// At the end.
    pub end_bytes: u64,
    /// At the highest.
    pub peak_bytes: u64,
}

impl Alive {
    /// Of everything that a device was asked for.
    pub fn after(works: &[Work]) -> Self {
        works.iter().fold(Self::default(), |Self { end_bytes, peak_bytes }, work| {
            let end_bytes = match work {
                Work::Allocate { bytes } => end_bytes + *bytes as u64,
                Work::Free { bytes, .. } => end_bytes.saturating_sub(*bytes as u64),
                _ => end_bytes,
            };
            Self { end_bytes, peak_bytes: peak_bytes.max(end_bytes) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ceiling::data_sheet;
    use turbowan_cuda::device::{Launch, Touched};

    #[test]
    fn the_slower_of_bytes_and_operations_is_the_time() {
        let price = Price { sheet: data_sheet("H200").unwrap(), widths: Widths { dim: 1, head_dim: 1, block: [1, 1] } };
        let operand = |name, bytes, is_written: bool| Touched { name, bytes, is_read: !is_written, is_written };
        let launch = |kernel, operands| Work::Launch { kernel, launch: Launch { grid: [1; 3], block: [1; 3], shared_bytes: 0 }, operands };
        let n = 8192usize;
        let product = launch(
            "gemm_i8_wgmma_store",
            vec![operand("int8 rows", n * n, false), operand("int8 weight", n * n, false), operand("output", 2 * n * n, true)],
        );
        let moved = launch("rms_rope", vec![operand("x", 2_400_000_000, false), operand("out", 2_400_000_000, true)]);
        let works = [product, moved, Work::ToHost { bytes: 1 << 30 }, Work::Allocate { bytes: 5 }];
        let lines = price.lines(&works);
        assert_eq!(lines.iter().map(|line| line.name).collect::<Vec<_>>(), ["rms_rope", "gemm_i8_wgmma_store", "copy to the host"]);
        assert!((lines[0].predicted_seconds - 1e-3).abs() < 1e-12);
        assert!((lines[1].predicted_seconds - 2.0 * (n * n * n) as f64 / 1979e12).abs() < 1e-12);
        assert_eq!((lines[2].predicted_seconds, lines[2].read_bytes), (0.0, 1 << 30));
        assert_eq!(price.part(&works).launches, 2);
    }

    #[test]
    fn the_peak_is_the_most_at_once() {
        let free = |bytes| Work::Free { bytes, allocation: None };
        let works = [Work::Allocate { bytes: 10 }, Work::Allocate { bytes: 20 }, free(20), Work::Allocate { bytes: 5 }, free(10)];
        assert_eq!(Alive::after(&works), Alive { end_bytes: 5, peak_bytes: 30 });
        assert_eq!(Alive::after(&[]), Alive::default());
    }
}
