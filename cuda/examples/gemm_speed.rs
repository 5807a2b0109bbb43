//! Prints the speed of the host's dense products: `gemm_speed [ROWSxOUTxINPUT ...]`, median and best of 9 runs.

use std::time::Instant;

use half::bf16;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, gemm};

const RUNS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut shapes: Vec<[usize; 3]> = Vec::new();
    for text in std::env::args().skip(1) {
        let sides: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>()?;
        shapes.push(<[usize; 3]>::try_from(sides).map_err(|_| format!("{text}: not ROWSxOUTxINPUT"))?);
    }
    if shapes.is_empty() {
        shapes = vec![[2048, 1536, 1536], [2048, 8960, 1536], [2048, 1536, 8960], [2048, 2048, 2048]];
    }
    for [rows, out, input] in shapes {
        let x = values(rows * input, 1);
        let weight = values(out * input, 2);
        let halves: Vec<bf16> = weight.iter().map(|v| bf16::from_f32(*v)).collect();
        let mut result = vec![0.0f32; rows * out];
        let floats = PackedMatrix::pack(&weight, out, input)?;
        let halves = PackedMatrix::pack(&halves, out, input)?;
        time("f32", rows, out, input, || gemm(&x, rows, &floats, &Epilogue::PLAIN, &mut result))?;
        time("bf16 weight", rows, out, input, || gemm(&x, rows, &halves, &Epilogue::PLAIN, &mut result))?;
    }
    Ok(())
}

fn time<E: std::error::Error + 'static>(
    name: &str,
    rows: usize,
    out: usize,
    input: usize,
    mut run: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    run()?;
    let mut seconds = [0.0f64; RUNS];
    for second in &mut seconds {
        let start = Instant::now();
        run()?;
        *second = start.elapsed().as_secs_f64();
    }
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| 2.0 * rows as f64 * out as f64 * input as f64 / seconds / 1e9;
    println!("{rows}x{out}x{input} {name}: median {:.1} GFLOP/s, best {:.1}", rate(seconds[RUNS / 2]), rate(seconds[0]));
    Ok(())
}

/// Uniform values in `[-1, 1)` from a linear congruential generator.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}
