//! The autoencoder's norm on a device: `kernels/vae_norm.cu`.
//!
//! Rounds as [`super::channel_norm`] does with [`crate::Rounding::Bf16`], but for the order of a pixel's sum. It is the only
//! norm that Wan 2.1's autoencoder has.

use half::bf16;

use super::ChannelNormThen;
use crate::Error;
use crate::device::params::VaeNormParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Stream, View, ViewMut};
use crate::kernels;
use crate::ops::conv3d::packing::stored;

/// Channels of the widest pixel.
pub const CHANNEL_LIMIT: usize = 1024;

/// Threads of a block.
const THREADS: usize = 256;

/// Channels that a lane keeps in registers.
const LANE_CHANNELS: usize = 32;

/// Which kernel each norm takes; every chip takes the same.
pub const KERNELS: [OpKernel; 2] = [
    OpKernel { op: "channel norm", choose: |_| (&kernels::VAE_NORM, "vae_norm") },
    OpKernel { op: "channel norm and SiLU", choose: |_| (&kernels::VAE_NORM, "vae_norm_silu") },
];

/// The channel norms of a device.
#[derive(Debug)]
pub struct ChannelNorm {
    plain: Kernel<VaeNormParams>,
    silu: Kernel<VaeNormParams>,
}

impl ChannelNorm {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let [plain, silu] = KERNELS.map(|entry| {
            let (file, name) = (entry.choose)(device.chip().capability);
            Kernel::load(device, file, name)
        });
        Ok(Self { plain: plain?, silu: silu? })
    }

    /// Queues `out = then(x / max(|x|, 1e-12) * sqrt(channels) * gamma)` for pixels of `channels` channels.
    ///
    /// `x` and `out` are `[pixels, stored channels]`, `gamma` is `[stored channels]`, with
    /// [`stored`] channels: those past the last are zero, and stay so. No pixels are no
    /// work.
    ///
    /// # Errors
    /// [`Error::Size`] for no channels or more than [`CHANNEL_LIMIT`], [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        x: View<'_, bf16>,
        channels: usize,
        gamma: View<'_, bf16>,
        then: ChannelNormThen,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        if channels == 0 || channels > CHANNEL_LIMIT {
            return Err(Error::Size { what: "channels of a normed pixel", must: "from 1 to 1024", found: channels });
        }
        let stored = stored(channels);
        let pixels = x.len() / stored;
        let expect = super::device::expect;
        expect("channel norm input", x.len(), pixels * stored)?;
        expect("channel norm gamma", gamma.len(), stored)?;
        expect("channel norm output", out.len(), x.len())?;
        if pixels == 0 {
            return Ok(());
        }
        let params = VaeNormParams {
            x: x.address(),
            gamma: gamma.address(),
            out: out.address(),
            pixels: pixels as i64,
            stored: stored as i64,
            channels: channels as i32,
            lanes: lanes(stored) as i32,
        };
        let operands = [x.reads("x").aligned(16), gamma.reads("gamma").aligned(16), out.writes("out").aligned(16)];
        let kernel = if then == ChannelNormThen::Silu { &self.silu } else { &self.plain };
        kernel.launch(stream, launch(pixels, stored)?, &params, &operands)
    }
}

/// Lanes that share a pixel: as few as hold it, a power of two.
pub(crate) fn lanes(stored: usize) -> usize {
    stored.div_ceil(LANE_CHANNELS).next_power_of_two()
}

fn launch(pixels: usize, stored: usize) -> Result<Launch, Error> {
    Launch::linear(pixels.div_ceil(THREADS / lanes(stored)), THREADS as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_a_lane_and_every_pixel_its_lanes() {
        for (stored, lanes_wanted, blocks) in [(8, 1, 1560), (96, 4, 6240), (192, 8, 12_480), (384, 16, 24_960), (1024, 32, 49_920)] {
            assert_eq!((lanes(stored), launch(480 * 832, stored).unwrap().blocks()), (lanes_wanted, blocks), "{stored}");
            assert!(lanes(stored) * LANE_CHANNELS >= stored);
        }
        assert!(launch(1 << 40, 8).is_err());
    }
}
