//! Causal convolution on a device: `kernels/conv3d_mma.cu`, and `kernels/conv3d_wgmma.cu` where the chip has it.
//!
//! Operands are bf16 and the sum is in `f32`, in another order than the host's: results agree within the rounding of the
//! sum. What is stored rounds as the host does with [`crate::Rounding::Bf16`].
//!
//! A frame is `[height, width, stored channels]` with [`stored`] channels, those past the last
//! zero; the kernels keep them zero while values are finite. A launch takes a window of frames, each wherever it lies: a causal cache is read in
//! place, and nothing is copied around it.

use half::bf16;

use super::packing::{Packing, Panel, stored};
use super::{ConvShape, Sampling};
use crate::Error;
use crate::device::params::Conv3dParams;
use crate::device::{Device, Kernel, Launch, OpKernel, Operand, Stream, View, ViewMut};
use crate::kernels;

/// Frames that a window has at most.
pub const WINDOW_LIMIT: usize = 8;

/// Columns of a block's tile.
const TILE_COLUMNS: usize = 16;

/// Colours of a pixel of video.
const COLORS: usize = 3;

/// Which kernel each convolution takes. In the order of `Role`.
pub const KERNELS: [OpKernel; 7] = [
    OpKernel {
        op: "convolution, 3 x 3",
        choose: |chip| if has_wgmma(chip) { (&kernels::CONV3D_WGMMA, "conv3d_wgmma") } else { (&kernels::CONV3D_MMA, "conv3d_mma") },
    },
    OpKernel { op: "convolution, 1 x 1", choose: |_| (&kernels::CONV3D_MMA, "conv3d_mma_point") },
    OpKernel { op: "convolution, 3 x 3, stride 2", choose: |_| (&kernels::CONV3D_MMA, "conv3d_mma_halve") },
    OpKernel {
        op: "convolution, 3 x 3 of the doubled frame",
        choose: |chip| {
            if has_wgmma(chip) { (&kernels::CONV3D_WGMMA, "conv3d_wgmma_double") } else { (&kernels::CONV3D_MMA, "conv3d_mma_double") }
        },
    },
    OpKernel { op: "convolution to few channels, 3 x 3", choose: |_| (&kernels::CONV3D_MMA, "conv3d_mma_narrow") },
    OpKernel { op: "convolution to few channels, 1 x 1", choose: |_| (&kernels::CONV3D_MMA, "conv3d_mma_narrow_point") },
    OpKernel { op: "convolution to video pixels, 3 x 3", choose: |_| (&kernels::CONV3D_MMA, "conv3d_mma_pixels") },
];

/// Whether `conv3d_wgmma.cu` is for a chip.
fn has_wgmma(capability: (u32, u32)) -> bool {
    capability == (9, 0)
}

/// A kernel of [`KERNELS`], and what its blocks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Same,
    Point,
    Halve,
    Double,
    Narrow,
    NarrowPoint,
    Pixels,
}

impl Role {
    /// Of a convolution that stores frames.
    fn of(packing: &Packing) -> Self {
        let shape = packing.shape();
        match (shape.sampling, packing.panel(), shape.kernel[1]) {
            (Sampling::Halve, ..) => Self::Halve,
            (Sampling::Double, ..) => Self::Double,
            (Sampling::Same, Panel::Wide, 1) => Self::Point,
            (Sampling::Same, Panel::Wide, _) => Self::Same,
            (Sampling::Same, Panel::Narrow, 1) => Self::NarrowPoint,
            (Sampling::Same, Panel::Narrow, _) => Self::Narrow,
        }
    }

    /// What the blocks of its kernel are on a chip.
    fn block(self, capability: (u32, u32)) -> Block {
        match self {
            Self::Same if has_wgmma(capability) => Block { threads: 384, lines: 16, shared_bytes: 111_360 },
            Self::Double if has_wgmma(capability) => Block { threads: 384, lines: 16, shared_bytes: 68_352 },
            Self::Same => Block::of_mma(47_616),
            Self::Point => Block::of_mma(43_008),
            Self::Halve => Block::of_mma(96_384),
            Self::Double => Block::of_mma(32_256),
            Self::Narrow | Self::Pixels => Block::of_mma(27_136),
            Self::NarrowPoint => Block::of_mma(27_648),
        }
    }
}

