//! The int8 product: on every device the bits of the host twin, and of the recorded official run.

use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;
use turbowan_cuda::device::{Device, EmulatorOptions};
use turbowan_cuda::ops::gemm::{Epilogue, Family, Then};
use turbowan_cuda::ops::gemm_int8::device::{DeviceRows, DeviceWeight, GemmInt8};
use turbowan_cuda::ops::gemm_int8::{PackedInt8, gemm_int8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight, padded, padded_rows};
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::gemm::gelu_tanh;
use turbowan_reference::inputs::{Kind, Seeded, rows as input};
use turbowan_reference::metrics::{Bound, Verdict};
use turbowan_reference::quant::{Int8Matrix, int8_linear};

use crate::{devices, emulated, gpu, int8_rows};

const RULES: [Int8Rule; 2] = [Int8Rule::Official, Int8Rule::PerToken];

/// `rows, out, input`: one row, one column, ragged in both directions, odd widths, one block of the sum and several,
/// ragged last blocks of the sum.
const SHAPES: [[usize; 3]; 11] = [
    [1, 1, 128],
    [5, 130, 256],
    [129, 40, 384],
    [127, 257, 128],
    [130, 136, 640],
    [17, 33, 1152],
    [64, 300, 256],
    [3, 5, 1],
    [130, 64, 64],
    [17, 192, 192],
    [9, 33, 577],
];

/// The emulator in all its ways, of a chip with deep stages, of one with shallow stages and of one with wgmma, and the GPU.
fn devices_in_all_ways() -> Vec<Device> {
    let ways = |capability| EmulatorOptions::all().into_iter().map(move |options| options.for_capability(capability));
    emulated(&[(8, 0), (8, 9), (9, 0)].into_iter().flat_map(ways).collect::<Vec<_>>()).into_iter().chain(gpu()).collect()
}

/// The same in the most different ways, for the longer tests.
fn devices_of_every_kind() -> Vec<Device> {
    let (first, last) = (EmulatorOptions::default(), EmulatorOptions::all()[7]);
    let ways = [first, last.for_capability((8, 9)), first.for_capability((9, 0)), last.for_capability((9, 0))];
    emulated(&ways).into_iter().chain(gpu()).collect()
}

/// The operands of a product on the host.
struct Case {
    a: Int8Rows,
    w: QuantizedWeight,
    bias: Vec<bf16>,
}

impl Case {
    fn new(rule: Int8Rule, kind: Kind, [rows, out, width]: [usize; 3]) -> Self {
        Self::of(rule, &input(kind, rows, width, 2), [rows, out, width])
    }

    fn of(rule: Int8Rule, x: &[f32], [rows, out, width]: [usize; 3]) -> Self {
        let a = Int8Rows::quantise(rule, x, rows, width).unwrap();
        let w = QuantizedWeight::quantise(&input(Kind::Plain, out, width, 1), out, width).unwrap();
        Self { a, w, bias: narrow(&input(Kind::Plain, 1, out, 3)) }
    }

    /// The host twin; `from` is what the output holds before.
    fn on_host(&self, then: Then<'_>, rounding: Rounding, from: Vec<f32>) -> Vec<f32> {
        let bias: Vec<f32> = self.bias.iter().map(|value| value.to_f32()).collect();
        let mut out = from;
        out.resize(self.a.rows() * self.w.out(), f32::NAN);
        let bias = (!bias.is_empty()).then_some(&bias[..]);
        gemm_int8(&self.a, &PackedInt8::pack(&self.w), &Epilogue { bias, then, rounding }, &mut out).unwrap();
        out
    }
}

/// One end of the product, and the memory that it takes beside the operands.
enum End<'a> {
    F32,
    Bf16 { with_sums: bool },
    Quantise,
    AddGated { x: &'a [bf16], gate: &'a [f32], rows_per_gate: usize },
}

