//! Bytes that the autoencoder takes, before anything is loaded.

use std::collections::HashMap;

use super::layers::{KERNEL_FRAMES, LayerKind, LayerSpec, Side, layers};
use super::tiling::Tiling;
use crate::Result;
use crate::config::VaeConfig;

/// Memory of one side of the autoencoder, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaePlan {
    /// Weights in `f32`, with upsampling kernels unfolded into their parities.
    pub weights: usize,
    /// Frames that causal kernels look back at, and those in flight.
    pub frames: usize,
    /// Clips that are kept whole: results of tiles until all are there.
    pub clips: usize,
}

impl VaePlan {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.frames + self.clips
    }
}

impl VaeConfig {
    /// Pixels on a side that one latent position stands for.
    pub fn spatial_factor(&self) -> usize {
        1 << self.dim_mult.len().saturating_sub(1).min(usize::BITS as usize - 2)
    }

    /// Video frames that one latent frame after the first stands for.
    pub fn temporal_factor(&self) -> usize {
        1 << self.temporal_downsample.iter().filter(|halves| **halves).count().min(usize::BITS as usize - 2)
    }

    /// Latent frames of a video: the first frame alone, then one for every [`VaeConfig::temporal_factor`].
    pub fn latent_frames(&self, frames: usize) -> usize {
        frames.saturating_sub(1) / self.temporal_factor() + frames.min(1)
    }

    /// Video frames of a latent.
    pub fn video_frames(&self, latent_frames: usize) -> usize {
        latent_frames.saturating_sub(1) * self.temporal_factor() + latent_frames.min(1)
    }

    /// Memory for one side of a latent of `[frames, height, width]` positions.
    ///
    /// # Errors
    /// When the tiling has no room.
    pub fn plan(&self, side: Side, [frames, height, width]: [usize; 3], tiling: Tiling) -> Result<VaePlan> {
        let factor = self.spatial_factor();
        let tiles = tiling.cut([height, width], factor)?;
        let tile = tiles.windows().map(|w| [w.height, w.width]).max_by_key(|[h, w]| h * w).unwrap_or([height, width]);
        let start = match side {
            Side::Encoder => tile.map(|n| n * factor),
            Side::Decoder => tile,
        };
        let specs = layers(self, side);
        let clips = match (tiles.count(), side) {
            (1, _) => 0,
            (_, Side::Encoder) => frames * height * width * 2 * self.z_dim,
            (_, Side::Decoder) => self.video_frames(frames) * height * width * factor * factor * super::COLORS,
        };
        Ok(VaePlan {
            weights: specs.iter().map(weight_values).sum::<usize>() * size_of::<f32>(),
            frames: frame_values(&specs, start) * size_of::<f32>(),
            clips: clips * size_of::<f32>(),
        })
    }

    /// How to decode `[frames, height, width]` latent positions within `budget` bytes: whole where that fits, else in the
    /// larger tiles that do, else in the smaller ones.
    pub fn tiling_within(&self, latent: [usize; 3], budget: usize) -> Tiling {
        let fits = |tiling: &Tiling| self.plan(Side::Decoder, latent, *tiling).is_ok_and(|plan| plan.total() <= budget);
        [Tiling::Whole, Tiling::LARGE].into_iter().find(fits).unwrap_or(Tiling::SMALL)
    }
}

fn weight_values(spec: &LayerSpec) -> usize {
    let values = |kernel: &[usize]| kernel.iter().product::<usize>();
    let all: usize = spec.tensors().iter().map(|t| values(&t.shape)).sum();
    match spec.kind {
        // nine taps become four kernels of four
        LayerKind::Upsample { channels, .. } => all + (16 - 9) * channels * (channels / 2),
        _ => all,
    }
}

/// Values in the frames that are alive at once: what every layer remembers, and for each length of buffer (they are kept
/// for reuse by length) the most that one layer has in flight.
fn frame_values(specs: &[LayerSpec], [mut height, mut width]: [usize; 2]) -> usize {
    let mut remembered = 0;
    let mut in_flight: HashMap<usize, usize> = HashMap::new();
    let past = KERNEL_FRAMES - 1;
    for spec in specs {
        let area = height * width;
        let mut flight = |uses: &[(usize, usize)]| {
            for (values, count) in uses {
                let most = in_flight.entry(*values).or_default();
                *most = (*most).max(*count);
            }
        };
        match spec.kind {
            LayerKind::Pointwise { channels } => flight(&[(area * channels, 2)]),
            LayerKind::Convolution { input, output } => {
                remembered += past * area * input;
                flight(&[(area * input, 1), (area * output, 1)]);
            }
            LayerKind::Residual { input, output } if input == output => {
                remembered += 2 * past * area * input;
                flight(&[(area * input, 3)]);
            }
            LayerKind::Residual { input, output } => {
                remembered += past * area * (input + output);
                flight(&[(area * input, 2), (area * output, 3)]);
            }
            LayerKind::Attention { channels } => flight(&[(area * channels, 5)]),
            LayerKind::Downsample { channels, in_time } => {
                flight(&[(area * channels, 1), (area / 4 * channels, 2)]);
                remembered += if in_time { past * area / 4 * channels } else { 0 };
                (height, width) = (height / 2, width / 2);
            }
            LayerKind::Upsample { channels, in_time } => {
                flight(&[(area * channels, 2), (4 * area * (channels / 2), 1)]);
                remembered += if in_time { past * area * channels } else { 0 };
                (height, width) = (2 * height, 2 * width);
            }
            LayerKind::Head { input, output } => {
                remembered += past * area * input;
                flight(&[(area * input, 2), (area * output, 1)]);
            }
        }
    }
    remembered + in_flight.into_iter().map(|(values, count)| values * count).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_counts_follow_the_first_frame_rule() {
        let config = VaeConfig::wan_2_1();
        assert_eq!((config.spatial_factor(), config.temporal_factor()), (8, 4));
        assert_eq!([0, 1, 5, 81].map(|frames| config.latent_frames(frames)), [0, 1, 2, 21]);
        assert_eq!([0, 1, 2, 21].map(|frames| config.video_frames(frames)), [0, 1, 5, 81]);
    }

    #[test]
    fn a_default_clip_fits_whole_in_six_gibibytes_and_a_large_one_is_tiled() {
        let config = VaeConfig::wan_2_1();
        let budget = 6 << 30;
        assert_eq!(config.tiling_within([21, 60, 104], budget), Tiling::Whole);
        let large = [21, 90, 160];
        assert_eq!(config.tiling_within(large, budget), Tiling::LARGE);
        assert_eq!(config.tiling_within(large, 2 << 30), Tiling::SMALL);
        assert!(config.plan(Side::Decoder, large, Tiling::Whole).unwrap().total() > budget);
    }
}
