//! Laws that every operation keeps, whatever it computes.

use turbowan_cuda::device::{Device, EmulatorOptions};

use super::{Fault, Held, Output, Place, Prepared, Queued, Stand, outputs};

/// A law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// A second run gives the same bits.
    Repeat,
    /// Two threads of the host, or two streams of a device, at once give the bits of one alone.
    SideBySide,
    /// A recorded launch that is replayed gives the bits of a queued one.
    Replay,
}

impl Check {
    /// Those of a place.
    pub fn of(place: Place) -> Vec<Self> {
        match place {
            Place::Host => vec![Self::Repeat, Self::SideBySide],
            Place::Emulator | Place::Cuda => vec![Self::Repeat, Self::SideBySide, Self::Replay],
        }
    }

    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::SideBySide => "two at once",
            Self::Replay => "graph replay",
        }
    }
}

/// A case of an operation behind so many rows or heads of zeros that its values lie past the 2^31st. The emulator runs the
/// case's own blocks alone, in memory that takes pages only where it is touched; a GPU runs the whole launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Far {
    /// The case's shape; its input is standard normal.
    pub shape: &'static [usize],
    /// Rows, or heads, of zeros before it.
    pub lead: usize,
    /// The first block of the case, and how many it has.
    pub blocks: (u64, u64),
}

impl Far {
    /// The stand on a GPU, or on the emulator as `capability`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn stand(&self, gpu: Option<&Device>, capability: (u32, u32)) -> Result<Stand, Fault> {
        let (first, count) = self.blocks;
        let device = match gpu {
            Some(device) => device.clone(),
            None => Device::emulated(EmulatorOptions::default().for_capability(capability).for_blocks(first, count))?,
        };
        Ok(Stand::behind(&device, self.lead)?)
    }
}

/// Checks one law.
///
/// # Errors
/// What the operation or the driver says.
pub fn run(check: Check, prepared: &dyn Prepared, device: Option<&Device>) -> Result<Vec<Held>, Fault> {
    let once = || outputs(prepared, device, Queued::Eagerly);
    let want = once()?;
    match check {
        Check::Repeat => Ok(vec![same("second run", &once()?, &want)]),
        Check::Replay => Ok(vec![same("replayed graph", &outputs(prepared, device, Queued::Recorded)?, &want)]),
        Check::SideBySide => {
            let (first, second) = std::thread::scope(|scope| {
                let other = scope.spawn(once);
                (once(), other.join())
            });
            let second = second.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(vec![same("first of two", &first?, &want), same("second of two", &second, &want)])
        }
    }
}

fn same(what: &'static str, got: &[Output], want: &[Output]) -> Held {
    let is_same = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| got.is_same(want));
    Held::fact(what, is_same, "sums run in a fixed order")
}
