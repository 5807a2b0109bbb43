//! Laws of the transformer that need no recording: samples do not see each other, shared text is repeated text, full
//! density is dense attention, and every approximation stays near what it stands for.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use turbowan_cuda::Rounding;
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_sla::Density;
use turbowan_wan_model::Error;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::checkpoint::{Dtype, TensorSource, TensorView};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, DitTraits, Grid, Unobserved, WanDit};
use turbowan_wan_model::tiny::{self, Part, TinyTensors};

const EXACT: Host = Host { rounding: Rounding::None };
const GRID: Grid = Grid { frames: 3, height: 10, width: 12 };

struct Case {
    config: DitConfig,
    latents: Vec<f32>,
    texts: Vec<f32>,
}

impl Case {
    /// Latents and prompts of `batch` samples.
    fn new(batch: usize) -> Self {
        let config = DitConfig { layers: 2, ..tiny::dit_config(16) };
        let latents = normal(batch * config.in_dim * GRID.positions(), 5);
        let mut texts = normal(batch * config.text_len * config.text_dim, 6);
        for prompt in texts.chunks_mut(config.text_len * config.text_dim) {
            prompt[20 * config.text_dim..].fill(0.0);
        }
        Self { config, latents, texts }
    }

    fn sample(&self, index: usize, batch: usize) -> (&[f32], &[f32]) {
        let (latent, text) = (self.latents.len() / batch, self.texts.len() / batch);
        (&self.latents[index * latent..][..latent], &self.texts[index * text..][..text])
    }

    fn run(&self, host: Host, source: &dyn TensorSource, options: DitOptions, latents: &[f32], times: &[f32], texts: &[f32]) -> Vec<f32> {
        let dit = WanDit::load(&host, source, &self.config, options).unwrap();
        let states = dit.read_text(&host, texts, None).unwrap();
        dit.forward(&host, latents, times, &states, GRID, &mut Unobserved).unwrap()
    }
}

fn weights() -> TinyTensors {
    TinyTensors::generate(Part::TextToVideo, 11).unwrap()
}

fn options(attention: Attention) -> DitOptions {
    DitOptions { attention, norms: NormRule::Standard, quantise: false }
}

fn sparse(share: f64) -> Sparsity {
    Sparsity { inner: Rounding::None, ..Sparsity::official(Density::new(share).unwrap()) }
}

#[test]
fn samples_of_a_batch_do_not_see_each_other() {
    let (case, weights, times) = (Case::new(2), weights(), [988.0, 608.0]);
    for attention in [Attention::Original, Attention::Sage, Attention::Sla(sparse(0.5)), Attention::SageSla(sparse(0.5))] {
        let both = case.run(EXACT, &weights, options(attention), &case.latents, &times, &case.texts);
        for (index, got) in both.chunks(both.len() / 2).enumerate() {
            let (latent, text) = case.sample(index, 2);
            let alone = case.run(EXACT, &weights, options(attention), latent, &times[index..=index], text);
            assert!(got == alone, "{attention:?}: sample {index}");
        }
    }
}

#[test]
fn a_shared_prompt_is_a_repeated_prompt() {
    let (case, weights, times) = (Case::new(2), weights(), [932.0, 932.0]);
    let (_, text) = case.sample(0, 2);
    let shared = case.run(EXACT, &weights, options(Attention::Original), &case.latents, &times, text);
    let repeated = case.run(EXACT, &weights, options(Attention::Original), &case.latents, &times, &[text, text].concat());
    assert!(shared == repeated);
}

/// The same tensors with SLA's projection set to zero.
struct WithoutProjection(TinyTensors, Vec<u8>);

impl TensorSource for WithoutProjection {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let view = self.0.get(name)?;
        Some(if name.contains("proj_l") { TensorView { bytes: &self.1[..view.bytes.len()], ..view } } else { view })
    }
}

#[test]
fn full_density_with_a_zero_projection_is_dense_attention() {
    let case = Case::new(1);
    let weights = WithoutProjection(weights(), vec![0; 1 << 16]);
    let run = |attention| case.run(EXACT, &weights, options(attention), &case.latents, &[852.0], &case.texts);
    let (dense, full) = (run(Attention::Original), run(Attention::Sla(sparse(1.0))));
    // The same sums in tiles of other sizes: a few roundings of f32 a layer.
    Verdict::of(&full, &dense, Bound::relative_l2(1e-5)).demand("sla at density 1");
}

