//! Mean and deviation of each latent channel over clips.

use turbowan_cuda::Rounding;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::checkpoint::TensorSource;
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::vae::{Clip, LatentStatistics, Side, Tiling, Vae};

use super::crops::Source;
use crate::error::Error;

/// A deviation below this is taken for it: a channel that says nothing is not blown up.
const LEAST: f64 = 1e-3;

/// Those of the encoder's means, over the first `clips` clips of the world, each of the next of its sizes.
pub(super) fn of_latents(weights: &dyn TensorSource, config: &VaeConfig, source: &Source, clips: usize) -> Result<LatentStatistics, Error> {
    let plain = LatentStatistics { mean: vec![0.0; config.z_dim], std: vec![1.0; config.z_dim] };
    let vae = Vae::load(HostFrames::new(Rounding::None), weights, config, plain, &[Side::Encoder])?;
    let (mut count, mut sums, mut squares) = (0usize, vec![0.0f64; config.z_dim], vec![0.0f64; config.z_dim]);
    for (index, size) in source.sizes.iter().cycle().take(clips).enumerate() {
        let video = source.world.clip(index as u64).video(*size);
        let latent = vae.encode(&Clip::new([3, size.frames(), size.side(), size.side()], video)?, Tiling::Whole, &mut |_| Ok(()))?;
        let plane = latent.frames * latent.height * latent.width;
        count += plane;
        for ((values, sum), square) in latent.values.chunks_exact(plane).zip(&mut sums).zip(&mut squares) {
            *sum += values.iter().map(|z| f64::from(*z)).sum::<f64>();
            *square += values.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>();
        }
    }
    let count = count.max(1) as f64;
    let mean: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
    let std = squares.iter().zip(&mean).map(|(square, mean)| (square / count - mean * mean).max(0.0).sqrt().max(LEAST) as f32).collect();
    Ok(LatentStatistics { mean: mean.into_iter().map(|mean| mean as f32).collect(), std })
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_wan_model::backend::tape::Parameters;
    use turbowan_wan_model::checkpoint::Dtype;
    use turbowan_wan_model::tiny::TinyTensors;
    use turbowan_wan_model::vae::fold_statistics;
    use turbowan_world::{Size, Split, World};

    #[test]
    fn latents_of_folded_weights_have_the_statistics_that_were_wanted() {
        let config = VaeConfig { dim: 2, z_dim: 3, dim_mult: vec![1, 2], num_res_blocks: 1, temporal_downsample: vec![true] };
        let weights = TinyTensors::draw(config.tensors(), |_| true, 1).unwrap();
        let sizes = vec![Size::new(32, 5).unwrap(), Size::new(64, 9).unwrap()];
        let source = Source { world: World::new(3, Split::Seen), sizes, focused: 0.0 };
        let found = of_latents(&weights, &config, &source, 3).unwrap();
        let wanted = LatentStatistics { mean: vec![-0.5, 0.0, 2.0], std: vec![0.5, 1.0, 3.0] };
        let mut parameters = Parameters::read(&weights, &config.tensors()).unwrap();
        fold_statistics(&mut parameters, &found, &wanted).unwrap();
        let folded = of_latents(&parameters.stored(|_| Dtype::F32), &config, &source, 3).unwrap();
        for (got, want) in folded.mean.iter().chain(&folded.std).zip(wanted.mean.iter().chain(&wanted.std)) {
            assert!((got - want).abs() < 1e-3, "{folded:?}");
        }
    }
}
