//! Layer norm with modulation and int8 rows: on every device the host twins' results, one unit of bf16 apart at most.

use half::bf16;
use turbowan_cuda::device::{Buffer, Device, Stream};
use turbowan_cuda::ops::norm::device::{NormModQuant, NormedRows, Then};
use turbowan_cuda::ops::norm::{LayerNorm, LayerNormRule, Modulation, layer_norm_affine, layer_norm_modulate};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, padded};
use turbowan_cuda::{Error, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::norm as truth;

use crate::{devices, devices_in_all_ways, int8_rows};

const EPS: f32 = 1e-6;
const RULES: [LayerNormRule; 2] = [LayerNormRule::Standard, LayerNormRule::Padded];

/// One row, widths that fill neither a warp nor a thread, those of the models, the widest.
const SHAPES: [[usize; 2]; 8] = [[1, 128], [1, 8], [3, 40], [7, 384], [2, 520], [5, 1536], [3, 2056], [2, 5120]];

/// A row's rounding error is one unit of bf16 where the order of a sum moves it over a tie: its eight bits, doubled.
const ONE_UNIT: f32 = 1.0 / 128.0;

struct Case {
    rows: usize,
    width: usize,
    rows_per_group: usize,
    x: Vec<bf16>,
    shift: Vec<f32>,
    scale: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, rows: usize, width: usize, rows_per_group: usize) -> Self {
        let groups = rows.div_ceil(rows_per_group);
        let x = input(kind, rows, width, 1).into_iter().map(bf16::from_f32).collect();
        Self { rows, width, rows_per_group, x, shift: normal(groups * width, 5), scale: normal(groups * width, 6) }
    }

    fn host_x(&self) -> Vec<f32> {
        self.x.iter().map(|x| x.to_f32()).collect()
    }

    fn host(&self, rule: LayerNormRule, is_affine: bool) -> Vec<f32> {
        let norm = LayerNorm { width: self.width, rule, eps: EPS, rounding: Rounding::Bf16 };
        let (x, mut out) = (self.host_x(), vec![0.0; self.x.len()]);
        if is_affine {
            layer_norm_affine(&norm, &x, &self.scale[..self.width], &self.shift[..self.width], &mut out).unwrap();
        } else {
            let modulation = Modulation { shift: &self.shift, scale: &self.scale, rows_per_group: self.rows_per_group };
            layer_norm_modulate(&norm, &x, modulation, Rounding::Bf16, &mut out).unwrap();
        }
        out
    }

    fn truth(&self, rule: LayerNormRule, is_affine: bool) -> Vec<f64> {
        let is_padded = rule == LayerNormRule::Padded;
        let (x, width) = (self.host_x(), self.width);
        if is_affine {
            let less_one: Vec<f32> = self.scale[..width].iter().map(|w| w - 1.0).collect();
            return truth::layer_norm_modulate(&x, width, is_padded, EPS.into(), (&self.shift[..width], &less_one, self.rows));
        }
        truth::layer_norm_modulate(&x, width, is_padded, EPS.into(), (&self.shift, &self.scale, self.rows_per_group))
    }

    fn then<'a>(&self, is_affine: bool, shift: &'a Buffer<f32>, scale: &'a Buffer<f32>) -> Then<'a> {
        if is_affine {
            let part = |table: &'a Buffer<f32>| table.view().slice(0..self.width).unwrap();
            return Then::Affine { weight: part(scale), bias: part(shift) };
        }
        Then::Modulate { shift: shift.view(), scale: scale.view(), rows_per_group: self.rows_per_group }
    }

    fn tables(&self, stream: &Stream) -> [Buffer<f32>; 2] {
        [&self.shift, &self.scale].map(|table| stream.upload(table).unwrap())
    }

    fn bf16_rows(&self, device: &Device, rule: LayerNormRule, is_affine: bool) -> Vec<bf16> {
        let stream = device.stream().unwrap();
        let [shift, scale] = self.tables(&stream);
        let (x, mut out) = (stream.upload(&self.x).unwrap(), stream.allocate(self.x.len()).unwrap());
        let then = self.then(is_affine, &shift, &scale);
        let norm = NormModQuant::load(device).unwrap();
        norm.run(&stream, rule, EPS, x.view(), self.width, then, NormedRows::Bf16(out.view_mut())).unwrap();
        out.to_vec().unwrap()
    }

    /// The int8 rows, and with `with_rows` the bf16 rows that the same launch stored.
    fn int8_rows(&self, device: &Device, rule: LayerNormRule, is_affine: bool, with_rows: bool) -> (Int8Rows, Vec<bf16>) {
        let stream = device.stream().unwrap();
        let [shift, scale] = self.tables(&stream);
        let (x, mut rows) = (stream.upload(&self.x).unwrap(), stream.allocate(self.x.len()).unwrap());
        let mut values = stream.allocate(self.rows * padded(self.width)).unwrap();
        let mut scales = stream.allocate(self.rows * self.width.div_ceil(128)).unwrap();
        let out = if with_rows {
            NormedRows::Both { rows: rows.view_mut(), values: values.view_mut(), scales: scales.view_mut() }
        } else {
            NormedRows::Int8 { values: values.view_mut(), scales: scales.view_mut() }
        };
        let then = self.then(is_affine, &shift, &scale);
        NormModQuant::load(device).unwrap().run(&stream, rule, EPS, x.view(), self.width, then, out).unwrap();
        let (values, scales) = (values.to_vec().unwrap(), scales.to_vec().unwrap());
        let int8 = int8_rows(Int8Rule::PerToken, self.rows, self.width, &values, scales).unwrap();
        (int8, rows.to_vec().unwrap())
    }
}

