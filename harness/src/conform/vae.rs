//! `vae`: the video autoencoder against the official one, in `f32` and as the official pipeline runs it, in bf16.

use serde_json::Value;
use turbowan_cuda::Rounding;
use turbowan_reference::metrics::Bound;
use turbowan_wan_model::backend::device::vae::DeviceFrames;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::vae::VaeBackend;
use turbowan_wan_model::checkpoint::Checkpoint;
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::vae::{Clip, LatentStatistics, Side, Tiling, Vae};

use super::{Error, Fixture, HOSTS, Rows, Tensors, dit};
use crate::run::processor::Processor;

/// Replays encoding, decoding of prefixes, and both in bf16.
pub(super) fn run(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let config = config(fixture, &fixture.meta["config"])?;
    let checkpoint = Checkpoint::open(fixture.dir.join("weights.safetensors")).map_err(Error::model)?;
    checkpoint.check(&config.tensors(), |_| false).map_err(Error::model)?;
    let statistics = statistics(fixture)?;
    let sides = [Side::Encoder, Side::Decoder];
    let on_host = |rounding| Vae::load(HostFrames::new(rounding), &checkpoint, &config, statistics.clone(), &sides).map_err(Error::model);
    let replay = Replay { io: &fixture.tensors("io.safetensors")?, config: &config };
    let exact = Bound {
        max_abs: Some(fixture.number("/tolerance/f32_max_abs")?),
        relative_l2: Some(fixture.number("/tolerance/f32_rel_l2")?),
        cosine: None,
    };
    let rounded = Bound::relative_l2(fixture.number("/tolerance/bf16_rel_l2")?);
    match processor {
        Processor::Host => {
            let recognised = VaeConfig::recognise(|name| checkpoint.shape(name).map(<[usize]>::to_vec));
            let note = if recognised.as_ref() == Some(&config) { "as the fixture states".to_owned() } else { format!("{recognised:?}") };
            rows.fact("configuration from shapes", recognised.as_ref() == Some(&config), note);
            key_map(fixture, &config, rows);
            let vae = on_host(Rounding::None)?;
            replay.encode(&vae, exact, rows)?;
            replay.decode(&vae, exact, rows)?;
            replay.bf16(&on_host(Rounding::Bf16)?, rounded, rows)
        }
        Processor::Device(device) => {
            rows.skip("configuration, names", HOSTS);
            rows.skip("encode and decode in f32", dit::F32_ALONE);
            let frames = DeviceFrames::load(device).map_err(Error::model)?;
            let vae = Vae::load(frames, &checkpoint, &config, statistics, &sides).map_err(Error::model)?;
            replay.bf16(&vae, rounded, rows)
        }
    }
}

/// The configuration as a meta file states it.
pub(super) fn config(fixture: &Fixture, value: &Value) -> Result<VaeConfig, Error> {
    let broken = |key: &str| fixture.broken(format!("config.{key} is missing or of another kind"));
    let count = |key: &str| value[key].as_u64().map(|n| n as usize).ok_or_else(|| broken(key));
    let list = |key: &str| value[key].as_array().ok_or_else(|| broken(key));
    if value["attn_scales"].as_array().is_some_and(|scales| !scales.is_empty()) {
        return Err(fixture.broken("config.attn_scales: attention outside the middle is not part of any Wan autoencoder"));
    }
    let mults = list("dim_mult")?.iter().map(|mult| mult.as_u64().map(|n| n as usize));
    let halves = list("temperal_downsample")?.iter().map(Value::as_bool);
    Ok(VaeConfig {
        dim: count("dim")?,
        z_dim: count("z_dim")?,
        dim_mult: mults.collect::<Option<_>>().ok_or_else(|| broken("dim_mult"))?,
        num_res_blocks: count("num_res_blocks")?,
        temporal_downsample: halves.collect::<Option<_>>().ok_or_else(|| broken("temperal_downsample"))?,
    })
}

fn statistics(fixture: &Fixture) -> Result<LatentStatistics, Error> {
    let list = |key: &str| -> Result<Vec<f32>, Error> {
        let values = fixture.meta[key].as_array().map(|list| list.iter().map(|v| v.as_f64().map(|v| v as f32)).collect::<Option<_>>());
        values.flatten().ok_or_else(|| fixture.broken(format!("no list of numbers {key}")))
    };
    Ok(LatentStatistics { mean: list("latents_mean")?, std: list("latents_std")? })
}

/// Every official name against the one that diffusers gives it.
fn key_map(fixture: &Fixture, config: &VaeConfig, rows: &mut Rows) {
    let Some(map) = fixture.meta["key_map_official_to_diffusers"].as_object() else { return };
    let wrong: Vec<_> =
        map.iter().filter(|(from, to)| config.diffusers_name(from).as_deref() != to.as_str()).map(|(from, _)| from).collect();
    rows.fact("diffusers names", wrong.is_empty(), format!("{} names, wrong: {wrong:?}", map.len()));
}