/// What came back of an end.
#[derive(Debug, Default, PartialEq)]
struct Ended {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    sums: Vec<f32>,
    values: Vec<i8>,
    scales: Vec<f32>,
}

fn run(device: &Device, case: &Case, end: &End<'_>) -> Result<Ended, Error> {
    run_with(device, Family::of(device.chip().capability), case, end)
}

fn run_with(device: &Device, family: Family, case: &Case, end: &End<'_>) -> Result<Ended, Error> {
    let stream = device.stream()?;
    let product = GemmInt8::load_with(device, family)?;
    let (rows, width, n) = (case.a.rows(), case.a.width(), case.w.out());
    let (a_values, a_scales) = (stream.upload(&padded_rows(case.a.values(), width))?, stream.upload(case.a.scales())?);
    let (w_values, w_scales) = (stream.upload(&padded_rows(case.w.values(), case.w.input()))?, stream.upload(case.w.scales())?);
    let bias = stream.upload(&case.bias)?;
    let bias = (!case.bias.is_empty()).then(|| bias.view());
    let a = DeviceRows::new(case.a.rule(), rows, width, a_values.view(), a_scales.view())?;
    let w = DeviceWeight::new(n, case.w.input(), w_values.view(), w_scales.view())?;
    let mut ended = Ended::default();
    match end {
        End::F32 => {
            let mut out = stream.allocate(rows * n)?;
            product.store_f32(&stream, a, w, bias, out.view_mut())?;
            ended.f32 = out.to_vec()?;
        }
        End::Bf16 { with_sums } => {
            let (mut out, mut sums) = (stream.allocate(rows * n)?, stream.allocate(rows * n.div_ceil(128))?);
            let wanted = with_sums.then(|| sums.view_mut());
            product.store(&stream, a, w, bias, out.view_mut(), wanted)?;
            ended.bf16 = out.to_vec()?;
            if *with_sums {
                ended.sums = sums.to_vec()?;
            }
        }
        End::Quantise => {
            let (mut values, mut scales) = (stream.allocate(rows * padded(n))?, stream.allocate(rows * n.div_ceil(128))?);
            product.gelu_quantise(&stream, a, w, bias, values.view_mut(), scales.view_mut())?;
            let int8 = int8_rows(Int8Rule::PerToken, rows, n, &values.to_vec()?, scales.to_vec()?)?;
            (ended.values, ended.scales) = (int8.values().to_vec(), int8.scales().to_vec());
        }
        End::AddGated { x, gate, rows_per_gate } => {
            let (mut x, gate) = (stream.upload(x)?, stream.upload(gate)?);
            product.add_gated(&stream, a, w, bias, gate.view(), *rows_per_gate, x.view_mut())?;
            ended.bf16 = x.to_vec()?;
        }
    }
    Ok(ended)
}

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// Fails at the first value whose bits differ.
fn demand_equal(got: &[f32], want: &[f32], case: &str) {
    assert_eq!(got.len(), want.len(), "{case}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{case}: value {index}: {got} {want}");
    }
}

#[test]
fn every_bit_is_that_of_the_host_twin_in_every_way_of_the_emulator() {
    for rule in RULES {
        for shape in [[129, 136, 384], [3, 41, 128]] {
            let case = Case::new(rule, Kind::Plain, shape);
            let (f32, bf16) = (case.on_host(Then::Store, Rounding::None, vec![]), case.on_host(Then::Store, Rounding::Bf16, vec![]));
            for device in devices_in_all_ways() {
                let name = format!("{device:?} {rule:?} {shape:?}");
                demand_equal(&run(&device, &case, &End::F32).unwrap().f32, &f32, &name);
                demand_equal(&widen(&run(&device, &case, &End::Bf16 { with_sums: true }).unwrap().bf16), &bf16, &name);
            }
        }
    }
}

