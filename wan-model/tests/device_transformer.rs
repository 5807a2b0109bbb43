//! The transformer and the text encoder on the emulator, whole, against the host's in the same arithmetic.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use std::collections::HashMap;

use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::ops::quant::QuantizedWeight;
use turbowan_cuda::{Error as CudaError, Rounding};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::{Bound, Distance, Verdict};
use turbowan_sla::Density;
use turbowan_wan_model::Error;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::backend::host::Host;
use turbowan_wan_model::backend::text::TextBackend;
use turbowan_wan_model::backend::{Backend, Heads, NormRule};
use turbowan_wan_model::checkpoint::{Dtype, TensorSource, TensorView};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, Grid, Observer, Place, Unobserved, WanDit};
use turbowan_wan_model::text::umt5::TextEncoder;
use turbowan_wan_model::tiny::{self, Part, TinyTensors};

const HOST: Host = Host { rounding: Rounding::Bf16 };

/// 147 tokens: two query blocks and three key blocks, the last of each ragged.
const GRID: Grid = Grid { frames: 3, height: 14, width: 14 };

/// Both round at the same places and sum in other orders. Either is 0.6 % from `f32` (tests/transformer.rs), so they are as
/// far apart as two such runs: the root of twice the square, 0.9 %.
const SAME_ARITHMETIC: f64 = 0.01;

/// INT8 attention with other values, f16 here and 8 bits on the host: either is another 0.6 % from what it stands for.
const OTHER_VALUES: f64 = 0.015;

fn emulator(capability: (u32, u32)) -> Option<DeviceBackend> {
    let options = EmulatorOptions::default().for_capability(capability);
    let device = Device::emulated(options).inspect_err(|why| println!("skipped: no device ({why})")).ok()?;
    Some(DeviceBackend::load(&device).unwrap())
}

struct Case {
    config: DitConfig,
    latents: Vec<f32>,
    texts: Vec<f32>,
}

impl Case {
    /// Two samples with a prompt each.
    fn new() -> Self {
        Self::of(DitConfig { layers: 2, ..tiny::dit_config(16) })
    }

    fn of(config: DitConfig) -> Self {
        let latents = normal(2 * config.in_dim * GRID.positions(), 5);
        let mut texts = normal(2 * config.text_len * config.text_dim, 6);
        for prompt in texts.chunks_mut(config.text_len * config.text_dim) {
            prompt[20 * config.text_dim..].fill(0.0);
        }
        Self { config, latents, texts }
    }

    fn run<B: Backend>(&self, backend: &B, source: &dyn TensorSource, options: DitOptions) -> Vec<f32> {
        self.run_seen(backend, source, options, &mut Unobserved)
    }

    fn run_seen<B: Backend>(
        &self,
        backend: &B,
        source: &dyn TensorSource,
        options: DitOptions,
        observer: &mut impl Observer<B>,
    ) -> Vec<f32> {
        let dit = WanDit::load(backend, source, &self.config, options).unwrap();
        let states = dit.read_text(backend, &self.texts, None).unwrap();
        dit.forward(backend, &self.latents, &[988.0, 608.0], &states, GRID, observer).unwrap()
    }

    /// The same pass on a device and on the host, which are to be near one another.
    fn compare(&self, device: &DeviceBackend, source: &dyn TensorSource, options: DitOptions, bound: f64) {
        let (got, want) = (self.run(device, source, options), self.run(&HOST, source, options));
        let verdict = Verdict::of(&got, &want, Bound::relative_l2(bound));
        println!("{options:?}: relative L2 {} from the host", verdict.distance.relative_l2);
        verdict.demand(&format!("{options:?}"));
    }
}

fn weights() -> TinyTensors {
    TinyTensors::generate(Part::TextToVideo, 11).unwrap()
}

fn options(attention: Attention) -> DitOptions {
    DitOptions { attention, norms: NormRule::Standard, quantise: false }
}

/// Two of three key blocks.
fn sparse() -> Sparsity {
    Sparsity::official(Density::new(0.7).unwrap())
}

#[test]
fn every_attention_is_that_of_the_host() {
    let (Some(device), case, weights) = (emulator((8, 0)), Case::new(), weights()) else { return };
    case.compare(&device, &weights, options(Attention::Original), SAME_ARITHMETIC);
    case.compare(&device, &weights, DitOptions { norms: NormRule::Fast, ..options(Attention::Original) }, SAME_ARITHMETIC);
    case.compare(&device, &weights, options(Attention::Sage), OTHER_VALUES);
    case.compare(&device, &weights, options(Attention::Sla(sparse())), SAME_ARITHMETIC);
    case.compare(&device, &weights, options(Attention::SageSla(sparse())), OTHER_VALUES);
}

