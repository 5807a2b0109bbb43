//! One problem of INT8 attention: heads and their integers, the oracle over those, and the way over a device.

use half::{bf16, f16};
use turbowan_cuda::device::{Buffer, OpKernel};
use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_reference::attention::Mask;
use turbowan_reference::sage as truth;
use turbowan_sage::device::{Added, Feature, Format, KERNELS, Keys, Map, Operands, Output, SageAttention, Values};
use turbowan_sage::{Quantised, Sage, Tile, ValuePrecision, quantise_keys, quantise_queries, quantise_values};

use super::attention::{AfterZeros, Heads, drawn_map};
use crate::verify::{Fault, Place, Stand};

/// Rows of a block of the map.
pub(super) const BLOCKS: (usize, usize) = (128, 64);

/// Values are padded to a multiple of so many tokens.
const PAD: usize = 64;

/// The largest e4m3 value: sums over 64 keys in f16 hold no more than 2.25, sums in f32 the whole format.
pub(super) fn scale_max(format: Format) -> f32 {
    if format == Format::Tiled { 448.0 } else { 2.25 }
}

/// The kernels of a chip for a format, with an end or without; the f16 ones run on every chip.
pub(super) fn kernels(chip: (u32, u32), format: Format, has_end: bool) -> Vec<&'static str> {
    if !format.is_on(chip) {
        return Vec::new();
    }
    let chip = if format == Format::F16 { (8, 0) } else { chip };
    let rows: &[OpKernel] = if has_end { &KERNELS[2..] } else { &KERNELS[..2] };
    rows.iter().map(|kernel| (kernel.choose)(chip).1).collect()
}

/// A term that is added to the rows of the output, as a device takes it.
pub(super) struct Term {
    /// `[problems, query_len, head_dim]`.
    pub(super) q: Vec<bf16>,
    /// `[problems, head_dim + 1, head_dim]`.
    pub(super) state: Vec<bf16>,
    /// `[head_dim]`.
    pub(super) bias: Option<Vec<f32>>,
    pub(super) feature: Feature,
}

/// Heads with their int8 queries and keys.
pub(super) struct Problem {
    pub(super) heads: Heads,
    pub(super) sage: Sage,
    pub(super) format: Format,
    pub(super) map: Option<BlockMap>,
    pub(super) causal: bool,
    q: Quantised,
    k: Quantised,
}

impl Problem {
    /// Heads for the kernels of a format; `kept` 0 is dense.
    pub(super) fn new(heads: Heads, format: Format, kept: usize, causal: bool, seed: u64) -> Result<Self, Fault> {
        let sage = match format {
            Format::F16 => Sage::default().with_values(ValuePrecision::F16),
            Format::Fp8 => Sage::default().with_values(ValuePrecision::Fp8 { scale_max: scale_max(format) }),
            Format::Tiled => Sage::per_thread(Tile::SM90).with_values(ValuePrecision::Fp8 { scale_max: scale_max(format) }),
        };
        let map = if kept == 0 { None } else { Some(drawn_map(&heads.shape, BLOCKS, kept, seed)?) };
        let (q, k) = (quantise_queries(&heads.q, &heads.shape, &sage)?, quantise_keys(&heads.k, None, &heads.shape, &sage)?);
        Ok(Self { heads, sage, format, map, causal, q, k })
    }

    /// Keys of a step, over which one maximum holds: the kernel over tiles takes two of them at a time.
    pub(super) fn step(&self, place: Place) -> usize {
        if self.format == Format::Tiled && place != Place::Host { 128 } else { 64 }
    }

    /// The oracle over the integers that the quantisers gave: output in the shape's layout, and log-sum-exp.
    pub(super) fn truth(&self, step: usize) -> (Vec<f64>, Vec<f64>) {
        let AttnShape { query_len, key_len, .. } = self.heads.shape;
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for problem in 0..self.heads.shape.problems() {
            // the queries of a block of the map see its keys alone, one behind the other
            for block in 0..self.map.as_ref().map_or(1, BlockMap::query_blocks) {
                let (rows, keys): (_, Vec<usize>) = match &self.map {
                    None => (0..query_len, (0..key_len).collect()),
                    Some(map) => {
                        let list = map.list(problem, block).iter().map(|key| *key as usize);
                        let keys = list.flat_map(|key| key * BLOCKS.1..key_len.min((key + 1) * BLOCKS.1));
                        (block * BLOCKS.0..query_len.min((block + 1) * BLOCKS.0), keys.collect())
                    }
                };
                let (of_block, lse_of_block) = self.truth_of_block(problem, rows, &keys, step);
                out.extend(of_block);
                lse.extend(lse_of_block);
            }
        }
        (self.heads.in_layout(&out), lse)
    }

