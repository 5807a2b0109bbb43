//! Memory planned ahead: where each allocation of a known sequence lies in one arena.
//!
//! A step of a network allocates and frees the same sizes in the same order each time. With the sequence known, every
//! allocation has a lifetime, and two may share addresses when their lifetimes do not meet. The arena can be no smaller
//! than the most that is alive at once (the lower bound); finding the smallest is NP-hard, so allocations are placed
//! greedily, each in the smallest gap that is free over its whole lifetime, in a few orders of which the best is kept.

use std::fmt;

use crate::Error;

/// Allocations start at multiples of it, in bytes, as the driver's do.
pub const ARENA_ALIGNMENT: usize = 256;

/// What happens to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryEvent {
    /// The next allocation.
    Allocate {
        /// Its size.
        bytes: usize,
    },
    /// The end of one.
    Free {
        /// Its number: 0 for the first allocation of the sequence.
        allocation: usize,
    },
}

impl fmt::Display for MemoryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocate { bytes } => write!(f, "an allocation of {bytes} bytes"),
            Self::Free { allocation } => write!(f, "the end of allocation {allocation}"),
        }
    }
}

/// A sequence of allocations and frees with a place for each allocation. Lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    events: Vec<MemoryEvent>,
    offsets: Vec<usize>,
    peak_bytes: usize,
    arena_bytes: usize,
}

impl MemoryPlan {
    /// Plans a sequence. What it does not free lives to its end.
    ///
    /// # Errors
    /// [`Error::Size`] when a free is of no living allocation, or when the sizes together have no number of bytes.
    pub fn new(events: Vec<MemoryEvent>) -> Result<Self, Error> {
        let lives = lives(&events)?;
        let peak_bytes = peak(&events, &lives);
        // large blocks leave gaps that small ones fill, and long-lived ones hold up every placement above them
        let keys: [fn(&Life) -> usize; 3] = [|life| life.bytes, Life::events, |life| life.bytes.saturating_mul(life.events())];
        let (mut offsets, mut arena_bytes) = (vec![0; lives.len()], usize::MAX);
        for key in keys {
            if arena_bytes == peak_bytes {
                break;
            }
            let mut order: Vec<usize> = (0..lives.len()).collect();
            order.sort_by_key(|index| std::cmp::Reverse((key(&lives[*index]), lives[*index].bytes)));
            let (placed, bytes) = place(&lives, &order);
            if bytes < arena_bytes {
                (offsets, arena_bytes) = (placed, bytes);
            }
        }
        Ok(Self { events, offsets, peak_bytes, arena_bytes })
    }

    /// The sequence.
    pub fn events(&self) -> &[MemoryEvent] {
        &self.events
    }

    /// Where each allocation starts in the arena, in the order of the allocations.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The most that is alive at once, each allocation rounded up to [`ARENA_ALIGNMENT`]: no arena is smaller.
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// The arena's size.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }
}

/// One allocation: its events from `start` up to, not with, `end`.
struct Life {
    start: usize,
    end: usize,
    bytes: usize,
}

impl Life {
    fn events(&self) -> usize {
        self.end - self.start
    }
}

fn lives(events: &[MemoryEvent]) -> Result<Vec<Life>, Error> {
    let mut lives: Vec<Life> = Vec::new();
    let mut total = 0usize;
    for (at, event) in events.iter().enumerate() {
        match *event {
            MemoryEvent::Allocate { bytes } => {
                // an empty buffer has an address too
                let rounded = bytes.max(1).checked_next_multiple_of(ARENA_ALIGNMENT);
                let sum = rounded.and_then(|rounded| total.checked_add(rounded));
                let what = "bytes of a sequence of allocations";
                total = sum.ok_or(Error::Size { what, must: "less than 2^64 together", found: bytes })?;
                lives.push(Life { start: at, end: events.len(), bytes: rounded.unwrap_or(bytes) });
            }
            MemoryEvent::Free { allocation } => {
                let life = lives.get_mut(allocation).filter(|life| life.end == events.len());
                let what = "the allocation that is freed";
                life.ok_or(Error::Size { what, must: "one that is alive", found: allocation })?.end = at;
            }
        }
    }
    Ok(lives)
}