#[test]
fn int8_linears_are_nearer_to_the_float_network_than_those_of_the_host() {
    let (Some(device), case, weights) = (emulator((8, 0)), Case::new(), weights()) else { return };
    for attention in [Attention::Original, Attention::SageSla(sparse())] {
        let quantised = DitOptions { quantise: true, ..options(attention) };
        let float = case.run(&HOST, &weights, options(attention));
        let distance = |got: &[f32]| Distance::between(got, &float).relative_l2;
        let (here, official) = (distance(&case.run(&device, &weights, quantised)), distance(&case.run(&HOST, &weights, quantised)));
        println!("{quantised:?}: relative L2 {here} from the float network, official blocks {official}");
        // a scale for 128 values of a row instead of one for 128 rows of them
        assert!(here < 0.03 && here < official, "{here}, the host's official blocks {official}");
    }
}

#[test]
fn int8_linears_take_widths_whose_last_block_is_ragged() {
    let Some(device) = emulator((8, 0)) else { return };
    let case = Case::of(DitConfig { dim: 192, heads: 3, ffn_dim: 328, layers: 1, ..tiny::dit_config(16) });
    let mut weights = case.config.initial(false, 12);
    // a new head is zero, and so would be what is compared
    let head = weights.get_mut("head.head.weight").unwrap().values_mut();
    head.copy_from_slice(&normal(head.len(), 13));
    let weights = weights.stored(|_| Dtype::F32);
    let float = case.run(&HOST, &weights, options(Attention::Original));
    let int8 = case.run(&device, &weights, DitOptions { quantise: true, ..options(Attention::Original) });
    let distance = Distance::between(&int8, &float).relative_l2;
    println!("relative L2 {distance} from the float network");
    assert!((1e-5..0.03).contains(&distance), "{distance}");
}

#[test]
fn int8_attention_takes_heads_of_128_and_rows_that_are_no_whole_blocks() {
    const PROJECTION: &str = "blocks.0.self_attn.attn_op.local_attn.proj_l.weight";
    for (dim, heads) in [(256, 2), (192, 3)] {
        let case = Case::of(DitConfig { dim, heads, ffn_dim: 256, layers: 1, ..tiny::dit_config(16) });
        let mut weights = case.config.initial(true, 12);
        // a new head and a new branch are zero, and so would be what is compared
        for (name, scale) in [("head.head.weight", 1.0), (PROJECTION, 0.1)] {
            let values = weights.get_mut(name).unwrap().values_mut();
            let drawn: Vec<f32> = normal(values.len(), 13).into_iter().map(|value| scale * value).collect();
            values.copy_from_slice(&drawn);
        }
        let weights = weights.stored(|_| Dtype::F32);
        let float = case.run(&HOST, &weights, options(Attention::SageSla(sparse())));
        for device in [(8, 0), (8, 9), (9, 0)].into_iter().filter_map(emulator) {
            let int8 = case.run(&device, &weights, DitOptions { quantise: true, ..options(Attention::SageSla(sparse())) });
            let distance = Distance::between(&int8, &float).relative_l2;
            println!("{heads} heads of {}: relative L2 {distance} from the float network", dim / heads);
            assert!((1e-5..0.03).contains(&distance), "{distance}");
        }
    }
}

/// Keeps what attention reads.
#[derive(Default)]
struct Looks(Vec<[Vec<f32>; 3]>);

impl<B: Backend> Observer<B> for Looks {
    fn see(&mut self, _: &B, _: Place, _: &B::Tensor) -> turbowan_wan_model::Result<()> {
        Ok(())
    }

    fn wants_attention(&mut self, _: usize) -> bool {
        true
    }

    fn see_attention(&mut self, backend: &B, _: usize, qkv: [&B::Tensor; 3], _: Heads) -> turbowan_wan_model::Result<()> {
        self.0.push(qkv.map(|rows| backend.download(rows).unwrap()));
        Ok(())
    }
}

#[test]
fn whoever_looks_at_attention_sees_what_the_host_reads_and_changes_nothing() {
    let (Some(device), case, weights) = (emulator((8, 9)), Case::new(), weights()) else { return };
    for attention in [Attention::Sage, Attention::SageSla(sparse()), Attention::Original] {
        let (mut here, mut there) = (Looks::default(), Looks::default());
        let seen = case.run_seen(&device, &weights, options(attention), &mut here);
        case.run_seen(&HOST, &weights, options(attention), &mut there);
        assert!(seen == case.run(&device, &weights, options(attention)), "{attention:?}");
        assert_eq!((here.0.len(), there.0.len()), (2, 2));
        for (what, (got, want)) in ["queries", "keys", "values"].iter().zip(here.0[0].iter().zip(&there.0[0])) {
            Verdict::of(got, want, Bound::relative_l2(SAME_ARITHMETIC)).demand(&format!("{attention:?} {what}"));
        }
    }
}

#[test]
fn kernels_of_hopper_give_the_same_network() {
    let (Some(any), Some(hopper), case, weights) = (emulator((8, 0)), emulator((9, 0)), Case::new(), weights()) else { return };
    for options in
        [DitOptions { quantise: true, ..options(Attention::SageSla(sparse())) }, options(Attention::Sage), options(Attention::Original)]
    {
        let distance = Distance::between(&case.run(&hopper, &weights, options), &case.run(&any, &weights, options)).relative_l2;
        println!("{options:?}: relative L2 {distance} from the kernels for any chip");
        assert!(distance < SAME_ARITHMETIC, "{options:?}: {distance}");
    }
}

