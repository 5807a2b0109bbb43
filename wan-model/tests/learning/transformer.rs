//! The transformer.

use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_sla::{Density, FeatureMap};
use turbowan_wan_model::Error;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::tape::{Parameters, StoredParameters};
use turbowan_wan_model::checkpoint::Dtype;
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, DitTraits, Grid, TrainDit, Unobserved, WanDit};

use crate::differences;

const GRID: Grid = Grid { frames: 3, height: 4, width: 6 };
const TIMES: [f64; 2] = [937.5, 250.0];

#[derive(Clone)]
struct Case {
    config: DitConfig,
    attention: Attention,
    norms: NormRule,
    /// Prompts: one for both samples, or one each.
    prompts: usize,
    /// Of the weights. Where a block map is sparse, one whose map does not hang on a step of the differences.
    seed: u64,
}

impl Case {
    fn new(heads: usize, attention: Attention) -> Self {
        let config = DitConfig {
            dim: 64 * heads,
            ffn_dim: 80,
            freq_dim: 32,
            text_dim: 24,
            text_len: 5,
            in_dim: 4,
            out_dim: 3,
            heads,
            layers: 2,
            eps: 1e-6,
            clip_dim: None,
        };
        Self { config, attention, norms: NormRule::Standard, prompts: 2, seed: 3 }
    }

    /// Dense with one head and with two, official norms, a shared prompt, an image to start from; sparse-linear with each
    /// feature map.
    fn all() -> Vec<Self> {
        let dense = Self::new(1, Attention::Original);
        let image = Self { config: DitConfig { clip_dim: Some(20), ..dense.config.clone() }, ..dense.clone() };
        let fast = Self { norms: NormRule::Fast, prompts: 1, ..Self::new(2, Attention::Original) };
        let mut cases = vec![dense, Self::new(2, Attention::Original), fast, image];
        for (heads, share, features) in [(1, 1.0, FeatureMap::Softmax), (2, 0.5, FeatureMap::Softmax), (2, 0.5, FeatureMap::Elu)] {
            let sparsity = Sparsity { density: Density::new(share).unwrap(), block_q: 8, block_k: 5, features, inner: Rounding::None };
            cases.push(Self { seed: 8, ..Self::new(heads, Attention::Sla(sparsity)) });
        }
        cases
    }

    fn weights(&self) -> StoredParameters {
        let sla = matches!(self.attention, Attention::Sla(_));
        differences::parameters(&self.config.tensors(DitTraits { quantised: false, sla }), self.seed).stored(|_| Dtype::F32)
    }

    fn options(&self) -> DitOptions {
        DitOptions { attention: self.attention, norms: self.norms, quantise: false }
    }

    fn load(&self) -> TrainDit {
        TrainDit::load(&self.weights(), &self.config, self.options(), GRID).unwrap()
    }

    fn latents(&self) -> Vec<f32> {
        normal(2 * self.config.in_dim * GRID.positions(), 1)
    }

    fn text(&self) -> Vec<f32> {
        normal(self.prompts * self.config.text_len * self.config.text_dim, 2)
    }

    fn clip(&self) -> Option<Vec<f32>> {
        self.config.clip_dim.map(|dim| normal(self.prompts * 7 * dim, 4))
    }

    /// What the loss weighs the velocity with.
    fn weighing(&self) -> Vec<f32> {
        normal(2 * self.config.out_dim * GRID.positions(), 5)
    }

    fn forward(&self, dit: &mut TrainDit) -> Vec<f32> {
        dit.forward(&self.latents(), &TIMES, &self.text(), self.clip().as_deref()).unwrap()
    }

    fn backward(&self, dit: &mut TrainDit) -> Vec<f32> {
        let (velocity, saved) = dit.forward_saved(&self.latents(), &TIMES, &self.text(), self.clip().as_deref()).unwrap();
        dit.backward(saved, &self.weighing()).unwrap();
        velocity
    }
}

fn gradients(parameters: &Parameters) -> Vec<Vec<u32>> {
    parameters.iter().map(|parameter| parameter.gradient().iter().map(|value| value.to_bits()).collect()).collect()
}

#[test]
fn every_gradient_matches_differences_of_the_loss() {
    for case in Case::all() {
        let mut dit = case.load();
        case.backward(&mut dit);
        let weighing = case.weighing();
        let loss = |dit: &mut TrainDit| case.forward(dit).iter().zip(&weighing).map(|(v, w)| f64::from(*v) * f64::from(*w)).sum();
        let worst = differences::check(&mut dit, TrainDit::parameters_mut, loss, differences::BOUND);
        println!("{:?} {} heads: worst error {worst:.1e}", case.attention, case.config.heads);
    }
}