/// A kernel's block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    threads: u32,
    /// Lines of its tile of output pixels.
    lines: usize,
    /// Dynamic shared memory: its patches and stages, as the kernel asserts them.
    shared_bytes: u32,
}

impl Block {
    fn of_mma(shared_bytes: u32) -> Self {
        Self { threads: 256, lines: 8, shared_bytes }
    }
}

/// A packed weight and bias in device memory.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWeight<'a> {
    packing: Packing,
    weight: View<'a, bf16>,
    bias: View<'a, bf16>,
}

impl<'a> DeviceWeight<'a> {
    /// What [`Packing::pack`] made.
    ///
    /// # Errors
    /// [`Error::Length`] when an operand does not fit.
    pub fn new(packing: Packing, weight: View<'a, bf16>, bias: View<'a, bf16>) -> Result<Self, Error> {
        expect_len("packed weight", weight.len(), packing.weight_values())?;
        expect_len("packed bias", bias.len(), packing.bias_values())?;
        Ok(Self { packing, weight, bias })
    }
}

/// The frames that a launch looks at.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// The oldest first, at most [`WINDOW_LIMIT`], each `[height, width, stored channels]`. The oldest may be absent: they
    /// count as zero. Output frame `t` sees the `kt` frames from `t * time_stride` on.
    pub frames: &'a [Option<View<'a, bf16>>],
    /// Height and width of a frame.
    pub size: [usize; 2],
    /// Frames from an output frame to the next: 1, or 2 in the downsampling in time.
    pub time_stride: usize,
}

/// Where pixels of video go: `[output frames, height, width, 3]`.
#[derive(Debug)]
pub enum Pixels<'a> {
    /// As values, clamped to `+-limit`; infinity leaves them as they are.
    Values {
        /// Red, green and blue around -1 to 1.
        out: ViewMut<'a, f32>,
        /// At least 0.
        limit: f32,
    },
    /// As bytes: `trunc(clamp((1 + y) / 2) * 255 + 0.5)`.
    Bytes(ViewMut<'a, u8>),
}

/// The norm of what a convolution makes, and SiLU: what the next convolution reads.
#[derive(Debug)]
pub struct Normed<'a> {
    /// `[stored channels]`, zero past the channels.
    pub gamma: View<'a, bf16>,
    /// As the convolution's frames.
    pub out: ViewMut<'a, bf16>,
}

/// The convolutions of a device.
#[derive(Debug)]
pub struct Convolution {
    kernels: [Kernel<Conv3dParams>; KERNELS.len()],
}

