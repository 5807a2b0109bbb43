//! Where noise comes from: one seeded stream, drawn once for the start and once after every step.

mod elementary;
mod mt19937;
mod native;
mod philox;
mod stream;
mod torch_cpu;
mod torch_cuda;

use std::fmt;
use std::str::FromStr;

pub use stream::Stream;
pub use torch_cuda::GpuGrid;

use crate::error::Error;
use torch_cpu::TorchCpu;
use torch_cuda::TorchCuda;

/// Which generator a seed is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoiseKind {
    /// This project's own: counter-based, the same bytes on every device.
    #[default]
    Native,
    /// torch's CPU generator: what diffusers users call a CPU seed.
    TorchCpu,
    /// torch's CUDA generator on a stated GPU: what the official scripts use.
    TorchCuda(GpuGrid),
}

impl fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::TorchCpu => f.write_str("torch-cpu"),
            Self::TorchCuda(grid) => write!(f, "torch-cuda:{grid}"),
        }
    }
}

impl FromStr for NoiseKind {
    type Err = Error;

    /// `native`, `torch-cpu`, `torch-cuda:GPU`; `torch-cuda` alone is an RTX 5090, the GPU of the official tables.
    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "native" => Ok(Self::Native),
            "torch-cpu" => Ok(Self::TorchCpu),
            "torch-cuda" => Ok(Self::TorchCuda(GpuGrid::RTX_5090)),
            other => match other.strip_prefix("torch-cuda:") {
                Some(gpu) => gpu.parse().map(Self::TorchCuda),
                None => Err(Error::UnknownNoise { word: word.to_owned(), known: GpuGrid::NAMES }),
            },
        }
    }
}

/// A stream of draws. Every draw of a run has the latent's length.
#[derive(Debug, Clone)]
pub struct NoiseSource {
    generator: Generator,
    draws: u64,
}

#[derive(Debug, Clone)]
enum Generator {
    Native { seed: u64 },
    TorchCpu { seed: u64, state: TorchCpu },
    TorchCuda { seed: u64, grid: GpuGrid, state: TorchCuda },
    Recorded { draws: Vec<Vec<f32>> },
}

impl NoiseSource {
    /// A generator with its seed, before its first draw.
    pub fn seeded(kind: NoiseKind, seed: u64) -> Self {
        let generator = match kind {
            NoiseKind::Native => Generator::Native { seed },
            NoiseKind::TorchCpu => Generator::TorchCpu { seed, state: TorchCpu::new(seed) },
            NoiseKind::TorchCuda(grid) => Generator::TorchCuda { seed, grid, state: TorchCuda::new(seed, grid) },
        };
        Self { generator, draws: 0 }
    }

    /// Noise that was written down: the initial draw, then one a step. The last step's draw has no weight and may be left out.
    pub fn recorded(draws: Vec<Vec<f32>>) -> Self {
        Self { generator: Generator::Recorded { draws }, draws: 0 }
    }

    /// Draws made or skipped so far.
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// Fills `values` with the next draw.
    ///
    /// # Errors
    /// [`Error::NoiseMissing`] or [`Error::NoiseLength`] when recorded noise does not fit, [`Error::DrawTooLarge`] for torch-cuda.
    pub fn fill(&mut self, values: &mut [f32]) -> Result<(), Error> {
        let draw = self.draws;
        match &mut self.generator {
            Generator::Native { seed } => native::fill(*seed, draw, values),
            Generator::TorchCpu { state, .. } => state.fill(values),
            Generator::TorchCuda { state, .. } => state.fill(values)?,
            Generator::Recorded { draws } => {
                let recorded = usize::try_from(draw).ok().and_then(|draw| draws.get(draw));
                let recorded = recorded.ok_or(Error::NoiseMissing { draw, found: draws.len() })?;
                if recorded.len() != values.len() {
                    return Err(Error::NoiseLength { draw, expected: values.len(), found: recorded.len() });
                }
                values.copy_from_slice(recorded);
            }
        }
        self.draws += 1;
        Ok(())
    }

    /// Moves on as if `count` values had been drawn at once.
    ///
    /// # Errors
    /// [`Error::DrawTooLarge`] for torch-cuda.
    pub fn skip(&mut self, count: usize) -> Result<(), Error> {
        match &mut self.generator {
            Generator::Native { .. } | Generator::Recorded { .. } => {}
            Generator::TorchCpu { state, .. } => state.skip(count),
            Generator::TorchCuda { state, .. } => state.skip(count)?,
        }
        self.draws += 1;
        Ok(())
    }

    /// Stands before draw `draw` of a run whose draws have `count` values each: a resumed run continues the same stream.
    ///
    /// # Errors
    /// As [`NoiseSource::skip`].
    pub fn seek(&mut self, draw: u64, count: usize) -> Result<(), Error> {
        if draw < self.draws {
            self.draws = 0;
            match &mut self.generator {
                Generator::Native { .. } | Generator::Recorded { .. } => {}
                Generator::TorchCpu { seed, state } => *state = TorchCpu::new(*seed),
                Generator::TorchCuda { seed, grid, state } => *state = TorchCuda::new(*seed, *grid),
            }
        }
        if matches!(self.generator, Generator::Native { .. } | Generator::Recorded { .. }) {
            self.draws = draw;
        }
        while self.draws < draw {
            self.skip(count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [NoiseKind; 3] = [NoiseKind::Native, NoiseKind::TorchCpu, NoiseKind::TorchCuda(GpuGrid::RTX_4090)];

    fn draw(source: &mut NoiseSource, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        source.fill(&mut values).unwrap();
        values
    }

    #[test]
    fn seeking_back_and_forth_gives_the_draws_of_one_run() {
        for kind in KINDS {
            for count in [1, 7, 15, 16, 33, 5000] {
                let mut source = NoiseSource::seeded(kind, 42);
                let run: Vec<Vec<f32>> = (0..4).map(|_| draw(&mut source, count)).collect();
                for wanted in [2, 0, 3, 1, 2] {
                    source.seek(wanted, count).unwrap();
                    assert_eq!(draw(&mut source, count), run[wanted as usize], "{kind}, {count} values, draw {wanted}");
                    assert_eq!(source.draws(), wanted + 1);
                }
                assert_ne!(run[0], run[1]);
            }
        }
    }

    #[test]
    fn recorded_noise_is_played_back_and_refused_where_it_does_not_fit() {
        let mut source = NoiseSource::recorded(vec![vec![1.0, 2.0], vec![3.0]]);
        assert_eq!(draw(&mut source, 2), [1.0, 2.0]);
        assert_eq!(source.fill(&mut [0.0; 2]), Err(Error::NoiseLength { draw: 1, expected: 2, found: 1 }));
        source.seek(2, 2).unwrap();
        assert_eq!(source.fill(&mut [0.0; 2]), Err(Error::NoiseMissing { draw: 2, found: 2 }));
    }

    #[test]
    fn kinds_are_read_and_written_in_one_way() {
        for kind in KINDS {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("torch-cuda:h200".parse(), Ok(NoiseKind::TorchCuda(GpuGrid::H100)));
        for bad in ["", "torch", "cuda", "torch-cuda:", "torch-cuda:9x", "Native "] {
            assert!(bad.parse::<NoiseKind>().is_err(), "{bad}");
        }
    }
}
