//! The autoencoder's norm of a pixel's channels.

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::conv3d::packing::{from_stored, stored, to_stored};
use turbowan_cuda::ops::norm::ChannelNormThen;
use turbowan_cuda::ops::norm::channel::{ChannelNorm, KERNELS};
use turbowan_reference::norm as truth;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::vae::{FrameSize, VaeBackend};

use super::{FAR_ROWS, HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `bf16` 0 keeps the host's results in f32; a device stores bf16.
const AXES: &[Axis] =
    &[Axis::new("height", 1, 12, 1), Axis::new("width", 1, 20, 1), Axis::new("channels", 1, 400, 1), Axis::choice("bf16", 1)];

/// Norm, and norm with SiLU.
pub const OPS: [Op; 2] = [
    Op {
        kernels: |chip| vec![(KERNELS[0].choose)(chip).1],
        ..op("vae-norm", "x / |x| sqrt(C) gamma of every pixel", |case| Frame::prepare(case, ChannelNormThen::Nothing))
    },
    Op {
        kernels: |chip| vec![(KERNELS[1].choose)(chip).1],
        ..op("vae-norm-silu", "SiLU of that", |case| Frame::prepare(case, ChannelNormThen::Silu))
    },
];

const fn op(name: &'static str, about: &'static str, prepare: fn(&Case) -> Result<Box<dyn Prepared>, Fault>) -> Op {
    Op {
        name,
        about,
        axes: AXES,
        // one of one, fewer channels than a chunk, a chunk and a rest, every number of lanes, the widest
        cases: || {
            let shapes: [&[usize]; 7] =
                [&[1, 1, 1, 0], &[9, 31, 3, 0], &[3, 5, 96, 0], &[4, 7, 192, 1], &[1, 5, 101, 1], &[1, 1, 1024, 1], &[2, 9, 384, 0]];
            Case::cross(&shapes, &[4, 5, 96, 1], &Kind::ALL[1..])
        },
        tame: as_drawn,
        kernels: |_| Vec::new(),
        // pixels of 128 channels, four lanes each
        far: &[Far { shape: &[1, 5, 128, 1], lead: FAR_ROWS, blocks: (FAR_ROWS as u64 / 64, 1) }],
        prepare,
    }
}

/// Error of a normed value, and that of its SiLU, whose slope is below 1.1: length, quotient, root, weight and activation round.
pub(super) const NORM_SHARE: f64 = 8.0 * HALF_STEP;

struct Frame {
    then: ChannelNormThen,
    size: FrameSize,
    rounding: Rounding,
    x: Vec<f32>,
    gamma: Vec<f32>,
    /// Before SiLU.
    normed: Vec<f64>,
}

impl Frame {
    fn prepare(case: &Case, then: ChannelNormThen) -> Result<Box<dyn Prepared>, Fault> {
        let [height, width, channels, is_bf16] = case.sizes();
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        let x = bf16s(&case.kind.values(height * width, channels, case.seed)).1;
        let gamma = bf16s(&Kind::Plain.values(1, channels, case.seed + 3)).1;
        let normed = truth::channel_norm(&x, channels, &gamma);
        Ok(Box::new(Self { then, size: FrameSize { height, width, channels }, rounding, x, gamma, normed }))
    }
}

impl Prepared for Frame {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let host = HostFrames::new(self.rounding);
        let (x, gamma) = (host.upload(&self.x, self.size)?, host.load_gamma("gamma", self.gamma.clone())?);
        let out = match self.then {
            ChannelNormThen::Nothing => host.norm(&x, &gamma)?,
            ChannelNormThen::Silu => host.norm_silu(&x, &gamma)?,
        };
        Ok(vec![Output::new("out", self.size.channels, &host.download(&out)?)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (norm, channels) = (ChannelNorm::load(stand.device())?, self.size.channels);
        let (x, gamma) = (to_stored(&self.x, channels)?, stand.upload(&to_stored(&self.gamma, channels)?)?);
        let (before, len) = (stand.lead() * stored(channels), x.len());
        let (x, mut out) = (stand.upload_behind(before, &x)?, stand.room_behind::<bf16>(before, len)?);
        stand.launch(|stream| Ok(norm.run(stream, x.view(), channels, gamma.view(), self.then, out.view_mut())?))?;
        let out = stand.results(&out, len)?;
        Ok(vec![Output::new("out", channels, &from_stored(&out, channels)?), padding(&out, channels)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let is_bf16 = self.rounding == Rounding::Bf16 || place != Place::Host;
        let share = if is_bf16 { NORM_SHARE } else { 4e-6 };
        let want: Vec<f64> = match self.then {
            ChannelNormThen::Nothing => self.normed.clone(),
            ChannelNormThen::Silu => self.normed.iter().copied().map(truth::silu).collect(),
        };
        let why = "length, quotient, root, weight and activation each round";
        let allowed = |index: usize, _| share * self.normed[index].abs() + 1e-30;
        let mut held = vec![Held::each(&outputs[0], &want, allowed, "2^-5 |normed|, in f32 4e-6", why)];
        held.extend(outputs.get(1).map(hold_padding));
        Ok(held)
    }
}

/// The channels past the last of each stored pixel.
pub(super) fn padding(values: &[bf16], channels: usize) -> Output {
    let past: Vec<bf16> = values.chunks(stored(channels)).flat_map(|pixel| &pixel[channels..]).copied().collect();
    Output::new("padding", (stored(channels) - channels).max(1), &past)
}

/// They are zero.
pub(super) fn hold_padding(padding: &Output) -> Held {
    Held::equal(padding, &vec![0.0; padding.values.len()], "channels past the last stay zero")
}