impl Convolution {
    /// Loads the kernels.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let [a, b, c, d, e, f, g] = KERNELS.map(|entry| {
            let (file, name) = (entry.choose)(device.chip().capability);
            Kernel::load(device, file, name)
        });
        Ok(Self { kernels: [a?, b?, c?, d?, e?, f?, g?] })
    }

    /// Queues `out = convolution + bias`, and where a residual is given `out = round(that + residual)`.
    ///
    /// `out` and `residual` are `[output frames * parts, height', width', stored channels of a part]`: with two parts the
    /// halves of the output channels become two frames that follow one another.
    ///
    /// # Errors
    /// [`Error::Size`] for a window that no output frame fits, [`Error::Length`] when an operand does not fit, and as
    /// [`Kernel::launch`].
    pub fn run(
        &self,
        stream: &Stream,
        weight: DeviceWeight<'_>,
        window: Window<'_>,
        residual: Option<View<'_, bf16>>,
        mut out: ViewMut<'_, bf16>,
    ) -> Result<(), Error> {
        let mut call = Call::new(weight, window)?;
        call.add_residual(residual)?;
        call.add_frames(&mut out)?;
        call.run(&self.kernels, Role::of(&weight.packing), stream)
    }

    /// [`Convolution::run`] with the norm and SiLU of its frames, as [`crate::ops::norm::channel::ChannelNorm`] gives it bit for
    /// bit; the frames themselves only where asked for.
    ///
    /// # Errors
    /// As [`Convolution::run`], and [`Error::Size`] where no block has all channels ([`Packing::has_whole_pixels`]).
    pub fn run_normed(
        &self,
        stream: &Stream,
        weight: DeviceWeight<'_>,
        window: Window<'_>,
        residual: Option<View<'_, bf16>>,
        mut frames: Option<ViewMut<'_, bf16>>,
        mut normed: Normed<'_>,
    ) -> Result<(), Error> {
        let (packing, channels) = (weight.packing, weight.packing.shape().output);
        if !packing.has_whole_pixels() {
            return Err(Error::Size {
                what: "channels of a convolution with a norm",
                must: "one part of up to 16, or of 49 to 96",
                found: channels,
            });
        }
        let mut call = Call::new(weight, window)?;
        call.add_residual(residual)?;
        if let Some(frames) = &mut frames {
            call.add_frames(frames)?;
        }
        expect_len("gamma of a convolution's norm", normed.gamma.len(), packing.out_channels())?;
        expect_len("normed frames", normed.out.len(), call.out_values())?;
        call.params.gamma = normed.gamma.address();
        call.params.normed = normed.out.address();
        call.params.norm_channels = channels as i32;
        call.params.norm_lanes = crate::ops::norm::channel::lanes(packing.out_channels()) as i32;
        call.operands.push(normed.gamma.reads("gamma").aligned(16));
        call.operands.push(normed.out.writes("normed").aligned(16));
        call.run(&self.kernels, Role::of(&packing), stream)
    }

    /// Queues the pixels of video that a convolution to three channels makes, each value rounded to bf16 first.
    ///
    /// # Errors
    /// As [`Convolution::run`], and [`Error::Size`] when it is no 3 x 3 convolution to three channels, or for a limit below
    /// zero.
    pub fn pixels(&self, stream: &Stream, weight: DeviceWeight<'_>, window: Window<'_>, mut pixels: Pixels<'_>) -> Result<(), Error> {
        let shape = weight.packing.shape();
        if shape.output != COLORS || weight.packing.parts() != 1 {
            return Err(Error::Size { what: "channels of video pixels", must: "3", found: shape.output });
        }
        if Role::of(&weight.packing) != Role::Narrow {
            return Err(Error::Size {
                what: "kernel side for video pixels",
                must: "3, one output pixel for each input pixel",
                found: shape.kernel[1],
            });
        }
        let mut call = Call::new(weight, window)?;
        let values = call.out_pixels() * COLORS;
        match &mut pixels {
            Pixels::Values { out, limit } => {
                if limit.is_nan() || *limit < 0.0 {
                    return Err(Error::Size { what: "limit of video pixels", must: "at least 0", found: 0 });
                }
                expect_len("video pixels", out.len(), values)?;
                call.params.limit = *limit;
                call.params.out_f32 = out.address();
                call.operands.push(out.writes("pixels").aligned(4));
            }
            Pixels::Bytes(out) => {
                expect_len("video pixels", out.len(), values)?;
                call.params.out_bytes = out.address();
                call.operands.push(out.writes("pixels"));
            }
        }
        call.run(&self.kernels, Role::Pixels, stream)
    }
}

/// A convolution that is being put together.
struct Call<'a> {
    params: Conv3dParams,
    operands: Vec<Operand<'a>>,
    places: Places,
    packing: Packing,
}

