//! Operations of single values on a device: `kernels/combine.cu`, `kernels/gelu_gate.cu`, `kernels/residual_gate.cu`,
//! `kernels/sinusoid.cu`.

use half::bf16;

use super::Combine;
use crate::device::params::{CombineParams, GeluGateParams, ResidualGateParams, SinusoidParams};
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::ops::norm::device::expect;
use crate::{Error, kernels};

/// Which kernels they are; every chip takes the same.
pub const KERNELS: [OpKernel; 4] = [
    OpKernel { op: "sampler step in f64", choose: |_| (&kernels::COMBINE, "combine") },
    OpKernel { op: "up * gelu(gate)", choose: |_| (&kernels::GELU_GATE, "gelu_gate") },
    OpKernel { op: "gated sum", choose: |_| (&kernels::RESIDUAL_GATE, "residual_gate") },
    OpKernel { op: "embedding of times", choose: |_| (&kernels::SINUSOID, "sinusoid") },
];

const THREADS: u32 = 256;
/// Values of one thread of `combine.cu`.
const COMBINED: usize = 4;
/// Values of 16 bytes of bf16: one thread's.
pub(crate) const CHUNK: usize = 8;

/// A sampler's step on a device.
#[derive(Debug)]
pub struct CombineStep {
    kernel: Kernel<CombineParams>,
}

impl CombineStep {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernel: Kernel::load(device, &kernels::COMBINE, "combine")? })
    }

    /// Queues [`Combine::apply`], to the same bits. No values are no work.
    ///
    /// # Errors
    /// [`Error::Length`] when the operands' lengths differ, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        step: Combine,
        mut x: ViewMut<'_, f64>,
        v: View<'_, f32>,
        noise: Option<View<'_, f32>>,
    ) -> Result<(), Error> {
        expect("velocity", v.len(), x.len())?;
        let mut operands = vec![v.reads("v").aligned(16)];
        if let Some(noise) = noise {
            expect("noise", noise.len(), x.len())?;
            operands.push(noise.reads("noise").aligned(16));
        }
        if x.is_empty() {
            return Ok(());
        }
        let params = CombineParams {
            x: x.address(),
            v: v.address(),
            noise: noise.map_or(std::ptr::null(), |noise| noise.address()),
            count: x.len() as i64,
            factor: step.factor,
            scale: step.scale,
            weight: step.weight,
            unused: 0,
        };
        let launch = Launch::linear(x.len().div_ceil(COMBINED * THREADS as usize), THREADS)?;
        operands.push(x.updates("x").aligned(16));
        self.kernel.launch(stream, launch, &params, &operands)
    }
}

/// The operands of a gated GELU.
#[derive(Debug, Clone, Copy)]
pub enum Gated<'a> {
    /// Two matrices `[rows, width]`.
    Apart {
        /// What goes through GELU.
        gate: View<'a, bf16>,
        /// What is multiplied with it.
        up: View<'a, bf16>,
    },
    /// One matrix `[rows, 2 * width]`: in each row the gate, then the other.
    Joined(View<'a, bf16>),
}

/// The gate of a feed-forward layer on a device.
#[derive(Debug)]
pub struct GeluGate {
    kernel: Kernel<GeluGateParams>,
}

impl GeluGate {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernel: Kernel::load(device, &kernels::GELU_GATE, "gelu_gate")? })
    }

    /// Queues `out [rows, width] = up * gelu(gate)`, the bits of [`super::gelu_gate`]. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is no multiple of 8, [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    pub fn run(&self, stream: &Stream, operands: Gated<'_>, width: usize, mut out: ViewMut<'_, bf16>) -> Result<(), Error> {
        let rows = whole_rows("gated values", out.len(), width)?;
        if rows == 0 {
            return Ok(());
        }
        let (gate, up, stride) = match operands {
            Gated::Apart { gate, up } => {
                expect("gate", gate.len(), rows * width)?;
                expect("gated values", up.len(), rows * width)?;
                (gate, up, width)
            }
            Gated::Joined(both) => {
                expect("gate and gated values", both.len(), 2 * rows * width)?;
                (both, both.slice(width..both.len())?, 2 * width)
            }
        };
        let params = GeluGateParams {
            gate: gate.address(),
            up: up.address(),
            out: out.address(),
            rows: rows as i64,
            width: width as i64,
            gate_stride: stride as i64,
            up_stride: stride as i64,
        };
        let operands = [gate.reads("gate").aligned(16), up.reads("up").aligned(16), out.writes("out").aligned(16)];
        self.kernel.launch(stream, chunk_launch(rows, width)?, &params, &operands)
    }
}

/// A gated sum on a device.
#[derive(Debug)]
pub struct ResidualGate {
    kernel: Kernel<ResidualGateParams>,
}

