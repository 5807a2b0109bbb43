//! Latents and what samples are told beside them.

use std::sync::Arc;

use turbowan_cuda::Rounding;
use turbowan_rcm::{Branch, Call, Expert, FlowTime, Network, Stream, VelocityNet};
use turbowan_wan_model::attention::Attention;
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::checkpoint::Dtype;
use turbowan_wan_model::dit::{DitOptions, Grid, WanDit};
use turbowan_wan_model::pipeline::{Conditions, Unwatched, WanNetwork};
use turbowan_wan_model::vae::{Clip, Side, Tiling};
use turbowan_world::{Size, Split, World};

use super::{data, network};
use crate::train::diffusion::models::Models;
use crate::train::diffusion::network::{DitNet, Tables, Told};
use crate::train::diffusion::settings::{NetworkSettings, transformer};
use crate::train::diffusion::states::{NEGATIVE, States};

#[test]
fn kept_latents_are_those_of_the_autoencoder() {
    let folder = tempfile::tempdir().unwrap();
    let (data, models) = (data(folder.path()), Models::default());
    let fresh = data.clips(&models, true).unwrap();
    assert_eq!(std::fs::read_dir(&data.cache).unwrap().count(), 1);
    assert_eq!(data.clips(&models, true).unwrap(), fresh, "read back");
    let (vae, size, world) = (models.vae(&[Side::Encoder]).unwrap(), Size::new(32, 5).unwrap(), World::new(data.seed, Split::Seen));
    for index in 0..4 {
        let mut pixels = world.clip(index).video(size);
        let latent = |pixels: &[f32]| {
            vae.encode(&Clip::new([3, 5, 32, 32], pixels.to_vec()).unwrap(), Tiling::Whole, &mut |_| Ok(())).unwrap().values
        };
        assert_eq!(fresh.latent(index as usize), latent(&pixels));
        // As `i2v` encodes an image: the first frame, then grey.
        pixels.chunks_mut(5 * 32 * 32).for_each(|colour| colour[32 * 32..].fill(0.0));
        let condition = &fresh.conditions()[index as usize];
        assert_eq!(condition[4 * fresh.shape.positions()..], latent(&pixels));
    }
    assert!(fresh.captions.iter().all(|captions| captions.len() == 2));
}

#[test]
fn a_sample_is_told_what_the_pipeline_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let (data, models) = (data(folder.path()), Models::default());
    let clips = data.clips(&models, true).unwrap();
    let (caption, shape) = (clips.captions[1][0].as_str(), clips.shape);
    let settings = NetworkSettings { image: true, ..network() };
    let states = States::of(&models, settings.text_len, [caption].into_iter()).unwrap();
    let config = settings.config(states.dim()).unwrap();
    assert_eq!((states.index(caption), states.index("")), (1, NEGATIVE));

    let mut dit = transformer(&config, Attention::Original, shape, None, 5).unwrap();
    // The head begins at zero; a velocity that says something needs another.
    let mut noise = Stream::new(2);
    for parameter in dit.parameters_mut().iter_mut() {
        let values = noise.normals(parameter.values().len());
        parameter.values_mut().iter_mut().zip(values).for_each(|(value, noise)| *value += 0.05 * noise);
    }
    let weights = dit.parameters().stored(|_| Dtype::F32);
    let latents = noise.normals(2 * shape.values());
    let tables = Tables { states: states.clone(), images: clips.conditions() };
    let mut net = DitNet::new(dit, Arc::new(tables));

    let host = Host { rounding: Rounding::None };
    let options = DitOptions { attention: Attention::Original, norms: NormRule::Standard, quantise: false };
    let grid = Grid { frames: shape.frames, height: shape.height, width: shape.width };
    let padded = |prompt| states.padded([prompt].into_iter());
    let conditions =
        Conditions { prompt: padded(1), negative: Some(padded(NEGATIVE)), image: Some(clips.conditions()[1].clone()), clip: None };
    let (time, mut watch) = (FlowTime::new(0.75).unwrap(), Unwatched);
    let open = |_| WanDit::load(&host, &weights, &config, options);
    let mut pipeline = WanNetwork::new(&host, Box::new(open), &conditions, grid, 2, &mut watch);
    let told = vec![Told { prompt: 1, image: Some(1) }; 2];
    let negative: Vec<Told> = told.iter().map(|told| told.negative()).collect();
    for (branch, told) in [(Branch::Conditional, &told), (Branch::Unconditional, &negative)] {
        let call = Call { step: 0, time, expert: Expert::High, branch };
        let want = pipeline.forward(&latents, 750.0, call).unwrap();
        assert!(want.iter().any(|v| *v != 0.0));
        assert_eq!(net.forward(&latents, &[750.0; 2], told).unwrap(), want, "{branch:?}");
    }
    // Without its image, and with another.
    assert!(net.forward(&latents, &[750.0; 2], &vec![Told { prompt: 1, image: None }; 2]).is_err());
    let other = vec![Told { prompt: 1, image: Some(2) }; 2];
    assert_ne!(net.forward(&latents, &[750.0; 2], &other).unwrap(), net.forward(&latents, &[750.0; 2], &told).unwrap());
}
