//! Products with a weight on the host.

use std::time::{Duration, Instant};

use half::bf16;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gemm::{Epilogue, PackedMatrix, gemm};
use turbowan_cuda::ops::gemm_int8::{PackedInt8, gemm_int8};
use turbowan_cuda::ops::quant::{Int8Rows, Int8Rule, QuantizedWeight};
use turbowan_reference::inputs::normal;
use turbowan_reference::metrics::Bound;
use turbowan_reference::quant::{BLOCK, Int8Matrix};

use crate::bench::case::Linear;
use crate::bench::error::Error;
use crate::bench::work::{Check, Work, gather, seeded_rows};

/// A floating-point product.
pub struct Floats {
    shape: Linear,
    x: Vec<f32>,
    weight: Vec<f32>,
    packed: PackedMatrix,
    rounding: Rounding,
    out: Vec<f32>,
}

impl Floats {
    /// f32 rows and weight.
    pub fn f32(shape: &Linear) -> Result<Self, Error> {
        let weight = normal(shape.out * shape.input, 2);
        let packed = PackedMatrix::pack(&weight, shape.out, shape.input)?;
        Ok(Self::new(shape, weight, packed, Rounding::None))
    }

    /// bf16 rows, weight and results.
    pub fn bf16(shape: &Linear) -> Result<Self, Error> {
        let halves: Vec<bf16> = normal(shape.out * shape.input, 2).into_iter().map(bf16::from_f32).collect();
        let packed = PackedMatrix::pack(&halves, shape.out, shape.input)?;
        Ok(Self::new(shape, halves.into_iter().map(bf16::to_f32).collect(), packed, Rounding::Bf16))
    }

    fn new(shape: &Linear, weight: Vec<f32>, packed: PackedMatrix, rounding: Rounding) -> Self {
        let mut x = normal(shape.rows * shape.input, 1);
        rounding.apply_row(&mut x);
        Self { shape: *shape, x, weight, packed, rounding, out: vec![0.0; shape.rows * shape.out] }
    }
}

impl Work for Floats {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let epilogue = Epilogue { rounding: self.rounding, ..Epilogue::PLAIN };
        gemm(&self.x, self.shape.rows, &self.packed, &epilogue, &mut self.out)?;
        Ok(None)
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let Linear { rows: all, out, input } = self.shape;
        let rows = seeded_rows(all, rows);
        let want = turbowan_reference::gemm::linear(&gather(&self.x, input, &rows), &self.weight, None, input);
        Ok(Check::of(&gather(&self.out, out, &rows), &want, bound, "the f64 product"))
    }
}

/// An int8 product.
pub struct Int8 {
    shape: Linear,
    /// What is quantised in every run, where quantising is a part of it.
    x: Option<Vec<f32>>,
    rows: Int8Rows,
    weight: QuantizedWeight,
    packed: PackedInt8,
    out: Vec<f32>,
}

impl Int8 {
    /// Rows and weight by the official rule; `quantises` says whether the rows are quantised in the run.
    pub fn new(shape: &Linear, quantises: bool) -> Result<Self, Error> {
        let x = normal(shape.rows * shape.input, 1);
        let weight = QuantizedWeight::quantise(&normal(shape.out * shape.input, 2), shape.out, shape.input)?;
        let rows = Int8Rows::quantise(Int8Rule::Official, &x, shape.rows, shape.input)?;
        let packed = PackedInt8::pack(&weight);
        Ok(Self { shape: *shape, x: quantises.then_some(x), rows, weight, packed, out: vec![0.0; shape.rows * shape.out] })
    }
}

impl Work for Int8 {
    fn run(&mut self) -> Result<Option<Duration>, Error> {
        let started = Instant::now();
        if let Some(x) = &self.x {
            self.rows.fill(x, self.shape.rows, self.shape.input)?;
        }
        gemm_int8(&self.rows, &self.packed, &Epilogue::PLAIN, &mut self.out)?;
        Ok(Some(started.elapsed()))
    }

    fn check(&mut self, rows: usize, bound: Bound) -> Result<Check, Error> {
        let want = int8_rows(self.shape, self.rows.values(), self.rows.scales(), BLOCK, &self.weight, rows);
        let got = gather(&self.out, self.shape.out, &seeded_rows(self.shape.rows, rows));
        Ok(Check::of(&got, &want, bound, "the f64 product of the same int8 operands"))
    }
}

/// Seeded rows of an int8 product in f64; `block_rows` rows of the activation share a scale.
pub fn int8_rows(shape: Linear, values: &[i8], scales: &[f32], block_rows: usize, weight: &QuantizedWeight, rows: usize) -> Vec<f64> {
    let rows = seeded_rows(shape.rows, rows);
    let blocks = shape.input.div_ceil(BLOCK);
    let scale_rows: Vec<usize> = rows.iter().map(|row| row / block_rows).collect();
    let (values, scales) = (gather(values, shape.input, &rows), gather(scales, blocks, &scale_rows));
    let a = Int8Matrix { values: &values, scales: &scales, width: shape.input, block_rows: 1 };
    let w = Int8Matrix { values: weight.values(), scales: weight.scales(), width: shape.input, block_rows: BLOCK };
    turbowan_reference::quant::int8_linear(&a, &w)
}
