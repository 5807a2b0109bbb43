//! INT8 SageAttention over the integers that the quantisers gave.

use half::{bf16, f16};
use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_reference::attention::Mask;
use turbowan_reference::metrics::Bound;
use turbowan_reference::sage as truth;
use turbowan_sage::device::{KERNELS, Keys, Map, Operands, SageAttention, Values};
use turbowan_sage::{Quantised, Sage, Smoothing, ValuePrecision, forward_with_lse, quantise_keys, quantise_queries, quantise_values};

use super::FAR_ROWS;
use super::attention::{Heads, drawn_map, kept_blocks, shape_of};
use crate::verify::{Axis, Case, Far, Fault, Held, Kind, Op, Output, Place, Prepared, Stand};

/// `kept` 0 is dense; `tokens-first` has the heads of a token side by side.
const AXES: &[Axis] = &[
    Axis::new("heads", 1, 3, 1),
    Axis::new("query", 1, 300, 1),
    Axis::new("key", 1, 400, 1),
    Axis::new("dim", 64, 128, 64),
    Axis::choice("kept", 4),
    Axis::choice("causal", 1),
    Axis::choice("tokens-first", 1),
];

/// Rows of a block of the map.
const BLOCKS: (usize, usize) = (128, 64);

/// The largest e4m3 value of kernels that sum in f16.
const SCALE_MAX: f32 = 2.25;