#[test]
fn awkward_shapes_and_values_match_the_host_twin_and_the_oracle() {
    for device in devices_of_every_kind() {
        for shape in SHAPES {
            for kind in Kind::ALL {
                for rule in RULES {
                    let mut case = Case::new(rule, kind, shape);
                    let name = format!("{device:?} {rule:?} {kind:?} {shape:?}");
                    let want = case.on_host(Then::Store, Rounding::Bf16, vec![]);
                    demand_equal(&widen(&run(&device, &case, &End::Bf16 { with_sums: false }).unwrap().bf16), &want, &name);
                    case.bias.clear();
                    let got = run(&device, &case, &End::F32).unwrap().f32;
                    demand_equal(&got, &case.on_host(Then::Store, Rounding::None, vec![]), &name);
                    let a = Int8Matrix { values: case.a.values(), scales: case.a.scales(), width: shape[2], block_rows: rule.block_rows() };
                    let w = Int8Matrix { values: case.w.values(), scales: case.w.scales(), width: shape[2], block_rows: 128 };
                    Verdict::of(&got, &int8_linear(&a, &w), Bound::relative_l2(1e-6)).demand(&name);
                }
            }
        }
    }
}

#[test]
fn sums_are_exact_at_both_ends_of_the_range() {
    let mut random = Seeded::new(3);
    let (rows, out, width) = (33, 35, 128);
    let mut draw = |count: usize| (0..count).map(|_| [-128i8, 127][random.below(2)]).collect::<Vec<_>>();
    let (a, w) = (draw(rows * width), draw(out * width));
    for (a, w) in [(vec![-128; rows * width], vec![-128; out * width]), (vec![-128; rows * width], vec![127; out * width]), (a, w)] {
        let sums = a
            .chunks(width)
            .flat_map(|a| w.chunks(width).map(move |w| a.iter().zip(w).map(|(a, w)| i32::from(*a) * i32::from(*w)).sum::<i32>() as f32));
        let want: Vec<f32> = sums.collect();
        let case = Case {
            a: Int8Rows::from_parts(Int8Rule::PerToken, rows, width, a.clone(), vec![1.0; rows]).unwrap(),
            w: QuantizedWeight::from_parts(out, width, w.clone(), vec![1.0]).unwrap(),
            bias: vec![],
        };
        for device in devices_of_every_kind() {
            demand_equal(&run(&device, &case, &End::F32).unwrap().f32, &want, &format!("{device:?}"));
        }
    }
}

#[test]
fn a_large_row_and_an_empty_block_are_as_on_the_host() {
    let [rows, out, width] = [150, 130, 512];
    let mut x = input(Kind::Plain, rows, width, 7);
    x[..width].iter_mut().for_each(|value| *value *= 1e4);
    // rows 128.. have nothing in the second block of the sum
    x.chunks_mut(width).skip(128).for_each(|row| row[128..256].fill(0.0));
    for rule in RULES {
        let case = Case::of(rule, &x, [rows, out, width]);
        for device in devices_of_every_kind() {
            let got = run(&device, &case, &End::F32).unwrap().f32;
            demand_equal(&got, &case.on_host(Then::Store, Rounding::None, vec![]), &format!("{device:?} {rule:?}"));
        }
    }
}

#[test]
fn sums_of_squares_are_those_of_what_is_stored() {
    for shape @ [_, out, _] in [[130, 300, 256], [1, 128, 128]] {
        let case = Case::new(Int8Rule::PerToken, Kind::OutlierChannel, shape);
        let stored = case.on_host(Then::Store, Rounding::Bf16, vec![]);
        let squares = |part: &[f32]| part.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        let want: Vec<f64> = stored.chunks(out).flat_map(|row| row.chunks(128).map(squares)).collect();
        let mut all: Vec<Vec<f32>> = Vec::new();
        for device in devices_of_every_kind() {
            let sums = run(&device, &case, &End::Bf16 { with_sums: true }).unwrap().sums;
            for (got, want) in sums.iter().zip(&want) {
                // at most 24 roundings on the way of a term
                assert!((f64::from(*got) - want).abs() <= 24.0 * 6e-8 * want, "{device:?}: {got} {want}");
            }
            assert_eq!(sums.len(), want.len());
            all.push(sums);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "the order of the sum is fixed");
    }
}

