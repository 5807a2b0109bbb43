//! INT8 attention on a device: `kernels/sage_attn_mma.cu` (f16 values, any chip) and `kernels/sage_attn_mma_fp8.cu`
//! (e4m3 values, compute capability 8.9 and 12.x), over operands that are quantised already.

mod params;
pub mod prepare;

use half::{bf16, f16};
use turbowan_cuda::device::{Device, Kernel, KernelFile, Launch, OpKernel, Operand, Stream, View, ViewMut};
use turbowan_cuda::{AttnShape, Error as OperandError};

use crate::quantise::base_2_scale;
use crate::{Error, Groups, Sage, kernels};
use params::SageAttnParams;

/// Keys of a tile, in every kernel.
const TILE_K: usize = 64;

/// Which kernel each chip takes; `doctor` shows them.
pub const KERNELS: [OpKernel; 2] = [
    OpKernel { op: "INT8 attention, head dim 128", choose: |capability| chosen(capability, 128) },
    OpKernel { op: "INT8 attention, head dim 64", choose: |capability| chosen(capability, 64) },
];

fn chosen(capability: (u32, u32), head_dim: usize) -> (&'static KernelFile, &'static str) {
    Variant { head_dim, rows: 128, format: Format::preferred(capability) }.kernel()
}

/// Format of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// f16, sums in f32.
    F16,
    /// e4m3 with a largest value of 2.25, sums in f16 over 64 keys.
    Fp8,
}

impl Format {
    /// The fastest that a chip has kernels for.
    pub fn preferred(capability: (u32, u32)) -> Self {
        // 9.0 has e4m3 in wgmma alone
        if capability == (8, 9) || capability.0 >= 12 { Self::Fp8 } else { Self::F16 }
    }
}

/// One kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    head_dim: usize,
    /// Queries of a thread block.
    rows: usize,
    format: Format,
}

impl Variant {
    /// All kernels of a format.
    fn all(format: Format) -> [Self; 4] {
        [(128, 128), (128, 64), (64, 128), (64, 64)].map(|(head_dim, rows)| Self { head_dim, rows, format })
    }

    fn kernel(self) -> (&'static KernelFile, &'static str) {
        let file = match self.format {
            Format::F16 => &kernels::SAGE_ATTN_MMA,
            Format::Fp8 => &kernels::SAGE_ATTN_MMA_FP8,
        };
        let name = match (self.format, self.head_dim, self.rows) {
            (Format::F16, 64, 64) => "sage_attn_d64_rows64",
            (Format::F16, 64, _) => "sage_attn_d64",
            (Format::F16, _, 64) => "sage_attn_d128_rows64",
            (Format::F16, ..) => "sage_attn_d128",
            (Format::Fp8, 64, 64) => "sage_attn_fp8_d64_rows64",
            (Format::Fp8, 64, _) => "sage_attn_fp8_d64",
            (Format::Fp8, _, 64) => "sage_attn_fp8_d128_rows64",
            (Format::Fp8, ..) => "sage_attn_fp8_d128",
        };
        (file, name)
    }

    /// The queries, and each stage's keys and values.
    fn shared_bytes(self) -> u32 {
        let (stages, value_bytes) = (if self.head_dim == 64 { 3 } else { 2 }, if self.format == Format::F16 { 2 } else { 1 });
        (self.head_dim * (self.rows + stages * TILE_K * (1 + value_bytes))) as u32
    }

    /// Warps of 16 rows; of 32 at 128 rows of head dim 64.
    fn threads(self) -> u32 {
        if (self.head_dim, self.rows) == (128, 128) { 256 } else { 128 }
    }

    /// Block `problem * tiles + tile` has one tile of one head.
    fn launch(self, problems: usize, query_len: usize) -> Result<Launch, Error> {
        let blocks = problems.saturating_mul(query_len.div_ceil(self.rows));
        Ok(Launch::linear(blocks, self.threads())?.with_shared_bytes(self.shared_bytes()))
    }
}

/// Values on a device.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// f16 in the shape's layout.
    F16(View<'a, f16>),
    /// e4m3 as [`crate::Fp8Values`] holds them, quantised with a largest value of at most 2.25.
    Fp8 {
        /// [`crate::Fp8Values::permuted`], `[problems, head_dim, padded_len]`.
        permuted: View<'a, u8>,
        /// `[problems, head_dim]`.
        scales: View<'a, f32>,
        /// Keys of a channel, padding included: a multiple of 64.
        padded_len: usize,
    },
}

/// A block map on a device.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// [`turbowan_cuda::BlockMap::lists`]: `[problems, ceil(query_len / block_q), kept]`, each list strictly ascending and
    /// below the number of key blocks.
    pub lists: View<'a, u32>,
    /// Query rows of a block, a multiple of 64.
    pub block_q: usize,
    /// Key rows of a block, a multiple of 64.
    pub block_k: usize,
    /// Key blocks of a list.
    pub kept: usize,
}

