//! The parameter structs of `kernels/rows_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use crate::device::Params;

/// `activate.cu`: a function of single values.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ActivateParams {
    /// `[count]`, on 16 bytes; null where the values are f32.
    pub x: *const tw_bf16,
    /// The same in f32, on 16 bytes; null where they are bf16.
    pub x_f32: *const f32,
    /// `[count]` for bf16 values, on 16 bytes; may be `x`.
    pub out: *mut tw_bf16,
    /// `[count]` for f32 values, on 16 bytes; may be `x_f32`.
    pub out_f32: *mut f32,
    /// A multiple of 8, at least 8.
    pub count: i64,
    /// 0: GELU, tanh form; 1: GELU, exact form; 2: SiLU.
    pub function: i32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ActivateParams"][::std::mem::size_of::<ActivateParams>() - 48usize];
    ["Alignment of ActivateParams"][::std::mem::align_of::<ActivateParams>() - 8usize];
    ["Offset of field: ActivateParams::x"][::std::mem::offset_of!(ActivateParams, x) - 0usize];
    ["Offset of field: ActivateParams::x_f32"][::std::mem::offset_of!(ActivateParams, x_f32) - 8usize];
    ["Offset of field: ActivateParams::out"][::std::mem::offset_of!(ActivateParams, out) - 16usize];
    ["Offset of field: ActivateParams::out_f32"][::std::mem::offset_of!(ActivateParams, out_f32) - 24usize];
    ["Offset of field: ActivateParams::count"][::std::mem::offset_of!(ActivateParams, count) - 32usize];
    ["Offset of field: ActivateParams::function"][::std::mem::offset_of!(ActivateParams, function) - 40usize];
    ["Offset of field: ActivateParams::unused"][::std::mem::offset_of!(ActivateParams, unused) - 44usize];
};
/// `modulation.cu`: a table plus what the time gives.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ModulationParams {
    /// `[chunks, width]`, on 16 bytes.
    pub table: *const f32,
    /// `[batch, e_chunks * width]`, on 16 bytes.
    pub e: *const f32,
    /// `[chunks, batch, width]`, on 16 bytes.
    pub out: *mut f32,
    /// Of all tables, at least 1.
    pub chunks: i64,
    /// At least 1.
    pub batch: i64,
    /// A multiple of 4.
    pub width: i64,
    /// Chunks of a row of `e`; chunk c of the tables takes `c % e_chunks`.
    pub e_chunks: i64,
    /// Bit i: the chunks that take chunk i are rounded to bf16.
    pub rounded: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ModulationParams"][::std::mem::size_of::<ModulationParams>() - 64usize];
    ["Alignment of ModulationParams"][::std::mem::align_of::<ModulationParams>() - 8usize];
    ["Offset of field: ModulationParams::table"][::std::mem::offset_of!(ModulationParams, table) - 0usize];
    ["Offset of field: ModulationParams::e"][::std::mem::offset_of!(ModulationParams, e) - 8usize];
    ["Offset of field: ModulationParams::out"][::std::mem::offset_of!(ModulationParams, out) - 16usize];
    ["Offset of field: ModulationParams::chunks"][::std::mem::offset_of!(ModulationParams, chunks) - 24usize];
    ["Offset of field: ModulationParams::batch"][::std::mem::offset_of!(ModulationParams, batch) - 32usize];
    ["Offset of field: ModulationParams::width"][::std::mem::offset_of!(ModulationParams, width) - 40usize];
    ["Offset of field: ModulationParams::e_chunks"][::std::mem::offset_of!(ModulationParams, e_chunks) - 48usize];
    ["Offset of field: ModulationParams::rounded"][::std::mem::offset_of!(ModulationParams, rounded) - 56usize];
};
/// `modulation.cu`: rows times one more than a scale, plus a shift, in f32.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ModulateParams {
    /// `[rows, width]`, on 16 bytes.
    pub x: *const tw_bf16,
    /// `[ceil(rows / rows_per_group), width]`, on 16 bytes.
    pub shift: *const f32,
    /// As `shift`.
    pub scale: *const f32,
    /// `[rows, width]`, on 16 bytes.
    pub out: *mut f32,
    /// At least 1.
    pub rows: i64,
    /// A multiple of 8.
    pub width: i64,
    /// At least 1.
    pub rows_per_group: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ModulateParams"][::std::mem::size_of::<ModulateParams>() - 56usize];
    ["Alignment of ModulateParams"][::std::mem::align_of::<ModulateParams>() - 8usize];
    ["Offset of field: ModulateParams::x"][::std::mem::offset_of!(ModulateParams, x) - 0usize];
    ["Offset of field: ModulateParams::shift"][::std::mem::offset_of!(ModulateParams, shift) - 8usize];
    ["Offset of field: ModulateParams::scale"][::std::mem::offset_of!(ModulateParams, scale) - 16usize];
    ["Offset of field: ModulateParams::out"][::std::mem::offset_of!(ModulateParams, out) - 24usize];
    ["Offset of field: ModulateParams::rows"][::std::mem::offset_of!(ModulateParams, rows) - 32usize];
    ["Offset of field: ModulateParams::width"][::std::mem::offset_of!(ModulateParams, width) - 40usize];
    ["Offset of field: ModulateParams::rows_per_group"][::std::mem::offset_of!(ModulateParams, rows_per_group) - 48usize];
};
/// `linear_f32.cu`: a linear layer over f32 rows.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearF32Params {
    /// `[rows, depth]`, on 16 bytes.
    pub x: *const f32,
    /// `[columns, depth]`, on 8 bytes.
    pub w: *const tw_bf16,
    /// `[columns]`; may be null.
    pub bias: *const tw_bf16,
    /// `[rows, columns]`.
    pub out: *mut f32,
    /// At least 1.
    pub rows: i64,
    /// At least 1.
    pub columns: i64,
    /// A multiple of 4, at least 4.
    pub depth: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearF32Params"][::std::mem::size_of::<LinearF32Params>() - 56usize];
    ["Alignment of LinearF32Params"][::std::mem::align_of::<LinearF32Params>() - 8usize];
    ["Offset of field: LinearF32Params::x"][::std::mem::offset_of!(LinearF32Params, x) - 0usize];
    ["Offset of field: LinearF32Params::w"][::std::mem::offset_of!(LinearF32Params, w) - 8usize];
    ["Offset of field: LinearF32Params::bias"][::std::mem::offset_of!(LinearF32Params, bias) - 16usize];
    ["Offset of field: LinearF32Params::out"][::std::mem::offset_of!(LinearF32Params, out) - 24usize];
    ["Offset of field: LinearF32Params::rows"][::std::mem::offset_of!(LinearF32Params, rows) - 32usize];
    ["Offset of field: LinearF32Params::columns"][::std::mem::offset_of!(LinearF32Params, columns) - 40usize];
    ["Offset of field: LinearF32Params::depth"][::std::mem::offset_of!(LinearF32Params, depth) - 48usize];
};
/// `not_finite.cu`: where values cease to be numbers.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NotFiniteParams {
    /// `[count]`, on 16 bytes; null where the values are f32.
    pub x: *const tw_bf16,
    /// The same in f32, on 16 bytes; null where they are bf16.
    pub x_f32: *const f32,
    /// One value, 0 before: 2^32 - 1 less the first chunk of 8 with such a value, or still 0.
    pub found: *mut u32,
    /// A multiple of 8, below 2^35 - 8.
    pub count: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NotFiniteParams"][::std::mem::size_of::<NotFiniteParams>() - 32usize];
    ["Alignment of NotFiniteParams"][::std::mem::align_of::<NotFiniteParams>() - 8usize];
    ["Offset of field: NotFiniteParams::x"][::std::mem::offset_of!(NotFiniteParams, x) - 0usize];
    ["Offset of field: NotFiniteParams::x_f32"][::std::mem::offset_of!(NotFiniteParams, x_f32) - 8usize];
    ["Offset of field: NotFiniteParams::found"][::std::mem::offset_of!(NotFiniteParams, found) - 16usize];
    ["Offset of field: NotFiniteParams::count"][::std::mem::offset_of!(NotFiniteParams, count) - 24usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for ActivateParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("x_f32", self.x_f32 as u64);
        visit("out", self.out as u64);
        visit("out_f32", self.out_f32 as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for ModulationParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("table", self.table as u64);
        visit("e", self.e as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for ModulateParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("shift", self.shift as u64);
        visit("scale", self.scale as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for LinearF32Params {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("w", self.w as u64);
        visit("bias", self.bias as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for NotFiniteParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("x_f32", self.x_f32 as u64);
        visit("found", self.found as u64);
    }
}
