//! `torch.randn(n, generator=torch.Generator("cuda"))` in f32, for a stated GPU.
//!
//! torch launches blocks of 256 threads, as many as the values need but at most as many as the GPU holds at once:
//! `threads = 256 * min(ceil(n / 256), multiprocessors * blocks_per_multiprocessor)`. Thread `i` owns Philox subsequence `i` of the seed. Its
//! `k`-th call gives four normals, for elements `i + threads * (4 k + 0..4)`. The generator's offset, counted in words of a
//! subsequence, moves on by four for each call. So a draw larger than one wave of threads depends on the GPU.
//! (`ATen/native/cuda/DistributionTemplates.h`; `curand_init`, `curand_normal4` of cuRAND.)
//!
//! The integers are exact. The GPU's logarithm differs from ours in the last bit and its fast sine and cosine are good to about
//! `2^-21`, so values agree to about 1e-6, not bit for bit.

use std::fmt;
use std::str::FromStr;

use super::philox::{philox4x32, words};
use crate::error::Error;

const BLOCK: u64 = 256;
const PER_CALL: u64 = 4;

/// What torch's CUDA generator knows of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuGrid {
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Blocks of 256 threads that one multiprocessor holds.
    pub blocks_per_multiprocessor: u32,
}

impl GpuGrid {
    /// NVIDIA RTX 5090.
    pub const RTX_5090: Self = Self { multiprocessors: 170, blocks_per_multiprocessor: 6 };
    /// NVIDIA RTX 4090.
    pub const RTX_4090: Self = Self { multiprocessors: 128, blocks_per_multiprocessor: 6 };
    /// NVIDIA A100.
    pub const A100: Self = Self { multiprocessors: 108, blocks_per_multiprocessor: 8 };
    /// NVIDIA H100 SXM, and H200.
    pub const H100: Self = Self { multiprocessors: 132, blocks_per_multiprocessor: 8 };

    /// GPUs known by name.
    pub const NAMES: &str = "rtx-5090, rtx-4090, a100, h100, h200";

    fn blocks(self) -> u64 {
        u64::from(self.multiprocessors) * u64::from(self.blocks_per_multiprocessor)
    }
}

impl fmt::Display for GpuGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.multiprocessors, self.blocks_per_multiprocessor)
    }
}

impl FromStr for GpuGrid {
    type Err = Error;

    /// A name of [`GpuGrid::NAMES`], or multiprocessors and blocks such as `170x6`.
    fn from_str(word: &str) -> Result<Self, Error> {
        let lower = word.to_ascii_lowercase();
        let plain: String = lower.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
        match plain.as_str() {
            "rtx5090" | "5090" => return Ok(Self::RTX_5090),
            "rtx4090" | "4090" => return Ok(Self::RTX_4090),
            "a100" => return Ok(Self::A100),
            "h100" | "h200" => return Ok(Self::H100),
            _ => {}
        }
        // No GPU has more than these, and the product then fits a launch.
        let number = |text: &str, most: u32| text.parse().ok().filter(|n| (1..=most).contains(n));
        plain
            .split_once('x')
            .and_then(|(sms, blocks)| Some(Self { multiprocessors: number(sms, 4096)?, blocks_per_multiprocessor: number(blocks, 64)? }))
            .ok_or_else(|| Error::UnknownNoise { word: word.to_owned(), known: Self::NAMES })
    }
}

/// The state of a CUDA generator.
#[derive(Debug, Clone)]
pub(super) struct TorchCuda {
    seed: u64,
    grid: GpuGrid,
    offset: u64,
}

impl TorchCuda {
    /// Values of one launch: beyond this torch splits a draw, since byte offsets no longer fit 32 bits.
    pub const MOST: usize = (i32::MAX as usize) / size_of::<f32>();

    /// `torch.Generator("cuda").manual_seed(seed)` on a GPU.
    pub fn new(seed: u64, grid: GpuGrid) -> Self {
        Self { seed, grid, offset: 0 }
    }

    /// One `torch.randn` of `values.len()` values.
    pub fn fill(&mut self, values: &mut [f32]) -> Result<(), Error> {
        let Some(plan) = self.plan(values.len())? else { return Ok(()) };
        let first = self.offset / PER_CALL;
        let stride = plan.threads as usize;
        for call in 0..plan.calls {
            let start = (call * PER_CALL * plan.threads) as usize;
            for thread in 0..plan.threads.min((values.len() - start) as u64) {
                let ([c0, c1], [t0, t1]) = (words(first + call), words(thread));
                let normals = normal_four(philox4x32([c0, c1, t0, t1], words(self.seed)));
                let mine = values[start + thread as usize..].iter_mut().step_by(stride);
                mine.zip(normals).for_each(|(value, normal)| *value = normal);
            }
        }
        self.offset += plan.calls * PER_CALL;
        Ok(())
    }

