//! Prints the speed of the host's dense products: `gemm_speed [ROWSxOUTxINPUT ...]`, median and best of 9 runs.
//!
//! Every instruction set above plain Rust takes part. An int8 line counts the same operations as an `f32` one and leaves
//! out quantising its rows, whose time stands in a line of its own.

use std::time::Instant;

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::host::Isa;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, Then, gemm};
use turbowan_cuda::ops::gemm_int8::{Int8Kernel, PackedInt8, gemm_int8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight};

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
    println!("{} threads", rayon::current_num_threads());
    for [rows, out, input] in shapes {
        let x = values(rows * input, 1);
        let weight = values(out * input, 2);
        let halves: Vec<bf16> = weight.iter().map(|v| bf16::from_f32(*v)).collect();
        let x_bf16: Vec<f32> = x.iter().map(|v| Rounding::Bf16.apply(*v)).collect();
        let mut result = vec![0.0f32; rows * out];
        let time = |name: &str, run: &mut dyn FnMut() -> Result<(), turbowan_cuda::Error>| time(name, [rows, out, input], run);
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar) {
            let floats = PackedMatrix::pack_for(isa, &weight, out, input)?;
            time(&format!("{isa:?} f32"), &mut || gemm(&x, rows, &floats, &Epilogue::PLAIN, &mut result))?;
            let gelu = Epilogue { then: Then::Gelu, ..Epilogue::PLAIN };
            time(&format!("{isa:?} f32, GELU"), &mut || gemm(&x, rows, &floats, &gelu, &mut result))?;
            let halves = PackedMatrix::pack_for(isa, &halves, out, input)?;
            time(&format!("{isa:?} bf16 weight"), &mut || gemm(&x, rows, &halves, &Epilogue::PLAIN, &mut result))?;
            let in_bf16 = Epilogue { rounding: Rounding::Bf16, ..Epilogue::PLAIN };
            time(&format!("{isa:?} bf16"), &mut || gemm(&x_bf16, rows, &halves, &in_bf16, &mut result))?;
        }
        if input % 128 != 0 {
            continue;
        }
        let weight = QuantizedWeight::quantise(&weight, out, input)?;
        let mut a = Int8Rows::quantise(Int8Rule::Official, &x, rows, input)?;
        time("quantise the rows", &mut || a.fill(&x, rows, input))?;
        for kernel in Int8Kernel::available().into_iter().filter(|kernel| *kernel != Int8Kernel::Portable) {
            let packed = PackedInt8::pack_for(kernel, &weight)?;
            time(&format!("{kernel:?} int8"), &mut || gemm_int8(&a, &packed, &Epilogue::PLAIN, &mut result))?;
        }
    }
    Ok(())
}

fn time<E>(name: &str, [rows, out, input]: [usize; 3], run: &mut dyn FnMut() -> Result<(), E>) -> Result<(), E> {
    run()?;
    let mut seconds = [0.0f64; RUNS];
    for second in &mut seconds {
        let start = Instant::now();
        run()?;
        *second = start.elapsed().as_secs_f64();
    }
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| 2.0 * rows as f64 * out as f64 * input as f64 / seconds / 1e9;
    let (median, best) = (seconds[RUNS / 2], seconds[0]);
    println!("{rows}x{out}x{input} {name}: median {:.1} GFLOP/s, best {:.1} ({:.2} ms)", rate(median), rate(best), median * 1e3);
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