/// How far rows of large and small values may be apart: a unit of bf16 of the value, or, where it is the small difference
/// of large terms, of the rounded normed row that went into it.
fn demand_close(got: &[bf16], want: &[f32], case: &Case, truth: &[f64], what: &str) -> usize {
    let mut differ = 0;
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let got = got.to_f32();
        let at = index / case.width / case.rows_per_group * case.width + index % case.width;
        let terms = (f64::from(*want).abs() + f64::from(case.shift[at]).abs()) as f32;
        assert!((got - want).abs() <= ONE_UNIT * terms.max(want.abs()), "{what}: value {index}: {got}, twin {want}");
        let off = (f64::from(got) - truth[index]).abs();
        assert!(off <= f64::from(ONE_UNIT * terms) + 1e-6, "{what}: value {index}: {got}, exactly {}", truth[index]);
        differ += usize::from(got != *want);
    }
    differ
}

#[test]
fn bf16_rows_are_those_of_the_host_twin() {
    let (mut differ, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        for [rows, width] in SHAPES {
            for kind in Kind::ALL {
                let case = Case::new(kind, rows, width, rows.div_ceil(2));
                for rule in RULES {
                    for is_affine in [false, true] {
                        let got = case.bf16_rows(&device, rule, is_affine);
                        let what = format!("{device:?} {rule:?} {rows} x {width} {kind:?} affine {is_affine}");
                        // one group's tables are what an affine norm has
                        let one_group = Case { rows_per_group: rows, ..Case::new(kind, rows, width, rows.div_ceil(2)) };
                        let judged = if is_affine { &one_group } else { &case };
                        let (want, truth) = (case.host(rule, is_affine), case.truth(rule, is_affine));
                        differ += demand_close(&got, &want, judged, &truth, &what);
                        all += got.len();
                    }
                }
            }
        }
    }
    println!("{differ} of {all} values differ from the host twin");
    assert!(differ * 1000 <= all, "{differ} of {all} values differ from the host twin");
}

#[test]
fn int8_rows_are_the_bf16_rows_quantised_and_near_the_twins() {
    let (mut differ, mut all) = (0, 0);
    for device in devices_in_all_ways() {
        for [rows, width] in SHAPES.into_iter().chain([[4, 192], [2, 64], [3, 5064]]) {
            for kind in [Kind::Plain, Kind::OutlierChannel, Kind::Zero] {
                let case = Case::new(kind, rows, width, rows.div_ceil(2));
                for (rule, is_affine) in [(LayerNormRule::Standard, false), (LayerNormRule::Padded, false), (LayerNormRule::Standard, true)]
                {
                    let what = format!("{device:?} {rule:?} {rows} x {width} {kind:?} affine {is_affine}");
                    let (got, plain) = case.int8_rows(&device, rule, is_affine, true);
                    assert_eq!(got, Int8Rows::quantise(Int8Rule::PerToken, &plain, rows, width).unwrap(), "{what}");
                    assert_eq!(plain, case.bf16_rows(&device, rule, is_affine), "{what}");
                    assert_eq!(got, case.int8_rows(&device, rule, is_affine, false).0, "{what}");
                    let want = Int8Rows::quantise(Int8Rule::PerToken, &case.host(rule, is_affine), rows, width).unwrap();
                    for (got, want) in got.values().iter().zip(want.values()) {
                        assert!(got.abs_diff(*want) <= 1, "{what}: {got}, twin {want}");
                        differ += usize::from(got != want);
                        all += 1;
                    }
                }
            }
        }
    }
    println!("{differ} of {all} int8 values differ from the host twin's");
    assert!(differ * 10_000 <= all, "{differ} of {all} int8 values differ from the host twin's");
}

