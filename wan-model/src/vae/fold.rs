//! Statistics of latents, moved into the weights.

use super::latent::LatentStatistics;
use crate::backend::tape::Parameters;
use crate::error::Misfit;
use crate::{Error, Result};

/// Changes `conv1` and `conv2` of an autoencoder so that latents whose channels have the mean and deviation of `found` (before any
/// normalising) have those of `wanted`, and decode to the same video: `z' = z s + t` with `s = wanted.std / found.std`,
/// `t = wanted.mean - s found.mean`.
///
/// # Errors
/// [`Error::Misfits`] when one of the four tensors is missing; statistics of another number of channels, or a deviation that is zero or not finite.
pub fn fold_statistics(parameters: &mut Parameters, found: &LatentStatistics, wanted: &LatentStatistics) -> Result<()> {
    const NAMES: [&str; 4] = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"];
    let z_dim = found.mean.len();
    let missing = |name: &&str| parameters.get(name).is_none();
    let misfits: Vec<_> =
        NAMES.iter().filter(|name| missing(name)).map(|name| Misfit::Missing { name: (*name).to_owned(), expected: vec![] }).collect();
    if !misfits.is_empty() {
        return Err(Error::Misfits { path: "autoencoder".into(), misfits });
    }
    let channels = parameters.get("conv2.bias").map_or(0, |bias| bias.values().len());
    found.check(channels)?;
    wanted.check(channels)?;
    let scale: Vec<f32> = wanted.std.iter().zip(&found.std).map(|(wanted, found)| wanted / found).collect();
    let shift: Vec<f32> = (0..z_dim).map(|c| wanted.mean[c] - scale[c] * found.mean[c]).collect();
    let mut change = |name: &str, change: &mut dyn FnMut(&mut [f32])| {
        if let Some(parameter) = parameters.get_mut(name) {
            change(parameter.values_mut());
        }
    };
    change("conv1.weight", &mut |weight| {
        for (row, scale) in weight.chunks_exact_mut(2 * z_dim).zip(&scale) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
    });
    change("conv1.bias", &mut |bias| {
        let (mean, log_variance) = bias.split_at_mut(z_dim);
        for (c, (mean, log_variance)) in mean.iter_mut().zip(log_variance).enumerate() {
            *mean = *mean * scale[c] + shift[c];
            *log_variance += 2.0 * scale[c].ln();
        }
    });
    let mut moved = vec![0.0f32; z_dim];
    change("conv2.weight", &mut |weight| {
        for (row, moved) in weight.chunks_exact_mut(z_dim).zip(&mut moved) {
            for (c, value) in row.iter_mut().enumerate() {
                *value /= scale[c];
                *moved += *value * shift[c];
            }
        }
    });
    change("conv2.bias", &mut |bias| bias.iter_mut().zip(&moved).for_each(|(bias, moved)| *bias -= moved));
    Ok(())
}
