//! The parameter structs of `kernels/elementwise_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use crate::device::Params;

/// `combine.cu`: a step of a sampler, in f64.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CombineParams {
    /// `[count]`, on 16 bytes.
    pub x: *mut f64,
    /// `[count]`, on 16 bytes.
    pub v: *const f32,
    /// `[count]`, on 16 bytes; may be null.
    pub noise: *const f32,
    /// At least 1.
    pub count: i64,
    /// Of `v`.
    pub factor: f64,
    /// Of the sum of both.
    pub scale: f64,
    /// Of the noise.
    pub weight: f32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineParams"][::std::mem::size_of::<CombineParams>() - 56usize];
    ["Alignment of CombineParams"][::std::mem::align_of::<CombineParams>() - 8usize];
    ["Offset of field: CombineParams::x"][::std::mem::offset_of!(CombineParams, x) - 0usize];
    ["Offset of field: CombineParams::v"][::std::mem::offset_of!(CombineParams, v) - 8usize];
    ["Offset of field: CombineParams::noise"][::std::mem::offset_of!(CombineParams, noise) - 16usize];
    ["Offset of field: CombineParams::count"][::std::mem::offset_of!(CombineParams, count) - 24usize];
    ["Offset of field: CombineParams::factor"][::std::mem::offset_of!(CombineParams, factor) - 32usize];
    ["Offset of field: CombineParams::scale"][::std::mem::offset_of!(CombineParams, scale) - 40usize];
    ["Offset of field: CombineParams::weight"][::std::mem::offset_of!(CombineParams, weight) - 48usize];
    ["Offset of field: CombineParams::unused"][::std::mem::offset_of!(CombineParams, unused) - 52usize];
};
/// `gelu_gate.cu`: `up * gelu(gate)`.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GeluGateParams {
    /// Rows `gate_stride` values apart, on 16 bytes.
    pub gate: *const tw_bf16,
    /// Rows `up_stride` values apart, on 16 bytes.
    pub up: *const tw_bf16,
    /// `[rows, width]`, on 16 bytes.
    pub out: *mut tw_bf16,
    /// At least 1.
    pub rows: i64,
    /// A multiple of 8, as the next two.
    pub width: i64,
    /// At least `width`.
    pub gate_stride: i64,
    /// At least `width`.
    pub up_stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GeluGateParams"][::std::mem::size_of::<GeluGateParams>() - 56usize];
    ["Alignment of GeluGateParams"][::std::mem::align_of::<GeluGateParams>() - 8usize];
    ["Offset of field: GeluGateParams::gate"][::std::mem::offset_of!(GeluGateParams, gate) - 0usize];
    ["Offset of field: GeluGateParams::up"][::std::mem::offset_of!(GeluGateParams, up) - 8usize];
    ["Offset of field: GeluGateParams::out"][::std::mem::offset_of!(GeluGateParams, out) - 16usize];
    ["Offset of field: GeluGateParams::rows"][::std::mem::offset_of!(GeluGateParams, rows) - 24usize];
    ["Offset of field: GeluGateParams::width"][::std::mem::offset_of!(GeluGateParams, width) - 32usize];
    ["Offset of field: GeluGateParams::gate_stride"][::std::mem::offset_of!(GeluGateParams, gate_stride) - 40usize];
    ["Offset of field: GeluGateParams::up_stride"][::std::mem::offset_of!(GeluGateParams, up_stride) - 48usize];
};
/// `residual_gate.cu`: `x += gate * y`.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ResidualGateParams {
    /// `[rows, width]`, on 16 bytes.
    pub x: *mut tw_bf16,
    /// `[rows, width]`, on 16 bytes.
    pub y: *const tw_bf16,
    /// `[ceil(rows / rows_per_gate), width]`, on 16 bytes; null: 1.
    pub gate: *const f32,
    /// At least 1.
    pub rows: i64,
    /// A multiple of 8.
    pub width: i64,
    /// At least 1.
    pub rows_per_gate: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResidualGateParams"][::std::mem::size_of::<ResidualGateParams>() - 48usize];
    ["Alignment of ResidualGateParams"][::std::mem::align_of::<ResidualGateParams>() - 8usize];
    ["Offset of field: ResidualGateParams::x"][::std::mem::offset_of!(ResidualGateParams, x) - 0usize];
    ["Offset of field: ResidualGateParams::y"][::std::mem::offset_of!(ResidualGateParams, y) - 8usize];
    ["Offset of field: ResidualGateParams::gate"][::std::mem::offset_of!(ResidualGateParams, gate) - 16usize];
    ["Offset of field: ResidualGateParams::rows"][::std::mem::offset_of!(ResidualGateParams, rows) - 24usize];
    ["Offset of field: ResidualGateParams::width"][::std::mem::offset_of!(ResidualGateParams, width) - 32usize];
    ["Offset of field: ResidualGateParams::rows_per_gate"][::std::mem::offset_of!(ResidualGateParams, rows_per_gate) - 40usize];
};
/// `sinusoid.cu`: cosines and sines of times.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SinusoidParams {
    /// `[count]`.
    pub times: *const f32,
    /// `[half]`, radians of a unit of time.
    pub frequencies: *const f64,
    /// `[count, 2 * half]`; may be null.
    pub out: *mut f32,
    /// The same rounded to bf16; may be null.
    pub out_bf16: *mut tw_bf16,
    /// At least 1.
    pub count: i64,
    /// At least 1.
    pub half: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SinusoidParams"][::std::mem::size_of::<SinusoidParams>() - 48usize];
    ["Alignment of SinusoidParams"][::std::mem::align_of::<SinusoidParams>() - 8usize];
    ["Offset of field: SinusoidParams::times"][::std::mem::offset_of!(SinusoidParams, times) - 0usize];
    ["Offset of field: SinusoidParams::frequencies"][::std::mem::offset_of!(SinusoidParams, frequencies) - 8usize];
    ["Offset of field: SinusoidParams::out"][::std::mem::offset_of!(SinusoidParams, out) - 16usize];
    ["Offset of field: SinusoidParams::out_bf16"][::std::mem::offset_of!(SinusoidParams, out_bf16) - 24usize];
    ["Offset of field: SinusoidParams::count"][::std::mem::offset_of!(SinusoidParams, count) - 32usize];
    ["Offset of field: SinusoidParams::half"][::std::mem::offset_of!(SinusoidParams, half) - 40usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for CombineParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("v", self.v as u64);
        visit("noise", self.noise as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for GeluGateParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("gate", self.gate as u64);
        visit("up", self.up as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for ResidualGateParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("y", self.y as u64);
        visit("gate", self.gate as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for SinusoidParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("times", self.times as u64);
        visit("frequencies", self.frequencies as u64);
        visit("out", self.out as u64);
        visit("out_bf16", self.out_bf16 as u64);
    }
}
