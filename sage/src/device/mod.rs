//! INT8 attention on a device, over operands that are quantised already.
//!
//! - `kernels/sage_attn_mma.cu`: rows of keys and f16 values, on any chip;
//! - `kernels/sage_attn_mma_fp8.cu`: rows of keys and e4m3 values, on compute capability 8.9 and 12.x;
//! - `kernels/sage_attn_wgmma.cu`: tiles of keys and e4m3 values, on 9.0;
//! - `..._end.cu`: the first two with a term that is added ([`Added`]) or an int8 output ([`Output::Int8`]), which the third
//!   has of itself.
//!
//! The form of the keys decides: a caller who has a chip of 9.0 and wants the `mma.sync` kernels gives rows.

mod check;
mod operands;
mod params;
pub mod prepare;
mod variant;

use turbowan_cuda::AttnShape;
use turbowan_cuda::device::{Device, Kernel, KernelFile, OpKernel, Operand, Stream, ViewMut};

use crate::quantise::base_2_scale;
use crate::{Error, Sage};
use check::{check, expect, setting, word};
use params::SageAttnParams;
use variant::{Variant, tile_rows};

pub use operands::{Added, Feature, Keys, Map, Operands, Output, Values};
pub use variant::Format;

/// Which kernel each chip takes; `doctor` shows them.
pub const KERNELS: [OpKernel; 3] = [
    OpKernel { op: "INT8 attention, head dim 128", choose: |capability| chosen(capability, 128, false) },
    OpKernel { op: "INT8 attention, head dim 64", choose: |capability| chosen(capability, 64, false) },
    OpKernel { op: "INT8 attention + term of low rank, int8 out", choose: |capability| chosen(capability, 128, true) },
];

fn chosen(capability: (u32, u32), head_dim: usize, has_end: bool) -> (&'static KernelFile, &'static str) {
    Variant { head_dim, rows: 128, format: Format::preferred(capability), has_end }.kernel()
}

/// The attention kernels of a device.
#[derive(Debug)]
pub struct SageAttention {
    kernels: Vec<(Variant, Kernel<SageAttnParams>)>,
}