impl<'a> Call<'a> {
    fn new(weight: DeviceWeight<'a>, window: Window<'a>) -> Result<Self, Error> {
        let (packing, shape) = (weight.packing, weight.packing.shape());
        let places = Places::of(shape, window.size, window.frames.len(), window.time_stride)?;
        let absent = window.frames.iter().take_while(|frame| frame.is_none()).count();
        let mut operands = vec![weight.weight.reads("weight").aligned(16), weight.bias.reads("bias").aligned(4)];
        let mut frames = [std::ptr::null(); WINDOW_LIMIT];
        let values = places.in_pixels * stored(shape.input);
        for (place, frame) in frames.iter_mut().zip(window.frames).skip(absent) {
            let Some(frame) = frame else {
                return Err(Error::Size { what: "frames of a window", must: "absent only before all others", found: absent });
            };
            expect_len("input frame", frame.len(), values)?;
            *place = frame.address();
            operands.push(frame.reads("frame").aligned(16));
        }
        let params = Conv3dParams {
            frames,
            weight: weight.weight.address(),
            bias: weight.bias.address(),
            residual: std::ptr::null(),
            out: std::ptr::null_mut(),
            gamma: std::ptr::null(),
            normed: std::ptr::null_mut(),
            out_f32: std::ptr::null_mut(),
            out_bytes: std::ptr::null_mut(),
            height: window.size[0] as i64,
            width: window.size[1] as i64,
            channels: stored(shape.input) as i64,
            out_height: places.out_size[0] as i64,
            out_width: places.out_size[1] as i64,
            out_channels: packing.out_channels() as i64,
            panels: packing.panels() as i32,
            parts: packing.parts() as i32,
            kernel_frames: shape.kernel[0] as i32,
            time_stride: window.time_stride as i32,
            absent: absent as i32,
            norm_channels: 0,
            norm_lanes: 1,
            limit: f32::INFINITY,
        };
        Ok(Self { params, operands, places, packing })
    }

    fn add_residual(&mut self, residual: Option<View<'a, bf16>>) -> Result<(), Error> {
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), self.out_values())?;
            self.params.residual = residual.address();
            self.operands.push(residual.reads("residual").aligned(16));
        }
        Ok(())
    }

    fn add_frames(&mut self, out: &'a mut ViewMut<'_, bf16>) -> Result<(), Error> {
        expect_len("convolution output", out.len(), self.out_values())?;
        self.params.out = out.address();
        self.operands.push(out.writes("out").aligned(16));
        Ok(())
    }

    /// Values of all output frames of all parts as they are stored.
    fn out_values(&self) -> usize {
        self.out_pixels() * self.packing.parts() * self.packing.out_channels()
    }

    /// Pixels of all output frames of one part.
    fn out_pixels(&self) -> usize {
        self.places.frames * self.places.out_size[0] * self.places.out_size[1]
    }

    fn run(self, kernels: &[Kernel<Conv3dParams>], role: Role, stream: &Stream) -> Result<(), Error> {
        let launch = self.places.launch(self.params.panels as usize, role.block(stream.device().chip().capability))?;
        kernels[role as usize].launch(stream, launch, &self.params, &self.operands)
    }
}

/// Output frames of a launch, and the pixels of its frames: all that a grid is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    frames: usize,
    in_pixels: usize,
    out_size: [usize; 2],
}

impl Places {
    fn of(shape: &ConvShape, size: [usize; 2], window: usize, time_stride: usize) -> Result<Self, Error> {
        let kernel_frames = shape.kernel[0];
        if window > WINDOW_LIMIT || window < kernel_frames {
            return Err(Error::Size { what: "frames of a window", must: "as many as the kernel has, at most 8", found: window });
        }
        if time_stride == 0 || !(window - kernel_frames).is_multiple_of(time_stride) {
            return Err(Error::Size { what: "stride in time", must: "at least 1, and used up by the window", found: time_stride });
        }
        if size.contains(&0) {
            return Err(Error::Size { what: "side of a frame", must: "at least 1", found: 0 });
        }
        // pixels are counted in 32 bits inside the kernel, and so are those of the tiles, which reach a little past the frame
        let pixels = |[height, width]: [usize; 2]| {
            let rounded = height.checked_next_multiple_of(16).zip(width.checked_next_multiple_of(TILE_COLUMNS));
            let fits = rounded.and_then(|(height, width)| height.checked_mul(width)).is_some_and(|pixels| pixels <= i32::MAX as usize);
            if fits { Ok(height * width) } else { Err(Error::Size { what: "pixels of a frame", must: "below 2^31", found: height }) }
        };
        let in_pixels = pixels(size)?;
        let out_size = shape.output_size(size);
        pixels(out_size)?;
        Ok(Self { frames: (window - kernel_frames) / time_stride + 1, in_pixels, out_size })
    }

