//! One transformer block at a released width: f32, W8A8, and each kind of attention. Its peer: `benches/peers/dit_block.py`.
//!
//! `cargo run --release -p turbowan-benches --example dit_block -- --frames 8 --side 32`

use std::time::Instant;

use clap::Parser;
use serde_json::json;
use turbowan_benches::{RandomTensors, median};
use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_sla::Density;
use turbowan_wan_model::Result;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, DitTraits, Grid, Observer, Place, WanDit};

#[derive(Parser)]
struct Args {
    /// Latent frames.
    #[arg(long, default_value_t = 8)]
    frames: usize,
    /// Latent side; tokens are frames * (side / 2)^2.
    #[arg(long, default_value_t = 32)]
    side: usize,
    /// Timed runs of each variant.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Takes the time between the patch embedding and the end of the only block.
#[derive(Default)]
struct Clock {
    started: Option<Instant>,
    seconds: f64,
}

impl Observer<Host> for Clock {
    fn see(&mut self, _: &Host, place: Place, _: &HostTensor) -> Result<()> {
        match (place, self.started) {
            (Place::Patches, _) => self.started = Some(Instant::now()),
            (Place::Block(_), Some(started)) => self.seconds = started.elapsed().as_secs_f64(),
            _ => {}
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let config = DitConfig { layers: 1, text_dim: 256, ..DitConfig::WAN_1_3B };
    let grid = Grid { frames: args.frames, height: args.side, width: args.side };
    let tensors = RandomTensors::new(&config.tensors(DitTraits { quantised: false, sla: true }), 1);
    let latent = normal(config.in_dim * grid.positions(), 2);
    let text = normal(config.text_len * config.text_dim, 3);
    let sparsity = Sparsity { inner: Rounding::None, ..Sparsity::official(Density::new(0.1).unwrap_or(Density::DENSE)) };
    let variants = [
        ("f32, dense", Attention::Original, false),
        ("W8A8, dense", Attention::Original, true),
        ("W8A8, sage", Attention::Sage, true),
        ("W8A8, sagesla 0.1", Attention::SageSla(sparsity), true),
    ];
    let host = Host::default();
    for (name, attention, quantise) in variants {
        let dit = WanDit::load(&host, &tensors, &config, DitOptions { attention, norms: NormRule::Standard, quantise })?;
        let (mut blocks, mut texts) = (Vec::new(), Vec::new());
        for run in 0..=args.runs {
            let started = Instant::now();
            let states = dit.read_text(&host, &text, None)?;
            let read = started.elapsed().as_secs_f64();
            let mut clock = Clock::default();
            dit.forward(&host, &latent, &[988.0], &states, grid, &mut clock)?;
            if run > 0 {
                blocks.push(clock.seconds);
                texts.push(read);
            }
        }
        let line = json!({
            "op": "dit block", "variant": name, "tokens": grid.tokens(), "dim": config.dim, "threads": args.threads,
            "block_median_s": median(blocks.clone()), "text_median_s": median(texts), "samples_s": blocks,
        });
        println!("{line}");
    }
    Ok(())
}
