//! The text encoder.

use turbowan_reference::inputs::normal;
use turbowan_wan_model::Result;
use turbowan_wan_model::backend::Backend;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::tape::{Gradients, Parameters, StoredParameters, Tape, TapeTensor};
use turbowan_wan_model::checkpoint::Dtype;
use turbowan_wan_model::config::TextConfig;
use turbowan_wan_model::text::umt5::TextEncoder;

use crate::differences;

const CONFIG: TextConfig = TextConfig { vocab: 9, dim: 24, dim_attn: 16, dim_ffn: 40, heads: 2, layers: 2, buckets: 8, max_distance: 6 };
/// Every id and every bucket of distances occurs, an id twice.
const IDS: [u32; 12] = [3, 1, 4, 0, 5, 8, 2, 6, 7, 4, 3, 1];
/// Tokens that are seen.
const KEYS: usize = 10;

fn weights() -> StoredParameters {
    differences::parameters(&CONFIG.tensors(), 2).stored(|_| Dtype::F32)
}

struct Case<'a> {
    tape: Tape,
    encoder: TextEncoder<'a, Tape>,
}

impl<'a> Case<'a> {
    fn load(weights: &'a StoredParameters) -> Self {
        let tape = Tape::new(Parameters::read(weights, &CONFIG.tensors()).unwrap());
        let encoder = TextEncoder::load(&tape, weights, &CONFIG).unwrap();
        Self { tape, encoder }
    }

    fn encode(&self) -> Result<TapeTensor> {
        self.encoder.encode_rows(&self.tape, &IDS, KEYS, &mut |_, _| Ok(()))
    }

    fn backward(&self) {
        let (out, recording) = self.tape.recorded(|| self.encode()).unwrap();
        let mut gradients = Gradients::default();
        gradients.seed(&self.tape, &out, weighing()).unwrap();
        self.tape.backward(recording, &mut gradients).unwrap();
    }
}

fn weighing() -> Vec<f32> {
    normal(IDS.len() * CONFIG.dim, 9)
}

#[test]
fn every_gradient_matches_differences_of_the_loss() {
    let weights = weights();
    let mut case = Case::load(&weights);
    case.backward();
    let loss = |case: &mut Case<'_>| {
        let states = case.tape.download(&case.encode().unwrap()).unwrap();
        states.iter().zip(&weighing()).map(|(v, w)| f64::from(*v) * f64::from(*w)).sum()
    };
    let worst = differences::check(&mut case, |case| case.tape.parameters_mut(), loss, differences::BOUND);
    println!("worst error {worst:.1e}");
}

#[test]
fn states_are_those_of_inference_bit_for_bit() {
    let (host, weights) = (Host::default(), weights());
    let want = TextEncoder::load(&host, &weights, &CONFIG).unwrap().encode_padded(&host, &IDS, KEYS, &mut |_, _| Ok(())).unwrap();
    let case = Case::load(&weights);
    assert_eq!(case.tape.download(&case.encode().unwrap()).unwrap(), want.values);
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let weights = weights();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let case = Case::load(&weights);
            case.backward();
            let parameters = case.tape.parameters();
            parameters.iter().map(|parameter| parameter.gradient().to_vec()).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(2));
}