    /// A block for each tile of each output frame and each panel.
    fn launch(&self, panels: usize, block: Block) -> Result<Launch, Error> {
        let tiles = self.out_size[0].div_ceil(block.lines) * self.out_size[1].div_ceil(TILE_COLUMNS);
        let blocks = tiles.saturating_mul(self.frames).saturating_mul(panels);
        Ok(Launch::linear(blocks, block.threads)?.with_shared_bytes(block.shared_bytes))
    }
}

fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Limits;

    const CUBE: ConvShape = ConvShape { input: 96, output: 96, kernel: [3, 3, 3], sampling: Sampling::Same };

    const MMA: (u32, u32) = (8, 0);

    #[test]
    fn every_output_pixel_has_a_block() {
        let block = Role::Same.block(MMA);
        for (size, window, stride, panels, blocks) in
            [([480, 832], 3, 1, 1, 60 * 52), ([60, 104], 6, 1, 4, 8 * 7 * 4 * 4), ([1, 1], 3, 1, 1, 1), ([9, 17], 5, 2, 2, 4 * 2 * 2)]
        {
            let places = Places::of(&CUBE, size, window, stride).unwrap();
            assert_eq!(places.launch(panels, block).unwrap().blocks(), blocks, "{size:?}");
        }
        let halved = Places::of(&ConvShape { kernel: [1, 3, 3], sampling: Sampling::Halve, ..CUBE }, [9, 33], 1, 1).unwrap();
        assert_eq!(halved.out_size, [4, 16]);
        let doubled = Places::of(&ConvShape { kernel: [1, 3, 3], sampling: Sampling::Double, ..CUBE }, [9, 33], 1, 1).unwrap();
        assert_eq!(doubled.launch(1, block).unwrap().blocks(), 3 * 5);
        assert_eq!(doubled.launch(1, Role::Double.block((9, 0))).unwrap().blocks(), 2 * 5);
    }

    #[test]
    fn windows_and_frames_that_no_kernel_takes_are_refused() {
        let refused = |size, window, stride| Places::of(&CUBE, size, window, stride).is_err();
        assert!(refused([4, 4], 2, 1) && refused([4, 4], 9, 1) && refused([4, 4], 4, 2) && refused([4, 4], 3, 0));
        assert!(
            refused([0, 4], 3, 1) && refused([1 << 16, 1 << 15], 3, 1) && refused([usize::MAX, 2], 3, 1) && refused([2, usize::MAX], 3, 1)
        );
        // a frame of 2^30 pixels is four times as many when it is doubled
        let double = ConvShape { kernel: [1, 3, 3], sampling: Sampling::Double, ..CUBE };
        assert!(!refused([1 << 15, 1 << 15], 3, 1) && Places::of(&double, [1 << 15, 1 << 15], 1, 1).is_err());
        // 2^23 tiles of 2^8 panels are more blocks than a grid has
        assert!(Places::of(&CUBE, [1 << 15, 1 << 15], 3, 1).unwrap().launch(1 << 8, Role::Same.block(MMA)).is_err());
    }

    #[test]
    fn every_chip_has_the_stages() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            for role in [Role::Same, Role::Point, Role::Halve, Role::Double, Role::Narrow, Role::NarrowPoint, Role::Pixels] {
                // and the mbarriers
                assert!(role.block(capability).shared_bytes + 1024 <= Limits::of(capability).shared_bytes, "{role:?} on {capability:?}");
            }
        }
    }
}
