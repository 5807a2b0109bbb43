//! `quant_linear`: the int8 linear layer and the fast norms against the official ones.

use half::bf16;
use serde_json::Value;
use turbowan_cuda::Rounding;
use turbowan_cuda::ops::gemm::Epilogue;
use turbowan_cuda::ops::gemm_int8::{PackedInt8, gemm_int8};
use turbowan_cuda::ops::norm::{LayerNorm, LayerNormRule, RmsNorm, RmsRule, layer_norm_affine, rms_norm};
use turbowan_cuda::ops::quant::{AMAX_FLOOR, BLOCK, Int8Rows, Int8Rule, QuantizedWeight};
use turbowan_reference::metrics::Bound;

use super::{Error, Fixture, OPERATION, Rows, Tensors, dit};
use crate::run::processor::Processor;

/// Replays every case, by what its tensors are.
pub(super) fn run(fixture: &Fixture, processor: &Processor, rows: &mut Rows) -> Result<(), Error> {
    let cases = fixture.meta["cases"].as_object().ok_or_else(|| fixture.broken("no \"cases\""))?;
    for (name, case) in cases {
        if case.get("forward").is_some() {
            dit::quantised_forward(fixture, processor, name, case, rows)?;
            continue;
        }
        if let Processor::Device(_) = processor {
            rows.skip(name, OPERATION);
            continue;
        }
        let tensors = fixture.tensors(&format!("{name}.safetensors"))?;
        if tensors.has("int8_weight") {
            linear(fixture, rows, name, &tensors)?;
        } else {
            norms(fixture, rows, name, case, &tensors)?;
        }
    }
    Ok(())
}

/// Quantisers, product and layer of one case.
fn linear(fixture: &Fixture, rows: &mut Rows, name: &str, tensors: &Tensors) -> Result<(), Error> {
    let (x, weight) = (Matrix::read(tensors, "x")?, Matrix::read(tensors, "weight")?);
    let a = Int8Rows::quantise(Int8Rule::Official, &x.values, x.rows, x.width).map_err(Error::model)?;
    let w = QuantizedWeight::quantise(&weight.values, weight.rows, weight.width).map_err(Error::model)?;
    for (tensor, source, values) in [("x_int8", &x, a.values()), ("int8_weight", &weight, w.values())] {
        integers(rows, format!("{name} {tensor}"), values, &tensors.i64(tensor)?, source);
    }
    let relative = Bound::max_abs(fixture.number("/tolerance/scale_rel")?);
    for (tensor, scales) in [("x_scale", a.scales()), ("scale", w.scales())] {
        let want = tensors.f32(tensor)?;
        if want.len() == scales.len() {
            let shares: Vec<f64> = scales.iter().zip(&want).map(|(got, want)| f64::from(*got) / f64::from(*want)).collect();
            rows.compare(format!("{name} {tensor} (as a share)"), &shares, &vec![1.0; want.len()], relative);
        } else {
            rows.compare(format!("{name} {tensor}"), scales, &want, relative);
        }
    }

    // the product of the recorded integers and scales, so that a quantiser's tie cannot reach it
    let narrow = |tensor| Ok::<_, Error>(tensors.i64(tensor)?.into_iter().map(|value| value as i8).collect::<Vec<_>>());
    let recorded = Int8Rows::from_parts(Int8Rule::Official, x.rows, x.width, narrow("x_int8")?, tensors.f32("x_scale")?);
    let recorded = recorded.map_err(Error::model)?;
    let packed = QuantizedWeight::from_parts(weight.rows, weight.width, narrow("int8_weight")?, tensors.f32("scale")?);
    let packed = PackedInt8::pack(&packed.map_err(Error::model)?);
    let mut product = vec![0.0; x.rows * weight.rows];
    gemm_int8(&recorded, &packed, &Epilogue::PLAIN, &mut product).map_err(Error::model)?;
    let (want, share) = (tensors.f32("gemm_f32")?, fixture.number("/tolerance/gemm_f32_rel")?);
    let largest = want.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let bound = Bound { max_abs: Some(share * f64::from(largest)), relative_l2: Some(share), cosine: None };
    rows.compare(format!("{name} gemm_f32"), &product, &want, bound);

    // the layer from its floating-point input, with the recorded weight
    let bias = if tensors.has("bias") { Some(tensors.f32("bias")?) } else { None };
    let epilogue = Epilogue { bias: bias.as_deref(), rounding: Rounding::Bf16, ..Epilogue::PLAIN };
    let steps = bf16_steps(fixture)?;
    for (rows_of, activation) in [("recorded int8", &recorded), ("our int8", &a)] {
        let mut out = vec![0.0; x.rows * weight.rows];
        gemm_int8(activation, &packed, &epilogue, &mut out).map_err(Error::model)?;
        within_bf16_steps(rows, format!("{name} out_bf16 of {rows_of}"), &out, &tensors.f32("out_bf16")?, steps);
    }
    Ok(())
}

