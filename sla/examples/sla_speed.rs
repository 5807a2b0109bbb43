//! Times of attention on this machine.
//!
//! `cargo run --release -p turbowan-sla --example sla_speed -- [LEN] [HEADS] [HEAD_DIM] [DENSITY] [scalar|avx2]`, by default
//! 4096 12 128 0.1 and the best instructions there are. Rates count the multiplications that are made, two operations each.

use std::time::Instant;

use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, HeadLayout, Rounding};
use turbowan_reference::inputs::normal;
use turbowan_sla::{Attend, Density, FeatureMap, Keys, LinearBranch, Projection, SparseLinear, attend, block_map, linear_branch};

/// Above this length dense attention is not timed: it would take most of the run.
const LONGEST_DENSE: usize = 8192;
/// Text rows of cross-attention.
const TEXT_LEN: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let isa = match arguments.get(4).map(String::as_str) {
        Some("scalar") => Isa::Scalar,
        Some("avx2") => Isa::Avx2,
        _ => Isa::detect(),
    };
    let (len, heads, dim) = (number(0, 4096.0) as usize, number(1, 12.0) as usize, number(2, 128.0) as usize);
    let density = Density::new(number(3, 0.1)).ok_or("a density lies in (0, 1]")?;
    println!("[1, {heads}, {len}, {dim}], density {}, {isa:?}, {} threads", density.share(), rayon::current_num_threads());

    let count = heads * len * dim;
    let exact = [normal(count, 1), normal(count, 2), normal(count, 3), normal(count, 4)];
    let rounded = exact.clone().map(|mut values| {
        Rounding::Bf16.apply_row(&mut values);
        values
    });
    let (weight, bias) = (normal(dim * dim, 5), normal(dim, 6));
    let projection = Projection { weight: &weight, bias: &bias };
    for layout in [HeadLayout::Bhld, HeadLayout::Blhd] {
        let shape = AttnShape::new(1, heads, len, dim)?.with_layout(layout);
        for (rounding, [q, k, v, gradient]) in [(Rounding::None, &exact), (Rounding::Bf16, &rounded)] {
            println!("{layout:?}, rounding {rounding:?}");
            let pairs = |query_len: usize, keys: f64| 4.0 * heads as f64 * query_len as f64 * keys * dim as f64;
            if len <= LONGEST_DENSE {
                let how = Attend { rounding, isa, ..Attend::default() };
                report("dense attention", pairs(len, len as f64), || attend(q, k, v, &shape, &how).map(drop))?;
            }
            let text = TEXT_LEN.min(len);
            let cross = AttnShape::cross(1, heads, len, text, dim)?.with_layout(layout);
            let (text_k, text_v) = (&k[..cross.key_values()], &v[..cross.key_values()]);
            let how = Attend { rounding, isa, ..Attend::default() };
            report("cross attention", pairs(len, text as f64), || attend(q, text_k, text_v, &cross, &how).map(drop))?;

            report("block map", 0.0, || block_map(q, k, &shape, (128, 64), density, rounding).map(drop))?;
            let map = block_map(q, k, &shape, (128, 64), density, rounding)?;
            let how = Attend { keys: Keys::Listed(&map), ..how };
            report("sparse branch", pairs(len, (map.kept() * 64) as f64), || attend(q, k, v, &shape, &how).map(drop))?;
            let how = LinearBranch { features: FeatureMap::Softmax, projection: Some(projection), rounding, isa };
            report("linear branch", pairs(len, dim as f64), || linear_branch(q, k, v, &shape, &how).map(drop))?;
            let (features, inner, outer) = (FeatureMap::Softmax, rounding, rounding);
            let sla = SparseLinear { density, block_q: 128, block_k: 64, features, projection, outer, inner, isa };
            report("sparse-linear", 0.0, || sla.forward(q, k, v, &shape).map(drop))?;
            if rounding == Rounding::None {
                let (_, saved) = sla.forward_saved(q, k, v, &shape)?;
                report("its gradients", 0.0, || sla.backward(q, k, v, &shape, &saved, gradient).map(drop))?;
            }
        }
    }
    Ok(())
}

/// Prints the best of three runs after one that warms up.
fn report<E>(name: &str, flops: f64, mut work: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rate = if flops > 0.0 { format!("{:7.1} GFLOP/s", flops / best / 1e9) } else { String::new() };
    println!("  {name:<18}{:9.1} ms  {rate}", best * 1e3);
    Ok(())
}
