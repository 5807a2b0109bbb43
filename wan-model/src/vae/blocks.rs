//! The layers of the autoencoder, each fed one frame at a time.
//!
//! The official code runs chunks: the first frame alone, then latent frames one by one (the decoder) or video frames
//! four by four (the encoder), with two past frames of every causal convolution carried over. As no layer looks ahead,
//! feeding single frames gives the same values; what the official code says of chunks becomes a rule about the first
//! frame:
//!
//! - upsampling in time passes the first frame through once and forgets it; every later frame becomes two, and the
//!   frames before the second one count as zero;
//! - downsampling in time passes the first frame through; later ones come in pairs, and a pair with the frame before it
//!   becomes one.

use turbowan_cuda::ops::conv3d::{ConvShape, Sampling};

use super::layers::{KERNEL_FRAMES, LayerKind, LayerSpec};
use crate::Result;
use crate::backend::vae::VaeBackend;
use crate::checkpoint::TensorSource;

/// Takes named tensors from a file into a backend.
pub(super) struct Loader<'a, B: VaeBackend> {
    pub backend: &'a B,
    pub source: &'a dyn TensorSource,
}

impl<B: VaeBackend> Loader<'_, B> {
    fn convolution(&self, name: &str, shape: ConvShape) -> Result<B::Convolution> {
        self.output_part(name, shape, 0, 1)
    }

    /// The convolution that makes part `part` of `parts` equal parts of the output channels of the stored one.
    fn output_part(&self, name: &str, shape: ConvShape, part: usize, parts: usize) -> Result<B::Convolution> {
        let weight = self.source.take(&format!("{name}.weight"))?.to_f32();
        let bias = self.source.take(&format!("{name}.bias"))?.to_f32();
        turbowan_cuda::Error::expect_len("convolution weight", &weight, parts * shape.weight_values())?;
        turbowan_cuda::Error::expect_len("convolution bias", &bias, parts * shape.output)?;
        let weight = &weight[part * shape.weight_values()..][..shape.weight_values()];
        self.backend.load_convolution(name, part, shape, weight, &bias[part * shape.output..][..shape.output])
    }

    fn gamma(&self, name: &str, channels: usize) -> Result<B::Gamma> {
        let gamma = self.source.take(name)?.to_f32();
        turbowan_cuda::Error::expect_len("norm weight", &gamma, channels)?;
        self.backend.load_gamma(name, gamma)
    }
}

fn cube(input: usize, output: usize) -> ConvShape {
    ConvShape { input, output, kernel: [KERNEL_FRAMES, 3, 3], sampling: Sampling::Same }
}

fn point(input: usize, output: usize) -> ConvShape {
    ConvShape { input, output, kernel: [1; 3], sampling: Sampling::Same }
}

fn plane(input: usize, output: usize, sampling: Sampling) -> ConvShape {
    ConvShape { input, output, kernel: [1, 3, 3], sampling }
}

fn in_time(input: usize, output: usize) -> ConvShape {
    ConvShape { input, output, kernel: [KERNEL_FRAMES, 1, 1], sampling: Sampling::Same }
}

/// The two frames before the next one, the older first; absent ones count as zero.
pub(super) struct Past<F>([Option<F>; KERNEL_FRAMES - 1]);

impl<F> Default for Past<F> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<F: Clone> Past<F> {
    fn window<'a>(&'a self, now: &'a F) -> [Option<&'a F>; KERNEL_FRAMES] {
        [self.0[0].as_ref(), self.0[1].as_ref(), Some(now)]
    }

    fn push(&mut self, now: F) {
        self.0.rotate_left(1);
        self.0[KERNEL_FRAMES - 2] = Some(now);
    }
}

/// What a layer remembers of the frames that have passed.
pub(super) struct Memory<F> {
    frames: usize,
    first: Past<F>,
    second: Past<F>,
}

impl<F> Default for Memory<F> {
    fn default() -> Self {
        Self { frames: 0, first: Past::default(), second: Past::default() }
    }
}

/// A loaded layer.
pub(super) enum Layer<B: VaeBackend> {
    Pointwise(B::Convolution),
    Convolution(B::Convolution),
    Residual(Residual<B>),
    Attention(Box<Attention<B>>),
    Downsample { plane: B::Convolution, time: Option<B::Convolution> },
    Upsample { plane: B::Convolution, time: Option<[B::Convolution; 2]> },
    Head { gamma: B::Gamma, convolution: B::Convolution },
}

pub(super) struct Residual<B: VaeBackend> {
    gammas: [B::Gamma; 2],
    convolutions: [B::Convolution; 2],
    shortcut: Option<B::Convolution>,
}

pub(super) struct Attention<B: VaeBackend> {
    gamma: B::Gamma,
    query_key_value: [B::Convolution; 3],
    projection: B::Convolution,
}