/// A tensor as flattened rows of its last axis.
struct Matrix {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

impl Matrix {
    fn read(tensors: &Tensors, name: &str) -> Result<Self, Error> {
        let shape = tensors.shape(name)?;
        let Some((width, outer)) = shape.split_last().filter(|_| !shape.contains(&0)) else {
            return Err(Error::Model(format!("{name} has shape {shape:?}, expected rows")));
        };
        Ok(Self { values: tensors.f32(name)?, rows: outer.iter().product(), width: *width })
    }

    /// What `values[index]` is multiplied to before the official quantiser rounds it.
    fn scaled(&self, index: usize) -> f32 {
        let (row, column) = (index / self.width / BLOCK * BLOCK, index % self.width / BLOCK * BLOCK);
        let amax = (row..self.rows.min(row + BLOCK))
            .flat_map(|row| &self.values[row * self.width + column..row * self.width + self.width.min(column + BLOCK)])
            .fold(AMAX_FLOOR, |amax, value| amax.max(value.abs()));
        self.values[index] * (Int8Rule::Official.levels() / amax)
    }
}

/// Integers are equal; one may differ by one where its product lies on a tie, since the official build divides only
/// approximately (2 units in the last place of a product up to 128).
fn integers(rows: &mut Rows, case: String, got: &[i8], want: &[i64], source: &Matrix) {
    const NEAR_A_TIE: f32 = 2.0 * 128.0 / 8_388_608.0;
    if got.len() != want.len() {
        return rows.fact(case, false, format!("{} values where the fixture has {}", got.len(), want.len()));
    }
    let (mut ties, mut wrong) = (0usize, None);
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (i64::from(*got) - want).abs();
        let is_near_a_tie = || {
            let scaled = source.scaled(index);
            ((scaled - scaled.floor()) - 0.5).abs() <= NEAR_A_TIE
        };
        match difference {
            0 => {}
            1 if is_near_a_tie() => ties += 1,
            _ => wrong = wrong.or(Some((index, *got, *want))),
        }
    }
    let note = match wrong {
        None => format!("{} values, {ties} of them differ by one on a tie", got.len()),
        Some((index, got, want)) => format!("at {index}: got {got}, want {want}"),
    };
    rows.fact(case, wrong.is_none(), note);
}

/// Units in the last place of bf16 that `tolerance.out_bf16` allows: the number it begins with.
fn bf16_steps(fixture: &Fixture) -> Result<i32, Error> {
    let tolerance = &fixture.meta["tolerance"]["out_bf16"];
    let first = tolerance.as_str().and_then(|text| text.split_whitespace().next()).and_then(|word| word.parse().ok());
    let steps = first.or_else(|| tolerance.as_i64().and_then(|steps| i32::try_from(steps).ok()));
    steps.ok_or_else(|| fixture.broken(format!("tolerance.out_bf16 {tolerance} names no number of steps")))
}

