//! Whether values on a device are numbers: `kernels/not_finite.cu`.

use half::bf16;

use crate::device::params::NotFiniteParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Operand, Stream, View, ViewMut};
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] = [OpKernel { op: "first value that is no number", choose: |_| (&kernels::NOT_FINITE, "not_finite") }];

const THREADS: u32 = 256;
/// Values of a thread.
const CHUNK: usize = 8;

/// Values to be looked at.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// In bf16.
    Bf16(View<'a, bf16>),
    /// In f32.
    F32(View<'a, f32>),
}

impl Values<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bf16(x) => x.len(),
            Self::F32(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The search of a device.
#[derive(Debug)]
pub struct FirstNotFinite {
    kernel: Kernel<NotFiniteParams>,
}

impl FirstNotFinite {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues the search in `x`: `found`, one value that was 0, becomes `2^32 - 1 - c` where chunk `c` of 8 values is the first
    /// with one that is infinite or no number, and stays 0 where none has.
    ///
    /// # Errors
    /// [`Error::Size`] when the count is no multiple of 8 or past 2^35 - 16, [`Error::Length`] when `found` is not one value, and
    /// as [`Kernel::launch`].
    pub fn look(&self, stream: &Stream, x: Values<'_>, mut found: ViewMut<'_, u32>) -> Result<(), Error> {
        let (count, chunks) = (x.len(), x.len() / CHUNK);
        if !count.is_multiple_of(CHUNK) || chunks >= u32::MAX as usize {
            return Err(Error::Size { what: "values to look at", must: "a multiple of 8, below 2^35 - 8", found: count });
        }
        expect("place of what is no number", found.len(), 1)?;
        if count == 0 {
            return Ok(());
        }
        let operand: Operand<'_> = match &x {
            Values::Bf16(x) => x.reads("x").aligned(16),
            Values::F32(x) => x.reads("x").aligned(16),
        };
        let params = NotFiniteParams {
            x: if let Values::Bf16(x) = &x { x.address() } else { std::ptr::null() },
            x_f32: if let Values::F32(x) = &x { x.address() } else { std::ptr::null() },
            found: found.address(),
            count: count as i64,
        };
        let launch = Launch::linear(chunks.div_ceil(THREADS as usize), THREADS)?;
        self.kernel.launch(stream, launch, &params, &[operand, found.updates("found").aligned(4)])
    }

    /// Looks for the first value that is infinite or no number and waits for the answer: its index.
    ///
    /// # Errors
    /// As [`FirstNotFinite::look`], and what the driver says.
    pub fn find(&self, stream: &Stream, x: Values<'_>) -> Result<Option<usize>, Error> {
        let mut found = stream.zeros::<u32>(1)?;
        self.look(stream, x, found.view_mut())?;
        let code = found.to_vec()?.first().copied().unwrap_or(0);
        if code == 0 {
            return Ok(None);
        }
        let first = (u32::MAX - code) as usize * CHUNK;
        let chunk: Vec<f32> = match x {
            Values::Bf16(x) => x.slice(first..first + CHUNK)?.to_vec()?.into_iter().map(bf16::to_f32).collect(),
            Values::F32(x) => x.slice(first..first + CHUNK)?.to_vec()?,
        };
        Ok(Some(first + chunk.iter().position(|value| !value.is_finite()).unwrap_or(0)))
    }
}
