//! The dense product of bf16: within the rounding of its sum of the oracle, and its ends as the host's.

use half::bf16;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::gemm::Family;
use turbowan_cuda::ops::gemm::device::{DeviceMatrix, GemmBf16};
use turbowan_cuda::{Error, device::EmulatorOptions};
use turbowan_reference::gemm::{linear, linear_magnitude};
use turbowan_reference::inputs::{Kind, rows as input};

use crate::{devices, devices_in_all_ways, emulated, gpu};

/// `rows, out, input`: one row, one column, ragged in every direction, odd widths, one stage of the sum and many.
const SHAPES: [[usize; 3]; 7] = [[1, 1, 8], [5, 130, 64], [129, 40, 72], [127, 257, 128], [130, 136, 200], [17, 33, 1160], [64, 300, 256]];

struct Case {
    x: Vec<bf16>,
    w: Vec<bf16>,
    bias: Vec<bf16>,
    shape: [usize; 3],
}

impl Case {
    fn new(kind: Kind, shape @ [rows, out, width]: [usize; 3]) -> Self {
        let of = |kind, rows, width, seed| input(kind, rows, width, seed).into_iter().map(bf16::from_f32).collect();
        Self { x: of(kind, rows, width, 1), w: of(Kind::Plain, out, width, 2), bias: of(Kind::Plain, 1, out, 3), shape }
    }

    /// The exact result, and what its error is measured by.
    fn oracle(&self) -> (Vec<f64>, Vec<f64>) {
        let [x, w, bias] = [&self.x, &self.w, &self.bias].map(|values| widen(values));
        (linear(&x, &w, Some(&bias), self.shape[2]), linear_magnitude(&x, &w, Some(&bias), self.shape[2]))
    }

    fn run(&self, device: &Device, end: &End<'_>) -> Result<(Vec<f32>, Vec<f32>), Error> {
        self.run_with(device, Family::of(device.chip().capability), end)
    }

    fn run_with(&self, device: &Device, family: Family, end: &End<'_>) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let [rows, out, width] = self.shape;
        let stream = device.stream()?;
        let product = GemmBf16::load_with(device, family)?;
        let (x, w, bias) = (stream.upload(&self.x)?, stream.upload(&self.w)?, stream.upload(&self.bias)?);
        let (x, w) = (DeviceMatrix::new(rows, width, x.view())?, DeviceMatrix::new(out, width, w.view())?);
        match end {
            End::F32 => {
                let mut result = stream.allocate(rows * out)?;
                product.store_f32(&stream, x, w, Some(bias.view()), result.view_mut())?;
                Ok((result.to_vec()?, vec![]))
            }
            End::Store => {
                let (mut result, mut sums) = (stream.allocate(rows * out)?, stream.allocate(rows * out.div_ceil(128))?);
                product.store(&stream, x, w, Some(bias.view()), result.view_mut(), Some(sums.view_mut()))?;
                Ok((widen(&result.to_vec()?), sums.to_vec()?))
            }
            End::AddGated { from, gate, rows_per_gate } => {
                let (mut result, gate) = (stream.upload(from)?, stream.upload(gate)?);
                product.add_gated(&stream, x, w, Some(bias.view()), gate.view(), *rows_per_gate, result.view_mut())?;
                Ok((widen(&result.to_vec()?), vec![]))
            }
        }
    }
}

enum End<'a> {
    F32,
    Store,
    AddGated { from: &'a [bf16], gate: &'a [f32], rows_per_gate: usize },
}

fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn round(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// Two ways of the emulator, of a chip without wgmma and of one with it, and the GPU.
fn some_devices() -> Vec<Device> {
    let (first, last) = (EmulatorOptions::default(), EmulatorOptions::all()[7]);
    emulated(&[first, last, first.for_capability((9, 0)), last.for_capability((9, 0))]).into_iter().chain(gpu()).collect()
}

/// The emulator in all its ways with wgmma.
fn hoppers() -> Vec<Device> {
    emulated(&EmulatorOptions::all().into_iter().map(|options| options.for_capability((9, 0))).collect::<Vec<_>>())
}

/// Fails at a value farther from the exact one than the rounding of a sum of `depth` terms, each step of it at most one
/// unit in the last place (tensor cores cut off), allows.
fn demand_close(got: &[f32], case: &Case, name: &str) {
    let (want, magnitude) = case.oracle();
    assert_eq!(got.len(), want.len(), "{name}");
    for (index, got) in got.iter().enumerate() {
        let bound = magnitude[index] * f64::from(f32::EPSILON) * (case.shape[2] as f64 / 4.0 + 4.0);
        assert!((f64::from(*got) - want[index]).abs() <= bound, "{name}: value {index}: {got} {}", want[index]);
    }
}

#[test]
fn awkward_shapes_and_values_match_the_oracle() {
    for device in some_devices() {
        for shape in SHAPES {
            for kind in Kind::ALL {
                let case = Case::new(kind, shape);
                demand_close(&case.run(&device, &End::F32).unwrap().0, &case, &format!("{device:?} {kind:?} {shape:?}"));
            }
        }
    }
}

#[test]
fn every_way_gives_the_same_bits_and_each_end_follows_from_the_sum() {
    for shape @ [rows, out, _] in [[129, 136, 328], [3, 41, 128]] {
        let case = Case::new(Kind::Plain, shape);
        let from: Vec<bf16> = input(Kind::Plain, rows, out, 8).into_iter().map(bf16::from_f32).collect();
        let rows_per_gate = 50;
        let gate = input(Kind::Plain, rows.div_ceil(rows_per_gate), out, 9);
        for device in devices_in_all_ways().into_iter().chain(hoppers()) {
            let name = format!("{device:?} {shape:?}");
            let sums = case.run(&device, &End::F32).unwrap().0;
            demand_close(&sums, &case, &name);
            let (stored, squares) = case.run(&device, &End::Store).unwrap();
            for (index, (got, sum)) in stored.iter().zip(&sums).enumerate() {
                assert_eq!(got.to_bits(), round(*sum).to_bits(), "{name}: value {index}");
            }
            let parts = stored.chunks(out).flat_map(|row| row.chunks(128));
            for (got, part) in squares.iter().zip(parts) {
                let want: f64 = part.iter().map(|value| f64::from(*value).powi(2)).sum();
                assert!((f64::from(*got) - want).abs() <= 24.0 * 6e-8 * want, "{name}: {got} {want}");
            }
            let gated = case.run(&device, &End::AddGated { from: &from, gate: &gate, rows_per_gate }).unwrap().0;
            for (index, (got, y)) in gated.iter().zip(&stored).enumerate() {
                let factor = gate[index / out / rows_per_gate * out + index % out];
                let want = round(from[index].to_f32() + round(y * factor));
                assert_eq!(got.to_bits(), want.to_bits(), "{name}: gated value {index}");
            }
        }
    }
}

/// More tiles than blocks, many steps of the sum and one: every bit is that of the product on mma.sync, whose tensor core
/// adds in the same order. (A GPU's two families need not agree in the last bits, so this is for the emulator.)
#[test]
fn blocks_that_stay_work_off_every_tile() {
    for (threads, shape) in [(1, [300, 520, 64]), (2, [260, 300, 200]), (5, [150, 1100, 136])] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let case = Case::new(Kind::OutlierChannel, shape);
            for device in hoppers() {
                assert_eq!(GemmBf16::load(&device).unwrap().family(), Family::Wgmma);
                let [mma, wgmma] = [Family::Mma, Family::Wgmma].map(|family| case.run_with(&device, family, &End::Store).unwrap());
                assert!(mma == wgmma, "{device:?} {shape:?}: the results of the families differ, or their sums of squares");
                demand_close(&case.run(&device, &End::F32).unwrap().0, &case, &format!("{device:?} {shape:?}"));
            }
        });
    }
}

#[test]
fn misfits_are_refused_and_no_rows_are_no_work() {
    for device in devices().into_iter().chain(hoppers().into_iter().take(1)) {
        let mut case = Case::new(Kind::Plain, [2, 5, 12]);
        assert!(matches!(case.run(&device, &End::F32), Err(Error::Size { found: 12, .. })));
        case = Case::new(Kind::Plain, [2, 5, 16]);
        case.bias.pop();
        assert!(matches!(case.run(&device, &End::F32), Err(Error::Length { what: "bias", .. })));
        case = Case::new(Kind::Plain, [0, 5, 16]);
        assert_eq!(case.run(&device, &End::F32).unwrap().0, [0.0; 0]);
        case = Case::new(Kind::Plain, [2, 0, 16]);
        assert!(matches!(case.run(&device, &End::F32), Err(Error::Size { found: 0, .. })));
    }
}