/// Every value is at most `steps` neighbouring bf16 numbers from the recorded one.
fn within_bf16_steps(rows: &mut Rows, case: String, got: &[f32], want: &[f32], steps: i32) {
    /// Place of a value in the order of all bf16 numbers.
    fn place(value: f32) -> i32 {
        let bits = i32::from(bf16::from_f32(value).to_bits().cast_signed());
        if bits < 0 { -(bits & 0x7fff) } else { bits }
    }
    if got.len() != want.len() {
        return rows.fact(case, false, format!("{} values where the fixture has {}", got.len(), want.len()));
    }
    let distance = |(got, want): (&f32, &f32)| match got.is_finite() && want.is_finite() {
        true => (place(*got) - place(*want)).abs(),
        false => i32::from(got.to_bits() != want.to_bits()) * i32::MAX,
    };
    let distances: Vec<i32> = got.iter().zip(want).map(distance).collect();
    let worst = distances.iter().enumerate().max_by_key(|(_, distance)| **distance);
    let Some((at, most)) = worst else { return rows.fact(case, false, "no values") };
    let differ = distances.iter().filter(|distance| **distance > 0).count();
    let note = format!(
        "{differ} of {} differ, at most by {most} bf16 steps (allowed: {steps}); worst at {at}: got {}, want {}",
        got.len(),
        got[at],
        want[at]
    );
    rows.fact(case, *most <= steps, note);
}

/// The norms that replace a network's own, and those that they replace.
fn norms(fixture: &Fixture, rows: &mut Rows, name: &str, case: &Value, tensors: &Tensors) -> Result<(), Error> {
    let eps = case["eps"].as_f64().ok_or_else(|| fixture.broken(format!("no eps in case {name}")))? as f32;
    let x = Matrix::read(tensors, "x")?;
    let (weight, bias) = (tensors.f32("weight")?, tensors.f32("bias")?);
    let (ones, zeros) = (vec![1.0; x.width], vec![0.0; x.width]);
    let rms = |rule, rounding: Rounding, weight: &[f32]| {
        let mut out = x.values.clone();
        rounding.apply_row(&mut out);
        rms_norm(&RmsNorm { width: x.width, rule, eps, rounding }, &mut out, weight).map_err(Error::model)?;
        Ok::<_, Error>(out)
    };
    let layer = |rule, weight: &[f32], bias: &[f32]| {
        let mut out = vec![0.0; x.values.len()];
        let norm = LayerNorm { width: x.width, rule, eps, rounding: Rounding::None };
        layer_norm_affine(&norm, &x.values, weight, bias, &mut out).map_err(Error::model)?;
        Ok::<_, Error>(out)
    };
    let (bound, steps) = (Bound::max_abs(fixture.number("/tolerance/norms_max_abs")?), bf16_steps(fixture)?);
    for tensor in tensors.names()? {
        let got = match tensor.as_str() {
            "x" | "weight" | "bias" => continue,
            "fast_rmsnorm_f32" => rms(RmsRule::Fast, Rounding::None, &weight)?,
            "standard_rmsnorm_f32" => rms(RmsRule::Standard, Rounding::None, &weight)?,
            "fast_rmsnorm_bf16_in" => rms(RmsRule::Fast, Rounding::Bf16, &weight)?,
            "wan_rmsnorm_bf16_in_bf16_weight" => {
                let mut narrow = weight.clone();
                Rounding::Bf16.apply_row(&mut narrow);
                rms(RmsRule::Standard, Rounding::Bf16, &narrow)?
            }
            "fast_layernorm_affine_f32" => layer(LayerNormRule::Padded, &weight, &bias)?,
            "fast_layernorm_noaffine_f32" => layer(LayerNormRule::Padded, &ones, &zeros)?,
            "standard_layernorm_affine_f32" => layer(LayerNormRule::Standard, &weight, &bias)?,
            "standard_layernorm_noaffine_f32" => layer(LayerNormRule::Standard, &ones, &zeros)?,
            _ => {
                rows.fact(format!("{name} {tensor}"), false, "a tensor that no rule here makes");
                continue;
            }
        };
        let want = tensors.f32(&tensor)?;
        match tensor.contains("bf16") {
            true => within_bf16_steps(rows, format!("{name} {tensor}"), &got, &want, steps),
            false => rows.compare(format!("{name} {tensor}"), &got, &want, bound),
        }
    }
    Ok(())
}
