//! The parameter structs of `kernels/gather_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use crate::device::Params;

/// `embedding.cu`: rows of a table, by their numbers.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EmbeddingParams {
    /// `[table_rows, width]`, on 16 bytes; null where the table is f32.
    pub table: *const tw_bf16,
    /// The same in f32, on 16 bytes; null where it is bf16.
    pub table_f32: *const f32,
    /// `[count]`.
    pub ids: *const u32,
    /// `[count, width]`, on 16 bytes.
    pub out: *mut tw_bf16,
    /// At least 1.
    pub count: i64,
    /// At least 1.
    pub table_rows: i64,
    /// A multiple of 8.
    pub width: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingParams"][::std::mem::size_of::<EmbeddingParams>() - 56usize];
    ["Alignment of EmbeddingParams"][::std::mem::align_of::<EmbeddingParams>() - 8usize];
    ["Offset of field: EmbeddingParams::table"][::std::mem::offset_of!(EmbeddingParams, table) - 0usize];
    ["Offset of field: EmbeddingParams::table_f32"][::std::mem::offset_of!(EmbeddingParams, table_f32) - 8usize];
    ["Offset of field: EmbeddingParams::ids"][::std::mem::offset_of!(EmbeddingParams, ids) - 16usize];
    ["Offset of field: EmbeddingParams::out"][::std::mem::offset_of!(EmbeddingParams, out) - 24usize];
    ["Offset of field: EmbeddingParams::count"][::std::mem::offset_of!(EmbeddingParams, count) - 32usize];
    ["Offset of field: EmbeddingParams::table_rows"][::std::mem::offset_of!(EmbeddingParams, table_rows) - 40usize];
    ["Offset of field: EmbeddingParams::width"][::std::mem::offset_of!(EmbeddingParams, width) - 48usize];
};
/// `patch.cu`: planes become rows of patches.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PatchParams {
    /// `[samples, channels, frames, height, width]`, on 16 bytes; null where they are f32.
    pub x: *const f64,
    /// The same in f32, on 8 bytes; null where they are f64.
    pub x_f32: *const f32,
    /// `[samples * tokens, row_width]`, on 8 bytes.
    pub out: *mut tw_bf16,
    /// At least 1, as the next four.
    pub samples: i64,
    /// Of these planes.
    pub channels: i64,
    /// Planes of a channel.
    pub frames: i64,
    /// Even.
    pub height: i64,
    /// Even.
    pub width: i64,
    /// Features of a row: four times all channels.
    pub row_width: i64,
    /// Where these channels begin in a row.
    pub first_channel: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PatchParams"][::std::mem::size_of::<PatchParams>() - 80usize];
    ["Alignment of PatchParams"][::std::mem::align_of::<PatchParams>() - 8usize];
    ["Offset of field: PatchParams::x"][::std::mem::offset_of!(PatchParams, x) - 0usize];
    ["Offset of field: PatchParams::x_f32"][::std::mem::offset_of!(PatchParams, x_f32) - 8usize];
    ["Offset of field: PatchParams::out"][::std::mem::offset_of!(PatchParams, out) - 16usize];
    ["Offset of field: PatchParams::samples"][::std::mem::offset_of!(PatchParams, samples) - 24usize];
    ["Offset of field: PatchParams::channels"][::std::mem::offset_of!(PatchParams, channels) - 32usize];
    ["Offset of field: PatchParams::frames"][::std::mem::offset_of!(PatchParams, frames) - 40usize];
    ["Offset of field: PatchParams::height"][::std::mem::offset_of!(PatchParams, height) - 48usize];
    ["Offset of field: PatchParams::width"][::std::mem::offset_of!(PatchParams, width) - 56usize];
    ["Offset of field: PatchParams::row_width"][::std::mem::offset_of!(PatchParams, row_width) - 64usize];
    ["Offset of field: PatchParams::first_channel"][::std::mem::offset_of!(PatchParams, first_channel) - 72usize];
};
/// `patch.cu`: rows of patches become planes.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct UnpatchParams {
    /// `[samples * tokens, 4 * channels]`, the channel fastest.
    pub rows: *const f32,
    /// `[samples, channels, frames, height, width]`, on 8 bytes.
    pub out: *mut f32,
    /// At least 1, as the next four.
    pub samples: i64,
    /// Of a sample.
    pub channels: i64,
    /// Planes of a channel.
    pub frames: i64,
    /// Even.
    pub height: i64,
    /// Even.
    pub width: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of UnpatchParams"][::std::mem::size_of::<UnpatchParams>() - 56usize];
    ["Alignment of UnpatchParams"][::std::mem::align_of::<UnpatchParams>() - 8usize];
    ["Offset of field: UnpatchParams::rows"][::std::mem::offset_of!(UnpatchParams, rows) - 0usize];
    ["Offset of field: UnpatchParams::out"][::std::mem::offset_of!(UnpatchParams, out) - 8usize];
    ["Offset of field: UnpatchParams::samples"][::std::mem::offset_of!(UnpatchParams, samples) - 16usize];
    ["Offset of field: UnpatchParams::channels"][::std::mem::offset_of!(UnpatchParams, channels) - 24usize];
    ["Offset of field: UnpatchParams::frames"][::std::mem::offset_of!(UnpatchParams, frames) - 32usize];
    ["Offset of field: UnpatchParams::height"][::std::mem::offset_of!(UnpatchParams, height) - 40usize];
    ["Offset of field: UnpatchParams::width"][::std::mem::offset_of!(UnpatchParams, width) - 48usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for EmbeddingParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("table", self.table as u64);
        visit("table_f32", self.table_f32 as u64);
        visit("ids", self.ids as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for PatchParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("x_f32", self.x_f32 as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for UnpatchParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("rows", self.rows as u64);
        visit("out", self.out as u64);
    }
}
