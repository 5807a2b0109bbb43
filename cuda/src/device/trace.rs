//! The list of what a stream was asked to do.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::arena::{MemoryEvent, MemoryPlan};
use super::launch::Launch;
use super::locked;
use crate::Error;

/// One piece of work, as it was queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A kernel.
    Launch {
        /// Its name.
        kernel: &'static str,
        /// Grid, block and dynamic shared memory.
        launch: Launch,
        /// The memory that it was given.
        operands: Vec<Touched>,
    },
    /// A fill with one byte.
    Fill {
        /// How much is written.
        bytes: usize,
    },
    /// A copy on the device.
    Copy {
        /// How much is read, and written.
        bytes: usize,
    },
    /// A copy from the host.
    FromHost {
        /// How much.
        bytes: usize,
    },
    /// A copy to the host.
    ToHost {
        /// How much.
        bytes: usize,
    },
    /// New memory.
    Allocate {
        /// How much was asked for.
        bytes: usize,
    },
    /// The end of memory.
    Free {
        /// How much was asked for.
        bytes: usize,
        /// Its number among the trace's allocations, from 0; none when it was allocated before the trace.
        allocation: Option<usize>,
    },
}

/// An operand of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// Its name at the launcher.
    pub name: &'static str,
    /// How much of it the kernel touches: its length unless the launcher knows better.
    pub bytes: usize,
    /// Whether the kernel reads what was there.
    pub is_read: bool,
    /// Whether the kernel writes it.
    pub is_written: bool,
}

impl Work {
    /// The kernel, or the kind of work in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Launch { kernel, .. } => kernel,
            Self::Fill { .. } => "fill",
            Self::Copy { .. } => "copy",
            Self::FromHost { .. } => "copy from the host",
            Self::ToHost { .. } => "copy to the host",
            Self::Allocate { .. } => "allocate",
            Self::Free { .. } => "free",
        }
    }

    /// Grid, block and dynamic shared memory of a kernel.
    pub fn launch(&self) -> Option<Launch> {
        match self {
            Self::Launch { launch, .. } => Some(*launch),
            _ => None,
        }
    }

    /// Bytes of device memory read and written, each operand of a launch counted once for each that its kernel does.
    pub fn moved(&self) -> Moved {
        match self {
            Self::Launch { operands, .. } => {
                let sum = |counts: fn(&Touched) -> bool| operands.iter().filter(|o| counts(o)).map(|o| o.bytes as u64).sum();
                Moved { read_bytes: sum(|o| o.is_read), written_bytes: sum(|o| o.is_written) }
            }
            Self::Fill { bytes } | Self::FromHost { bytes } => Moved { read_bytes: 0, written_bytes: *bytes as u64 },
            Self::Copy { bytes } => Moved { read_bytes: *bytes as u64, written_bytes: *bytes as u64 },
            Self::ToHost { bytes } => Moved { read_bytes: *bytes as u64, written_bytes: 0 },
            Self::Allocate { .. } | Self::Free { .. } => Moved::default(),
        }
    }
}

/// Traffic to and from device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

impl Moved {
    /// Both.
    pub fn bytes(self) -> u64 {
        self.read_bytes + self.written_bytes
    }
}

impl std::ops::Add for Moved {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { read_bytes: self.read_bytes + other.read_bytes, written_bytes: self.written_bytes + other.written_bytes }
    }
}

/// All work of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// The kernel, or the kind of work.
    pub name: &'static str,
    /// How often.
    pub count: usize,
    /// Traffic of all together.
    pub moved: Moved,
}

/// Sums a list up by name, the largest traffic first. Allocations and frees are left out: they move nothing.
///
/// The sum is what a device must move when each launch reads and writes its operands once and keeps nothing in a cache
/// between launches: a lower bound for a kernel that needs all of its operands, too much for one that takes few rows of a
/// large table.
pub fn totals(works: &[Work]) -> Vec<Total> {
    let mut sums = BTreeMap::<&'static str, Total>::new();
    for work in works.iter().filter(|work| !matches!(work, Work::Allocate { .. } | Work::Free { .. })) {
        let name = work.name();
        let total = sums.entry(name).or_insert(Total { name, count: 0, moved: Moved::default() });
        *total = Total { count: total.count + 1, moved: total.moved + work.moved(), ..*total };
    }
    let mut totals: Vec<_> = sums.into_values().collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.moved.bytes()));
    totals
}

/// What a stream was asked to do, in order: made by [`super::Stream::trace`] on any device.
///
/// Two traces are equal when the same work was queued, on whichever device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    works: Vec<Work>,
}

impl Trace {
    /// The list.
    pub fn works(&self) -> &[Work] {
        &self.works
    }

    /// [`totals`] of the list.
    pub fn totals(&self) -> Vec<Total> {
        totals(&self.works)
    }

