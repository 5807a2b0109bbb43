//! RMS norm and rotary embedding: on every device the host twins' results, one unit of bf16 apart at most.

use half::bf16;
use turbowan_cuda::device::Device;
use turbowan_cuda::ops::norm::{RmsNorm, RmsRule, rms_norm};
use turbowan_cuda::ops::rope::RopeTable;
use turbowan_cuda::ops::rope::device::{HeadRows, RmsRope, RopeTurns};
use turbowan_cuda::{Error, HeadLayout, Rounding};
use turbowan_reference::inputs::{Kind, normal, rows as input};
use turbowan_reference::{norm as norm_truth, rope as rope_truth};

use crate::{devices, devices_in_all_ways};

const EPS: f32 = 1e-6;

struct Case {
    batch: usize,
    grid: [usize; 3],
    heads: usize,
    head_dim: usize,
    /// Values before, and between, the rows of the input.
    gap: usize,
    rule: RmsRule,
    layout: HeadLayout,
    is_turned: bool,
}

impl Case {
    fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn rows(&self) -> usize {
        self.batch * self.tokens()
    }

    fn run(&self, device: &Device, x: &[f32], weight: &[f32]) -> Result<Vec<f32>, Error> {
        let stream = device.stream()?;
        let stride = self.width() + self.gap;
        // what lies between the rows is not theirs
        let mut wide = vec![bf16::NAN; self.gap + self.rows() * stride];
        for (row, x) in x.chunks(self.width()).enumerate() {
            let to = &mut wide[self.gap + row * stride..][..x.len()];
            to.iter_mut().zip(x).for_each(|(to, x)| *to = bf16::from_f32(*x));
        }
        let (wide, weight) = (stream.upload(&wide)?, stream.upload(weight)?);
        let end = self.rows() * stride;
        let rows = HeadRows {
            values: wide.view().slice(self.gap..end)?,
            tokens: self.tokens(),
            heads: self.heads,
            head_dim: self.head_dim,
            stride,
        };
        let turns = self.is_turned.then(|| RopeTurns::upload(&stream, self.grid, self.head_dim)).transpose()?;
        let mut out = stream.allocate::<bf16>(x.len())?;
        let kernel = RmsRope::load(device)?;
        kernel.run(&stream, self.rule, EPS, rows, weight.view(), turns.as_ref(), self.layout, out.view_mut())?;
        let out = out.to_vec()?;
        let mut rows = vec![0.0; out.len()];
        for (index, value) in rows.iter_mut().enumerate() {
            let (row, head, dim) = (index / self.width(), index % self.width() / self.head_dim, index % self.head_dim);
            let (batch, token) = (row / self.tokens(), row % self.tokens());
            *value = match self.layout {
                HeadLayout::Blhd => out[index],
                HeadLayout::Bhld => out[((batch * self.heads + head) * self.tokens() + token) * self.head_dim + dim],
            }
            .to_f32();
        }
        Ok(rows)
    }

    fn twin(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        let norm = RmsNorm { width: self.width(), rule: self.rule, eps: EPS, rounding: Rounding::Bf16 };
        rms_norm(&norm, &mut y, weight).unwrap();
        if self.is_turned {
            RopeTable::wan(self.grid, self.head_dim).unwrap().apply(&mut y, self.heads, Rounding::Bf16).unwrap();
        }
        y
    }

    fn truth(&self, x: &[f32], weight: &[f32]) -> Vec<f64> {
        let y = norm_truth::rms_norm(x, self.width(), EPS.into(), weight);
        if !self.is_turned {
            return y;
        }
        let y: Vec<f32> = y.into_iter().map(|y| y as f32).collect();
        rope_truth::rotate(&y, self.heads, self.head_dim, &rope_truth::angles(self.grid, self.head_dim))
    }

    /// A unit of bf16 of the pair that a value was turned with, from the twin; two more roundings from the truth.
    fn demand_close(&self, got: &[f32], x: &[f32], weight: &[f32], what: &str) -> usize {
        let (twin, truth) = (self.twin(x, weight), self.truth(x, weight));
        let mut differ = 0;
        for (index, got) in got.iter().enumerate() {
            let size = twin[index].abs().max(twin[index ^ 1].abs());
            assert!((got - twin[index]).abs() <= size / 128.0, "{what}: value {index}: {got}, twin {}", twin[index]);
            let off = (f64::from(*got) - truth[index]).abs();
            assert!(off <= f64::from(size) / 64.0 + 1e-6, "{what}: value {index}: {got}, exactly {}", truth[index]);
            differ += usize::from(*got != twin[index]);
        }
        differ
    }
}

fn bf16_rows(kind: Kind, rows: usize, width: usize) -> Vec<f32> {
    let mut x = input(kind, rows, width, 3);
    Rounding::Bf16.apply_row(&mut x);
    x
}

