//! The device runtime and the kernels of this crate, on the emulator and, where there is one, on a GPU.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

mod arena;
mod bias_attention;
mod conv3d;
mod elementwise;
mod fault;
mod gather;
mod gemm_bf16;
mod gemm_int8;
mod norm;
mod pixel_attention;
mod planned;
mod quant;
mod rope;
mod rows;
mod runtime;
mod tensor_map;
mod vae_norm;

use turbowan_cuda::Error;
use turbowan_cuda::device::{Chip, Device, EmulatorOptions, Limits};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, padded, padded_rows};

/// The emulator in the first of its ways, and GPU 0 where there is one: what the tests of the runtime walk through.
fn devices() -> Vec<Device> {
    let emulator = emulated(&[EmulatorOptions::default()]);
    emulator.into_iter().chain(gpu()).collect()
}

/// The emulator in all its ways, and GPU 0 where there is one: what the test of a kernel walks through.
fn devices_in_all_ways() -> Vec<Device> {
    emulated(&EmulatorOptions::all()).into_iter().chain(gpu()).collect()
}

fn emulated(ways: &[EmulatorOptions]) -> Vec<Device> {
    ways.iter().filter_map(|options| said(Device::emulated(*options))).collect()
}

fn gpu() -> Option<Device> {
    let device = said(Device::open(0))?;
    // a GPU without kernels is one that the build had no nvcc for
    if turbowan_cuda::kernels::ALL.iter().all(|file| file.compiled.is_some()) {
        return Some(device);
    }
    println!("skipped: built without nvcc");
    None
}

fn said(device: Result<Device, Error>) -> Option<Device> {
    device.inspect_err(|why| println!("skipped: no device ({why})")).ok()
}

/// A device that only plans, as large as a card of 24 GiB.
fn planned(capability: (u32, u32)) -> Device {
    Device::planned(Chip {
        name: "planned".to_owned(),
        capability,
        multiprocessors: 128,
        memory_bytes: 24 << 30,
        l2_bytes: 0,
        driver: None,
        limits: Limits::of(capability),
    })
}

/// Int8 rows as a device holds them, once it is seen that each goes on with zeros to the end of its last block.
fn int8_rows(rule: Int8Rule, rows: usize, width: usize, stored: &[i8], scales: Vec<f32>) -> Result<Int8Rows, Error> {
    let values: Vec<i8> = stored.chunks(padded(width)).flat_map(|row| &row[..width]).copied().collect();
    assert_eq!(padded_rows(&values, width)[..], *stored, "{rows} x {width}: what follows the rows");
    Int8Rows::from_parts(rule, rows, width, values, scales)
}