impl ResidualGate {
    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernel: Kernel::load(device, &kernels::RESIDUAL_GATE, "residual_gate")? })
    }

    /// Queues `x [rows, width] += gate * y`, the bits of [`super::residual_gate`]; `gate` is a table `[groups, width]` and
    /// the rows that share a row of it. No rows are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when `width` is no multiple of 8 or no rows share a gate, [`Error::Length`] when an operand does not
    /// fit, and as [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        mut x: ViewMut<'_, bf16>,
        y: View<'_, bf16>,
        gate: Option<(View<'_, f32>, usize)>,
        width: usize,
    ) -> Result<(), Error> {
        let rows = whole_rows("rows of a gated sum", x.len(), width)?;
        expect("summand", y.len(), x.len())?;
        let mut operands = vec![y.reads("y").aligned(16)];
        if let Some((gate, rows_per_gate)) = gate {
            if rows_per_gate == 0 {
                return Err(Error::Size { what: "rows that share a gate", must: "at least 1", found: 0 });
            }
            expect("gate", gate.len(), rows.div_ceil(rows_per_gate) * width)?;
            operands.push(gate.reads("gate").aligned(16));
        }
        if rows == 0 {
            return Ok(());
        }
        let params = ResidualGateParams {
            x: x.address(),
            y: y.address(),
            gate: gate.map_or(std::ptr::null(), |(gate, _)| gate.address()),
            rows: rows as i64,
            width: width as i64,
            rows_per_gate: gate.map_or(1, |(_, rows_per_gate)| rows_per_gate.min(rows) as i64),
        };
        operands.push(x.updates("x").aligned(16));
        self.kernel.launch(stream, chunk_launch(rows, width)?, &params, &operands)
    }
}

/// The embedding of times on a device.
#[derive(Debug)]
pub struct Sinusoids {
    kernel: Kernel<SinusoidParams>,
}

/// Where the embedding goes, `[times, 2 * frequencies]`.
#[derive(Debug)]
pub enum Embedded<'a> {
    /// As it is.
    F32(ViewMut<'a, f32>),
    /// Rounded once more.
    Bf16(ViewMut<'a, bf16>),
}

impl Sinusoids {
    /// Threads of a block.
    const THREADS: u32 = 128;

    /// Loads it.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Self { kernel: Kernel::load(device, &kernels::SINUSOID, "sinusoid")? })
    }

    /// Queues `[cos(t w), sin(t w)]` of each time, the bits of [`super::sinusoids`]; the frequencies are those of
    /// [`super::time_frequencies`], uploaded once. No times are no work.
    ///
    /// # Errors
    /// [`Error::Size`] when there are no frequencies, [`Error::Length`] when the result does not fit, and as
    /// [`Kernel::launch`].
    pub fn run(&self, stream: &Stream, times: View<'_, f32>, frequencies: View<'_, f64>, out: Embedded<'_>) -> Result<(), Error> {
        let (count, half) = (times.len(), frequencies.len());
        if half == 0 {
            return Err(Error::Size { what: "frequencies of a time", must: "at least 1", found: 0 });
        }
        let found = match &out {
            Embedded::F32(out) => out.len(),
            Embedded::Bf16(out) => out.len(),
        };
        expect("embedded times", found, count.saturating_mul(2 * half))?;
        if count == 0 {
            return Ok(());
        }
        let launch = Launch::linear(count.saturating_mul(half).div_ceil(Self::THREADS as usize), Self::THREADS)?;
        let mut params = SinusoidParams {
            times: times.address(),
            frequencies: frequencies.address(),
            out: std::ptr::null_mut(),
            out_bf16: std::ptr::null_mut(),
            count: count as i64,
            half: half as i64,
        };
        let reads = [times.reads("times").aligned(4), frequencies.reads("frequencies").aligned(8)];
        match out {
            Embedded::F32(mut out) => {
                params.out = out.address();
                self.kernel.launch(stream, launch, &params, &[reads[0], reads[1], out.writes("out").aligned(4)])
            }
            Embedded::Bf16(mut out) => {
                params.out_bf16 = out.address();
                self.kernel.launch(stream, launch, &params, &[reads[0], reads[1], out.writes("out").aligned(2)])
            }
        }
    }
}

/// Rows of `width` values, a multiple of 8, in `values`.
pub(crate) fn whole_rows(what: &'static str, values: usize, width: usize) -> Result<usize, Error> {
    if width == 0 || !width.is_multiple_of(CHUNK) {
        return Err(Error::Size { what: "width of a row", must: "a multiple of 8", found: width });
    }
    let rows = values / width;
    expect(what, values, rows * width)?;
    Ok(rows)
}

/// A thread for each chunk of 8 values.
pub(crate) fn chunk_launch(rows: usize, width: usize) -> Result<Launch, Error> {
    Launch::linear((rows * (width / CHUNK)).div_ceil(THREADS as usize), THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_a_thread_also_past_two_to_the_31() {
        // the last shape has 13.8e9 values
        for (rows, width) in [(1, 8), (512, 10_240), (75_600, 5120), (1_000_000, 13_824)] {
            let launch = chunk_launch(rows, width).unwrap();
            assert!(launch.blocks() * u64::from(THREADS) * CHUNK as u64 >= (rows * width) as u64);
        }
        assert!(chunk_launch(1 << 30, 1 << 20).is_err());
        assert!(whole_rows("rows", 24, 12).is_err() && whole_rows("rows", 25, 8).is_err() && whole_rows("rows", 8, 0).is_err());
    }
}
