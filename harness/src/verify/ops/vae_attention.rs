//! Attention of every pixel of a frame to every other, as the autoencoder has it in its middle.

use turbowan_cuda::Rounding;
use turbowan_cuda::ops::conv3d::packing::{from_stored, to_stored};
use turbowan_cuda::ops::gemm::device as gemm;
use turbowan_cuda::ops::pixel_attention::{KERNELS, PixelAttention, Workspace, WorkspaceSize};
use turbowan_reference::attention::{Mask, attend};
use turbowan_reference::metrics::Bound;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::vae::{FrameSize, VaeBackend};

use super::attention::head_of;
use super::text_attention::moderate;
use super::vae::{hold_padding, padding};
use super::{HALF_STEP, bf16s};
use crate::verify::{Axis, Case, Fault, Held, Kind, Op, Output, Place, Prepared, Stand, as_drawn};

/// `rows` of scores have room at a time on a device; `bf16` 0 keeps the host's results in f32, a device stores bf16.
const AXES: &[Axis] = &[
    Axis::new("height", 1, 12, 1),
    Axis::new("width", 1, 20, 1),
    Axis::new("channels", 1, 400, 1),
    Axis::new("rows", 1, 240, 1),
    Axis::choice("bf16", 1),
];

/// It is one: two products, and what stands between them.
pub const OPS: [Op; 1] = [Op {
    name: "vae-attention",
    about: "every pixel of a frame to every other, one head",
    axes: AXES,
    cases: || {
        let shapes: [&[usize]; 5] = [&[1, 1, 16, 1, 0], &[3, 5, 96, 4, 0], &[5, 13, 64, 200, 1], &[1, 7, 3, 7, 0], &[6, 11, 200, 50, 0]];
        Case::cross(&shapes, &[5, 7, 20, 30, 0], &Kind::ALL[1..])
    },
    tame: as_drawn,
    kernels: |chip| {
        let products = [&gemm::KERNELS[1], &gemm::KERNELS[0]];
        KERNELS.iter().chain(products).map(|kernel| (kernel.choose)(chip).1).collect()
    },
    // rows of scores past 2^31 would be 46,341 pixels
    far: &[],
    prepare: Attention::prepare,
}];

/// The largest product of a query and a key, before its scale.
const LARGEST_PRODUCT: f32 = 64.0;

struct Attention {
    size: FrameSize,
    rows: usize,
    rounding: Rounding,
    qkv: [Vec<f32>; 3],
    want: Vec<f64>,
    /// Attention to the magnitudes of the values.
    spread: Vec<f64>,
}

impl Attention {
    fn prepare(case: &Case) -> Result<Box<dyn Prepared>, Fault> {
        let [height, width, channels, rows, is_bf16] = case.sizes();
        let [mut q, k, v] = [0, 1, 2].map(|more| case.kind.values(height * width, channels, case.seed + more));
        moderate(&mut q, &k, channels, 1, LARGEST_PRODUCT);
        let qkv = [q, k, v].map(|values| bf16s(&values).1);
        let sizes: Vec<f32> = qkv[2].iter().map(|v| v.abs()).collect();
        let [q, k, v] = &qkv;
        let [want, spread] = [v, &sizes].map(|v| attend(head_of([q, k, v], channels), Mask::None).out);
        let rounding = if is_bf16 == 1 { Rounding::Bf16 } else { Rounding::None };
        Ok(Box::new(Self { size: FrameSize { height, width, channels }, rows, rounding, qkv, want, spread }))
    }
}

impl Prepared for Attention {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let host = HostFrames::new(self.rounding);
        let [q, k, v] = self.qkv.each_ref().map(|values| host.upload(values, self.size));
        let out = host.attend(q?, k?, v?)?;
        Ok(vec![Output::new("out", self.size.channels, &host.download(&out)?)])
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (attention, channels) = (PixelAttention::load(stand.device())?, self.size.channels);
        let room = WorkspaceSize::of(self.size.height * self.size.width, channels, self.rows);
        let [q, k, v] = self.qkv.each_ref().map(|values| stand.upload(&to_stored(values, channels)?));
        let (q, k, v) = (q?, k?, v?);
        let (mut scores, mut probabilities) = (stand.room(room.scores)?, stand.room(room.probabilities)?);
        let (mut values, mut out) = (stand.room(room.values)?, stand.room(q.len())?);
        let workspace = Workspace { scores: scores.view_mut(), probabilities: probabilities.view_mut(), values: values.view_mut() };
        let qkv = [q.view(), k.view(), v.view()];
        stand.launch(|stream| Ok(attention.run(stream, qkv, channels, workspace, out.view_mut())?))?;
        let out = stand.results(&out, q.len())?;
        Ok(vec![Output::new("out", channels, &from_stored(&out, channels)?), padding(&out, channels)])
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        if self.rounding == Rounding::None && place == Place::Host {
            return Ok(vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(6e-6), "sums in f32")]);
        }
        let allowed = |index: usize, want: f64| 1.01 * HALF_STEP * (self.spread[index] + want.abs()) + 1e-4 * self.spread[index] + 1e-30;
        let why = "probabilities and output round to bf16";
        let mut held = vec![Held::each(&outputs[0], &self.want, allowed, "2^-8 (p |v| + |y|)", why)];
        held.extend(outputs.get(1).map(hold_padding));
        Ok(held)
    }
}
