//! Times INT8 attention on the host; the counterpart of `benches/peers/attention.py`.
//!
//!     cargo run --release -p turbowan-sage --example sage_speed -- 1x12x4096x128 1x12x16384x128:0.1
//!
//! A shape is batch x heads x length x head dim; `:share` keeps that share of 64-key blocks for every 128 queries (random
//! ones, each query block its own). `TURBOWAN_ISA` lowers the instruction set, `RAYON_NUM_THREADS` sets the threads. The
//! output is checked on 64 seeded rows of the first head before the clock starts. Prints JSON.

use std::time::Instant;

use turbowan_cuda::{AttnShape, BlockMap};
use turbowan_reference::attention::{Head, Mask, attend_rows, sample_rows};
use turbowan_reference::inputs::{Seeded, normal};
use turbowan_reference::metrics::Distance;
use turbowan_sage::{Sage, ValuePrecision, forward};

const BLOCK_Q: usize = 128;
const BLOCK_K: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut cases: Vec<String> = std::env::args().skip(1).collect();
    if cases.is_empty() {
        cases.push("1x12x4096x128".into());
    }
    let mut lines = Vec::new();
    for case in &cases {
        let (sizes, share) = case.split_once(':').map_or((case.as_str(), None), |(sizes, share)| (sizes, Some(share)));
        let sizes = sizes.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        let [batch, heads, len, head_dim] = sizes[..] else { return Err(format!("{case}: expected BxHxLxD").into()) };
        let shape = AttnShape::new(batch, heads, len, head_dim)?;
        let share = share.map(str::parse::<f32>).transpose()?;
        for (name, values) in [("f32", ValuePrecision::F32), ("int8", ValuePrecision::Int8)] {
            lines.push(time(case, name, &shape, share, values)?);
        }
    }
    println!("[\n{}\n]", lines.join(",\n"));
    Ok(())
}

fn time(
    case: &str,
    name: &str,
    shape: &AttnShape,
    share: Option<f32>,
    values: ValuePrecision,
) -> Result<String, Box<dyn std::error::Error>> {
    let (q, k, v) = (normal(shape.query_values(), 1), normal(shape.key_values(), 2), normal(shape.key_values(), 3));
    let map = share.map(|share| random_map(shape, share)).transpose()?;
    let sage = match map {
        Some(_) => Sage { operands: turbowan_cuda::Rounding::None, ..Sage::sagesla(BLOCK_Q, BLOCK_K) },
        None => Sage::default(),
    }
    .with_values(values);
    let run = || forward(&q, &k, &v, shape, map.as_ref(), false, &sage);
    let out = run()?;
    let (len, width) = (shape.query_len, shape.head_dim);
    let rows = sample_rows(len, 64, 5);
    let head = Head { query: &q[..len * width], key: &k[..len * width], value: &v[..len * width], head_dim: width };
    let key_blocks = len.div_ceil(BLOCK_K);
    let mut kept = Vec::new();
    if let Some(map) = &map {
        kept = vec![false; map.query_blocks() * key_blocks];
        for block in 0..map.query_blocks() {
            map.list(0, block).iter().for_each(|key| kept[block * key_blocks + *key as usize] = true);
        }
    }
    let mask = if kept.is_empty() { Mask::None } else { Mask::Blocks { block_q: BLOCK_Q, block_k: BLOCK_K, kept: &kept } };
    let want = attend_rows(head, mask, &rows).out;
    let got: Vec<f32> = rows.iter().flat_map(|row| out[row * width..][..width].to_vec()).collect();
    let distance = Distance::between(&got, &want);
    let mut seconds = Vec::new();
    let begin = Instant::now();
    while seconds.len() < 3 || (begin.elapsed().as_secs_f64() < 2.0 && seconds.len() < 20) {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(format!(
        " {{\"case\": \"{case}\", \"values\": \"{name}\", \"isa\": \"{:?}\", \"threads\": {}, \"min_s\": {:.4}, \"median_s\": {:.4}, \"cosine\": {:.6}, \"relative_l2\": {:.5}}}",
        sage.isa,
        rayon::current_num_threads(),
        seconds[0],
        seconds[seconds.len() / 2],
        distance.cosine,
        distance.relative_l2,
    ))
}

fn random_map(shape: &AttnShape, share: f32) -> Result<BlockMap, turbowan_cuda::Error> {
    let (query_blocks, key_blocks) = (shape.query_len.div_ceil(BLOCK_Q), shape.key_len.div_ceil(BLOCK_K));
    let kept = ((share * key_blocks as f32) as usize).clamp(1, key_blocks);
    let mut random = Seeded::new(11);
    let mut lists = Vec::new();
    for _ in 0..shape.problems() * query_blocks {
        let mut list = std::collections::BTreeSet::new();
        while list.len() < kept {
            list.insert(random.below(key_blocks) as u32);
        }
        lists.extend(list);
    }
    BlockMap::new(shape, BLOCK_Q, BLOCK_K, kept, lists)
}
