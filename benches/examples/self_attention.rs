//! Self-attention as the transformer calls it, whole: every kind, checked before it is timed. Its peer:
//! `benches/peers/attention.py` with the same shape.
//!
//! `cargo run --release -p turbowan-benches --example self_attention -- --tokens 16384 --heads 12 --head-dim 128`

use std::time::Instant;

use clap::Parser;
use serde_json::json;
use turbowan_benches::median;
use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Distance;
use turbowan_sla::Density;
use turbowan_wan_model::Result;
use turbowan_wan_model::attention::{Attention, SlaProjection, Sparsity};
use turbowan_wan_model::backend::host::{Host, HostTensor};
use turbowan_wan_model::backend::{Backend, Heads};

/// An 8-bit kind must come this close to the floating-point kind that it stands for.
const COSINE: f64 = 0.999;

#[derive(Parser)]
struct Args {
    /// Tokens of the one sample.
    #[arg(long, default_value_t = 4096)]
    tokens: usize,
    /// Heads.
    #[arg(long, default_value_t = 12)]
    heads: usize,
    /// Channels a head.
    #[arg(long, default_value_t = 128)]
    head_dim: usize,
    /// Share of key blocks that the sparse kinds keep.
    #[arg(long, default_value_t = 0.1)]
    topk: f64,
    /// Timed runs of each kind.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Leave out the dense kinds.
    #[arg(long)]
    sparse_only: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let (width, head_dim) = (args.heads * args.head_dim, args.head_dim);
    let host = Host { rounding: Rounding::None };
    let heads = Heads { batch: 1, heads: args.heads, head_dim };
    let rows = |seed| HostTensor { width, values: normal(args.tokens * width, seed) };
    let (q, k, v) = (rows(1), rows(2), rows(3));
    let projection = SlaProjection { weight: normal(head_dim * head_dim, 4).iter().map(|w| w * 0.05).collect(), bias: vec![0.0; head_dim] };
    let density = Density::new(args.topk).unwrap_or(Density::DENSE);
    let exact = Sparsity { inner: Rounding::None, ..Sparsity::official(density) };
    let official = Sparsity::official(density);
    let pairs = [
        [("original", Attention::Original), ("sage", Attention::Sage)],
        [("sla", Attention::Sla(exact)), ("sagesla", Attention::SageSla(official))],
    ];
    for pair in &pairs[usize::from(args.sparse_only)..] {
        let mut truth: Option<Vec<f32>> = None;
        for (name, attention) in pair {
            let run = || host.self_attention([&q, &k, &v], heads, attention, Some(&projection));
            let out = run()?.rows.values;
            let cosine = truth.as_ref().map_or(1.0, |truth| Distance::between(&out, truth).cosine);
            assert!(cosine >= COSINE, "{name}: cosine {cosine}");
            truth.get_or_insert(out);
            let mut seconds = Vec::new();
            for _ in 0..args.runs {
                let started = Instant::now();
                run()?;
                seconds.push(started.elapsed().as_secs_f64());
            }
            let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let line = json!({
                "op": "self-attention", "kind": name, "tokens": args.tokens, "heads": args.heads, "head_dim": head_dim,
                "topk": args.topk, "threads": args.threads, "cosine_to_float": cosine, "median_s": median(seconds.clone()), "min_s": least,
                "samples_s": seconds,
            });
            println!("{line}");
        }
    }
    Ok(())
}
