//! Decoding with the autoencoder at a released width. Its peer: `benches/peers/vae.py`, which also writes the pair of a
//! latent and its video that this checks itself against.
//!
//! `cargo run --release -p turbowan-benches --example vae_decode -- --frames 2 --side 16`

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use serde_json::json;
use turbowan_benches::RandomTensors;
use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::checkpoint::{Checkpoint, TensorSource};
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::vae::{Clip, LatentStatistics, Side, Tiling, Vae};
use turbowan_wan_model::{Error, Result};

/// The peer sums in another order, over the depth of the whole network.
const PEER: Bound = Bound { max_abs: Some(1e-3), relative_l2: Some(1e-4), cosine: None };

#[derive(Parser)]
struct Args {
    /// Latent frames.
    #[arg(long, default_value_t = 2)]
    frames: usize,
    /// Latent height and width.
    #[arg(long, default_value_t = 16)]
    side: usize,
    /// Channels of the first stage.
    #[arg(long, default_value_t = 96)]
    width: usize,
    /// Folder with the peer's weights, latent and video.
    #[arg(long)]
    pair: Option<PathBuf>,
    /// Arithmetic of the official pipeline instead of f32.
    #[arg(long)]
    bf16: bool,
    /// Timed runs.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let started = Instant::now();
    let (vae, latent, video) = match &args.pair {
        Some(folder) => {
            let weights = Checkpoint::open(folder.join("diffusion_pytorch_model.safetensors"))?;
            let pair = Checkpoint::open(folder.join("pair.safetensors"))?;
            let clip = |name: &str| -> Result<Clip> {
                let view = pair.take(name)?;
                Clip::new([view.shape[1], view.shape[2], view.shape[3], view.shape[4]], view.to_f32())
            };
            (load(&weights, args.width, args.bf16)?, clip("latent")?, Some(clip("video")?))
        }
        None => {
            let weights = RandomTensors::new(&VaeConfig::of_width(args.width).tensors_of(Side::Decoder), 1);
            let shape = [16, args.frames, args.side, args.side];
            (load(&weights, args.width, args.bf16)?, Clip::new(shape, normal(shape.iter().product(), 2))?, None)
        }
    };
    let load_s = started.elapsed().as_secs_f64();
    let mut verdict = None;
    let mut seconds = Vec::new();
    for _ in 0..args.runs.max(1) {
        let started = Instant::now();
        let mut got = vae.decode_clip(&latent, Tiling::Whole)?;
        seconds.push(started.elapsed().as_secs_f64());
        if let (Some(video), None) = (&video, &verdict) {
            got.values.iter_mut().for_each(|value| *value = value.clamp(-1.0, 1.0));
            let held = Verdict::of(&got.values, &video.values, PEER);
            if !args.bf16 && !held.passes() {
                let (what, must) = ("decoded video", "the peer's".to_owned());
                return Err(Error::Setting { what, found: held.to_string(), must });
            }
            verdict = Some(held.to_string());
        }
    }
    let plan = vae.config().plan(Side::Decoder, [latent.frames, latent.height, latent.width], Tiling::Whole)?;
    let record = json!({
        "op": if args.bf16 { "Wan 2.1 VAE decode bf16" } else { "Wan 2.1 VAE decode f32" }, "threads": args.threads,
        "latent": latent.shape(), "width": args.width, "load_s": load_s,
        "min_s": seconds.iter().copied().fold(f64::INFINITY, f64::min), "samples_s": seconds,
        "frames_bytes": vae.peak_frame_bytes(), "planned_bytes": plan.total(), "peak_bytes": peak_bytes(), "against_peer": verdict,
    });
    println!("{record}");
    Ok(())
}

fn load(weights: &dyn TensorSource, width: usize, bf16: bool) -> Result<Vae<HostFrames>> {
    let config = VaeConfig::of_width(width);
    let rounding = if bf16 { Rounding::Bf16 } else { Rounding::None };
    // the peer's decode takes latents that are not normalised
    let statistics = LatentStatistics { mean: vec![0.0; config.z_dim], std: vec![1.0; config.z_dim] };
    Vae::load(HostFrames::new(rounding), weights, &config, statistics, &[Side::Decoder])
}

/// Peak of the resident set in bytes, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