    fn truth_of_block(&self, problem: usize, rows: std::ops::Range<usize>, keys: &[usize], step: usize) -> (Vec<f64>, Vec<f64>) {
        let AttnShape { query_len, key_len, head_dim: dim, .. } = self.heads.shape;
        let query_scale: Vec<f32> = rows.clone().map(|row| self.q.scale(problem, row)).collect();
        let key_scale: Vec<f32> = keys.iter().map(|key| self.k.scale(problem, *key)).collect();
        let key: Vec<i8> = keys.iter().flat_map(|key| self.k.values[(problem * key_len + key) * dim..][..dim].iter().copied()).collect();
        let head = truth::Int8Head {
            query: &self.q.values[(problem * query_len + rows.start) * dim..][..rows.len() * dim],
            query_scale: &query_scale,
            key: &key,
            key_scale: &key_scale,
            width: dim,
            scale: 1.0 / (dim as f64).sqrt(),
        };
        let mask = if self.causal { Mask::Causal } else { Mask::None };
        let value = self.heads.keys(&self.heads.v, problem);
        let seen: Vec<f32> = keys.iter().flat_map(|key| value[key * dim..][..dim].iter().copied()).collect();
        let attended = head.attend(&seen, mask);
        if self.format == Format::F16 {
            return (attended.out, attended.lse);
        }
        // a channel's scale is that of all its keys, seen or not
        let all = truth::quantise_values(&value, dim, scale_max(self.format), PAD);
        let codes = |channel: &[u8]| keys.iter().map(|key| channel[*key]).collect::<Vec<_>>();
        let transposed = all.transposed.chunks(all.padded_len).flat_map(codes).collect();
        let seen = truth::Fp8Values { transposed, scales: all.scales, padded_len: keys.len() };
        (head.attend_fp8(&seen, step, mask), attended.lse)
    }

    /// How far an output may be off as a whole, and why.
    pub(super) fn bound(&self, place: Place) -> (f64, &'static str) {
        match (self.format, place) {
            (Format::F16, Place::Host) => (1e-3, "probabilities and values in f16"),
            (Format::F16, _) => (5e-3, "probabilities and values in f16, and an output in bf16, off by 2^-8 at most"),
            (_, Place::Host) => (5e-3, "an e4m3 probability near a tie rounds the other way"),
            (Format::Fp8, _) => (9e-3, "as on the host; sums over 64 keys in f16, and an output in bf16, off by 2^-8 at most"),
            (Format::Tiled, _) => (5e-3, "as on the host, and an output in bf16, off by 2^-8 at most"),
        }
    }

    /// Output in bf16 and log-sum-exp on a device, under `map` or, without one, dense.
    pub(super) fn run(&self, stand: &Stand, map: Option<&BlockMap>, term: Option<&Term>) -> Result<(Vec<bf16>, Vec<f32>), Fault> {
        let (uploaded, own) = (Uploaded::new(self, stand, map, term)?, &self.heads.shape);
        let (len, rows) = (own.query_values(), own.problems() * own.query_len);
        let mut out = stand.room_behind(uploaded.after.behind(len), len)?;
        let mut lse = stand.room_behind(uploaded.after.behind(rows), rows)?;
        let attention = SageAttention::load(stand.device())?;
        let operands = uploaded.operands(self, map, term);
        stand.launch(|stream| {
            let (out, lse) = (out.view_mut(), Some(lse.view_mut()));
            Ok(attention.run(stream, &uploaded.after.shape, &self.sage, self.causal, &operands, out, lse)?)
        })?;
        Ok((stand.results(&out, len)?, stand.results(&lse, rows)?))
    }

    /// Output in int8 and its scales on a device.
    pub(super) fn run_int8(&self, stand: &Stand, term: Option<&Term>) -> Result<(Vec<i8>, Vec<f32>), Fault> {
        let (map, own) = (self.map.as_ref(), &self.heads.shape);
        let uploaded = Uploaded::new(self, stand, map, term)?;
        let (len, rows) = (own.query_values(), own.problems() * own.query_len);
        let mut values = stand.room_behind(uploaded.after.behind(len), len)?;
        let mut scales = stand.room_behind(uploaded.after.behind(rows), rows)?;
        let attention = SageAttention::load(stand.device())?;
        let operands = uploaded.operands(self, map, term);
        stand.launch(|stream| {
            let out = Output::Int8 { values: values.view_mut(), scales: scales.view_mut() };
            Ok(attention.run(stream, &uploaded.after.shape, &self.sage, self.causal, &operands, out, None)?)
        })?;
        Ok((stand.results(&values, len)?, stand.results(&scales, rows)?))
    }
}