    /// A plan of the memory that was allocated, as if each allocation lay in one arena. What was allocated before the
    /// trace is no part of it.
    ///
    /// # Errors
    /// [`Error::Size`] when the allocations together have no number of bytes, which only a device that executes nothing
    /// can be asked for.
    pub fn memory(&self) -> Result<MemoryPlan, Error> {
        let event = |work: &Work| match *work {
            Work::Allocate { bytes } => Some(MemoryEvent::Allocate { bytes }),
            Work::Free { allocation, .. } => allocation.map(|allocation| MemoryEvent::Free { allocation }),
            _ => None,
        };
        MemoryPlan::new(self.works.iter().filter_map(event).collect())
    }
}

/// The lists that a stream keeps, the innermost last: what ends an inner one goes on in the one around it.
#[derive(Clone, Default)]
pub(super) struct Lists(Arc<Mutex<Vec<Vec<Entry>>>>);

#[derive(Clone)]
enum Entry {
    Work(Work),
    /// Memory by its number on the stream.
    Allocate(u64, usize),
    Free(u64, usize),
}

impl Lists {
    pub(super) fn begin(&self) {
        locked(&self.0).push(Vec::new());
    }

    /// Ends the innermost list.
    pub(super) fn end(&self) -> Trace {
        let mut lists = locked(&self.0);
        let list = lists.pop().unwrap_or_default();
        let trace = finish(list.iter());
        if let Some(outer) = lists.last_mut() {
            outer.extend(list);
        }
        trace
    }

    /// All of them as one.
    pub(super) fn all(&self) -> Trace {
        finish(locked(&self.0).iter().flatten())
    }

    pub(super) fn work(&self, work: impl FnOnce() -> Work) {
        self.add(|| Entry::Work(work()));
    }

    pub(super) fn allocate(&self, serial: u64, bytes: usize) {
        self.add(|| Entry::Allocate(serial, bytes));
    }

    pub(super) fn free(&self, serial: u64, bytes: usize) {
        self.add(|| Entry::Free(serial, bytes));
    }

    fn add(&self, entry: impl FnOnce() -> Entry) {
        if let Some(list) = locked(&self.0).last_mut() {
            list.push(entry());
        }
    }
}

fn finish<'a>(entries: impl Iterator<Item = &'a Entry>) -> Trace {
    let mut numbers = HashMap::new();
    let works = entries.map(|entry| match entry {
        Entry::Work(work) => work.clone(),
        Entry::Allocate(serial, bytes) => {
            numbers.insert(*serial, numbers.len());
            Work::Allocate { bytes: *bytes }
        }
        Entry::Free(serial, bytes) => Work::Free { bytes: *bytes, allocation: numbers.get(serial).copied() },
    });
    Trace { works: works.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(kernel: &'static str, operands: &[(usize, &str)]) -> Work {
        let operands = operands.iter().map(|(bytes, how)| Touched {
            name: "x",
            bytes: *bytes,
            is_read: how.contains('r'),
            is_written: how.contains('w'),
        });
        Work::Launch { kernel, launch: Launch { grid: [1; 3], block: [1; 3], shared_bytes: 0 }, operands: operands.collect() }
    }

    #[test]
    fn totals_sum_by_name_and_put_the_largest_first() {
        let works = [
            launch("small", &[(10, "r"), (20, "w")]),
            Work::Allocate { bytes: 1 << 40 },
            launch("large", &[(1000, "r"), (1, "r"), (5, "w")]),
            launch("small", &[(1, "rw")]),
            Work::Copy { bytes: 7 },
            Work::Fill { bytes: 3 },
            Work::Free { bytes: 1 << 40, allocation: Some(0) },
        ];
        let got: Vec<_> = totals(&works).iter().map(|t| (t.name, t.count, t.moved.read_bytes, t.moved.written_bytes)).collect();
        assert_eq!(got, [("large", 1, 1001, 5), ("small", 2, 11, 21), ("copy", 1, 7, 7), ("fill", 1, 0, 3)]);
    }

    #[test]
    fn memory_is_numbered_within_the_trace() {
        let lists = Lists::default();
        lists.free(4, 1);
        lists.begin();
        lists.allocate(5, 100);
        lists.begin();
        lists.allocate(6, 300);
        lists.free(5, 100);
        lists.work(|| Work::Fill { bytes: 1 });
        lists.free(6, 300);
        let works = lists.end();
        assert_eq!(works.works()[1], Work::Free { bytes: 100, allocation: None });
        assert_eq!(works.works()[3], Work::Free { bytes: 300, allocation: Some(0) });
        assert_eq!(works.memory().unwrap().peak_bytes(), 512, "what was there before is no part of the plan");
        let all = lists.all();
        assert_eq!((lists.end(), lists.all()), (all.clone(), Trace::default()));
        assert_eq!(all.works()[2], Work::Free { bytes: 100, allocation: Some(0) });
        assert_eq!(all.works()[4], Work::Free { bytes: 300, allocation: Some(1) });
        assert_eq!(all.memory().unwrap().peak_bytes(), 256 + 512);
    }
}
