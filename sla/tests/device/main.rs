//! The kernels on the emulator and, where there is one, on a GPU.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

mod attend;
mod attend_backward;
mod block_select;
mod case;
mod golden;
mod linear;

use half::bf16;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_sla::kernels;

fn devices_in_all_ways() -> Vec<Device> {
    let emulated = EmulatorOptions::all().into_iter().map(Device::emulated);
    emulated
        .chain(has_code().then(|| Device::open(0)))
        .filter_map(|device| device.inspect_err(|why| println!("skipped: {why}")).ok())
        .collect()
}

/// The emulator in the first of its ways, and GPU 0 where there is one.
fn devices() -> Vec<Device> {
    let mut devices = devices_in_all_ways();
    let mut is_first = true;
    devices.retain(|device| !device.is_emulated() || std::mem::take(&mut is_first));
    devices
}

/// The emulator in the place of a chip of 9.0, in all its ways.
fn hopper() -> Vec<Device> {
    EmulatorOptions::all().into_iter().filter_map(|options| Device::emulated(options.for_capability((9, 0))).ok()).collect()
}

/// A build without nvcc has nothing for a GPU.
fn has_code() -> bool {
    kernels::ALL.iter().all(|file| file.compiled.is_some())
}

fn bf16s(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}