struct Replay<'a> {
    io: &'a Tensors,
    config: &'a VaeConfig,
}

impl Replay<'_> {
    /// The samples of a recorded tensor `[batch, channels, frames, height, width]`.
    fn clips(&self, name: &str) -> Result<Vec<Clip>, Error> {
        let shape = self.io.shape(name)?;
        let [batch, channels, frames, height, width] = shape[..] else {
            return Err(Error::Model(format!("{name} has shape {shape:?}, expected five axes")));
        };
        let values = self.io.f32(name)?;
        let sample = values.len().checked_div(batch).filter(|sample| *sample > 0);
        let sample = sample.ok_or_else(|| Error::Model(format!("{name} is empty")))?;
        values.chunks(sample).map(|values| Clip::new([channels, frames, height, width], values.to_vec()).map_err(Error::model)).collect()
    }

    fn encode(&self, vae: &Vae<HostFrames>, bound: Bound, rows: &mut Rows) -> Result<(), Error> {
        let videos = self.clips("video")?;
        if self.io.has("moments_pre_norm") {
            let got = each(&videos, |video| vae.moments(video, Tiling::Whole, &mut |_| Ok(())))?;
            rows.compare("encode, before normalising", &got, &self.io.f32("moments_pre_norm")?, bound);
        }
        let got = each(&videos, |video| vae.encode(video, Tiling::Whole, &mut |_| Ok(())))?;
        rows.compare("encode", &got, &self.io.f32("latent_mu_normalized")?, bound);
        Ok(())
    }

    fn decode(&self, vae: &Vae<HostFrames>, bound: Bound, rows: &mut Rows) -> Result<(), Error> {
        let latents = self.clips("decode_in")?;
        let whole = latents.iter().map(|latent| vae.decode_clip(latent, Tiling::Whole).map_err(Error::model));
        let whole = whole.collect::<Result<Vec<_>, _>>()?;
        rows.compare("decode", &joined(&whole), &self.io.f32("decode_out")?, bound);
        for frames in 1..latents.first().map_or(0, |latent| latent.frames) {
            let part = |latent: &Clip| vae.decode_clip(&prefix(latent, frames), Tiling::Whole);
            let got = each(&latents, part)?;
            let law: Vec<_> = whole.iter().map(|video| prefix(video, self.config.video_frames(frames))).collect();
            rows.compare(format!("decode of {frames} latent frames is the prefix of all"), &got, &joined(&law), Bound::EXACT);
            for name in [format!("decode_out_{frames}_latent_frame"), format!("decode_out_{frames}_latent_frames")] {
                if self.io.has(&name) {
                    rows.compare(format!("decode of {frames} latent frames"), &got, &self.io.f32(&name)?, bound);
                }
            }
        }
        Ok(())
    }

    fn bf16<B: VaeBackend>(&self, vae: &Vae<B>, bound: Bound, rows: &mut Rows) -> Result<(), Error> {
        if self.io.has("encode_bf16") {
            let got = each(&self.clips("video")?, |video| vae.encode(video, Tiling::Whole, &mut |_| Ok(())))?;
            rows.compare("encode (bf16)", &got, &self.io.f32("encode_bf16")?, bound);
        }
        for name in self.io.names()? {
            let Some(part) = name.strip_prefix("decode_bf16") else { continue };
            let recorded = self.clips(&name)?;
            let frames = recorded.first().map_or(0, |clip| clip.frames);
            // latent frames that the recorded video frames need
            let needed = frames.saturating_sub(1).div_ceil(self.config.temporal_factor()) + 1;
            let decode = |latent: &Clip| Ok(prefix(&vae.decode_clip(&prefix(latent, needed.min(latent.frames)), Tiling::Whole)?, frames));
            let got = each(&self.clips("decode_in")?, decode)?;
            rows.compare(format!("decode (bf16){}", part.replace('_', ", ")), &got, &joined(&recorded), bound);
        }
        Ok(())
    }
}

fn each(clips: &[Clip], work: impl Fn(&Clip) -> turbowan_wan_model::Result<Clip>) -> Result<Vec<f32>, Error> {
    let done = clips.iter().map(|clip| work(clip).map_err(Error::model)).collect::<Result<Vec<_>, _>>()?;
    Ok(joined(&done))
}

fn joined(clips: &[Clip]) -> Vec<f32> {
    clips.iter().flat_map(|clip| clip.values.iter().copied()).collect()
}

/// The first frames of a clip.
fn prefix(clip: &Clip, frames: usize) -> Clip {
    let (area, frames) = (clip.height * clip.width, frames.min(clip.frames));
    let values = clip.values.chunks(clip.frames * area).flat_map(|channel| &channel[..frames * area]).copied().collect();
    Clip { frames, values, ..*clip }
}