#[test]
fn the_velocity_is_that_of_inference_bit_for_bit() {
    for case in Case::all() {
        let (host, weights) = (Host::default(), case.weights());
        let inference = WanDit::load(&host, &weights, &case.config, case.options()).unwrap();
        let text = inference.read_text(&host, &case.text(), case.clip().as_deref()).unwrap();
        let want = inference.forward(&host, &case.latents(), &TIMES.map(|t| t as f32), &text, GRID, &mut Unobserved).unwrap();
        let mut dit = case.load();
        assert_eq!(case.forward(&mut dit), want, "{:?}", case.attention);
        assert_eq!(case.backward(&mut dit), want, "{:?}, recorded", case.attention);
    }
}

#[test]
fn gradients_are_the_same_bits_for_any_number_of_threads_and_when_blocks_are_run_again() {
    for case in Case::all() {
        let run = |threads, recomputes| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut dit = case.load();
                dit.set_recomputes(recomputes);
                case.backward(&mut dit);
                gradients(dit.parameters_mut())
            })
        };
        let one = run(1, false);
        assert_eq!(one, run(2, false), "{:?}", case.attention);
        assert_eq!(one, run(2, true), "{:?}, blocks run again", case.attention);
    }
}

#[test]
fn gradients_add_up_and_what_is_held_fixed_changes_no_other() {
    let case = Case::new(2, Attention::Original);
    let mut dit = case.load();
    case.backward(&mut dit);
    let all = gradients(dit.parameters_mut());
    case.backward(&mut dit);
    for (parameter, once) in dit.parameters_mut().iter().zip(&all) {
        for (sum, once) in parameter.gradient().iter().zip(once) {
            let once = f32::from_bits(*once);
            assert!((sum - 2.0 * once).abs() <= 1e-5 * once.abs() + 1e-6, "{}: {sum} of twice {once}", parameter.name());
        }
    }
    for recomputes in [false, true] {
        dit.set_recomputes(recomputes);
        dit.parameters_mut().learn_only(|name| name.starts_with("blocks.1.self_attn"));
        dit.parameters_mut().zero_gradients();
        case.backward(&mut dit);
        for (parameter, all) in dit.parameters_mut().iter().zip(&all) {
            if parameter.learns() {
                let bits: Vec<u32> = parameter.gradient().iter().map(|value| value.to_bits()).collect();
                assert_eq!(&bits, all, "{}", parameter.name());
            } else {
                assert!(parameter.gradient().is_empty());
            }
        }
    }
}

#[test]
fn fifty_steps_bring_the_loss_down() {
    for case in [Case::new(1, Attention::Original), Case::all().remove(5)] {
        let mut dit = case.load();
        let (x, text, target) = (case.latents(), case.text(), case.weighing());
        let mut losses = Vec::new();
        for _ in 0..50 {
            let (velocity, saved) = dit.forward_saved(&x, &TIMES, &text, None).unwrap();
            let count = velocity.len() as f32;
            losses.push(velocity.iter().zip(&target).map(|(v, t)| (v - t).powi(2)).sum::<f32>() / count);
            let gradient: Vec<f32> = velocity.iter().zip(&target).map(|(v, t)| 2.0 * (v - t) / count).collect();
            dit.backward(saved, &gradient).unwrap();
            for parameter in dit.parameters_mut().iter_mut() {
                let (values, gradient) = parameter.values_and_gradient();
                values.iter_mut().zip(gradient).for_each(|(value, gradient)| *value -= 0.05 * std::mem::take(gradient));
            }
        }
        println!("{:?}: {} to {}", case.attention, losses[0], losses[49]);
        assert!(losses[49] < 0.5 * losses[0], "{losses:?}");
    }
}

#[test]
fn another_set_of_parameters_runs_in_the_same_network() {
    let case = Case::new(1, Attention::Original);
    let mut dit = case.load();
    let first = case.forward(&mut dit);
    let specs = case.config.tensors(DitTraits::default());
    let own = dit.exchange(differences::parameters(&specs, 8)).unwrap();
    assert_ne!(case.forward(&mut dit), first);
    dit.exchange(own).unwrap();
    assert_eq!(case.forward(&mut dit), first);
    assert!(matches!(dit.exchange(Parameters::default()), Err(Error::Misfits { .. })));
}

#[test]
fn what_cannot_learn_is_refused() {
    let case = Case::new(1, Attention::Original);
    let load = |options| TrainDit::load(&case.weights(), &case.config, options, GRID);
    assert!(matches!(load(DitOptions { quantise: true, ..case.options() }), Err(Error::Setting { .. })));
    let mut sage = load(DitOptions { attention: Attention::Sage, ..case.options() }).unwrap();
    assert!(matches!(sage.forward(&case.latents(), &TIMES, &case.text(), None), Err(Error::Setting { .. })));
    let mut dit = case.load();
    let (_, saved) = dit.forward_saved(&case.latents(), &TIMES, &case.text(), None).unwrap();
    assert!(dit.backward(saved, &[0.0; 3]).is_err());
    assert!(dit.forward(&case.latents(), &TIMES[..1], &case.text(), None).is_err());
}
