//! What one block of the transformer asks of a device: how many launches, and how many bytes they move.

#![allow(clippy::unwrap_used, reason = "a device that fails fails its test")]

use std::collections::HashMap;

use turbowan_cuda::device::{Chip, Device, Limits, Work, totals};
use turbowan_sla::Density;
use turbowan_wan_model::Result;
use turbowan_wan_model::attention::{Attention, Sparsity};
use turbowan_wan_model::backend::NormRule;
use turbowan_wan_model::backend::device::{DeviceBackend, DeviceTensor};
use turbowan_wan_model::checkpoint::{Dtype, TensorSource, TensorView};
use turbowan_wan_model::config::DitConfig;
use turbowan_wan_model::dit::{DitOptions, DitTraits, Grid, Observer, Place, WanDit};

/// 81 frames of 480 x 832: 21 x 1560 tokens.
const GRID: Grid = Grid { frames: 21, height: 60, width: 104 };

fn planned(capability: (u32, u32)) -> Device {
    Device::planned(Chip {
        name: "planned".to_owned(),
        capability,
        multiprocessors: 132,
        memory_bytes: 141 << 30,
        l2_bytes: 50 << 20,
        driver: None,
        limits: Limits::of(capability),
    })
}

/// Tensors of a network, all zeros and in one memory.
struct Zeros {
    shapes: HashMap<String, Vec<usize>>,
    bytes: Vec<u8>,
}

impl Zeros {
    fn of(config: &DitConfig) -> Self {
        let specs = config.tensors(DitTraits { quantised: false, sla: true });
        let shapes: HashMap<_, _> = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let most = shapes.values().map(|shape| shape.iter().product::<usize>()).max().unwrap_or(0);
        Self { shapes, bytes: vec![0; 2 * most] }
    }
}

impl TensorSource for Zeros {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let shape = self.shapes.get(name)?;
        Some(TensorView { dtype: Dtype::Bf16, shape, bytes: &self.bytes[..2 * shape.iter().product::<usize>()] })
    }
}

/// How long the list was after each block.
struct Lengths<'a>(&'a Device, Vec<usize>);

impl Observer<DeviceBackend> for Lengths<'_> {
    fn see(&mut self, _: &DeviceBackend, place: Place, _: &DeviceTensor) -> Result<()> {
        if let Place::Block(_) = place {
            self.1.push(self.0.planned_work().unwrap()[0].works().len());
        }
        Ok(())
    }
}

/// What the second block of a pass queues.
fn block(capability: (u32, u32), config: &DitConfig, options: DitOptions) -> Vec<Work> {
    let device = planned(capability);
    let backend = DeviceBackend::load(&device).unwrap();
    let config = DitConfig { layers: 2, ..config.clone() };
    let dit = WanDit::load(&backend, &Zeros::of(&config), &config, options).unwrap();
    let states = dit.read_text(&backend, &vec![0.0; config.text_len * config.text_dim], None).unwrap();
    let mut lengths = Lengths(&device, Vec::new());
    let latent = vec![0.0; config.in_dim * GRID.positions()];
    dit.forward(&backend, &latent, &[500.0], &states, GRID, &mut lengths).unwrap();
    let works = device.planned_work().unwrap().swap_remove(0).works().to_vec();
    works[lengths.1[0]..lengths.1[1]].to_vec()
}

/// Kernels and fills of a block, and the bytes that all of them read and write.
fn counted(capability: (u32, u32), config: &DitConfig, options: DitOptions) -> (usize, u64) {
    let works = block(capability, config, options);
    for work in works.iter().filter(|work| !matches!(work, Work::Allocate { .. } | Work::Free { .. })) {
        println!("{} {:.1} MB", work.name(), work.moved().bytes() as f64 / 1e6);
    }
    let totals = totals(&works);
    let (count, bytes) = (totals.iter().map(|total| total.count).sum(), totals.iter().map(|total| total.moved.bytes()).sum());
    println!("{capability:?} {options:?}: {count} launches, {:.1} MB", bytes as f64 / 1e6);
    (count, bytes)
}

#[test]
fn a_block_of_the_small_model_has_few_launches() {
    let sparsity = Sparsity::official(Density::new(0.1).unwrap());
    let options = DitOptions { attention: Attention::SageSla(sparsity), norms: NormRule::Fast, quantise: true };
    for (capability, launches) in [((8, 0), 17), ((8, 9), 18), ((9, 0), 18)] {
        assert_eq!(counted(capability, &DitConfig::WAN_1_3B, options).0, launches, "{capability:?}");
    }
}
