//! The attention kernels on the emulator and, where there is one, on a GPU: held to the host twin over the same quantised
//! operands, and to the recorded runs of the official code.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

mod golden;
mod twin;

use half::{bf16, f16};
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_sage::device::{Keys, Map, Operands, SageAttention, Values};
use turbowan_sage::{Error, Fp8Values, Quantised, Sage};

/// The compute capability that the emulator stands for: e4m3 kernels are loaded there too, and shared memory is small.
const CAPABILITY: (u32, u32) = (8, 9);

/// The emulator in the first of its ways, and GPU 0 where there is one.
fn devices() -> Vec<Device> {
    emulated(&[EmulatorOptions::default()]).into_iter().chain(gpu()).collect()
}

/// The emulator in all its ways, and GPU 0 where there is one.
fn devices_in_all_ways() -> Vec<Device> {
    emulated(&EmulatorOptions::all()).into_iter().chain(gpu()).collect()
}

fn emulated(ways: &[EmulatorOptions]) -> Vec<Device> {
    ways.iter().filter_map(|options| said(Device::emulated(options.for_capability(CAPABILITY)))).collect()
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

/// Values on the host.
enum HostValues<'a> {
    F16(&'a [f16]),
    Fp8(&'a Fp8Values),
}

/// One problem on the host, quantised.
struct Problem<'a> {
    q: &'a Quantised,
    k: &'a Quantised,
    values: HostValues<'a>,
    map: Option<&'a BlockMap>,
    shape: AttnShape,
    causal: bool,
    sage: Sage,
}

/// Output and log-sum-exp.
struct Outcome {
    out: Vec<f32>,
    lse: Vec<f32>,
}

impl Problem<'_> {
    fn run(&self, device: &Device) -> Result<Outcome, Error> {
        let stream = device.stream()?;
        let (q, q_scales) = (stream.upload(&self.q.values)?, stream.upload(&self.q.scales)?);
        let (k, k_scales) = (stream.upload(&self.k.values)?, stream.upload(&self.k.scales)?);
        let lists = self.map.map(|map| stream.upload(map.lists())).transpose()?;
        let map = self.map.zip(lists.as_ref()).map(|(map, lists)| Map {
            lists: lists.view(),
            block_q: map.block_q(),
            block_k: map.block_k(),
            kept: map.kept(),
        });
        let mut out = stream.allocate::<bf16>(self.shape.query_values())?;
        let mut lse = stream.allocate::<f32>(self.shape.problems() * self.shape.query_len)?;
        let (uploaded_f16, uploaded_fp8);
        let values = match self.values {
            HostValues::F16(values) => {
                uploaded_f16 = stream.upload(values)?;
                Values::F16(uploaded_f16.view())
            }
            HostValues::Fp8(values) => {
                uploaded_fp8 = (stream.upload(&values.permuted())?, stream.upload(&values.scales)?);
                Values::Fp8 { permuted: uploaded_fp8.0.view(), scales: uploaded_fp8.1.view(), padded_len: values.padded_len }
            }
        };
        let operands = Operands {
            q: q.view(),
            q_scales: q_scales.view(),
            k: Keys::Rows(k.view()),
            k_scales: k_scales.view(),
            values,
            map,
            added: None,
        };
        let (to, lse_to) = (out.view_mut(), Some(lse.view_mut()));
        SageAttention::load(device)?.run(&stream, &self.shape, &self.sage, self.causal, &operands, to, lse_to)?;
        Ok(Outcome { out: out.to_vec()?.into_iter().map(bf16::to_f32).collect(), lse: lse.to_vec()? })
    }
}