#[test]
fn the_gated_sum_rounds_as_the_host_does() {
    for (shape @ [rows, out, _], rows_per_gate) in [([130, 136, 256], 50), ([5, 37, 128], 5), ([129, 128, 384], 1)] {
        for rule in RULES {
            let case = Case::new(rule, Kind::Plain, shape);
            let x = narrow(&input(Kind::Plain, rows, out, 8));
            let gate = input(Kind::Plain, rows.div_ceil(rows_per_gate), out, 9);
            let want = case.on_host(Then::AddGated { gate: &gate, rows_per_group: rows_per_gate }, Rounding::Bf16, widen(&x));
            let devices = if rows == 130 { devices_in_all_ways() } else { devices_of_every_kind() };
            for device in devices {
                let got = run(&device, &case, &End::AddGated { x: &x, gate: &gate, rows_per_gate }).unwrap().bf16;
                demand_equal(&widen(&got), &want, &format!("{device:?} {rule:?} {shape:?}"));
            }
        }
    }
}

/// The exponential differs from the host's in its last place: rarely a GELU rounds the other way.
#[test]
fn the_quantised_end_is_the_host_twin_but_for_ties() {
    for shape @ [rows, out, _] in [[130, 256, 256], [1, 128, 128], [66, 200, 192], [3, 1, 64]] {
        let case = Case::new(Int8Rule::PerToken, Kind::Plain, shape);
        let stored = case.on_host(Then::Gelu, Rounding::Bf16, vec![]);
        let want = Int8Rows::quantise(Int8Rule::PerToken, &stored, rows, out).unwrap();
        let exact = case.on_host(Then::Store, Rounding::Bf16, vec![]);
        for device in devices_in_all_ways() {
            let got = run(&device, &case, &End::Quantise).unwrap();
            for (got, want) in got.scales.iter().zip(want.scales()) {
                assert!((got - want).abs() <= want / 128.0, "{device:?}: scale {got} {want}");
            }
            let pairs = got.values.iter().zip(want.values());
            let different = pairs.clone().filter(|(got, want)| got != want).count();
            assert!(
                pairs.clone().all(|(got, want)| got.abs_diff(*want) <= 1) && different * 500 <= rows * out,
                "{device:?} {shape:?}: {different}"
            );
            // against the exact function: half a step of the scale, and half a bf16 step of the value
            for (index, (value, y)) in got.values.iter().zip(&exact).enumerate() {
                let scale = got.scales[index / out * out.div_ceil(128) + index % out / 128];
                let want = gelu_tanh(f64::from(*y));
                let error = (f64::from(*value) * f64::from(scale) - want).abs();
                assert!(error <= 0.5001 * f64::from(scale) + want.abs() / 256.0 + 1e-6, "{device:?}: value {index}: {error}");
            }
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    let case = Case::new(Int8Rule::PerToken, Kind::OutlierChannel, [140, 256, 256]);
    for device in devices_of_every_kind() {
        for end in [End::F32, End::Bf16 { with_sums: true }, End::Quantise] {
            let run = || run(&device, &case, &end).unwrap();
            assert_eq!(run(), run());
        }
    }
}

/// More tiles than blocks: a block works off several, whose stages follow one another without a gap.
#[test]
fn blocks_that_stay_work_off_every_tile() {
    for (threads, shape) in [(1, [600, 300, 128]), (2, [600, 300, 384]), (5, [700, 257, 640])] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut case = Case::new(Int8Rule::PerToken, Kind::OutlierChannel, shape);
            let stored = case.on_host(Then::Store, Rounding::Bf16, vec![]);
            let bias = std::mem::take(&mut case.bias);
            let exact = case.on_host(Then::Store, Rounding::None, vec![]);
            for way in [0, 1, 3, 5, 7] {
                for device in emulated(&[EmulatorOptions::all()[way].for_capability((9, 0))]) {
                    assert_eq!(device.chip().multiprocessors as usize, threads, "tiles must outnumber the blocks");
                    let name = format!("{device:?} {shape:?} way {way}");
                    demand_equal(&run(&device, &case, &End::F32).unwrap().f32, &exact, &name);
                    case.bias = bias.clone();
                    let ended = run(&device, &case, &End::Bf16 { with_sums: true }).unwrap();
                    demand_equal(&widen(&ended.bf16), &stored, &name);
                    case.bias.clear();
                }
            }
        });
    }
}

