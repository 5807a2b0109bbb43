//! The parameter structs of `kernels/prepare_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;
use half::f16 as tw_f16;
use turbowan_cuda::device::Params;

/// `mean_keys.cu`: sums over every 64 rows of each head.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SumRowsParams {
    /// Rows of a head at the strides below, on 16 bytes.
    pub x: *const u16,
    /// `[problems, ceil(len / 64), D]`.
    pub sums: *mut f32,
    /// Rows of a head, at least 1.
    pub len: i64,
    /// Of a sample.
    pub heads: i64,
    /// A multiple of 8, as the next two.
    pub sample_stride: i64,
    /// Values from a head to the next.
    pub head_stride: i64,
    /// Values from a row to the next.
    pub row_stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SumRowsParams"][::std::mem::size_of::<SumRowsParams>() - 56usize];
    ["Alignment of SumRowsParams"][::std::mem::align_of::<SumRowsParams>() - 8usize];
    ["Offset of field: SumRowsParams::x"][::std::mem::offset_of!(SumRowsParams, x) - 0usize];
    ["Offset of field: SumRowsParams::sums"][::std::mem::offset_of!(SumRowsParams, sums) - 8usize];
    ["Offset of field: SumRowsParams::len"][::std::mem::offset_of!(SumRowsParams, len) - 16usize];
    ["Offset of field: SumRowsParams::heads"][::std::mem::offset_of!(SumRowsParams, heads) - 24usize];
    ["Offset of field: SumRowsParams::sample_stride"][::std::mem::offset_of!(SumRowsParams, sample_stride) - 32usize];
    ["Offset of field: SumRowsParams::head_stride"][::std::mem::offset_of!(SumRowsParams, head_stride) - 40usize];
    ["Offset of field: SumRowsParams::row_stride"][::std::mem::offset_of!(SumRowsParams, row_stride) - 48usize];
};
/// `mean_keys.cu`: the mean row of each head from those sums.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MeanRowsParams {
    /// `[problems, parts, width]`.
    pub sums: *const f32,
    /// `[problems, width]`.
    pub means: *mut f32,
    /// Sums of a channel, at least 1.
    pub parts: i64,
    /// A multiple of 8.
    pub width: i64,
    /// Rows that were summed, at least 1.
    pub len: i64,
    /// `[problems, tiles, width]`, magnitudes; may be null.
    pub maxima: *const f32,
    /// `[problems, width]`, the largest of them as bits of f32; null with `maxima`.
    pub amax: *mut u32,
    /// Maxima of a channel.
    pub tiles: i64,
    /// 1: means are rounded to f16; 0: to bf16.
    pub is_f16: i32,
    /// 0.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MeanRowsParams"][::std::mem::size_of::<MeanRowsParams>() - 72usize];
    ["Alignment of MeanRowsParams"][::std::mem::align_of::<MeanRowsParams>() - 8usize];
    ["Offset of field: MeanRowsParams::sums"][::std::mem::offset_of!(MeanRowsParams, sums) - 0usize];
    ["Offset of field: MeanRowsParams::means"][::std::mem::offset_of!(MeanRowsParams, means) - 8usize];
    ["Offset of field: MeanRowsParams::parts"][::std::mem::offset_of!(MeanRowsParams, parts) - 16usize];
    ["Offset of field: MeanRowsParams::width"][::std::mem::offset_of!(MeanRowsParams, width) - 24usize];
    ["Offset of field: MeanRowsParams::len"][::std::mem::offset_of!(MeanRowsParams, len) - 32usize];
    ["Offset of field: MeanRowsParams::maxima"][::std::mem::offset_of!(MeanRowsParams, maxima) - 40usize];
    ["Offset of field: MeanRowsParams::amax"][::std::mem::offset_of!(MeanRowsParams, amax) - 48usize];
    ["Offset of field: MeanRowsParams::tiles"][::std::mem::offset_of!(MeanRowsParams, tiles) - 56usize];
    ["Offset of field: MeanRowsParams::is_f16"][::std::mem::offset_of!(MeanRowsParams, is_f16) - 64usize];
    ["Offset of field: MeanRowsParams::reserved"][::std::mem::offset_of!(MeanRowsParams, reserved) - 68usize];
};
/// `quant_rows.cu`: rows of each head become int8, with a scale for each group of rows.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantRowsParams {
    /// Rows of a head at the strides below, on 16 bytes.
    pub x: *const u16,
    /// `[problems, D]`, on 16 bytes; null with `smoothing` 0.
    pub means: *const f32,
    /// `[problems, len, D]` on 8 bytes, or K tiles (`tile_layout.cuh`) on 16.
    pub values: *mut i8,
    /// `[problems, groups]`.
    pub scales: *mut f32,
    /// `[problems, ceil(len / pool_rows), D]`, means of blocks; may be null.
    pub pooled: *mut u16,
    /// Rows of a head, at least 1.
    pub len: i64,
    /// Of a sample.
    pub heads: i64,
    /// A multiple of 8, as the next two.
    pub sample_stride: i64,
    /// Values from a head to the next.
    pub head_stride: i64,
    /// Values from a row to the next.
    pub row_stride: i64,
    /// Scales of a head.
    pub groups: i64,
    /// Group of row r: `(r >> group_shift << (3 - lane_shift)) + (r % 8 >> lane_shift)`; from 4 to 7.
    pub group_shift: u32,
    /// 0: rows equal modulo 8 share a scale; 1: pairs of them; 3: all rows of a group.
    pub lane_shift: u32,
    /// 0: half away; 1: half away, epsilon; 2: half even (`int8_rules.cuh`).
    pub rule: u32,
    /// 0: none; 1: the difference is rounded to the format of `x`; 2: it stays in f32.
    pub smoothing: u32,
    /// 64 or 128.
    pub pool_rows: u32,
    /// 1: K tiles.
    pub is_tiled: u32,
    /// Multiplies the rows before they are quantised.
    pub factor: f32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantRowsParams"][::std::mem::size_of::<QuantRowsParams>() - 120usize];
    ["Alignment of QuantRowsParams"][::std::mem::align_of::<QuantRowsParams>() - 8usize];
    ["Offset of field: QuantRowsParams::x"][::std::mem::offset_of!(QuantRowsParams, x) - 0usize];
    ["Offset of field: QuantRowsParams::means"][::std::mem::offset_of!(QuantRowsParams, means) - 8usize];
    ["Offset of field: QuantRowsParams::values"][::std::mem::offset_of!(QuantRowsParams, values) - 16usize];
    ["Offset of field: QuantRowsParams::scales"][::std::mem::offset_of!(QuantRowsParams, scales) - 24usize];
    ["Offset of field: QuantRowsParams::pooled"][::std::mem::offset_of!(QuantRowsParams, pooled) - 32usize];
    ["Offset of field: QuantRowsParams::len"][::std::mem::offset_of!(QuantRowsParams, len) - 40usize];
    ["Offset of field: QuantRowsParams::heads"][::std::mem::offset_of!(QuantRowsParams, heads) - 48usize];
    ["Offset of field: QuantRowsParams::sample_stride"][::std::mem::offset_of!(QuantRowsParams, sample_stride) - 56usize];
    ["Offset of field: QuantRowsParams::head_stride"][::std::mem::offset_of!(QuantRowsParams, head_stride) - 64usize];
    ["Offset of field: QuantRowsParams::row_stride"][::std::mem::offset_of!(QuantRowsParams, row_stride) - 72usize];
    ["Offset of field: QuantRowsParams::groups"][::std::mem::offset_of!(QuantRowsParams, groups) - 80usize];
    ["Offset of field: QuantRowsParams::group_shift"][::std::mem::offset_of!(QuantRowsParams, group_shift) - 88usize];
    ["Offset of field: QuantRowsParams::lane_shift"][::std::mem::offset_of!(QuantRowsParams, lane_shift) - 92usize];
    ["Offset of field: QuantRowsParams::rule"][::std::mem::offset_of!(QuantRowsParams, rule) - 96usize];
    ["Offset of field: QuantRowsParams::smoothing"][::std::mem::offset_of!(QuantRowsParams, smoothing) - 100usize];
    ["Offset of field: QuantRowsParams::pool_rows"][::std::mem::offset_of!(QuantRowsParams, pool_rows) - 104usize];
    ["Offset of field: QuantRowsParams::is_tiled"][::std::mem::offset_of!(QuantRowsParams, is_tiled) - 108usize];
    ["Offset of field: QuantRowsParams::factor"][::std::mem::offset_of!(QuantRowsParams, factor) - 112usize];
    ["Offset of field: QuantRowsParams::reserved"][::std::mem::offset_of!(QuantRowsParams, reserved) - 116usize];
};
/// `quant_values.cu`: largest magnitude of each channel; values as e4m3.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantValuesParams {
    /// Rows of a head at the strides below, on 16 bytes.
    pub x: *const u16,
    /// `[problems, D]`, bits of f32, raised by the first kernel and read by the second.
    pub amax: *mut u32,
    /// `[problems, D, padded_len]`, or V tiles (`tile_layout.cuh`); on 16 bytes.
    pub values: *mut u8,
    /// `[problems, D]`.
    pub scales: *mut f32,
    /// Rows of a head, at least 1.
    pub len: i64,
    /// Of a sample.
    pub heads: i64,
    /// A multiple of 8, as the next two.
    pub sample_stride: i64,
    /// Values from a head to the next.
    pub head_stride: i64,
    /// Values from a row to the next.
    pub row_stride: i64,
    /// Keys of a channel, a multiple of 64, below `len + 128`.
    pub padded_len: i64,
    /// What the largest magnitude of a channel becomes: above 0, at most 448.
    pub scale_max: f32,
    /// 1: V tiles.
    pub is_tiled: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantValuesParams"][::std::mem::size_of::<QuantValuesParams>() - 88usize];
    ["Alignment of QuantValuesParams"][::std::mem::align_of::<QuantValuesParams>() - 8usize];
    ["Offset of field: QuantValuesParams::x"][::std::mem::offset_of!(QuantValuesParams, x) - 0usize];
    ["Offset of field: QuantValuesParams::amax"][::std::mem::offset_of!(QuantValuesParams, amax) - 8usize];
    ["Offset of field: QuantValuesParams::values"][::std::mem::offset_of!(QuantValuesParams, values) - 16usize];
    ["Offset of field: QuantValuesParams::scales"][::std::mem::offset_of!(QuantValuesParams, scales) - 24usize];
    ["Offset of field: QuantValuesParams::len"][::std::mem::offset_of!(QuantValuesParams, len) - 32usize];
    ["Offset of field: QuantValuesParams::heads"][::std::mem::offset_of!(QuantValuesParams, heads) - 40usize];
    ["Offset of field: QuantValuesParams::sample_stride"][::std::mem::offset_of!(QuantValuesParams, sample_stride) - 48usize];
    ["Offset of field: QuantValuesParams::head_stride"][::std::mem::offset_of!(QuantValuesParams, head_stride) - 56usize];
    ["Offset of field: QuantValuesParams::row_stride"][::std::mem::offset_of!(QuantValuesParams, row_stride) - 64usize];
    ["Offset of field: QuantValuesParams::padded_len"][::std::mem::offset_of!(QuantValuesParams, padded_len) - 72usize];
    ["Offset of field: QuantValuesParams::scale_max"][::std::mem::offset_of!(QuantValuesParams, scale_max) - 80usize];
    ["Offset of field: QuantValuesParams::is_tiled"][::std::mem::offset_of!(QuantValuesParams, is_tiled) - 84usize];
};
/// `quant_values.cu`: bf16 values as f16.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CastValuesParams {
    /// On 16 bytes.
    pub x: *const tw_bf16,
    /// On 16 bytes.
    pub values: *mut tw_f16,
    /// Values, a multiple of 8, at least 8.
    pub count: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CastValuesParams"][::std::mem::size_of::<CastValuesParams>() - 24usize];
    ["Alignment of CastValuesParams"][::std::mem::align_of::<CastValuesParams>() - 8usize];
    ["Offset of field: CastValuesParams::x"][::std::mem::offset_of!(CastValuesParams, x) - 0usize];
    ["Offset of field: CastValuesParams::values"][::std::mem::offset_of!(CastValuesParams, values) - 8usize];
    ["Offset of field: CastValuesParams::count"][::std::mem::offset_of!(CastValuesParams, count) - 16usize];
};
/// `qk_prep.cu`: from the projections' queries and keys to what attention reads of them.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QkPrepParams {
    /// Rows of `heads * D`, `q_stride` values apart, on 16 bytes.
    pub q: *const tw_bf16,
    /// The same at `k_stride`.
    pub k: *const tw_bf16,
    /// Sums of squares over parts of a row of `q`, rows `q_parts_stride` apart.
    pub q_squares: *const f32,
    /// The same of `k`.
    pub k_squares: *const f32,
    /// `[heads * D]`, on 16 bytes.
    pub q_weight: *const f32,
    /// `[heads * D]`, on 16 bytes.
    pub k_weight: *const f32,
    /// `[positions, D / 2, 2]`, on 8 bytes.
    pub turns: *const f32,
    /// `[problems, tokens, D]`, on 16 bytes; may be null.
    pub q_out: *mut tw_bf16,
    /// `[problems, tokens, D]`, on 16 bytes.
    pub k_out: *mut tw_bf16,
    /// `[problems, tokens, D]`, on 8 bytes.
    pub q_values: *mut i8,
    /// `[problems, q_groups]`.
    pub q_scales: *mut f32,
    /// `[problems, ceil(tokens / pool_rows), D]`; may be null.
    pub q_pooled: *mut tw_bf16,
    /// `[problems, ceil(tokens / 64), D]`.
    pub k_sums: *mut f32,
    /// Rows of `heads * D`, `v_stride` values apart, on 16 bytes; may be null.
    pub v: *const tw_bf16,
    /// `[samples, tokens, heads, D]`, on 16 bytes; null with `v`, or where the maxima are asked for.
    pub v_out: *mut tw_f16,
    /// `[problems, ceil(tokens / 128), D]`: largest magnitudes; null with `v`, or where `v_out` is not.
    pub v_maxima: *mut f32,
    /// Of a sample, at least 1.
    pub tokens: i64,
    /// Of a sample, at least 1.
    pub heads: i64,
    /// A multiple of 8.
    pub q_stride: i64,
    /// A multiple of 8.
    pub k_stride: i64,
    /// A multiple of 8.
    pub v_stride: i64,
    /// Sums of squares of a row, at least 1.
    pub parts: i64,
    /// From a row's sums to the next row's.
    pub q_parts_stride: i64,
    /// The same of the keys.
    pub k_parts_stride: i64,
    /// Scales of a head.
    pub q_groups: i64,
    /// As in `QuantRowsParams`, of the queries.
    pub group_shift: u32,
    /// As in `QuantRowsParams`.
    pub lane_shift: u32,
    /// As in `QuantRowsParams`.
    pub rule: u32,
    /// 64 or 128.
    pub pool_rows: u32,
    /// Heads that a block prepares, at least 1.
    pub block_heads: u32,
    /// 1: rounded also before the weight.
    pub rounds_twice: u32,
    /// Tokens of a frame's height.
    pub height: u32,
    /// Tokens of a frame's width.
    pub breadth: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Multiplies the queries before they are quantised.
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QkPrepParams"][::std::mem::size_of::<QkPrepParams>() - 240usize];
    ["Alignment of QkPrepParams"][::std::mem::align_of::<QkPrepParams>() - 8usize];
    ["Offset of field: QkPrepParams::q"][::std::mem::offset_of!(QkPrepParams, q) - 0usize];
    ["Offset of field: QkPrepParams::k"][::std::mem::offset_of!(QkPrepParams, k) - 8usize];
    ["Offset of field: QkPrepParams::q_squares"][::std::mem::offset_of!(QkPrepParams, q_squares) - 16usize];
    ["Offset of field: QkPrepParams::k_squares"][::std::mem::offset_of!(QkPrepParams, k_squares) - 24usize];
    ["Offset of field: QkPrepParams::q_weight"][::std::mem::offset_of!(QkPrepParams, q_weight) - 32usize];
    ["Offset of field: QkPrepParams::k_weight"][::std::mem::offset_of!(QkPrepParams, k_weight) - 40usize];
    ["Offset of field: QkPrepParams::turns"][::std::mem::offset_of!(QkPrepParams, turns) - 48usize];
    ["Offset of field: QkPrepParams::q_out"][::std::mem::offset_of!(QkPrepParams, q_out) - 56usize];
    ["Offset of field: QkPrepParams::k_out"][::std::mem::offset_of!(QkPrepParams, k_out) - 64usize];
    ["Offset of field: QkPrepParams::q_values"][::std::mem::offset_of!(QkPrepParams, q_values) - 72usize];
    ["Offset of field: QkPrepParams::q_scales"][::std::mem::offset_of!(QkPrepParams, q_scales) - 80usize];
    ["Offset of field: QkPrepParams::q_pooled"][::std::mem::offset_of!(QkPrepParams, q_pooled) - 88usize];
    ["Offset of field: QkPrepParams::k_sums"][::std::mem::offset_of!(QkPrepParams, k_sums) - 96usize];
    ["Offset of field: QkPrepParams::v"][::std::mem::offset_of!(QkPrepParams, v) - 104usize];
    ["Offset of field: QkPrepParams::v_out"][::std::mem::offset_of!(QkPrepParams, v_out) - 112usize];
    ["Offset of field: QkPrepParams::v_maxima"][::std::mem::offset_of!(QkPrepParams, v_maxima) - 120usize];
    ["Offset of field: QkPrepParams::tokens"][::std::mem::offset_of!(QkPrepParams, tokens) - 128usize];
    ["Offset of field: QkPrepParams::heads"][::std::mem::offset_of!(QkPrepParams, heads) - 136usize];
    ["Offset of field: QkPrepParams::q_stride"][::std::mem::offset_of!(QkPrepParams, q_stride) - 144usize];
    ["Offset of field: QkPrepParams::k_stride"][::std::mem::offset_of!(QkPrepParams, k_stride) - 152usize];
    ["Offset of field: QkPrepParams::v_stride"][::std::mem::offset_of!(QkPrepParams, v_stride) - 160usize];
    ["Offset of field: QkPrepParams::parts"][::std::mem::offset_of!(QkPrepParams, parts) - 168usize];
    ["Offset of field: QkPrepParams::q_parts_stride"][::std::mem::offset_of!(QkPrepParams, q_parts_stride) - 176usize];
    ["Offset of field: QkPrepParams::k_parts_stride"][::std::mem::offset_of!(QkPrepParams, k_parts_stride) - 184usize];
    ["Offset of field: QkPrepParams::q_groups"][::std::mem::offset_of!(QkPrepParams, q_groups) - 192usize];
    ["Offset of field: QkPrepParams::group_shift"][::std::mem::offset_of!(QkPrepParams, group_shift) - 200usize];
    ["Offset of field: QkPrepParams::lane_shift"][::std::mem::offset_of!(QkPrepParams, lane_shift) - 204usize];
    ["Offset of field: QkPrepParams::rule"][::std::mem::offset_of!(QkPrepParams, rule) - 208usize];
    ["Offset of field: QkPrepParams::pool_rows"][::std::mem::offset_of!(QkPrepParams, pool_rows) - 212usize];
    ["Offset of field: QkPrepParams::block_heads"][::std::mem::offset_of!(QkPrepParams, block_heads) - 216usize];
    ["Offset of field: QkPrepParams::rounds_twice"][::std::mem::offset_of!(QkPrepParams, rounds_twice) - 220usize];
    ["Offset of field: QkPrepParams::height"][::std::mem::offset_of!(QkPrepParams, height) - 224usize];
    ["Offset of field: QkPrepParams::breadth"][::std::mem::offset_of!(QkPrepParams, breadth) - 228usize];
    ["Offset of field: QkPrepParams::eps"][::std::mem::offset_of!(QkPrepParams, eps) - 232usize];
    ["Offset of field: QkPrepParams::factor"][::std::mem::offset_of!(QkPrepParams, factor) - 236usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for SumRowsParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("sums", self.sums as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for MeanRowsParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("sums", self.sums as u64);
        visit("means", self.means as u64);
        visit("maxima", self.maxima as u64);
        visit("amax", self.amax as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for QuantRowsParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("means", self.means as u64);
        visit("values", self.values as u64);
        visit("scales", self.scales as u64);
        visit("pooled", self.pooled as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for QuantValuesParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("amax", self.amax as u64);
        visit("values", self.values as u64);
        visit("scales", self.scales as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for CastValuesParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("values", self.values as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for QkPrepParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("q", self.q as u64);
        visit("k", self.k as u64);
        visit("q_squares", self.q_squares as u64);
        visit("k_squares", self.k_squares as u64);
        visit("q_weight", self.q_weight as u64);
        visit("k_weight", self.k_weight as u64);
        visit("turns", self.turns as u64);
        visit("q_out", self.q_out as u64);
        visit("k_out", self.k_out as u64);
        visit("q_values", self.q_values as u64);
        visit("q_scales", self.q_scales as u64);
        visit("q_pooled", self.q_pooled as u64);
        visit("k_sums", self.k_sums as u64);
        visit("v", self.v as u64);
        visit("v_out", self.v_out as u64);
        visit("v_maxima", self.v_maxima as u64);
    }
}
