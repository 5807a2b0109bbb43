//! The parameter structs of `kernels/conv3d_params.h`.
//!
//! Written by `tests/device_params.rs`; do not edit.

use half::bf16 as tw_bf16;

use crate::device::Params;

/// `conv3d_mma.cu`, `conv3d_wgmma.cu`: causal convolution of channels-last frames.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Conv3dParams {
    /// The window, the oldest first: `[height, width, channels]` each, on 16 bytes; null in the absent ones.
    pub frames: [*const tw_bf16; 8usize],
    /// Packed (`conv3d_tile.cuh`), on 16 bytes.
    pub weight: *const tw_bf16,
    /// Of every channel of the panels, on 4 bytes.
    pub bias: *const tw_bf16,
    /// As `out`, on 16 bytes, or null.
    pub residual: *const tw_bf16,
    /// Frames: `[out_frames * parts, out_height, out_width, out_channels]`, on 16 bytes.
    pub out: *mut tw_bf16,
    /// `[out_channels]`, zero past the channels, on 16 bytes: of the norm.
    pub gamma: *const tw_bf16,
    /// As `out`, on 16 bytes: its norm and SiLU, or null. A panel then has all channels; `out` may be null.
    pub normed: *mut tw_bf16,
    /// `[out_frames, out_height, out_width, 3]`: of the pixels, or null.
    pub out_f32: *mut f32,
    /// The same as bytes, or null.
    pub out_bytes: *mut u8,
    /// Lines of a frame.
    pub height: i64,
    /// Its columns; `height * width` is below 2^31.
    pub width: i64,
    /// Of a pixel as it is stored: a multiple of 8.
    pub channels: i64,
    /// Lines of an output frame.
    pub out_height: i64,
    /// Its columns; `out_height * out_width` is below 2^31.
    pub out_width: i64,
    /// Of a pixel of a part as it is stored: a multiple of 8.
    pub out_channels: i64,
    /// Panels of output channels, of all parts.
    pub panels: i32,
    /// Frames that the output channels make: 1 or 2.
    pub parts: i32,
    /// Frames of the kernel, at least 1.
    pub kernel_frames: i32,
    /// Frames of the window from an output frame to the next.
    pub time_stride: i32,
    /// How many of the oldest frames of the window are absent: they count as zero.
    pub absent: i32,
    /// Channels that the norm counts.
    pub norm_channels: i32,
    /// As of `VaeNormParams`.
    pub norm_lanes: i32,
    /// Of the magnitude of a pixel in `out_f32`.
    pub limit: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Conv3dParams"][::std::mem::size_of::<Conv3dParams>() - 208usize];
    ["Alignment of Conv3dParams"][::std::mem::align_of::<Conv3dParams>() - 8usize];
    ["Offset of field: Conv3dParams::frames"][::std::mem::offset_of!(Conv3dParams, frames) - 0usize];
    ["Offset of field: Conv3dParams::weight"][::std::mem::offset_of!(Conv3dParams, weight) - 64usize];
    ["Offset of field: Conv3dParams::bias"][::std::mem::offset_of!(Conv3dParams, bias) - 72usize];
    ["Offset of field: Conv3dParams::residual"][::std::mem::offset_of!(Conv3dParams, residual) - 80usize];
    ["Offset of field: Conv3dParams::out"][::std::mem::offset_of!(Conv3dParams, out) - 88usize];
    ["Offset of field: Conv3dParams::gamma"][::std::mem::offset_of!(Conv3dParams, gamma) - 96usize];
    ["Offset of field: Conv3dParams::normed"][::std::mem::offset_of!(Conv3dParams, normed) - 104usize];
    ["Offset of field: Conv3dParams::out_f32"][::std::mem::offset_of!(Conv3dParams, out_f32) - 112usize];
    ["Offset of field: Conv3dParams::out_bytes"][::std::mem::offset_of!(Conv3dParams, out_bytes) - 120usize];
    ["Offset of field: Conv3dParams::height"][::std::mem::offset_of!(Conv3dParams, height) - 128usize];
    ["Offset of field: Conv3dParams::width"][::std::mem::offset_of!(Conv3dParams, width) - 136usize];
    ["Offset of field: Conv3dParams::channels"][::std::mem::offset_of!(Conv3dParams, channels) - 144usize];
    ["Offset of field: Conv3dParams::out_height"][::std::mem::offset_of!(Conv3dParams, out_height) - 152usize];
    ["Offset of field: Conv3dParams::out_width"][::std::mem::offset_of!(Conv3dParams, out_width) - 160usize];
    ["Offset of field: Conv3dParams::out_channels"][::std::mem::offset_of!(Conv3dParams, out_channels) - 168usize];
    ["Offset of field: Conv3dParams::panels"][::std::mem::offset_of!(Conv3dParams, panels) - 176usize];
    ["Offset of field: Conv3dParams::parts"][::std::mem::offset_of!(Conv3dParams, parts) - 180usize];
    ["Offset of field: Conv3dParams::kernel_frames"][::std::mem::offset_of!(Conv3dParams, kernel_frames) - 184usize];
    ["Offset of field: Conv3dParams::time_stride"][::std::mem::offset_of!(Conv3dParams, time_stride) - 188usize];
    ["Offset of field: Conv3dParams::absent"][::std::mem::offset_of!(Conv3dParams, absent) - 192usize];
    ["Offset of field: Conv3dParams::norm_channels"][::std::mem::offset_of!(Conv3dParams, norm_channels) - 196usize];
    ["Offset of field: Conv3dParams::norm_lanes"][::std::mem::offset_of!(Conv3dParams, norm_lanes) - 200usize];
    ["Offset of field: Conv3dParams::limit"][::std::mem::offset_of!(Conv3dParams, limit) - 204usize];
};
/// `vae_norm.cu`: the norm of a pixel's channels, and SiLU.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct VaeNormParams {
    /// `[pixels, stored]`, on 16 bytes.
    pub x: *const tw_bf16,
    /// `[stored]`, zero past the channels, on 16 bytes.
    pub gamma: *const tw_bf16,
    /// `[pixels, stored]`, on 16 bytes; may be `x`.
    pub out: *mut tw_bf16,
    /// At least 1.
    pub pixels: i64,
    /// Channels of a pixel as it is stored: a multiple of 8, at most 1024.
    pub stored: i64,
    /// At least 1, at most `stored`.
    pub channels: i32,
    /// That share a pixel: a power of two up to 32, at least `stored / 32`.
    pub lanes: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of VaeNormParams"][::std::mem::size_of::<VaeNormParams>() - 48usize];
    ["Alignment of VaeNormParams"][::std::mem::align_of::<VaeNormParams>() - 8usize];
    ["Offset of field: VaeNormParams::x"][::std::mem::offset_of!(VaeNormParams, x) - 0usize];
    ["Offset of field: VaeNormParams::gamma"][::std::mem::offset_of!(VaeNormParams, gamma) - 8usize];
    ["Offset of field: VaeNormParams::out"][::std::mem::offset_of!(VaeNormParams, out) - 16usize];
    ["Offset of field: VaeNormParams::pixels"][::std::mem::offset_of!(VaeNormParams, pixels) - 24usize];
    ["Offset of field: VaeNormParams::stored"][::std::mem::offset_of!(VaeNormParams, stored) - 32usize];
    ["Offset of field: VaeNormParams::channels"][::std::mem::offset_of!(VaeNormParams, channels) - 40usize];
    ["Offset of field: VaeNormParams::lanes"][::std::mem::offset_of!(VaeNormParams, lanes) - 44usize];
};
/// `softmax_rows.cu`: the softmax of rows of scores.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SoftmaxRowsParams {
    /// `[rows, columns]`, on 4 bytes.
    pub scores: *const f32,
    /// `[rows, out_stride]`, on 2 bytes; zero past the columns.
    pub probabilities: *mut tw_bf16,
    /// At least 1.
    pub rows: i64,
    /// At least 1.
    pub columns: i64,
    /// At least `columns`.
    pub out_stride: i64,
    /// Of a score, with log2(e).
    pub scale: f32,
    /// 0.
    pub unused: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SoftmaxRowsParams"][::std::mem::size_of::<SoftmaxRowsParams>() - 48usize];
    ["Alignment of SoftmaxRowsParams"][::std::mem::align_of::<SoftmaxRowsParams>() - 8usize];
    ["Offset of field: SoftmaxRowsParams::scores"][::std::mem::offset_of!(SoftmaxRowsParams, scores) - 0usize];
    ["Offset of field: SoftmaxRowsParams::probabilities"][::std::mem::offset_of!(SoftmaxRowsParams, probabilities) - 8usize];
    ["Offset of field: SoftmaxRowsParams::rows"][::std::mem::offset_of!(SoftmaxRowsParams, rows) - 16usize];
    ["Offset of field: SoftmaxRowsParams::columns"][::std::mem::offset_of!(SoftmaxRowsParams, columns) - 24usize];
    ["Offset of field: SoftmaxRowsParams::out_stride"][::std::mem::offset_of!(SoftmaxRowsParams, out_stride) - 32usize];
    ["Offset of field: SoftmaxRowsParams::scale"][::std::mem::offset_of!(SoftmaxRowsParams, scale) - 40usize];
    ["Offset of field: SoftmaxRowsParams::unused"][::std::mem::offset_of!(SoftmaxRowsParams, unused) - 44usize];
};
/// `transpose.cu`: rows become columns.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TransposeParams {
    /// `[rows, columns]`, on 2 bytes.
    pub x: *const tw_bf16,
    /// `[columns, out_stride]`, on 2 bytes; zero past the rows.
    pub out: *mut tw_bf16,
    /// At least 1.
    pub rows: i64,
    /// At least 1.
    pub columns: i64,
    /// At least `rows`.
    pub out_stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TransposeParams"][::std::mem::size_of::<TransposeParams>() - 40usize];
    ["Alignment of TransposeParams"][::std::mem::align_of::<TransposeParams>() - 8usize];
    ["Offset of field: TransposeParams::x"][::std::mem::offset_of!(TransposeParams, x) - 0usize];
    ["Offset of field: TransposeParams::out"][::std::mem::offset_of!(TransposeParams, out) - 8usize];
    ["Offset of field: TransposeParams::rows"][::std::mem::offset_of!(TransposeParams, rows) - 16usize];
    ["Offset of field: TransposeParams::columns"][::std::mem::offset_of!(TransposeParams, columns) - 24usize];
    ["Offset of field: TransposeParams::out_stride"][::std::mem::offset_of!(TransposeParams, out_stride) - 32usize];
};

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for Conv3dParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.frames.iter().for_each(|pointer| visit("frames", *pointer as u64));
        visit("weight", self.weight as u64);
        visit("bias", self.bias as u64);
        visit("residual", self.residual as u64);
        visit("out", self.out as u64);
        visit("gamma", self.gamma as u64);
        visit("normed", self.normed as u64);
        visit("out_f32", self.out_f32 as u64);
        visit("out_bytes", self.out_bytes as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for VaeNormParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("gamma", self.gamma as u64);
        visit("out", self.out as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for SoftmaxRowsParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("scores", self.scores as u64);
        visit("probabilities", self.probabilities as u64);
    }
}

// SAFETY: a C struct as the header declares it, with all its pointers.
unsafe impl Params for TransposeParams {
    fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("x", self.x as u64);
        visit("out", self.out as u64);
    }
}
