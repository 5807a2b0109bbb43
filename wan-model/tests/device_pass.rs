//! A transformer's pass on the emulator with its memory planned: in an arena, and as a graph that is the planned one.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use turbowan_cuda::device::{Arena, Device, EmulatorOptions, Trace, Work};
use turbowan_reference::inputs::normal;
use turbowan_sla::Density;
use turbowan_wan_model::Error;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::device::DeviceBackend;
use turbowan_wan_model::backend::{Backend, NormRule};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, Grid, PassInputs, TextStates, Unobserved, WanDit};
use turbowan_wan_model::tiny::{self, Part, TinyTensors};

/// 98 tokens: two key blocks, the last of them ragged.
const GRID: Grid = Grid { frames: 2, height: 14, width: 14 };

const TIME: f32 = 988.0;

/// Int8 linears and sparse-linear INT8 attention, and the plain float network.
fn variants() -> [DitOptions; 2] {
    let sparsity = Sparsity::official(Density::new(0.5).unwrap());
    let norms = NormRule::Fast;
    [
        DitOptions { attention: Attention::SageSla(sparsity), norms, quantise: true },
        DitOptions { attention: Attention::Original, norms, quantise: false },
    ]
}

type Rows = <DeviceBackend as Backend>::Tensor;

/// A network on a device with a prompt.
struct Loaded {
    device: DeviceBackend,
    dit: WanDit<DeviceBackend>,
    text: TextStates<DeviceBackend>,
}

impl Loaded {
    fn on(device: &Device, options: DitOptions) -> Self {
        let device = DeviceBackend::load(device).unwrap();
        let config = DitConfig { layers: 2, ..tiny::dit_config(16) };
        let weights = TinyTensors::generate(Part::TextToVideo, 11).unwrap();
        let dit = WanDit::load(&device, &weights, &config, options).unwrap();
        let text = dit.read_text(&device, &normal(config.text_len * config.text_dim, 6), None).unwrap();
        Self { device, dit, text }
    }

    fn latent(&self, seed: u64) -> Vec<f32> {
        normal(self.dit.config().in_dim * GRID.positions(), seed)
    }

    fn inputs(&self, seed: u64) -> PassInputs<DeviceBackend> {
        self.dit.inputs(&self.device, &self.latent(seed), &[f64::from(TIME)], 1, GRID).unwrap()
    }

    fn pass(&self, inputs: &PassInputs<DeviceBackend>) -> Result<Rows, Error> {
        self.dit.pass(&self.device, inputs, &self.text, &mut Unobserved)
    }

    /// A pass as it is listed, on memory of its own. Its rows outlive it.
    fn trace(&self) -> Trace {
        let inputs = self.inputs(0);
        let (_rows, trace) = self.device.stream().trace(|_| self.pass(&inputs)).unwrap();
        trace
    }

    /// The velocity that is not planned.
    fn unplanned(&self, seed: u64) -> Vec<u32> {
        bits(&self.dit.forward(&self.device, &self.latent(seed), &[TIME], &self.text, GRID, &mut Unobserved).unwrap())
    }

    fn velocity(&self, inputs: &PassInputs<DeviceBackend>, rows: &Rows) -> Vec<u32> {
        bits(&self.dit.velocity(&self.device, inputs, rows).unwrap())
    }
}

fn emulator() -> Option<Device> {
    Device::emulated(EmulatorOptions::default()).inspect_err(|why| println!("skipped: no device ({why})")).ok()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn allocations(trace: &Trace) -> usize {
    trace.works().iter().filter(|work| matches!(work, Work::Allocate { .. })).count()
}

/// What moves or computes: a graph has no allocations.
fn queued(trace: &Trace) -> Vec<Work> {
    trace.works().iter().filter(|work| !matches!(work, Work::Allocate { .. } | Work::Free { .. })).cloned().collect()
}

#[test]
fn passes_after_the_first_allocate_nothing_and_give_the_same_bits() {
    let Some(device) = emulator() else { return };
    for options in variants() {
        let loaded = Loaded::on(&device, options);
        let first = loaded.trace();
        assert!(allocations(&first) > 30, "{}", allocations(&first));
        let plan = first.memory().unwrap();
        let (arena_bytes, peak_bytes) = (plan.arena_bytes(), plan.peak_bytes());
        println!("{options:?}: {} allocations, arena of {arena_bytes} bytes for a peak of {peak_bytes}", allocations(&first));
        let mut arena = Arena::new(loaded.device.stream(), plan).unwrap();
        let mut seen = Vec::new();
        for seed in [1, 2, 3] {
            let inputs = loaded.inputs(seed);
            let (rows, again) = loaded.device.stream().trace(|_| arena.run(|_| loaded.pass(&inputs))).unwrap();
            assert_eq!(allocations(&again), 0);
            assert_eq!(queued(&again), queued(&first), "the same work, whatever the values");
            let velocity = loaded.velocity(&inputs, &rows);
            assert!(velocity == loaded.unplanned(seed), "{options:?}, seed {seed}");
            assert!(!seen.contains(&velocity), "another latent has another velocity");
            seen.push(velocity);
        }
    }
}

#[test]
fn a_captured_pass_is_the_planned_list_and_replays_to_the_same_bits() {
    let Some(device) = emulator() else { return };
    for options in variants() {
        let loaded = Loaded::on(&device, options);
        let (inputs, plan) = (loaded.inputs(1), loaded.trace().memory().unwrap());
        let mut arena = Arena::new(loaded.device.stream(), plan.clone()).unwrap();
        let mut rows = None;
        let graph = loaded.device.stream().capture(|_| {
            rows = Some(arena.run(|_| loaded.pass(&inputs))?);
            Ok::<_, Error>(())
        });
        let (mut graph, rows) = (graph.unwrap(), rows.unwrap());

        let planned = Loaded::on(&Device::planned(device.chip().clone()), options).trace();
        assert_eq!(graph.works(), queued(&planned), "{options:?}");
        assert_eq!(planned.memory().unwrap(), plan, "and its memory is planned to the byte");
        assert!(!graph.nodes().iter().any(|node| node.name.contains("host")), "nothing waits for the host");

        let want = loaded.unplanned(1);
        assert!(loaded.velocity(&inputs, &rows) != want, "a recording runs nothing");
        for _ in 0..2 {
            let (_, replayed) = loaded.device.stream().trace(|_| graph.replay()).unwrap();
            assert_eq!(replayed.works(), queued(&planned), "a replay allocates nothing and does what was planned");
            assert!(loaded.velocity(&inputs, &rows) == want, "{options:?}");
        }
    }
}