/// What attention reads; queries and keys as [`crate::Quantised`] holds them.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// `[problems, query_len, head_dim]`.
    pub q: View<'a, i8>,
    /// `[problems, groups of the queries]`.
    pub q_scales: View<'a, f32>,
    /// `[problems, key_len, head_dim]`.
    pub k: View<'a, i8>,
    /// `[problems, groups of the keys]`.
    pub k_scales: View<'a, f32>,
    /// The values.
    pub values: Values<'a>,
    /// Which key blocks each query block sees; all without it.
    pub map: Option<Map<'a>>,
}

/// The attention kernels of a device.
#[derive(Debug)]
pub struct SageAttention {
    kernels: Vec<(Variant, Kernel<SageAttnParams>)>,
}

impl SageAttention {
    /// Loads the kernels that the chip has: of f16 values, and of e4m3 values where it prefers them.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load(device: &Device) -> Result<Self, Error> {
        let mut kernels = Vec::new();
        let has_fp8 = Format::preferred(device.chip().capability) == Format::Fp8;
        for variant in Variant::all(Format::F16).into_iter().chain(has_fp8.then(|| Variant::all(Format::Fp8)).into_iter().flatten()) {
            let (file, name) = variant.kernel();
            kernels.push((variant, Kernel::load(device, file, name)?));
        }
        Ok(Self { kernels })
    }

    /// Queues attention of one shape; `sage` says which rows share a scale and whether the queries hold the softmax scale,
    /// and its other settings are not read: they were the quantisers'.
    ///
    /// `out` is bf16 in the shape's layout. `lse`, `[problems, query_len]`, becomes the natural log-sum-exp of the scores
    /// as they are, those of the smoothed keys: a caller who wants that of the plain keys adds `q . mean / sqrt(head_dim)`.
    /// A row that sees no key gives zeros and minus infinity.
    ///
    /// # Errors
    /// [`Error::Setting`] for a head dim that is neither 64 nor 128, a block of the map or of the scales that tiles of 64
    /// do not divide, or e4m3 values on a chip without them; [`Error::CausalLengths`]; [`Error::Operand`] when an operand
    /// does not fit, and as [`Kernel::launch`].
    #[allow(clippy::too_many_arguments, reason = "a stream, a shape and its rules, operands and results")]
    pub fn run(
        &self,
        stream: &Stream,
        shape: &AttnShape,
        sage: &Sage,
        causal: bool,
        operands: &Operands<'_>,
        mut out: ViewMut<'_, bf16>,
        mut lse: Option<ViewMut<'_, f32>>,
    ) -> Result<(), Error> {
        sage.check()?;
        let (query_groups, key_groups) = (sage.granularity.query_groups(), sage.granularity.key_groups());
        check(shape, causal, operands, query_groups, key_groups)?;
        expect("output", out.len(), shape.query_values())?;
        if let Some(lse) = &lse {
            expect("log-sum-exp", lse.len(), shape.problems() * shape.query_len)?;
        }
        let format = match operands.values {
            Values::F16(_) => Format::F16,
            Values::Fp8 { .. } => Format::Fp8,
        };
        let rows = tile_rows(shape.query_len, operands.map.map(|map| map.block_q));
        let variant = Variant { head_dim: shape.head_dim, rows, format };
        let Some((_, kernel)) = self.kernels.iter().find(|(loaded, _)| *loaded == variant) else {
            return Err(setting("bits of a value", "16 on this chip, whose mma.sync has no e4m3", 8));
        };

        let (sample_stride, head_stride) = strides(shape, shape.query_len);
        let (v_sample_stride, v_head_stride) = strides(shape, shape.key_len);
        let ((q_rows, q_lanes), (k_rows, k_lanes)) = (query_groups.runs(), key_groups.runs());
        let mut params = SageAttnParams {
            q: operands.q.address(),
            q_scales: operands.q_scales.address(),
            k: operands.k.address(),
            k_scales: operands.k_scales.address(),
            v_f16: std::ptr::null(),
            v_e4m3: std::ptr::null(),
            v_scales: std::ptr::null(),
            lut: std::ptr::null(),
            out: out.address(),
            lse: std::ptr::null_mut(),
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
            reserved: 0,
        };
        let mut touched: Vec<Operand<'_>> = vec![
            operands.q.reads("q").aligned(16),
            operands.q_scales.reads("q_scales").aligned(4),
            operands.k.reads("k").aligned(16),
            operands.k_scales.reads("k_scales").aligned(4),
            out.writes("out").aligned(16),
        ];
        match &operands.values {
            Values::F16(values) => {
                params.v_f16 = values.address();
                touched.push(values.reads("values").aligned(16));
            }
            Values::Fp8 { permuted, scales, padded_len } => {
                (params.v_e4m3, params.v_scales) = (permuted.address(), scales.address());
                params.v_row_stride = *padded_len as i64;
                touched.extend([permuted.reads("values").aligned(16), scales.reads("value scales").aligned(8)]);
            }
        }
        if let Some(map) = &operands.map {
            params.lut = map.lists.address();
            (params.block_q, params.block_k) = (word("query rows of a block", map.block_q)?, word("key rows of a block", map.block_k)?);
            params.kept = word("kept blocks", map.kept)?;
            touched.push(map.lists.reads("block map").aligned(4));
        }
        if let Some(lse) = &mut lse {
            params.lse = lse.address();
            touched.push(lse.writes("lse").aligned(4));
        }
        Ok(kernel.launch(stream, variant.launch(shape.problems(), shape.query_len)?, &params, &touched)?)
    }
}

