//! How well an autoencoder gives back clips that it has not seen: PSNR, and what the judge still reads in them.

use std::path::Path;

use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::checkpoint::TensorSource;
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::vae::{Clip, LatentStatistics, Progress, Side, Tiling, Vae, to_bytes};
use turbowan_world::{Frames, Shape, Size, Tally, World, judge};

use super::super::Metrics;
use super::super::sheet::Sheet;
use crate::error::Error;

/// Clips that a sheet shows, and frames of each.
const SHOWN: [usize; 2] = [8, 4];

/// Gives the first `clips` clips of `world` back through the autoencoder and tells how they fare; a sheet of pairs, drawn and given back, goes
/// to `path`.
pub(super) fn look(
    weights: &dyn TensorSource,
    config: &VaeConfig,
    world: World,
    size: Size,
    clips: usize,
    path: &Path,
) -> Result<Metrics, Error> {
    let statistics = LatentStatistics { mean: vec![0.0; config.z_dim], std: vec![1.0; config.z_dim] };
    let sides = [Side::Encoder, Side::Decoder];
    let vae = Vae::load(HostFrames::new(turbowan_cuda::Rounding::None), weights, config, statistics, &sides)?;
    let (side, count) = (size.side(), size.frames());
    let (mut tally, mut sheet, mut psnr) = (Tally::default(), Sheet::new(side), Vec::new());
    for index in 0..clips {
        let scene = world.clip(index as u64);
        let video = Clip::new([3, count, side, side], scene.video(size))?;
        let latent = vae.encode(&video, Tiling::Whole, &mut |_| Ok(()))?;
        let mut given = Vec::with_capacity(count * size.frame_len());
        vae.decode(&latent, Tiling::Whole, &mut |progress| {
            if let Progress::Frame { pixels, .. } = progress {
                given.extend(to_bytes(pixels));
            }
            Ok(())
        })?;
        let drawn = scene.frames(size);
        psnr.push(decibels(&drawn, &given));
        tally.add(&scene.attributes, &judge(&Frames::new([count, side, side], &given)?));
        if index < SHOWN[0] {
            let frame = |rgb: &'_ [u8], at: usize| rgb[at * size.frame_len()..][..size.frame_len()].to_vec();
            let places = (0..SHOWN[1]).map(|place| place * (count - 1) / (SHOWN[1] - 1));
            let pairs: Vec<Vec<u8>> = places.flat_map(|at| [frame(&drawn, at), frame(&given, at)]).collect();
            sheet.row(pairs.iter().map(Vec::as_slice));
        }
    }
    sheet.save(path)?;
    Ok(told(&tally, &psnr))
}

/// Mean and least PSNR, the share read right of each attribute, of clips without a fault and of first frames, and each shape's share with
/// what it was taken for.
fn told(tally: &Tally, psnr: &[f64]) -> Metrics {
    let mut told = vec![
        ("psnr".to_owned(), psnr.iter().sum::<f64>() / psnr.len().max(1) as f64),
        ("psnr_least".to_owned(), psnr.iter().copied().fold(f64::INFINITY, f64::min)),
    ];
    told.extend(tally.attributes().map(|confusion| (confusion.attribute.to_owned(), confusion.accuracy())));
    told.extend([("sound".to_owned(), tally.sound()), ("first_frame".to_owned(), tally.first_frame())]);
    for (shape, row) in Shape::ALL.iter().zip(&tally.shape.counts) {
        told.push((format!("{shape}_of_its_own"), tally.shape.accuracy_of(shape.index())));
        let read_as = tally.shape.values.iter().copied().chain(["unread"]);
        let wrong = read_as.zip(row).enumerate().filter(|(read, (_, count))| *read != shape.index() && **count > 0);
        told.extend(wrong.map(|(_, (name, count))| (format!("{shape}_as_{name}"), *count as f64)));
    }
    told
}

/// Peak signal to noise of 8-bit values, at most 100.
fn decibels(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let mean = squares / a.len().max(1) as f64;
    (20.0 * 255f64.log10() - 10.0 * mean.log10()).min(100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use turbowan_wan_model::tiny::TinyTensors;
    use turbowan_world::Split;

    #[test]
    fn decibels_are_those_of_the_definition() {
        assert_eq!(decibels(&[1, 2, 3], &[1, 2, 3]), 100.0);
        // An error of 5 everywhere: 20 log10(255 / 5).
        assert!((decibels(&[10, 20], &[15, 15]) - 34.1514).abs() < 1e-3);
    }

    #[test]
    fn what_was_read_wrong_is_told_by_name() {
        let size = Size::new(64, 17).unwrap();
        let world = World::new(1, Split::All);
        let mut tally = Tally::default();
        let clip = world.clip(0);
        let reading = judge(&Frames::new([17, 64, 64], &clip.frames(size)).unwrap());
        let taken = Shape::ALL.into_iter().find(|shape| *shape != clip.attributes.shape).unwrap();
        tally.add(&turbowan_world::Attributes { shape: taken, ..clip.attributes }, &reading);
        let told = told(&tally, &[30.0, 40.0]);
        let get = |name: &str| told.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        assert_eq!((get("psnr"), get("psnr_least"), get("shape"), get("motion")), (Some(35.0), Some(30.0), Some(0.0), Some(1.0)));
        assert_eq!(get(&format!("{taken}_as_{}", clip.attributes.shape)), Some(1.0));
    }

    #[test]
    fn an_autoencoder_that_knows_nothing_is_told_to_know_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let config = VaeConfig { dim: 2, ..VaeConfig::of_width(8) };
        let weights = TinyTensors::draw(config.tensors(), |_| true, 1).unwrap();
        let path = folder.path().join("sheet.png");
        let told = look(&weights, &config, World::new(1, Split::All), Size::new(32, 5).unwrap(), 2, &path).unwrap();
        let get = |name: &str| told.iter().find(|(known, _)| known == name).unwrap().1;
        assert!(get("psnr") < 20.0 && get("psnr_least") <= get("psnr") && get("motion") == 0.0, "{told:?}");
        let sheet = image::load_from_memory(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (8 * 34 - 2, 2 * 34 - 2));
    }
}
