//! The attention kernels on the emulator and, where there is one, on a GPU: held to the host twin over the same quantised
//! operands, to the same arithmetic in f64, and to the recorded runs of the official code.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

mod ends;
mod golden;
mod golden_prepare;
mod prepare;
mod problem;
mod qk_prep;
mod runtime;
mod tiled;
mod twin;

use turbowan_cuda::device::{Device, EmulatorOptions};

use problem::{Added, HostValues, Outcome, Problem};

/// The compute capabilities that the emulator stands for: f16 values alone; e4m3 on `mma.sync`; tiles on `wgmma`.
const CAPABILITIES: [(u32, u32); 3] = [AMPERE, ADA, HOPPER];
const AMPERE: (u32, u32) = (8, 0);
const ADA: (u32, u32) = (8, 9);
const HOPPER: (u32, u32) = (9, 0);

/// The emulator in the first of its ways, and GPU 0 where there is one.
fn devices() -> Vec<Device> {
    emulated(ADA, &[EmulatorOptions::default()]).into_iter().chain(gpu()).collect()
}

/// The emulator in all its ways, and GPU 0 where there is one.
fn devices_in_all_ways() -> Vec<Device> {
    emulated(ADA, &EmulatorOptions::all()).into_iter().chain(gpu()).collect()
}

/// The emulator as every chip in the first of its ways, and GPU 0 where there is one.
fn on_every_chip() -> Vec<Device> {
    CAPABILITIES.iter().flat_map(|capability| emulated(*capability, &[EmulatorOptions::default()])).chain(gpu()).collect()
}

/// The emulator as one chip in all its ways, and GPU 0 where there is one of that chip's major number.
fn in_all_ways(capability: (u32, u32)) -> Vec<Device> {
    emulated(capability, &EmulatorOptions::all()).into_iter().chain(gpu_like(capability)).collect()
}

/// The emulator as one chip in the first of its ways, and GPU 0 as above.
fn of(capability: (u32, u32)) -> Vec<Device> {
    emulated(capability, &[EmulatorOptions::default()]).into_iter().chain(gpu_like(capability)).collect()
}

fn gpu_like(capability: (u32, u32)) -> Option<Device> {
    gpu().filter(|device| device.chip().capability.0 == capability.0)
}

fn emulated(capability: (u32, u32), ways: &[EmulatorOptions]) -> Vec<Device> {
    ways.iter().filter_map(|options| said(Device::emulated(options.for_capability(capability)))).collect()
}

fn gpu() -> Option<Device> {
    let device = said(Device::open(0))?;
    if turbowan_sage::kernels::ALL.iter().all(|file| file.compiled.is_some()) {
        return Some(device);
    }
    println!("skipped: built without nvcc");
    None
}

fn said(device: Result<Device, turbowan_cuda::Error>) -> Option<Device> {
    device.inspect_err(|why| println!("skipped: no device ({why})")).ok()
}
