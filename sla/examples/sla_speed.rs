//! Times of attention on this machine: `cargo run --release -p turbowan-sla --example sla_speed -- [LEN] [HEADS] [HEAD_DIM] [ISA]`.

use std::time::Instant;

use turbowan_cuda::AttnShape;
use turbowan_cuda::host::Isa;
use turbowan_reference::inputs::normal;
use turbowan_sla::{Attend, attend};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = |at: usize, default: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let isa = match arguments.get(3).map(String::as_str) {
        Some("scalar") => Isa::Scalar,
        Some("avx2") => Isa::Avx2,
        _ => Isa::detect(),
    };
    let shape = AttnShape::new(1, size(1, 12), size(0, 4096), size(2, 128))?;
    let (q, k, v) = (normal(shape.query_values(), 1), normal(shape.key_values(), 2), normal(shape.key_values(), 3));
    let flops = 4.0 * (shape.problems() * shape.query_len * shape.key_len * shape.head_dim) as f64;
    println!("{shape:?}, {isa:?}, {} threads", rayon::current_num_threads());
    let how = Attend { isa, ..Attend::default() };
    let seconds = best_of(3, || attend(&q, &k, &v, &shape, &how).map(drop))?;
    println!("dense attention   {:9.1} ms  {:7.1} GFLOP/s", seconds * 1e3, flops / seconds / 1e9);
    Ok(())
}

fn best_of<E>(runs: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