fn peak(events: &[MemoryEvent], lives: &[Life]) -> usize {
    let (mut alive, mut peak, mut next) = (0, 0, 0);
    for event in events {
        match *event {
            MemoryEvent::Allocate { .. } => {
                alive += lives[next].bytes;
                next += 1;
                peak = alive.max(peak);
            }
            MemoryEvent::Free { allocation } => alive -= lives[allocation].bytes,
        }
    }
    peak
}

/// Places the allocations one by one, each in the smallest gap between those that it meets.
fn place(lives: &[Life], order: &[usize]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0usize; lives.len()];
    // those placed, the lowest first
    let mut placed: Vec<usize> = Vec::with_capacity(lives.len());
    let mut arena_bytes = 0;
    for &index in order {
        let life = &lives[index];
        let (mut best, mut top) = (None::<(usize, usize)>, 0);
        for &other in &placed {
            let (start, met) = (offsets[other], &lives[other]);
            if met.start >= life.end || life.start >= met.end {
                continue;
            }
            let gap = start.saturating_sub(top);
            if gap >= life.bytes && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, top));
            }
            top = top.max(start + met.bytes);
        }
        let offset = best.map_or(top, |(_, offset)| offset);
        offsets[index] = offset;
        arena_bytes = arena_bytes.max(offset + life.bytes);
        let at = placed.partition_point(|other| offsets[*other] <= offset);
        placed.insert(at, index);
    }
    (offsets, arena_bytes)
}

#[cfg(test)]
mod tests {
    use super::MemoryEvent::{Allocate, Free};
    use super::*;

