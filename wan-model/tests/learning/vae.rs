//! The autoencoder.

use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_wan_model::backend::host::vae::HostFrames;
use turbowan_wan_model::backend::tape::{Parameters, StoredParameters};
use turbowan_wan_model::checkpoint::Dtype;
use turbowan_wan_model::config::VaeConfig;
use turbowan_wan_model::vae::{Clip, LatentStatistics, Side, Tiling, TrainVae, Vae, VaeObjective, fold_statistics};

use crate::differences;

const PLAIN: VaeObjective = VaeObjective { l1: 1.0, edges: 0.5, kl: 0.01, freezes_encoder: false, latent_noise: 0.0 };

/// Pixels of size 5 leave 1e-6 of the loss to rounding, and the encoder's biases move it by little more than a thousandth a step.
const CLOSE: f64 = 1e-2;

/// Two stages, one of which halves time: every kind of layer, with 2 pixels a latent one.
fn config() -> VaeConfig {
    VaeConfig { dim: 4, z_dim: 3, dim_mult: vec![1, 2], num_res_blocks: 1, temporal_downsample: vec![true] }
}

fn weights() -> StoredParameters {
    let mut parameters = differences::parameters(&config().tensors(), 3);
    for parameter in parameters.iter_mut() {
        let inputs: usize = parameter.shape()[1..].iter().product();
        let is_gamma = parameter.name().ends_with("gamma");
        // answers stay well inside -2 to 2
        let scale = if parameter.name().starts_with("decoder.head") { 0.5 } else { 3.0 };
        for value in parameter.values_mut() {
            *value = if is_gamma { 1.0 + *value } else { *value * scale / (inputs.max(9) as f32).sqrt() };
        }
    }
    parameters.stored(|_| Dtype::F32)
}

/// Pixels that lie above and below any answer in turn, and far from their neighbours, so that no absolute value changes its sign: the loss is
/// smooth there.
fn crops() -> Vec<Clip> {
    let pixel = |(at, noise): (usize, f32)| [2.5, -2.5, 7.0][(at / 6 + at % 6) % 3] + 0.3 * noise;
    (0..2)
        .map(|seed| Clip::new([3, 5, 4, 6], normal(3 * 5 * 24, 40 + seed).into_iter().enumerate().map(pixel).collect()).unwrap())
        .collect()
}

fn noise(seed: u64) -> impl FnMut(usize) -> Vec<f32> {
    let mut draw = seed;
    move |count| {
        draw += 1;
        normal(count, draw)
    }
}

#[test]
fn every_gradient_matches_differences_of_the_loss() {
    let mut vae = TrainVae::load(&weights(), &config()).unwrap();
    vae.step(&crops(), &PLAIN, &mut noise(5)).unwrap();
    let loss = |vae: &mut TrainVae| {
        let losses = vae.step(&crops(), &PLAIN, &mut noise(5)).unwrap();
        losses.l1 + 0.5 * losses.edges + 0.01 * losses.kl
    };
    let worst = differences::check(&mut vae, TrainVae::parameters_mut, loss, CLOSE);
    println!("largest error of a directional derivative: {worst:.1e}");
}

#[test]
fn it_answers_as_the_host_does() {
    let weights = weights();
    let statistics = LatentStatistics { mean: vec![0.0; 3], std: vec![1.0; 3] };
    let host = HostFrames::new(Rounding::None);
    let host = Vae::load(host, &weights, &config(), statistics, &[Side::Encoder, Side::Decoder]).unwrap();
    let crops = crops();
    let decode = |clip: &Clip| host.decode_clip(&host.encode(clip, Tiling::Whole, &mut |_| Ok(())).unwrap(), Tiling::Whole).unwrap();
    let error = |clip: &Clip| -> f64 {
        decode(clip).values.iter().zip(&clip.values).map(|(y, x)| f64::from((y - x).abs())).sum::<f64>() / clip.values.len() as f64
    };
    let want = crops.iter().map(error).sum::<f64>() / 2.0;
    let mut vae = TrainVae::load(&weights, &config()).unwrap();
    let frozen = VaeObjective { freezes_encoder: true, ..PLAIN };
    let got = vae.step(&crops, &frozen, &mut noise(1)).unwrap();
    assert!((got.l1 - want).abs() < 1e-6 * want, "{} against {want}", got.l1);
    let encoder_is_still = vae.parameters_mut().iter().filter(|p| p.name().starts_with("encoder") || p.name().starts_with("conv1"));
    assert!(encoder_is_still.into_iter().all(|p| p.gradient().iter().all(|g| *g == 0.0)));
}

#[test]
fn folded_statistics_change_latents_and_not_videos() {
    let weights = weights();
    let mut vae = TrainVae::load(&weights, &config()).unwrap();
    let found = LatentStatistics { mean: vec![0.3, -0.2, 1.0], std: vec![0.5, 2.0, 1.5] };
    let wanted = LatentStatistics { mean: vec![-1.0, 0.5, 0.25], std: vec![2.5, 1.5, 1.0] };
    fold_statistics(vae.parameters_mut(), &found, &wanted).unwrap();
    let folded = vae.parameters_mut().stored(|_| Dtype::F32);
    let load = |weights: &StoredParameters, statistics: &LatentStatistics| {
        Vae::load(HostFrames::new(Rounding::None), weights, &config(), statistics.clone(), &[Side::Encoder, Side::Decoder]).unwrap()
    };
    // normalised by its own statistics, each gives the same latents and the same videos
    let (before, after) = (load(&weights, &found), load(&folded, &wanted));
    for clip in crops() {
        let latents = [&before, &after].map(|vae| vae.encode(&clip, Tiling::Whole, &mut |_| Ok(())).unwrap());
        let videos = [&before, &after].map(|vae| vae.decode_clip(&latents[0], Tiling::Whole).unwrap());
        for [a, b] in [latents, videos] {
            let largest = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 2e-5, "{largest}");
        }
    }
    let flat = LatentStatistics { std: vec![0.0; 3], ..found.clone() };
    assert!(fold_statistics(vae.parameters_mut(), &flat, &wanted).is_err());
    assert!(fold_statistics(&mut Parameters::default(), &found, &wanted).is_err());
}

#[test]
fn a_few_steps_bring_the_loss_down() {
    let mut vae = TrainVae::load(&weights(), &config()).unwrap();
    let mut losses = Vec::new();
    for step in 0..40 {
        vae.parameters_mut().zero_gradients();
        losses.push(vae.step(&crops(), &PLAIN, &mut noise(100 + step)).unwrap().l1);
        for parameter in vae.parameters_mut().iter_mut() {
            let (values, gradient) = parameter.values_and_gradient();
            values.iter_mut().zip(gradient).for_each(|(value, g)| *value -= 0.05 * g.signum() * 0.1);
        }
    }
    assert!(losses[39] < 0.85 * losses[0], "{losses:?}");
}

#[test]
fn crops_that_do_not_fit_are_refused() {
    let mut vae = TrainVae::load(&weights(), &config()).unwrap();
    let crop = |shape: [usize; 4]| Clip::zeros(shape).unwrap();
    for crops in
        [vec![], vec![crop([3, 4, 4, 4])], vec![crop([3, 5, 4, 3])], vec![crop([2, 5, 4, 4])], vec![crop([3, 5, 4, 4]), crop([3, 5, 4, 6])]]
    {
        assert!(vae.step(&crops, &PLAIN, &mut noise(1)).is_err());
    }
    assert!(vae.step(&[crop([3, 5, 4, 4])], &PLAIN, &mut |_| vec![]).is_err());
}