/// Two heads of 64 rows of 128 channels, a block each, behind heads with 2^31 values.
const FAR: &[Far] = &[
    Far { shape: &[2, 64, 64, 128, 0, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
    Far { shape: &[2, 64, 64, 128, 1, 0, 0], lead: FAR_ROWS / 64, blocks: (FAR_ROWS as u64 / 64, 2) },
];

/// Values in f16 or e4m3.
pub const OPS: [Op; 2] = [
    Op {
        name: "sage-attention-f16",
        about: "softmax(q8 k8^T sq sk / sqrt(D)) v, values in f16",
        axes: AXES,
        cases: || {
            // one row, a tile less one, lengths that differ, several tiles; dense, one block, all blocks, causal
            let shapes: [&[usize]; 10] = [
                &[1, 1, 1, 64, 0, 0, 0],
                &[1, 63, 63, 128, 0, 0, 0],
                &[1, 65, 65, 64, 0, 1, 0],
                &[1, 1, 400, 128, 0, 0, 0],
                &[1, 400, 1, 64, 0, 0, 0],
                &[1, 150, 328, 128, 0, 0, 0],
                &[1, 140, 140, 128, 0, 1, 0],
                &[1, 200, 400, 64, 1, 0, 0],
                &[1, 200, 200, 128, 4, 0, 0],
                &[2, 197, 300, 128, 2, 0, 1],
            ];
            Case::cross(&shapes, &[1, 150, 197, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame,
        kernels: |chip| kernels(chip, false),
        far: FAR,
        prepare: |case| Attention::prepare(case, ValuePrecision::F16),
    },
    Op {
        name: "sage-attention-e4m3",
        about: "the same, values and probabilities in e4m3",
        axes: AXES,
        cases: || {
            let shapes: [&[usize]; 7] = [
                &[1, 1, 1, 64, 0, 0, 0],
                &[1, 65, 65, 128, 0, 1, 0],
                &[1, 1, 400, 64, 0, 0, 0],
                &[1, 150, 328, 128, 0, 0, 0],
                &[1, 200, 400, 64, 1, 0, 0],
                &[1, 200, 200, 128, 4, 0, 0],
                &[2, 197, 300, 128, 2, 0, 1],
            ];
            Case::cross(&shapes, &[1, 150, 197, 128, 0, 0, 0], &Kind::ALL[1..])
        },
        tame,
        kernels: |chip| kernels(chip, true),
        far: FAR,
        prepare: |case| Attention::prepare(case, ValuePrecision::Fp8 { scale_max: SCALE_MAX }),
    },
];

/// The kernels of a chip if its values are of the asked format; the f16 ones run on every chip.
fn kernels(chip: (u32, u32), wants_fp8: bool) -> Vec<&'static str> {
    let preferred = || KERNELS.iter().map(|kernel| (kernel.choose)(chip).1).collect::<Vec<_>>();
    match wants_fp8 {
        true => preferred().into_iter().filter(|kernel| kernel.contains("fp8")).collect(),
        false => KERNELS.iter().map(|kernel| (kernel.choose)((8, 0)).1).collect(),
    }
}

/// Causal attention has as many queries as keys; a map keeps no more blocks than there are.
fn tame(case: &mut Case) {
    if case.shape[5] == 1 {
        (case.shape[2], case.shape[4]) = (case.shape[1], 0);
    }
    case.shape[4] = case.shape[4].min(case.shape[2].div_ceil(BLOCKS.1));
}

struct Attention {
    heads: Heads,
    sage: Sage,
    map: Option<BlockMap>,
    causal: bool,
    q: Quantised,
    k: Quantised,
    want: Vec<f64>,
    lse: Vec<f64>,
}

impl Attention {
    fn prepare(case: &Case, values: ValuePrecision) -> Result<Box<dyn Prepared>, Fault> {
        let [heads, query, key, dim, kept, causal, tokens_first] = case.sizes();
        let shape = shape_of(heads, query, key, dim, tokens_first == 1)?;
        let sage = Sage::default().with_values(values);
        let heads = Heads::draw(case.kind, shape, case.seed);
        let map = if kept == 0 { None } else { Some(drawn_map(&shape, BLOCKS, kept, case.seed)?) };
        let (q, k) = (quantise_queries(&heads.q, &shape, &sage)?, quantise_keys(&heads.k, None, &shape, &sage)?);
        let mut prepared = Self { heads, sage, map, causal: causal == 1, q, k, want: vec![], lse: vec![] };
        let (want, lse) = prepared.truth();
        (prepared.want, prepared.lse) = (prepared.heads.in_layout(&want), lse);
        Ok(Box::new(prepared))
    }

    /// The oracle over the integers that the quantisers gave, one head after the other.
    fn truth(&self) -> (Vec<f64>, Vec<f64>) {
        let shape = &self.heads.shape;
        let (dim, query_len, key_len) = (shape.head_dim, shape.query_len, shape.key_len);
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for problem in 0..shape.problems() {
            let query_scale: Vec<f32> = (0..query_len).map(|row| self.q.scale(problem, row)).collect();
            let key_scale: Vec<f32> = (0..key_len).map(|row| self.k.scale(problem, row)).collect();
            let head = truth::Int8Head {
                query: &self.q.values[problem * query_len * dim..][..query_len * dim],
                query_scale: &query_scale,
                key: &self.k.values[problem * key_len * dim..][..key_len * dim],
                key_scale: &key_scale,
                width: dim,
                scale: 1.0 / (dim as f64).sqrt(),
            };
            let kept = self.map.as_ref().map(|map| kept_blocks(map, problem));
            let mask = match (&kept, self.causal) {
                (Some(kept), _) => Mask::Blocks { block_q: BLOCKS.0, block_k: BLOCKS.1, kept },
                (None, true) => Mask::Causal,
                (None, false) => Mask::None,
            };
            let value = self.heads.keys(&self.heads.v, problem);
            let attended = head.attend(&value, mask);
            lse.extend(attended.lse);
            match self.sage.values {
                ValuePrecision::Fp8 { scale_max } => {
                    out.extend(head.attend_fp8(&truth::quantise_values(&value, dim, scale_max, 64), 64, mask));
                }
                _ => out.extend(attended.out),
            }
        }
        (out, lse)
    }

    fn is_fp8(&self) -> bool {
        matches!(self.sage.values, ValuePrecision::Fp8 { .. })
    }

    /// Attention on a device, under the map or, without one, dense.
    fn on(&self, stand: &Stand, map: Option<&BlockMap>) -> Result<(Vec<bf16>, Vec<f32>), Fault> {
        // whole heads of zeros come first; they lie before those of the case when a head's rows lie together
        let (lead, own) = (stand.lead(), &self.heads.shape);
        let shape = AttnShape { heads: lead + own.heads, ..*own };
        let behind = |values: usize| lead * (values / own.problems());
        let (q, q_scales) = (
            stand.upload_behind(behind(self.q.values.len()), &self.q.values)?,
            stand.upload_behind(behind(self.q.scales.len()), &self.q.scales)?,
        );
        let (k, k_scales) = (
            stand.upload_behind(behind(self.k.values.len()), &self.k.values)?,
            stand.upload_behind(behind(self.k.scales.len()), &self.k.scales)?,
        );
        let lists = map.map(|map| stand.upload_behind(behind(map.lists().len()), map.lists())).transpose()?;
        let map = map.zip(lists.as_ref()).map(|(map, lists)| Map {
            lists: lists.view(),
            block_q: map.block_q(),
            block_k: map.block_k(),
            kept: map.kept(),
        });
        let (wide, narrow);
        let values = match self.sage.values {
            ValuePrecision::Fp8 { scale_max } => {
                let fp8 = quantise_values(&self.heads.v, own, scale_max, 64, &self.sage)?;
                let (permuted, scales) = (fp8.permuted(), &fp8.scales);
                narrow = (stand.upload_behind(behind(permuted.len()), &permuted)?, stand.upload_behind(behind(scales.len()), scales)?);
                Values::Fp8 { permuted: narrow.0.view(), scales: narrow.1.view(), padded_len: fp8.padded_len }
            }
            _ => {
                let values: Vec<f16> = self.heads.v.iter().map(|v| f16::from_f32(*v)).collect();
                wide = stand.upload_behind(behind(values.len()), &values)?;
                Values::F16(wide.view())
            }
        };
        let operands = Operands {
            q: q.view(),
            q_scales: q_scales.view(),
            k: Keys::Rows(k.view()),
            k_scales: k_scales.view(),
            values,
            map,
            added: None,
        };
        let (len, rows) = (own.query_values(), own.problems() * own.query_len);
        let (mut out, mut lse) = (stand.room_behind(behind(len), len)?, stand.room_behind(behind(rows), rows)?);
        let attention = SageAttention::load(stand.device())?;
        stand.launch(|stream| {
            Ok(attention.run(stream, &shape, &self.sage, self.causal, &operands, out.view_mut(), Some(lse.view_mut()))?)
        })?;
        Ok((stand.results(&out, len)?, stand.results(&lse, rows)?))
    }

    /// Whether the map keeps everything.
    fn keeps_all(&self) -> bool {
        self.map.as_ref().is_some_and(|map| map.kept() == map.key_blocks())
    }
}

impl Prepared for Attention {
    fn host(&self) -> Result<Vec<Output>, Fault> {
        let Heads { q, k, v, shape } = &self.heads;
        let run = |map| forward_with_lse(q, k, v, shape, map, self.causal, &self.sage);
        let got = run(self.map.as_ref())?;
        let mut outputs = vec![Output::new("out", shape.head_dim, &got.out)];
        if self.sage.smoothing == Smoothing::None {
            outputs.push(Output::new("lse", 1, &got.lse));
        }
        if self.keeps_all() {
            outputs.push(Output::new("dense out", shape.head_dim, &run(None)?.out));
        }
        Ok(outputs)
    }

    fn device(&self, stand: &Stand) -> Result<Vec<Output>, Fault> {
        let (out, lse) = self.on(stand, self.map.as_ref())?;
        let dim = self.heads.shape.head_dim;
        let mut outputs = vec![Output::new("out", dim, &out), Output::new("lse", 1, &lse)];
        if self.keeps_all() {
            outputs.push(Output::new("dense out", dim, &self.on(stand, None)?.0));
        }
        Ok(outputs)
    }

    fn hold(&self, outputs: &[Output], place: Place) -> Result<Vec<Held>, Fault> {
        let (bound, why) = match (self.is_fp8(), place) {
            (true, Place::Host) => (5e-3, "an e4m3 probability near a tie rounds the other way"),
            (true, _) => (9e-3, "as on the host; sums over 64 keys in f16, and an output in bf16, off by 2^-8 at most"),
            (false, Place::Host) => (1e-3, "probabilities and values in f16"),
            (false, _) => (5e-3, "probabilities and values in f16, and an output in bf16, off by 2^-8 at most"),
        };
        let mut held = vec![Held::within(&outputs[0], &self.want, Bound::relative_l2(bound), why)];
        for output in &outputs[1..] {
            held.push(match output.name {
                "lse" => {
                    let allowed = |_: usize, want: f64| 4e-6 * want.abs().max(self.largest_lse());
                    Held::each(output, &self.lse, allowed, "4e-6 of the largest", "a few f32 roundings of a score")
                }
                _ => Held::equal(output, &outputs[0].values, "a map that keeps all is dense attention, bit for bit"),
            });
        }
        Ok(held)
    }
}

impl Attention {
    fn largest_lse(&self) -> f64 {
        self.lse.iter().filter(|lse| lse.is_finite()).fold(1.0, |most, lse| lse.abs().max(most))
    }
}