    /// Numbers from a seed (SplitMix64).
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) % limit as u64) as usize
        }
    }

    /// Holds a plan to its laws, by counting anew.
    fn hold(plan: &MemoryPlan) {
        let mut alive: Vec<(usize, usize, usize)> = Vec::new();
        let (mut next, mut peak) = (0, 0);
        for event in plan.events() {
            match *event {
                Allocate { bytes } => {
                    let (from, to) = (plan.offsets()[next], plan.offsets()[next] + bytes.max(1));
                    assert_eq!(from % ARENA_ALIGNMENT, 0);
                    assert!(to <= plan.arena_bytes(), "allocation {next} ends at {to} of {}", plan.arena_bytes());
                    for (other, start, end) in &alive {
                        assert!(to <= *start || *end <= from, "{next} at {from}..{to} meets {other} at {start}..{end}");
                    }
                    alive.push((next, from, to));
                    next += 1;
                    peak = peak.max(alive.iter().map(|(_, from, to)| (to - from).next_multiple_of(ARENA_ALIGNMENT)).sum());
                }
                Free { allocation } => alive.retain(|(number, ..)| *number != allocation),
            }
        }
        assert_eq!(plan.peak_bytes(), peak);
        assert!(plan.arena_bytes() >= peak);
    }

    /// Any sequence: sizes over six orders of magnitude, lifetimes of every length.
    fn any(draw: &mut Draw) -> Vec<MemoryEvent> {
        let (mut events, mut alive, mut count) = (Vec::new(), Vec::new(), 0);
        for _ in 0..draw.below(300) {
            if !alive.is_empty() && draw.below(2) == 0 {
                events.push(Free { allocation: alive.swap_remove(draw.below(alive.len())) });
            } else {
                let magnitude = 1 << draw.below(20);
                events.push(Allocate { bytes: draw.below(magnitude) });
                alive.push(count);
                count += 1;
            }
        }
        events
    }

    /// A transformer's step as its buffers come and go: rows kept through all blocks, and in each block a normed copy, its
    /// int8 twin with scales, three projections, a block map, an attention output and a wide hidden layer.
    fn transformer(layers: usize, rows: usize, width: usize, hidden: usize, text: usize) -> Vec<MemoryEvent> {
        struct Step(Vec<MemoryEvent>, usize);
        impl Step {
            fn take(&mut self, bytes: usize) -> usize {
                self.0.push(Allocate { bytes });
                self.1 += 1;
                self.1 - 1
            }
            fn free(&mut self, allocations: &[usize]) {
                self.0.extend(allocations.iter().map(|allocation| Free { allocation: *allocation }));
            }
            fn linear(&mut self, rows: usize, from: usize, to: usize) -> usize {
                let int8 = [self.take(rows * from), self.take(rows * from.div_ceil(128) * 4)];
                let out = self.take(rows * to * 2);
                self.free(&int8);
                out
            }
        }
        let mut step = Step(Vec::new(), 0);
        let x = step.take(rows * width * 4);
        let context = step.take(text * width * 2);
        for _ in 0..layers {
            let modulation = step.take(6 * width * 4);
            let normed = step.take(rows * width * 2);
            let [q, k, v] = [(); 3].map(|()| step.linear(rows, width, width));
            step.free(&[normed]);
            let map = step.take((rows / 64 + 1) * (rows / 64 + 1));
            let int8 = [step.take(rows * width), step.take(rows * width), step.take(rows / 16 * 4)];
            let out = step.take(rows * width * 2);
            step.free(&[q, k, v, map]);
            step.free(&int8);
            let projected = step.linear(rows, width, width);
            step.free(&[out, projected]);
            let normed = step.take(rows * width * 2);
            let q = step.linear(rows, width, width);
            step.free(&[normed]);
            let [k, v] = [(); 2].map(|()| step.linear(text, width, width));
            let out = step.take(rows * width * 2);
            step.free(&[q, k, v]);
            let projected = step.linear(rows, width, width);
            step.free(&[projected, out]);
            let normed = step.take(rows * width * 2);
            let wide = step.linear(rows, width, hidden);
            step.free(&[normed]);
            let narrow = step.linear(rows, hidden, width);
            step.free(&[wide, narrow, modulation]);
        }
        let head = step.take(rows * 64 * 2);
        step.free(&[x, context]);
        let _ = head;
        step.0
    }

    #[test]
    fn no_two_that_live_together_share_a_byte() {
        for seed in 0..400 {
            hold(&MemoryPlan::new(any(&mut Draw(seed))).unwrap());
        }
    }

    #[test]
    fn a_transformers_arena_is_within_a_tenth_of_the_bound() {
        let mut draw = Draw(7);
        for _ in 0..60 {
            let rows = 1 + draw.below(40_000);
            let width = 128 * (1 + draw.below(40));
            let hidden = width * (2 + draw.below(3)) + 128 * draw.below(8);
            let plan = MemoryPlan::new(transformer(1 + draw.below(12), rows, width, hidden, 1 + draw.below(600))).unwrap();
            hold(&plan);
            let (arena, bound) = (plan.arena_bytes(), plan.peak_bytes());
            assert!(arena * 10 <= bound * 11, "{rows} x {width}, hidden {hidden}: {arena} over {bound}");
        }
    }

    #[test]
    fn forty_blocks_at_720p_have_a_plan() {
        let plan = MemoryPlan::new(transformer(40, 75_600, 5120, 13_824, 512)).unwrap();
        hold(&plan);
        // the peak is at the wide layer: x, normed rows, int8 twin with scales, hidden rows
        assert!(plan.peak_bytes() > 75_600 * (5120 * 7 + 13_824 * 2), "{}", plan.peak_bytes());
        assert!(plan.arena_bytes() * 10 <= plan.peak_bytes() * 11, "{} over {}", plan.arena_bytes(), plan.peak_bytes());
    }

    #[test]
    fn one_after_another_share_their_place() {
        let plan = MemoryPlan::new(vec![Allocate { bytes: 1000 }, Free { allocation: 0 }, Allocate { bytes: 0 }]).unwrap();
        assert_eq!((plan.offsets(), plan.arena_bytes(), plan.peak_bytes()), ([0, 0].as_slice(), 1024, 1024));
        let none = MemoryPlan::new(Vec::new()).unwrap();
        assert_eq!((none.arena_bytes(), none.peak_bytes()), (0, 0));
    }

    #[test]
    fn a_sequence_that_cannot_be_is_refused() {
        let refused = |events: &[MemoryEvent]| match MemoryPlan::new(events.to_vec()) {
            Err(Error::Size { what, found, .. }) => (what, found),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[Free { allocation: 0 }]), ("the allocation that is freed", 0));
        let twice = [Allocate { bytes: 1 }, Free { allocation: 0 }, Free { allocation: 0 }];
        assert_eq!(refused(&twice), ("the allocation that is freed", 0));
        let large = [Allocate { bytes: usize::MAX / 2 }; 3];
        assert_eq!(refused(&large), ("bytes of a sequence of allocations", usize::MAX / 2));
        assert_eq!(refused(&[Allocate { bytes: usize::MAX }]).1, usize::MAX);
    }
}
