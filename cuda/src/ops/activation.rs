//! A function of every value on a device: `kernels/activate.cu`, with the bits of [`crate::host::math`].

use half::bf16;

use crate::device::params::ActivateParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::host::math;
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Which kernel it is; every chip takes the same.
pub const KERNELS: [OpKernel; 1] = [OpKernel { op: "activation", choose: |_| (&kernels::ACTIVATE, "activate") }];

const THREADS: u32 = 256;
/// Values of a thread.
const CHUNK: usize = 8;

/// What becomes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// GELU, tanh form.
    Gelu,
    /// GELU, exact form.
    GeluErf,
    /// SiLU.
    Silu,
}

impl Function {
    /// On the host.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Gelu => math::gelu_tanh(x),
            Self::GeluErf => math::gelu_erf(x),
            Self::Silu => math::silu(x),
        }
    }
}

/// The functions of a device.
#[derive(Debug)]
pub struct Activate {
    kernel: Kernel<ActivateParams>,
}

impl Activate {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let (file, name) = (KERNELS[0].choose)(device.chip().capability);
        Ok(Self { kernel: Kernel::load(device, file, name)? })
    }

    /// Queues `x = bf16(f(x))` of every value. No values are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when the count is no multiple of 8, and as [`Kernel::launch`].
    pub fn in_place(&self, stream: &Stream, function: Function, mut x: ViewMut<'_, bf16>) -> Result<(), Error> {
        let count = check(x.len())?;
        if count == 0 {
            return Ok(());
        }
        let params = ActivateParams { x: x.as_view().address(), out: x.address(), ..params(function, count) };
        self.kernel.launch(stream, launch(count)?, &params, &[x.updates("x").aligned(16)])
    }

    /// Queues `x = f(x)` of every value, in f32. No values are no work.
    ///
    /// # Errors
    /// As [`Activate::in_place`].
    pub fn in_place_f32(&self, stream: &Stream, function: Function, mut x: ViewMut<'_, f32>) -> Result<(), Error> {
        let count = check(x.len())?;
        if count == 0 {
            return Ok(());
        }
        let params = ActivateParams { x_f32: x.as_view().address(), out_f32: x.address(), ..params(function, count) };
        self.kernel.launch(stream, launch(count)?, &params, &[x.updates("x").aligned(16)])
    }

    /// Queues `out = f(x)` of every value, in f32. No values are no work.
    ///
    /// # Errors
    /// As [`Activate::in_place`], and [`Error::Length`] when the lengths differ.
    pub fn run_f32(&self, stream: &Stream, function: Function, x: View<'_, f32>, mut out: ViewMut<'_, f32>) -> Result<(), Error> {
        let count = check(x.len())?;
        expect("values of a function", out.len(), count)?;
        if count == 0 {
            return Ok(());
        }
        let params = ActivateParams { x_f32: x.address(), out_f32: out.address(), ..params(function, count) };
        self.kernel.launch(stream, launch(count)?, &params, &[x.reads("x").aligned(16), out.writes("out").aligned(16)])
    }
}

/// Without pointers.
fn params(function: Function, count: usize) -> ActivateParams {
    ActivateParams {
        x: std::ptr::null(),
        x_f32: std::ptr::null(),
        out: std::ptr::null_mut(),
        out_f32: std::ptr::null_mut(),
        count: count as i64,
        function: match function {
            Function::Gelu => 0,
            Function::GeluErf => 1,
            Function::Silu => 2,
        },
        unused: 0,
    }
}

fn check(count: usize) -> Result<usize, Error> {
    if count.is_multiple_of(CHUNK) {
        Ok(count)
    } else {
        Err(Error::Size { what: "values of a function", must: "a multiple of 8", found: count })
    }
}

fn launch(count: usize) -> Result<Launch, Error> {
    Launch::linear((count / CHUNK).div_ceil(THREADS as usize), THREADS)
}