/// Queries of a thread block: 128, or 64 where the map's blocks or the queries are no more.
fn tile_rows(query_len: usize, block_q: Option<usize>) -> usize {
    let is_whole = block_q.is_none_or(|rows| rows.is_multiple_of(128));
    if is_whole && query_len > 64 { 128 } else { 64 }
}

/// Values from one sample, and from one head, to the next.
fn strides(shape: &AttnShape, len: usize) -> (i64, i64) {
    let head = match shape.layout {
        turbowan_cuda::HeadLayout::Bhld => len * shape.head_dim,
        turbowan_cuda::HeadLayout::Blhd => shape.head_dim,
    };
    ((shape.heads * len * shape.head_dim) as i64, head as i64)
}

fn check(shape: &AttnShape, causal: bool, operands: &Operands<'_>, queries: Groups, keys: Groups) -> Result<(), Error> {
    if ![64, 128].contains(&shape.head_dim) {
        return Err(setting("head dim", "64 or 128", shape.head_dim));
    }
    if causal && shape.query_len != shape.key_len {
        return Err(Error::CausalLengths { query_len: shape.query_len, key_len: shape.key_len });
    }
    word("key tiles", shape.key_len.div_ceil(TILE_K))?;
    let whole = |what, rows: usize| {
        let is_whole = rows > 0 && rows.is_multiple_of(TILE_K);
        if is_whole { Ok(()) } else { Err(setting(what, "a positive multiple of 64", rows)) }
    };
    whole("key rows of a scale", keys.runs().0)?;
    let problems = shape.problems();
    expect("queries", operands.q.len(), shape.query_values())?;
    expect("query scales", operands.q_scales.len(), problems * queries.count(shape.query_len))?;
    expect("keys", operands.k.len(), shape.key_values())?;
    expect("key scales", operands.k_scales.len(), problems * keys.count(shape.key_len))?;
    match &operands.values {
        Values::F16(values) => expect("values", values.len(), shape.key_values())?,
        Values::Fp8 { permuted, scales, padded_len } => {
            whole("padded keys of a channel", *padded_len)?;
            if *padded_len < shape.key_len {
                return Err(setting("padded keys of a channel", "at least the number of keys", *padded_len));
            }
            expect("values", permuted.len(), problems * shape.head_dim * padded_len)?;
            expect("value scales", scales.len(), problems * shape.head_dim)?;
        }
    }
    if let Some(map) = &operands.map {
        whole("query rows of a block", map.block_q)?;
        whole("key rows of a block", map.block_k)?;
        if map.kept == 0 || map.kept > shape.key_len.div_ceil(map.block_k) {
            return Err(setting("kept blocks", "between 1 and the number of key blocks", map.kept));
        }
        expect("block map", map.lists.len(), problems * shape.query_len.div_ceil(map.block_q) * map.kept)?;
    }
    Ok(())
}

fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), OperandError> {
    if found == expected { Ok(()) } else { Err(OperandError::Length { what, expected, found }) }
}

fn setting(what: &'static str, must: &'static str, found: usize) -> Error {
    Error::Setting { what, must, found: found as f64 }
}

fn word(what: &'static str, value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| setting(what, "below 2^32", value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_what_the_kernels_ask_for_and_fits_every_chip() {
        let bytes = |head_dim, rows, format| Variant { head_dim, rows, format }.shared_bytes();
        assert_eq!(bytes(128, 128, Format::F16), 64 << 10);
        assert_eq!(bytes(128, 64, Format::F16), 56 << 10);
        assert_eq!(bytes(64, 128, Format::F16), 44 << 10);
        assert_eq!(bytes(128, 128, Format::Fp8), 48 << 10);
        for variant in Variant::all(Format::F16).into_iter().chain(Variant::all(Format::Fp8)) {
            assert!(variant.shared_bytes() <= 99 << 10, "{variant:?}");
        }
    }

    #[test]
    fn every_row_of_every_head_has_a_block() {
        let blocks = |rows, problems, len| Variant { head_dim: 128, rows, format: Format::F16 }.launch(problems, len).unwrap().blocks();
        assert_eq!((blocks(128, 1, 1), blocks(128, 12, 129), blocks(64, 12, 129)), (1, 24, 36));
        assert_eq!(blocks(128, 40, 75_600), 40 * 591);
        assert!(Variant { head_dim: 64, rows: 64, format: Format::F16 }.launch(1 << 40, 64).is_err());
    }

    #[test]
    fn a_tile_never_spans_two_blocks_of_the_map() {
        assert_eq!(
            [(64, None), (65, None), (65, Some(64)), (65, Some(128)), (500, Some(192))].map(|(len, block)| tile_rows(len, block)),
            [64, 128, 64, 128, 64]
        );
    }
}