#[test]
fn heads_are_those_of_the_host_twins() {
    let (mut differ, mut all) = (0, 0);
    let shapes = [
        // batch, grid, heads, head dim, gap
        (1, [1, 1, 1], 1, 8, 0),
        (2, [2, 3, 5], 3, 16, 8),
        (1, [3, 1, 2], 12, 128, 3072),
        (2, [1, 2, 1], 40, 128, 0),
        (1, [1, 1, 7], 5, 64, 8),
        (1, [2, 2, 1], 2, 256, 0),
        (1, [128, 1, 1], 2, 24, 0),
    ];
    for device in devices_in_all_ways() {
        for (batch, grid, heads, head_dim, gap) in shapes {
            for (rule, layout) in [(RmsRule::Standard, HeadLayout::Bhld), (RmsRule::Fast, HeadLayout::Blhd)] {
                for is_turned in [true, false] {
                    let case = Case { batch, grid, heads, head_dim, gap, rule, layout, is_turned };
                    let weight = normal(case.width(), 2);
                    for kind in [Kind::Plain, Kind::OutlierChannel, Kind::Zero] {
                        let x = bf16_rows(kind, case.rows(), case.width());
                        let got = case.run(&device, &x, &weight).unwrap();
                        let what = format!("{device:?} {batch} x {grid:?} x {heads} x {head_dim} {rule:?} {layout:?} {kind:?}");
                        differ += case.demand_close(&got, &x, &weight, &what);
                        all += got.len();
                    }
                }
            }
        }
    }
    println!("{differ} of {all} values differ from the host twins'");
    assert!(differ * 1000 <= all, "{differ} of {all} values differ from the host twins'");
}

fn small(grid: [usize; 3]) -> Case {
    let (rule, layout) = (RmsRule::Standard, HeadLayout::Bhld);
    Case { batch: 1, grid, heads: 2, head_dim: 32, gap: 0, rule, layout, is_turned: true }
}

#[test]
fn the_last_position_of_each_axis_is_turned_right() {
    for device in devices() {
        for grid in [[128, 1, 1], [1, 128, 1], [1, 1, 128], [2, 5, 11]] {
            let case = small(grid);
            let (x, weight) = (bf16_rows(Kind::Plain, case.rows(), 64), normal(64, 2));
            case.demand_close(&case.run(&device, &x, &weight).unwrap(), &x, &weight, &format!("{grid:?}"));
        }
    }
}

#[test]
fn large_values_stay_finite() {
    for device in devices() {
        let case = small([1, 1, 3]);
        let weight = normal(64, 2);
        let x: Vec<f32> = bf16_rows(Kind::OutlierChannel, 3, 64).iter().map(|x| bf16::from_f32(x * 1e4).to_f32()).collect();
        let got = case.run(&device, &x, &weight).unwrap();
        assert!(got.iter().all(|value| value.is_finite()));
        case.demand_close(&got, &x, &weight, "large");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let stream = device.stream().unwrap();
        let kernel = RmsRope::load(&device).unwrap();
        let turns = RopeTurns::upload(&stream, [1, 2, 2], 32).unwrap();
        assert_eq!(turns.tokens(), 4);
        let (x, weight) = (stream.upload(&[bf16::ONE; 256]).unwrap(), stream.upload(&[1.0f32; 64]).unwrap());
        let mut out = stream.allocate::<bf16>(256).unwrap();
        let good = HeadRows { values: x.view(), tokens: 4, heads: 2, head_dim: 32, stride: 64 };
        let mut run = |rows| kernel.run(&stream, RmsRule::Fast, EPS, rows, weight.view(), Some(&turns), HeadLayout::Bhld, out.view_mut());
        run(good).unwrap();
        assert!(matches!(run(HeadRows { tokens: 2, ..good }), Err(Error::Length { what: "tokens of the rotary grid", .. })));
        assert!(matches!(run(HeadRows { tokens: 3, ..good }), Err(Error::Size { what: "tokens of a sample", .. })));
        assert!(matches!(run(HeadRows { heads: 4, head_dim: 16, ..good }), Err(Error::Length { .. })));
        assert!(matches!(run(HeadRows { heads: 16, head_dim: 4, ..good }), Err(Error::Size { what: "head dim", .. })));
        assert!(matches!(run(HeadRows { stride: 60, ..good }), Err(Error::Size { what: "stride of rows", .. })));
        assert!(matches!(run(HeadRows { heads: 200, ..good }), Err(Error::Size { .. })));
        for (grid, head_dim) in [([1, 1, 1], 12), ([1, 1, 1], 264), ([0, 1, 1], 32), ([1, 129, 1], 32)] {
            assert!(RopeTurns::upload(&stream, grid, head_dim).is_err(), "{grid:?} {head_dim}");
        }
    }
}
