//! The autoencoder on the emulator, whole, against the recorded run of the official code in bf16 and against the host's.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use std::path::Path;

use turbowan_cuda::Rounding;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_wan_model::backend::device::vae::DeviceFrames;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::vae::VaeBackend;
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::vae::{Clip, LatentStatistics, Side, Tiling, Vae};

/// What the recording allows to bf16 (`bf16_rel_l2` of its meta file): every layer of the official code and of ours rounds
/// to 8 bits at the same places, sums in another order, and the two drift apart as either drifts from `f32`, by 2 %.
const RECORDED: Bound = Bound::relative_l2(0.05);

/// The same arithmetic on the host, rounded at the same places but inside the attention. A sum that crosses a tie is one unit of
/// 8 bits, and what follows drifts on: the two are as far apart as two runs that are each 2 % from `f32`, at most their sum's
/// root, 3 %.
const NEAR_TWIN: Bound = Bound::relative_l2(0.03);

fn fixture(file: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/vae");
    Checkpoint::open(folder.join(file)).unwrap()
}

/// A recorded tensor `[1, channels, frames, height, width]`.
fn clip(io: &Checkpoint, name: &str) -> Clip {
    let tensor = io.take(name).unwrap();
    let [1, channels, frames, height, width] = tensor.shape[..] else { panic!("{name} has shape {:?}", tensor.shape) };
    Clip::new([channels, frames, height, width], tensor.to_f32()).unwrap()
}

fn prefix(clip: &Clip, frames: usize) -> Clip {
    let area = clip.height * clip.width;
    let values = clip.values.chunks(clip.frames * area).flat_map(|channel| &channel[..frames * area]).copied().collect();
    Clip::new([clip.channels, frames, clip.height, clip.width], values).unwrap()
}

fn load<B: VaeBackend>(backend: B, sides: &[Side]) -> Vae<B> {
    let weights = fixture("weights.safetensors");
    let config = VaeConfig::recognise(|name| weights.shape(name).map(<[usize]>::to_vec)).unwrap();
    Vae::load(backend, &weights, &config, LatentStatistics::wan_2_1(), sides).unwrap()
}

fn emulator() -> Option<Device> {
    Device::emulated(EmulatorOptions::default()).inspect_err(|why| println!("skipped: no device ({why})")).ok()
}

#[test]
fn the_recorded_latent_decodes_to_the_recorded_video() {
    let Some(device) = emulator() else { return };
    let io = fixture("io.safetensors");
    let recorded = clip(&io, "decode_bf16_first2");
    // two latent frames make five; the second of them passes every cache once
    let latent = prefix(&clip(&io, "decode_in"), 2);
    let vae = load(DeviceFrames::load(&device).unwrap(), &[Side::Decoder]);
    let video = vae.decode_clip(&latent, Tiling::Whole).unwrap();
    let verdict = Verdict::of(&prefix(&video, recorded.frames).values, &recorded.values, RECORDED);
    println!("decode: relative L2 {} from the recording", verdict.distance.relative_l2);
    verdict.demand("decode");
    assert!(video.values.iter().all(|value| Rounding::Bf16.apply(*value) == *value));
    let twin = load(HostFrames::new(Rounding::Bf16), &[Side::Decoder]).decode_clip(&latent, Tiling::Whole).unwrap();
    let verdict = Verdict::of(&video.values, &twin.values, NEAR_TWIN);
    println!("decode: relative L2 {} from the host", verdict.distance.relative_l2);
    verdict.demand("decode, host");
    assert!(vae.peak_frame_bytes() > 0);
}

#[test]
fn a_corner_of_the_recorded_video_encodes_as_on_the_host() {
    let Some(device) = emulator() else { return };
    let whole = clip(&fixture("io.safetensors"), "video");
    // 24 x 32 pixels of five frames
    let [height, width, frames] = [24, 32, 5];
    let line = |channel: usize, frame: usize, line: usize| {
        let start = ((channel * whole.frames + frame) * whole.height + line) * whole.width;
        &whole.values[start..start + width]
    };
    let lines = (0..3).flat_map(|c| (0..frames).flat_map(move |f| (0..height).map(move |l| (c, f, l))));
    let values = lines.flat_map(|(c, f, l)| line(c, f, l)).copied().collect();
    let video = Clip::new([3, frames, height, width], values).unwrap();
    let vae = load(DeviceFrames::load(&device).unwrap(), &[Side::Encoder]);
    let got = vae.encode(&video, Tiling::Whole, &mut |_| Ok(())).unwrap();
    let twin = load(HostFrames::new(Rounding::Bf16), &[Side::Encoder]).encode(&video, Tiling::Whole, &mut |_| Ok(())).unwrap();
    let verdict = Verdict::of(&got.values, &twin.values, NEAR_TWIN);
    println!("encode: relative L2 {} from the host", verdict.distance.relative_l2);
    verdict.demand("encode, host");
}
