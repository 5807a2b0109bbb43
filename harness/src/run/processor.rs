//! Where the networks of a run work: on the host, on a GPU, or on the emulator that runs the GPU's kernels.

use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::host::Isa;

use crate::error::Error;
use crate::request::Precision;

/// The host, or a device.
#[derive(Debug, Clone, Default)]
pub enum Processor {
    /// This machine's processor.
    #[default]
    Host,
    /// A GPU or the emulator.
    Device(Device),
}

impl Processor {
    /// GPU number `gpu`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn cuda(gpu: usize) -> Result<Self, Error> {
        let why = |why: turbowan_cuda::Error| Error::flag("--device", format!("{why} (`turbowan doctor` says more)"));
        Ok(Self::Device(Device::open(gpu).map_err(why)?))
    }

    /// The emulator, as a chip that has no special kernels.
    ///
    /// # Errors
    /// A build that has none.
    pub fn emulator() -> Result<Self, Error> {
        let why = |why: turbowan_cuda::Error| Error::flag("--device", why.to_string());
        Ok(Self::Device(Device::emulated(EmulatorOptions::default()).map_err(why)?))
    }

    /// Refuses an arithmetic that its kernels do not have.
    ///
    /// # Errors
    /// f32 on a device.
    pub fn check(&self, precision: Precision) -> Result<(), Error> {
        match (self, precision) {
            (Self::Device(_), Precision::F32) => Err(Error::flag("--device", "its kernels work in bf16; leave --precision f32 out")),
            _ => Ok(()),
        }
    }

    /// The flags that choose it, behind a space; none for the host.
    pub fn flags(&self) -> &'static str {
        match self {
            Self::Host => "",
            Self::Device(device) if device.is_emulated() => " --device emulator",
            Self::Device(_) => " --device cuda",
        }
    }

    /// What the bytes of a result depend on beside the request: the instruction set, or the device and its chip.
    pub fn name(&self) -> String {
        match self {
            Self::Host => format!("{:?}", Isa::detect()).to_lowercase(),
            Self::Device(device) => {
                let (major, minor) = device.chip().capability;
                format!("{} {major}.{minor}", if device.is_emulated() { "emulator" } else { "cuda" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_works_in_bf16_and_says_what_it_is() {
        assert!(Processor::Host.check(Precision::F32).is_ok());
        let Ok(emulator) = Processor::emulator() else { return println!("skipped: no emulator") };
        assert_eq!((emulator.name().as_str(), emulator.flags()), ("emulator 8.0", " --device emulator"));
        assert!(emulator.check(Precision::Bf16).is_ok());
        assert!(emulator.check(Precision::F32).unwrap_err().to_string().contains("--precision"));
    }
}