impl SageAttention {
    /// Loads the kernels that the chip has: of f16 values, and of the format that it prefers.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let mut kernels = Vec::new();
        for variant in Variant::all(device.chip().capability) {
            let (file, name) = variant.kernel();
            kernels.push((variant, Kernel::load(device, file, name)?));
        }
        Ok(Self { kernels })
    }

    /// Queues attention of one shape; `sage` says which rows share a scale and whether the queries hold the softmax scale,
    /// and its other settings are not read: they were the quantisers'.
    ///
    /// `lse`, `[problems, query_len]`, becomes the natural log-sum-exp of the scores as they are, those of the smoothed keys:
    /// a caller who wants that of the plain keys adds `q . mean / sqrt(head_dim)`. A row that sees no key gives zeros (and
    /// what is added to them) and minus infinity.
    ///
    /// # Errors
    /// [`Error::Setting`] for a head dim that is neither 64 nor 128, a block of the map or of the scales that tiles of 64
    /// do not divide, or a format that the chip has no kernels for; [`Error::MixedForms`]; [`Error::Int8Layout`];
    /// [`Error::CausalLengths`]; [`Error::Operand`] when an operand does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a shape and its rules, operands and results")]
    pub fn run<'a>(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        sage: &Sage,
        causal: bool,
        operands: &Operands<'_>,
        out: impl Into<Output<'a>>,
        mut lse: Option<ViewMut<'_, f32>>,
    ) -> Result<(), Error> {
        sage.check()?;
        let mut out = out.into();
        let (query_groups, key_groups) = (sage.granularity.query_groups(), sage.granularity.key_groups());
        let format = check(shape, causal, operands, &out, query_groups, key_groups)?;
        if let Some(lse) = &lse {
            expect("log-sum-exp", lse.len(), shape.problems() * shape.query_len)?;
        }
        let has_end = operands.added.is_some() || matches!(out, Output::Int8 { .. });
        let rows = tile_rows(format, shape.query_len, operands.map.map(|map| map.block_q));
        let variant = Variant { head_dim: shape.head_dim, rows, format, has_end };
        let Some((_, kernel)) = self.kernels.iter().find(|(loaded, _)| *loaded == variant) else {
            return Err(setting("bits of a value", "16 on this chip, which has no kernels for this format of 8", 8));
        };

        let (sample_stride, head_stride) = strides(shape, shape.query_len);
        let (v_sample_stride, v_head_stride) = strides(shape, shape.key_len);
        let ((q_rows, q_lanes), (k_rows, k_lanes)) = (query_groups.runs(), key_groups.runs());
        let mut params = SageAttnParams {
            q: operands.q.address(),
            q_scales: operands.q_scales.address(),
            k: std::ptr::null(),
            k_scales: operands.k_scales.address(),
            v_f16: std::ptr::null(),
            v_e4m3: std::ptr::null(),
            v_scales: std::ptr::null(),
            lut: std::ptr::null(),
            out: std::ptr::null_mut(),
            lse: std::ptr::null_mut(),
            out_values: std::ptr::null_mut(),
            out_scales: std::ptr::null_mut(),
            added_q: std::ptr::null(),
            added_state: std::ptr::null(),
            added_bias: std::ptr::null(),
            query_len: shape.query_len as i64,
            key_len: shape.key_len as i64,
            heads: shape.heads as i64,
            v_sample_stride,
            v_head_stride,
            v_row_stride: shape.row_stride() as i64,
            out_sample_stride: sample_stride,
            out_head_stride: head_stride,
            out_row_stride: shape.row_stride() as i64,
            q_groups: query_groups.count(shape.query_len) as i64,
            k_groups: key_groups.count(shape.key_len) as i64,
            q_group_rows: word("query rows of a scale", q_rows)?,
            q_group_lanes: q_lanes as u32,
            k_group_rows: word("key rows of a scale", k_rows)?,
            k_group_lanes: k_lanes as u32,
            block_q: 0,
            block_k: 0,
            kept: 0,
            causal: causal.into(),
            score_scale: if sage.folds_scale { 1.0 } else { base_2_scale(shape.head_dim) },
            feature: 0,
        };
        let mut touched: Vec<Operand<'_>> = vec![
            operands.q.reads("q").aligned(16),
            operands.q_scales.reads("q_scales").aligned(4),
            operands.k_scales.reads("k_scales").aligned(4),
        ];
        let (Keys::Rows(keys) | Keys::Tiled(keys)) = &operands.k;
        params.k = keys.address();
        touched.push(keys.reads("k").aligned(16));
        match &operands.values {
            Values::F16(values) => {
                params.v_f16 = values.address();
                touched.push(values.reads("values").aligned(16));
            }
            Values::Fp8 { permuted: values, scales, .. } | Values::Tiled { tiles: values, scales } => {
                (params.v_e4m3, params.v_scales) = (values.address(), scales.address());
                touched.extend([values.reads("values").aligned(16), scales.reads("value scales").aligned(8)]);
            }
        }
        if let Values::Fp8 { padded_len, .. } = &operands.values {
            params.v_row_stride = *padded_len as i64;
        }
        if let Some(map) = &operands.map {
            params.lut = map.lists.address();
            (params.block_q, params.block_k) = (word("query rows of a block", map.block_q)?, word("key rows of a block", map.block_k)?);
            params.kept = word("kept blocks", map.kept)?;
            touched.push(map.lists.reads("block map").aligned(4));
        }
        if let Some(added) = &operands.added {
            (params.added_q, params.added_state) = (added.q.address(), added.state.address());
            params.feature = added.feature.code();
            touched.extend([added.q.reads("added q").aligned(16), added.state.reads("added state").aligned(16)]);
            if let Some(bias) = &added.bias {
                params.added_bias = bias.address();
                touched.push(bias.reads("added bias").aligned(8));
            }
        }
        match &mut out {
            Output::Bf16(out) => {
                params.out = out.address();
                touched.push(out.writes("out").aligned(16));
            }
            Output::Int8 { values, scales } => {
                (params.out_values, params.out_scales) = (values.address(), scales.address());
                touched.extend([values.writes("int8 out").aligned(16), scales.writes("out scales").aligned(4)]);
            }
        }
        if let Some(lse) = &mut lse {
            params.lse = lse.address();
            touched.push(lse.writes("lse").aligned(4));
        }
        Ok(kernel.launch(stream, variant.launch(shape.problems(), shape.query_len)?, &params, &touched)?)
    }
}

/// Values from one sample, and from one head, to the next.
fn strides(shape: &AttnShape, len: usize) -> (i64, i64) {
    let head = match shape.layout {
        turbowan_cuda::HeadLayout::Bhld => len * shape.head_dim,
        turbowan_cuda::HeadLayout::Blhd => shape.head_dim,
    };
    ((shape.heads * len * shape.head_dim) as i64, head as i64)
}