/// A problem's operands on a device, behind those of heads of zeros.
struct Uploaded {
    after: AfterZeros,
    q: (Buffer<i8>, Buffer<f32>),
    k: (Buffer<i8>, Buffer<f32>),
    f16: Buffer<f16>,
    e4m3: (Buffer<u8>, Buffer<f32>),
    /// Keys of a channel of e4m3 values.
    padded_len: usize,
    lists: Buffer<u32>,
    term_q: Buffer<bf16>,
    term_state: Buffer<bf16>,
    term_bias: Buffer<f32>,
}

impl Uploaded {
    fn new(problem: &Problem, stand: &Stand, map: Option<&BlockMap>, term: Option<&Term>) -> Result<Self, Fault> {
        let (own, format) = (problem.heads.shape, problem.format);
        let after = AfterZeros::new(&own, stand.lead());
        let behind = |values: usize| after.behind(values);
        let int8 = |values: &[i8], scales: &[f32]| -> Result<_, Fault> {
            Ok((stand.upload_behind(behind(values.len()), values)?, stand.upload_behind(behind(scales.len()), scales)?))
        };
        let (f16, codes, scales, padded_len) = if format == Format::F16 {
            (problem.heads.v.iter().map(|v| f16::from_f32(*v)).collect(), Vec::new(), Vec::new(), 0)
        } else {
            let fp8 = quantise_values(&problem.heads.v, &own, scale_max(format), PAD, &problem.sage)?;
            let codes = if format == Format::Tiled { fp8.tiled(own.head_dim, own.key_len) } else { fp8.permuted() };
            (Vec::new(), codes, fp8.scales, fp8.padded_len)
        };
        let lists = map.map_or(&[][..], BlockMap::lists);
        let (term_q, term_state) = term.map_or((&[][..], &[][..]), |term| (&term.q, &term.state));
        Ok(Self {
            q: int8(&problem.q.values, &problem.q.scales)?,
            k: match format {
                Format::Tiled => int8(&problem.k.tiled(own.head_dim), &problem.k.scales)?,
                _ => int8(&problem.k.values, &problem.k.scales)?,
            },
            f16: stand.upload_behind(behind(f16.len()), &f16)?,
            e4m3: (stand.upload_behind(behind(codes.len()), &codes)?, stand.upload_behind(behind(scales.len()), &scales)?),
            padded_len,
            lists: stand.upload_behind(behind(lists.len()), lists)?,
            term_q: stand.upload_behind(behind(term_q.len()), term_q)?,
            term_state: stand.upload_behind(behind(term_state.len()), term_state)?,
            term_bias: stand.upload(term.and_then(|term| term.bias.as_deref()).unwrap_or(&[]))?,
            after,
        })
    }

    fn operands<'a>(&'a self, problem: &Problem, map: Option<&BlockMap>, term: Option<&Term>) -> Operands<'a> {
        let (k, values) = match problem.format {
            Format::F16 => (Keys::Rows(self.k.0.view()), Values::F16(self.f16.view())),
            Format::Fp8 => {
                let (permuted, scales, padded_len) = (self.e4m3.0.view(), self.e4m3.1.view(), self.padded_len);
                (Keys::Rows(self.k.0.view()), Values::Fp8 { permuted, scales, padded_len })
            }
            Format::Tiled => (Keys::Tiled(self.k.0.view()), Values::Tiled { tiles: self.e4m3.0.view(), scales: self.e4m3.1.view() }),
        };
        Operands {
            q: self.q.0.view(),
            q_scales: self.q.1.view(),
            k,
            k_scales: self.k.1.view(),
            values,
            map: map.map(|map| Map { lists: self.lists.view(), block_q: map.block_q(), block_k: map.block_k(), kept: map.kept() }),
            added: term.map(|term| Added {
                q: self.term_q.view(),
                state: self.term_state.view(),
                bias: term.bias.as_ref().map(|_| self.term_bias.view()),
                feature: term.feature,
            }),
        }
    }
}