#[test]
fn approximations_stay_near_what_they_stand_for() {
    let (case, weights) = (Case::new(1), weights());
    let run = |host, options| case.run(host, &weights, options, &case.latents, &[608.0], &case.texts);
    let exact = run(EXACT, options(Attention::Original));
    let near = |name: &str, got: &[f32], bound: f64| Verdict::of(got, &exact, Bound::relative_l2(bound)).demand(name);
    // Bounds: the official code's own distances on its tiny networks (bf16 0.4 to 0.6%, int8 linears 0.8%, int8 attention
    // below that once it has passed a layer), with room of about three.
    near("bf16", &run(Host { rounding: Rounding::Bf16 }, options(Attention::Original)), 0.02);
    near("W8A8", &run(EXACT, DitOptions { quantise: true, ..options(Attention::Original) }), 0.03);
    near("sage", &run(EXACT, options(Attention::Sage)), 0.02);
    let sla = run(EXACT, options(Attention::Sla(sparse(0.5))));
    Verdict::of(&run(EXACT, options(Attention::SageSla(sparse(0.5)))), &sla, Bound::relative_l2(0.02)).demand("sagesla");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (case, weights) = (Case::new(1), weights());
    let dit = WanDit::load(&EXACT, &weights, &case.config, options(Attention::Original)).unwrap();
    let states = dit.read_text(&EXACT, &case.texts, None).unwrap();
    let forward = |latent: &[f32], times: &[f32], grid| dit.forward(&EXACT, latent, times, &states, grid, &mut Unobserved);
    assert!(forward(&case.latents[1..], &[1.0], GRID).is_err());
    assert!(forward(&case.latents, &[], GRID).is_err());
    assert!(forward(&case.latents, &[1.0], Grid { height: 9, ..GRID }).is_err());
    assert!(forward(&case.latents, &[1.0], Grid { frames: 0, ..GRID }).is_err());
    assert!(dit.read_text(&EXACT, &case.texts[1..], None).is_err());
    assert!(dit.read_text(&EXACT, &case.texts, Some(&[0.0; 80])).is_err());
    let three = dit.read_text(&EXACT, &case.texts.repeat(3), None).unwrap();
    assert!(dit.forward(&EXACT, &case.latents, &[1.0], &three, GRID, &mut Unobserved).is_err());
}

/// Weights of which one tensor has one value that is NaN.
struct Spoiled<'a> {
    sound: &'a TinyTensors,
    name: String,
    bytes: Vec<u8>,
}

impl<'a> Spoiled<'a> {
    fn new(sound: &'a TinyTensors, name: &str) -> Self {
        let mut values = sound.get(name).unwrap().to_f32();
        let last = values.len() - 1;
        values[last] = f32::NAN;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { sound, name: name.to_owned(), bytes }
    }
}

impl TensorSource for Spoiled<'_> {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let view = self.sound.get(name)?;
        Some(if name == self.name { TensorView { dtype: Dtype::F32, bytes: &self.bytes, ..view } } else { view })
    }
}

/// A quantiser makes a 0 of a NaN: behind one the numbers are finite, and wrong.
#[test]
fn a_nan_in_any_weight_is_refused_by_name_before_int8_can_hide_it() {
    let (sound, config) = (weights(), DitConfig { layers: 1, ..tiny::dit_config(16) });
    let specs = config.tensors(DitTraits { quantised: false, sla: true });
    assert!(specs.len() > 40, "{}", specs.len());
    let options = DitOptions { quantise: true, ..options(Attention::SageSla(sparse(0.5))) };
    for spec in specs {
        let error = WanDit::load(&EXACT, &Spoiled::new(&sound, &spec.name), &config, options).unwrap_err();
        let last = spec.shape.iter().product::<usize>() - 1;
        let Error::NotFinite { place, fault } = &error else { panic!("{}: {error}", spec.name) };
        assert!(*place == spec.name && fault.contains(&format!("value {last} ")), "{error}");
    }
}
