//! Where an operation runs: the host, the emulator, a GPU; and how a kernel is launched there.

use turbowan_cuda::Error as CudaError;
use turbowan_cuda::device::{Buffer, Device, EmulatorOptions, FIRST_BLOCK, Stream, emulated_kernels};
use turbowan_cuda::host::aligned::Plain;

/// Anything that keeps a case from being run.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The ground refused.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// INT8 attention refused.
    #[error(transparent)]
    Sage(#[from] turbowan_sage::Error),
    /// Sparse-linear attention refused.
    #[error(transparent)]
    Sla(#[from] turbowan_sla::Error),
    /// A network's operation refused.
    #[error(transparent)]
    Model(#[from] turbowan_wan_model::Error),
    /// The operation has no kernel.
    #[error("it runs on the host alone")]
    HostOnly,
    /// There are not so many addresses.
    #[error("this machine gives no {0} bytes")]
    Memory(usize),
    /// The case is one that the operation does not take.
    #[error("no case of it: {0}")]
    Case(&'static str),
}

impl Fault {
    /// Why this machine or build cannot run it, where that is no fault of the operation.
    pub fn excuse(&self) -> Option<String> {
        match self {
            Self::HostOnly
            | Self::Memory(_)
            | Self::Cuda(
                CudaError::NoKernels { .. } | CudaError::WrongChip { .. } | CudaError::NoEmulator | CudaError::DriverTooOld { .. },
            ) => Some(self.to_string()),
            Self::Cuda(CudaError::Size { what, .. }) if *what == FIRST_BLOCK => {
                Some("its blocks are fewer there, with larger tiles or many of them, so its last ones alone cannot be run".to_owned())
            }
            _ => None,
        }
    }
}

/// Which kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The CPU, by the host twins.
    Host,
    /// The kernels on the CPU.
    Emulator,
    /// The kernels on GPU 0.
    Cuda,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 3] = [Self::Host, Self::Emulator, Self::Cuda];

    /// As `--device` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Emulator => "emulator",
            Self::Cuda => "cuda",
        }
    }
}

/// Which of the emulator's schedules a kernel goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Modes {
    /// The first one.
    #[default]
    First,
    /// All eight.
    All,
}

impl Modes {
    /// The emulator's options; a shuffled schedule takes its order from `seed`.
    pub fn options(self, capability: (u32, u32), seed: u64) -> Vec<EmulatorOptions> {
        let all = EmulatorOptions::all().into_iter().map(|options| EmulatorOptions { seed, ..options.for_capability(capability) });
        all.take(if self == Self::First { 1 } else { usize::MAX }).collect()
    }
}

/// Chips that the emulator stands for: whatever launchers choose between is chosen by one of them.
pub const CHIPS: [(u32, u32); 4] = [(8, 0), (8, 9), (9, 0), (12, 0)];

/// What this machine has, and why not the rest.
pub struct Machine {
    /// Places that can be used.
    pub places: Vec<Place>,
    /// Places that cannot, with the reason.
    pub missing: Vec<(Place, String)>,
    /// The GPU.
    pub gpu: Option<Device>,
}

impl Machine {
    /// Looks at `wanted` places.
    pub fn look(wanted: &[Place]) -> Self {
        let mut machine = Self { places: Vec::new(), missing: Vec::new(), gpu: None };
        for place in wanted {
            let found = match place {
                Place::Host => Ok(None),
                Place::Emulator => Device::emulated(EmulatorOptions::default()).map(|_| None),
                Place::Cuda => Device::open(0).map(Some),
            };
            match found {
                Ok(gpu) => {
                    machine.places.push(*place);
                    machine.gpu = gpu.or(machine.gpu);
                }
                Err(why) => machine.missing.push((*place, why.to_string())),
            }
        }
        machine
    }
}

/// Whether this build's emulator has a kernel.
pub fn is_emulated(kernel: &str) -> bool {
    emulated_kernels().iter().any(|known| known == kernel)
}

/// How launches are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Queued {
    /// One by one.
    #[default]
    Eagerly,
    /// Recorded first, then replayed.
    Recorded,
}

/// A stream with what an operation's device side needs: memory, and a place to launch from.
pub struct Stand {
    stream: Stream,
    queued: Queued,
    lead: usize,
}

impl Stand {
    /// A stream of its own on `device`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device, queued: Queued) -> Result<Self, CudaError> {
        Ok(Self { stream: device.stream()?, queued, lead: 0 })
    }

    /// One whose operands begin with `lead` rows (or heads) of zeros, so that those of the case lie far out.
    ///
    /// # Errors
    /// What the driver says.
    pub fn behind(device: &Device, lead: usize) -> Result<Self, CudaError> {
        Ok(Self { lead, ..Self::new(device, Queued::Eagerly)? })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.stream.device()
    }

    /// The stream, for operands that upload themselves.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Rows (or heads) of zeros before those of the case: part of the shape that is launched.
    pub fn lead(&self) -> usize {
        self.lead
    }

    /// Memory with a copy of `values`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer<T>, Fault> {
        Ok(self.stream.upload(values)?)
    }

    /// Memory with a copy of `values` behind `before` zeros.
    ///
    /// # Errors
    /// [`Fault::Memory`], or what the driver says.
    pub fn upload_behind<T: Plain>(&self, before: usize, values: &[T]) -> Result<Buffer<T>, Fault> {
        if before == 0 {
            return self.upload(values);
        }
        let mut buffer = self.room_behind(before, values.len())?;
        buffer.view_mut().slice(before..before + values.len())?.write(values)?;
        Ok(buffer)
    }

    /// Memory for `len` values, not set.
    ///
    /// # Errors
    /// What the driver says.
    pub fn room<T: Plain>(&self, len: usize) -> Result<Buffer<T>, Fault> {
        Ok(self.stream.allocate(len)?)
    }

    /// Memory for `len` values behind `before` zeros.
    ///
    /// # Errors
    /// [`Fault::Memory`], or what the driver says.
    pub fn room_behind<T: Plain>(&self, before: usize, len: usize) -> Result<Buffer<T>, Fault> {
        if before == 0 {
            return self.room(len);
        }
        self.stream.zeros(before + len).map_err(|error| match error {
            CudaError::Size { found, .. } => Fault::Memory(found),
            CudaError::OutOfMemory { bytes } => Fault::Memory(bytes),
            other => other.into(),
        })
    }

    /// The last `len` values, which are the case's.
    ///
    /// # Errors
    /// What the driver says.
    pub fn results<T: Plain>(&self, buffer: &Buffer<T>, len: usize) -> Result<Vec<T>, Fault> {
        Ok(buffer.view().slice(buffer.len() - len..buffer.len())?.to_vec()?)
    }

    /// Queues what `work` launches: at once, or recorded as a graph that is then replayed once.
    ///
    /// # Errors
    /// What `work` returns, or the driver says.
    pub fn launch(&self, work: impl FnOnce(&Stream) -> Result<(), Fault>) -> Result<(), Fault> {
        match self.queued {
            Queued::Eagerly => work(&self.stream)?,
            Queued::Recorded => self.stream.capture(work)?.replay()?,
        }
        Ok(self.stream.synchronize()?)
    }
}