    /// Moves on as if `count` values had been drawn at once.
    pub fn skip(&mut self, count: usize) -> Result<(), Error> {
        if let Some(plan) = self.plan(count)? {
            self.offset += plan.calls * PER_CALL;
        }
        Ok(())
    }

    /// How torch launches a draw; `None` when there is nothing to draw.
    fn plan(&self, count: usize) -> Result<Option<Plan>, Error> {
        if count > Self::MOST {
            return Err(Error::DrawTooLarge { asked: count, most: Self::MOST });
        }
        let count = count as u64;
        let threads = BLOCK * count.div_ceil(BLOCK).min(self.grid.blocks());
        Ok((threads > 0).then(|| Plan { threads, calls: count.div_ceil(threads * PER_CALL) }))
    }
}

struct Plan {
    threads: u64,
    calls: u64,
}

/// Four words to four normals: two Box-Muller pairs, sine first.
fn normal_four([a, b, c, d]: [u32; 4]) -> [f32; 4] {
    let [first, second] = [normal_pair(a, b), normal_pair(c, d)];
    [first[0], first[1], second[0], second[1]]
}

/// One Box-Muller pair in f32, with the fused multiply-adds that the GPU's compiler makes.
fn normal_pair(radius: u32, angle: u32) -> [f32; 2] {
    const UNIT: f32 = 1.0 / 4_294_967_296.0;
    const TURN: f32 = UNIT * std::f32::consts::TAU;
    let u = (radius as f32).mul_add(UNIT, UNIT / 2.0);
    let v = (angle as f32).mul_add(TURN, TURN / 2.0);
    let radius = (-2.0 * u.ln()).sqrt();
    [radius * v.sin(), radius * v.cos()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, grid: GpuGrid, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        TorchCuda::new(seed, grid).fill(&mut values).unwrap();
        values
    }

    /// Published values carry four decimals.
    #[track_caller]
    fn assert_printed(got: &[f32], want: &[f32]) {
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 0.5e-4 + 2e-6, "got {got}, want {want}");
        }
    }

    #[test]
    fn values_printed_by_torch_on_a_gpu_come_out() {
        let first = [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284];
        assert_printed(&drawn(0, GpuGrid::A100, 8), &first);
        assert_printed(&drawn(10, GpuGrid::RTX_4090, 3), &[-0.1029, 1.6810, -0.2708]);
    }

    #[test]
    fn a_draw_of_many_waves_follows_the_gpu_as_recorded_on_two() {
        // pytorch issue 143086: the same seed and count on an H100 and an A100.
        let count = 49 * 12 * 112 * 144;
        let (h100, a100) = (drawn(1, GpuGrid::H100, count), drawn(1, GpuGrid::A100, count));
        assert_printed(&h100[..3], &[-0.2963, 2.6764, -0.1408]);
        assert_printed(&a100[..3], &[-0.2963, 2.6764, -0.1408]);
        assert_printed(&h100[count - 3..], &[-0.6970, -0.7780, 0.3267]);
        assert_printed(&a100[count - 3..], &[0.1549, -0.6797, -0.1656]);
    }

    #[test]
    fn a_skipped_draw_moves_on_as_a_drawn_one_and_nothing_moves_nothing() {
        for count in [0, 1, 255, 256, 257, 300_000, 1_200_001] {
            let (mut drawn, mut skipped) = (TorchCuda::new(5, GpuGrid::RTX_4090), TorchCuda::new(5, GpuGrid::RTX_4090));
            drawn.fill(&mut vec![0.0; count]).unwrap();
            skipped.skip(count).unwrap();
            assert_eq!(drawn.offset, skipped.offset);
        }
        assert!(TorchCuda::new(0, GpuGrid::A100).skip(1 << 30).is_err());
    }

    #[test]
    fn gpus_are_known_by_name_or_by_numbers() {
        for (word, grid) in
            [("rtx-5090", GpuGrid::RTX_5090), ("RTX4090", GpuGrid::RTX_4090), ("h200", GpuGrid::H100), ("108x8", GpuGrid::A100)]
        {
            assert_eq!(word.parse(), Ok(grid));
        }
        for bad in ["", "gtx", "x", "0x6", "170x", "170x6x2", "99999999999x6"] {
            assert!(bad.parse::<GpuGrid>().is_err(), "{bad}");
        }
    }
}