#[test]
fn both_families_give_the_same_bytes_at_every_end() {
    for shape @ [rows, out, _] in [[300, 256, 384], [65, 128, 128], [300, 200, 192]] {
        let case = Case::new(Int8Rule::PerToken, Kind::OutlierChannel, shape);
        let (x, gate) = (narrow(&input(Kind::Plain, rows, out, 8)), input(Kind::Plain, rows.div_ceil(7), out, 9));
        let hopper = emulated(&[EmulatorOptions::default().for_capability((9, 0))]);
        for device in hopper.into_iter().chain(gpu().filter(|gpu| gpu.chip().capability == (9, 0))) {
            assert_eq!(GemmInt8::load(&device).unwrap().family(), Family::Wgmma);
            for end in [End::F32, End::Bf16 { with_sums: true }, End::Quantise, End::AddGated { x: &x, gate: &gate, rows_per_gate: 7 }] {
                let [mma, wgmma] = [Family::Mma, Family::Wgmma].map(|family| run_with(&device, family, &case, &end).unwrap());
                assert_eq!(mma, wgmma, "{device:?} {shape:?}");
            }
        }
    }
}

#[test]
fn a_replay_gives_the_bytes_of_a_queued_product() {
    let case = Case::new(Int8Rule::PerToken, Kind::Plain, [130, 136, 256]);
    for device in devices_of_every_kind() {
        let stream = device.stream().unwrap();
        let product = GemmInt8::load(&device).unwrap();
        let (a_values, a_scales) = (stream.upload(case.a.values()).unwrap(), stream.upload(case.a.scales()).unwrap());
        let (w_values, w_scales) = (stream.upload(case.w.values()).unwrap(), stream.upload(case.w.scales()).unwrap());
        let a = DeviceRows::new(Int8Rule::PerToken, 130, 256, a_values.view(), a_scales.view()).unwrap();
        let w = DeviceWeight::new(136, 256, w_values.view(), w_scales.view()).unwrap();
        let mut out = stream.allocate::<f32>(130 * 136).unwrap();
        let mut graph = stream.capture(|stream| product.store_f32(stream, a, w, None, out.view_mut())).unwrap();
        out.view_mut().fill_bytes(0).unwrap();
        graph.replay().unwrap();
        let replayed = out.to_vec().unwrap();
        out.view_mut().fill_bytes(0).unwrap();
        product.store_f32(&stream, a, w, None, out.view_mut()).unwrap();
        demand_equal(&replayed, &out.to_vec().unwrap(), &format!("{device:?}"));
        assert!(replayed.iter().any(|value| *value != 0.0));
    }
}

#[test]
fn two_streams_share_a_weight() {
    let case = Case::new(Int8Rule::Official, Kind::Plain, [140, 136, 256]);
    let want = case.on_host(Then::Store, Rounding::Bf16, vec![]);
    for device in devices_of_every_kind() {
        let product = GemmInt8::load(&device).unwrap();
        let streams = [device.stream().unwrap(), device.stream().unwrap()];
        let w_values = streams[0].upload(case.w.values()).unwrap().settle().unwrap();
        let w_scales = streams[0].upload(case.w.scales()).unwrap().settle().unwrap();
        let bias = streams[0].upload(&case.bias).unwrap().settle().unwrap();
        let w = DeviceWeight::new(136, 256, w_values.view(), w_scales.view()).unwrap();
        let queued = streams.map(|stream| {
            let (values, scales) = (stream.upload(case.a.values()).unwrap(), stream.upload(case.a.scales()).unwrap());
            let a = DeviceRows::new(Int8Rule::Official, 140, 256, values.view(), scales.view()).unwrap();
            let mut out = stream.allocate(140 * 136).unwrap();
            product.store(&stream, a, w, Some(bias.view()), out.view_mut(), None).unwrap();
            out
        });
        for out in queued {
            demand_equal(&widen(&out.to_vec().unwrap()), &want, &format!("{device:?}"));
        }
    }
}