impl<B: VaeBackend> Layer<B> {
    pub fn load(loader: &Loader<'_, B>, spec: &LayerSpec) -> Result<Self> {
        let name = |part: &str| format!("{}{part}", spec.name);
        Ok(match spec.kind {
            LayerKind::Pointwise { channels } => Self::Pointwise(loader.convolution(&spec.name, point(channels, channels))?),
            LayerKind::Convolution { input, output } => Self::Convolution(loader.convolution(&spec.name, cube(input, output))?),
            LayerKind::Residual { input, output } => Self::Residual(Residual {
                gammas: [loader.gamma(&name(".residual.0.gamma"), input)?, loader.gamma(&name(".residual.3.gamma"), output)?],
                convolutions: [
                    loader.convolution(&name(".residual.2"), cube(input, output))?,
                    loader.convolution(&name(".residual.6"), cube(output, output))?,
                ],
                shortcut: (input != output).then(|| loader.convolution(&name(".shortcut"), point(input, output))).transpose()?,
            }),
            LayerKind::Attention { channels } => {
                let part = |part| loader.output_part(&name(".to_qkv"), point(channels, channels), part, 3);
                Self::Attention(Box::new(Attention {
                    gamma: loader.gamma(&name(".norm.gamma"), channels)?,
                    query_key_value: [part(0)?, part(1)?, part(2)?],
                    projection: loader.convolution(&name(".proj"), point(channels, channels))?,
                }))
            }
            LayerKind::Downsample { channels, in_time: halves_time } => Self::Downsample {
                plane: loader.convolution(&name(".resample.1"), plane(channels, channels, Sampling::Halve))?,
                time: halves_time.then(|| loader.convolution(&name(".time_conv"), in_time(channels, channels))).transpose()?,
            },
            LayerKind::Upsample { channels, in_time: doubles_time } => {
                let half = |half| loader.output_part(&name(".time_conv"), in_time(channels, channels), half, 2);
                Self::Upsample {
                    plane: loader.convolution(&name(".resample.1"), plane(channels, channels / 2, Sampling::Double))?,
                    time: if doubles_time { Some([half(0)?, half(1)?]) } else { None },
                }
            }
            LayerKind::Head { input, output } => Self::Head {
                gamma: loader.gamma(&name(".0.gamma"), input)?,
                convolution: loader.convolution(&name(".2"), cube(input, output))?,
            },
        })
    }

    /// Feeds one frame and hands on what comes of it: nothing, a frame, or two.
    fn feed(&self, b: &B, memory: &mut Memory<B::Frame>, x: B::Frame, next: &mut dyn FnMut(B::Frame) -> Result<()>) -> Result<()> {
        let index = memory.frames;
        memory.frames += 1;
        match self {
            Self::Pointwise(convolution) => next(b.convolve(&[Some(&x)], convolution)?),
            Self::Convolution(convolution) => next(causal(b, &mut memory.first, x, convolution)?),
            Self::Residual(block) => next(block.feed(b, memory, x)?),
            Self::Attention(block) => next(block.feed(b, x)?),
            Self::Downsample { plane, time } => {
                let x = b.convolve(&[Some(&x)], plane)?;
                let Some(time) = time else { return next(x) };
                let halved = match index {
                    0 => Some(x.clone()),
                    odd if odd % 2 == 1 => None,
                    _ => Some(b.convolve(&memory.first.window(&x), time)?),
                };
                memory.first.push(x);
                match halved {
                    Some(x) => next(x),
                    None => Ok(()),
                }
            }
            Self::Upsample { plane, time } => {
                let Some(halves) = time.as_ref().filter(|_| index > 0) else {
                    return next(b.convolve(&[Some(&x)], plane)?);
                };
                for half in halves {
                    let frame = b.convolve(&memory.first.window(&x), half)?;
                    let frame = b.convolve(&[Some(&frame)], plane)?;
                    next(frame)?;
                }
                memory.first.push(x);
                Ok(())
            }
            Self::Head { gamma, convolution } => {
                let h = b.norm_silu(&x, gamma)?;
                drop(x);
                next(causal(b, &mut memory.first, h, convolution)?)
            }
        }
    }
}

/// A causal convolution of `x` and the two frames before it.
fn causal<B: VaeBackend>(b: &B, past: &mut Past<B::Frame>, x: B::Frame, convolution: &B::Convolution) -> Result<B::Frame> {
    let y = b.convolve(&past.window(&x), convolution)?;
    past.push(x);
    Ok(y)
}

impl<B: VaeBackend> Residual<B> {
    /// `shortcut(x) + conv(silu(norm(conv(silu(norm(x))))))`.
    fn feed(&self, b: &B, memory: &mut Memory<B::Frame>, x: B::Frame) -> Result<B::Frame> {
        let h = b.norm_silu(&x, &self.gammas[0])?;
        let shortcut = match &self.shortcut {
            Some(convolution) => {
                let shortcut = b.convolve(&[Some(&x)], convolution)?;
                drop(x);
                shortcut
            }
            None => x,
        };
        let h = causal(b, &mut memory.first, h, &self.convolutions[0])?;
        let normed = b.norm_silu(&h, &self.gammas[1])?;
        drop(h);
        let y = b.convolve_onto(&memory.second.window(&normed), &self.convolutions[1], shortcut)?;
        memory.second.push(normed);
        Ok(y)
    }
}

impl<B: VaeBackend> Attention<B> {
    /// `x + proj(attention(q, k, v))`.
    fn feed(&self, b: &B, x: B::Frame) -> Result<B::Frame> {
        let h = b.norm(&x, &self.gamma)?;
        let [query, key, value] = &self.query_key_value;
        let [query, key, value] = [b.convolve(&[Some(&h)], query)?, b.convolve(&[Some(&h)], key)?, b.convolve(&[Some(&h)], value)?];
        drop(h);
        let attended = b.attend(query, key, value)?;
        b.convolve_onto(&[Some(&attended)], &self.projection, x)
    }
}

/// Feeds a frame through `layers`, depth first: what a layer gives goes all the way before the layer gives more, so that
/// only frames that a kernel still looks back at stay in memory.
pub(super) fn feed<B: VaeBackend>(
    b: &B,
    layers: &[Layer<B>],
    memories: &mut [Memory<B::Frame>],
    x: B::Frame,
    sink: &mut dyn FnMut(B::Frame) -> Result<()>,
) -> Result<()> {
    match (layers, memories) {
        ([layer, layers @ ..], [memory, memories @ ..]) => layer.feed(b, memory, x, &mut |y| feed(b, layers, memories, y, sink)),
        _ => sink(x),
    }
}