#[test]
fn large_values_and_outliers_stay_finite() {
    for device in devices() {
        let mut case = Case::new(Kind::Plain, 4, 640, 4);
        case.x.iter_mut().for_each(|x| *x = bf16::from_f32(x.to_f32() * 1e4));
        case.x[700] = bf16::from_f32(3e18);
        for rule in RULES {
            let (got, truth) = (case.bf16_rows(&device, rule, false), case.truth(rule, false));
            assert!(got.iter().all(|value| value.to_f32().is_finite()));
            demand_close(&got, &case.host(rule, false), &case, &truth, "large");
        }
    }
}

#[test]
fn a_row_that_is_not_a_number_spoils_no_other() {
    for device in devices() {
        let mut case = Case::new(Kind::Plain, 3, 256, 3);
        let whole = case.bf16_rows(&device, LayerNormRule::Standard, false);
        case.x[256 + 17] = bf16::NAN;
        let got = case.bf16_rows(&device, LayerNormRule::Standard, false);
        assert!(got[256..512].iter().all(|value| value.is_nan()));
        assert_eq!((&got[..256], &got[512..]), (&whole[..256], &whole[512..]));
    }
}

#[test]
fn no_rows_are_no_work_and_what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let norm = NormModQuant::load(&device).unwrap();
        let table = stream.upload(&[1.0f32; 256]).unwrap();
        let run = |values: usize, width, groups: usize, rows_per_group, out: usize| {
            let (x, mut out) = (stream.upload(&vec![bf16::ONE; values])?, stream.allocate::<bf16>(out)?);
            let part = table.view().slice(0..groups * width)?;
            let then = Then::Modulate { shift: part, scale: part, rows_per_group };
            norm.run(&stream, LayerNormRule::Standard, EPS, x.view(), width, then, NormedRows::Bf16(out.view_mut()))
        };
        run(0, 128, 0, 1, 0).unwrap();
        run(256, 128, 1, usize::MAX, 256).unwrap();
        assert!(matches!(run(256, 128, 1, 1, 256), Err(Error::Length { what: "modulation scale", expected: 256, found: 128 })));
        assert!(matches!(run(256, 128, 1, 0, 256), Err(Error::Size { what: "rows of a modulation group", .. })));
        assert!(matches!(run(256, 128, 2, 1, 128), Err(Error::Length { what: "layer norm output", .. })));
        assert!(matches!(run(255, 128, 1, 1, 255), Err(Error::Length { what: "layer norm input", .. })));
        assert!(matches!(run(24, 12, 1, 2, 24), Err(Error::Size { .. })));
        let (x, mut values, mut scales) =
            (stream.upload(&[bf16::ONE; 64]).unwrap(), stream.allocate(64).unwrap(), stream.allocate(0).unwrap());
        let part = table.view().slice(0..64).unwrap();
        let out = NormedRows::Int8 { values: values.view_mut(), scales: scales.view_mut() };
        let refused = norm.run(&stream, LayerNormRule::Standard, EPS, x.view(), 64, Then::Affine { weight: part, bias: part }, out);
        assert!(matches!(refused, Err(Error::Length { what: "int8 rows", expected: 128, found: 64 })), "{refused:?}");
    }
}

#[test]
fn a_recorded_norm_gives_the_bytes_of_a_queued_one_every_time() {
    for device in devices() {
        let case = Case::new(Kind::OutlierChannel, 6, 1536, 3);
        let want = case.bf16_rows(&device, LayerNormRule::Padded, false);
        let stream = device.stream().unwrap();
        let [shift, scale] = case.tables(&stream);
        let (x, mut out) = (stream.upload(&case.x).unwrap(), stream.allocate(case.x.len()).unwrap());
        let norm = NormModQuant::load(&device).unwrap();
        let then = case.then(false, &shift, &scale);
        let queue =
            |stream: &Stream| norm.run(stream, LayerNormRule::Padded, EPS, x.view(), case.width, then, NormedRows::Bf16(out.view_mut()));
        let mut graph = stream.capture(queue).unwrap();
        for _ in 0..2 {
            out.view_mut().fill_bytes(0).unwrap();
            graph.replay().unwrap();
            assert_eq!(out.to_vec().unwrap(), want);
        }
    }
}