#[test]
fn misfits_are_refused_and_no_rows_are_no_work() {
    let hopper = emulated(&[EmulatorOptions::default().for_capability((9, 0))]);
    for device in devices().into_iter().chain(hopper) {
        let mut case = Case::new(Int8Rule::PerToken, Kind::Plain, [2, 40, 256]);
        let gated = |gate, rows_per_gate| End::AddGated { x: &[bf16::ONE; 80], gate, rows_per_gate };
        assert!(matches!(run(&device, &case, &gated(&[1.0; 40], 0)), Err(Error::Size { found: 0, .. })));
        assert!(matches!(run(&device, &case, &gated(&[1.0; 40], 1)), Err(Error::Length { what: "gate", expected: 80, .. })));
        case.bias.pop();
        assert!(matches!(run(&device, &case, &End::F32), Err(Error::Length { what: "bias", .. })));
        case.bias.clear();
        // stored alike, and another sum
        case.a = Int8Rows::quantise(Int8Rule::PerToken, &[1.0f32; 250], 1, 250).unwrap();
        assert!(matches!(run(&device, &case, &End::F32), Err(Error::Size { found: 250, .. })));
        case.a = Int8Rows::quantise(Int8Rule::PerToken, &[1.0f32; 128], 1, 128).unwrap();
        assert!(matches!(run(&device, &case, &End::F32), Err(Error::Size { found: 128, .. })));
        case.a = Int8Rows::quantise::<f32>(Int8Rule::PerToken, &[], 0, 256).unwrap();
        assert_eq!(run(&device, &case, &End::F32).unwrap(), Ended::default());
    }
}

/// The recorded run of the official product: the sum in another order of additions, so its last bit is free.
#[test]
fn the_official_product_is_that_of_the_recorded_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/quant_linear");
    for name in ["m150_k256_n128", "m5_k128_n128_zero"] {
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let of = |name: &str| tensors.tensor(name).unwrap();
        let int8 = |name: &str| of(name).data().iter().map(|byte| byte.cast_signed()).collect::<Vec<_>>();
        let f32 = |name: &str| of(name).data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
        let bf16 = |name: &str| of(name).data().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b)).collect::<Vec<_>>();
        let (rows, width, out) = (of("x").shape()[0], of("x").shape()[1], of("weight").shape()[0]);
        let mut case = Case {
            a: Int8Rows::from_parts(Int8Rule::Official, rows, width, int8("x_int8"), f32("x_scale")).unwrap(),
            w: QuantizedWeight::from_parts(out, width, int8("int8_weight"), f32("scale")).unwrap(),
            bias: bf16("bias"),
        };
        for device in devices_of_every_kind() {
            let got = widen(&run(&device, &case, &End::Bf16 { with_sums: false }).unwrap().bf16);
            demand_equal(&got, &widen(&bf16("out_bf16")), &format!("{device:?} {name}"));
        }
        case.bias.clear();
        let want: Vec<f64> = f32("gemm_f32").into_iter().map(f64::from).collect();
        for device in devices_of_every_kind() {
            let got = run(&device, &case, &End::F32).unwrap().f32;
            Verdict::of(&got, &want, Bound::relative_l2(1e-6)).demand(&format!("{device:?} {name}"));
        }
    }
}