/// The blocks' linears as `-quant` checkpoints have them.
struct Int8Checkpoint {
    float: TinyTensors,
    int8: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Int8Checkpoint {
    fn of(float: TinyTensors) -> Self {
        let mut int8 = HashMap::new();
        for (name, view) in float.iter() {
            let (true, Some(layer), &[out, input]) = (name.starts_with("blocks."), name.strip_suffix(".weight"), view.shape) else {
                continue;
            };
            if name.contains("proj_l") {
                continue;
            }
            let weight = QuantizedWeight::quantise(&view.to_f32(), out, input).unwrap();
            let values = weight.values().iter().map(|value| *value as u8).collect();
            let scales = weight.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect();
            int8.insert(format!("{layer}.int8_weight"), (Dtype::I8, vec![out, input], values));
            int8.insert(format!("{layer}.scale"), (Dtype::F32, vec![out / 128, input / 128], scales));
        }
        Self { float, int8 }
    }
}

impl TensorSource for Int8Checkpoint {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        match self.int8.get(name) {
            Some((dtype, shape, bytes)) => Some(TensorView { dtype: *dtype, shape, bytes }),
            None => self.float.get(name),
        }
    }
}

#[test]
fn an_int8_checkpoint_runs_with_official_scales() {
    let (Some(device), case) = (emulator((8, 0)), Case::new()) else { return };
    // the same quantiser on both sides: what is left is the order of sums, and a tie here and there
    case.compare(&device, &Int8Checkpoint::of(weights()), options(Attention::Original), SAME_ARITHMETIC);
}

#[test]
fn a_shared_prompt_is_a_repeated_prompt_and_a_second_pass_is_the_first() {
    let (Some(device), case) = (emulator((8, 0)), Case::new()) else { return };
    let dit = WanDit::load(&device, &weights(), &case.config, options(Attention::Original)).unwrap();
    let text = &case.texts[..case.texts.len() / 2];
    let pass = |text: &[f32]| {
        let states = dit.read_text(&device, text, None).unwrap();
        dit.forward(&device, &case.latents, &[932.0, 250.0], &states, GRID, &mut Unobserved).unwrap()
    };
    let shared = pass(text);
    assert!(shared == pass(&[text, text].concat()));
    assert!(shared == pass(text));
}

#[test]
fn what_is_no_number_is_found_and_what_does_not_fit_is_refused() {
    let (Some(device), case) = (emulator((8, 0)), Case::new()) else { return };
    let mut values = normal(3 * 40, 1);
    let clean = device.upload(values.clone(), 40).unwrap();
    assert_eq!(device.first_not_finite(&clean).unwrap(), None);
    values[77] = f32::NAN;
    values[100] = f32::INFINITY;
    assert_eq!(device.first_not_finite(&device.upload(values.clone(), 40).unwrap()).unwrap(), Some(77));
    assert_eq!(device.first_not_finite(&device.upload_exact(values.clone(), 40).unwrap()).unwrap(), Some(77));
    assert!(matches!(device.upload(values, 41), Err(Error::Operation(CudaError::Length { .. }))));
    // tables are f32, rows are bf16
    let table = device.upload_exact(vec![1.0; 40], 40).unwrap();
    assert!(device.silu(&clean).is_err() && device.silu(&table).is_ok());
    // a head dim of 32
    let narrow = DitConfig { heads: 4, ..case.config };
    let dit = WanDit::load(&device, &weights(), &narrow, options(Attention::Original)).unwrap();
    let states = dit.read_text(&device, &case.texts, None).unwrap();
    let refused = dit.forward(&device, &case.latents, &[932.0, 250.0], &states, GRID, &mut Unobserved);
    assert!(matches!(refused, Err(Error::Sla(_))), "{refused:?}");
}

fn encode<B: TextBackend>(backend: &B, ids: &[u32], keys: usize) -> Vec<f32> {
    let weights = TinyTensors::generate(Part::Text, 11).unwrap();
    let encoder = TextEncoder::load(backend, &weights, &tiny::text_config()).unwrap();
    encoder.encode_padded(backend, ids, keys, &mut |_, _| Ok(())).unwrap().values
}

#[test]
fn the_text_encoder_is_that_of_the_host() {
    let Some(device) = emulator((8, 0)) else { return };
    let ids: Vec<u32> = (0..83).map(|at| at * 7 % 50).collect();
    for (ids, keys) in [(&ids[..1], 1), (&ids[..], 83), (&ids[..], 70)] {
        let (got, want) = (encode(&device, ids, keys), encode(&HOST, ids, keys));
        let verdict = Verdict::of(&got, &want, Bound::relative_l2(SAME_ARITHMETIC));
        println!("{keys} of {}: relative L2 {} from the host", ids.len(), verdict.distance.relative_l2);
        verdict.demand("text states");
    }
}
