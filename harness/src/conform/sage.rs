//! `sage_op` and `sage_op / SageSLA`: the INT8 quantisers, e4m3 values and attention outputs against the official ones.

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;
use turbowan_cuda::{AttnShape, BlockMap, Element, Rounding, host::Isa};
use turbowan_reference::attention::{Head, Mask, attend};
use turbowan_reference::metrics::Bound;
use turbowan_sage::{
    Granularity, Quantised, Sage, Smoothing, Tile, ValuePrecision, forward, mean_keys, quantise_keys, quantise_queries, quantise_values,
};
use turbowan_sla::{Density, FeatureMap, LinearBranch, Projection, block_map, linear_branch};

use super::{Error, Fixture, Rows, Tensors};

/// Replays `sage_op`.
pub(super) fn run(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    for (name, _) in cases(fixture)? {
        let tensors = fixture.tensors(&format!("{name}.safetensors"))?;
        let causal = fixture.meta["cases"][&name]["config"]["causal"].as_bool().unwrap_or(false);
        match tensors.dtype("q")? {
            Dtype::F16 => quantisers::<f16>(fixture, rows, &name, &tensors, causal)?,
            Dtype::BF16 => quantisers::<bf16>(fixture, rows, &name, &tensors, causal)?,
            _ => quantisers::<f32>(fixture, rows, &name, &tensors, causal)?,
        }
    }
    Ok(())
}

/// Replays `sage_op / SageSLA`.
pub(super) fn run_sagesla(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    for (name, case) in cases(fixture)? {
        sagesla(fixture, rows, &name, &case, &fixture.tensors(&format!("{name}.safetensors"))?)?;
    }
    Ok(())
}

fn cases(fixture: &Fixture) -> Result<Vec<(String, Value)>, Error> {
    let layout = fixture.meta["layout"].as_str().unwrap_or_default();
    if !layout.replace(' ', "").contains("B,H,L,D") {
        return Err(fixture.broken(format!("layout {layout:?} is not [B, H, L, D]")));
    }
    let cases = fixture.meta["cases"].as_object().ok_or_else(|| fixture.broken("no \"cases\""))?;
    Ok(cases.iter().map(|(name, case)| (name.clone(), case.clone())).collect())
}

/// Queries, keys and values of a case in the format they were recorded in.
struct Operands<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    shape: AttnShape,
}

impl<T: Element> Operands<T> {
    fn read(tensors: &Tensors) -> Result<Self, Error> {
        let (query, key) = (tensors.shape("q")?, tensors.shape("k")?);
        let ([batch, heads, query_len, head_dim], [_, _, key_len, _]) = (&query[..], &key[..]) else {
            return Err(Error::Model(format!("q has shape {query:?}, k {key:?}, expected four axes")));
        };
        let shape = AttnShape::cross(*batch, *heads, *query_len, *key_len, *head_dim).map_err(Error::model)?;
        let narrow = |name| Ok::<_, Error>(tensors.f32(name)?.into_iter().map(T::narrow).collect());
        Ok(Self { q: narrow("q")?, k: narrow("k")?, v: narrow("v")?, shape })
    }

    fn forward(&self, map: Option<&BlockMap>, causal: bool, sage: &Sage) -> Result<Vec<f32>, Error> {
        forward(&self.q, &self.k, &self.v, &self.shape, map, causal, sage).map_err(Error::model)
    }
}

/// Share of integers that a tolerance lets differ by one: the percentage it names, none when it says "exact" alone.
fn by_one(fixture: &Fixture) -> Result<f64, Error> {
    let text = fixture.meta["tolerance"]["int8"].as_str().ok_or_else(|| fixture.broken("no tolerance.int8"))?;
    let Some((before, _)) = text.split_once('%') else { return Ok(0.0) };
    let number = before.rsplit(' ').next().unwrap_or_default();
    number.parse::<f64>().map(|percent| percent / 100.0).map_err(|_| fixture.broken(format!("tolerance.int8 {text:?} names no share")))
}

/// Scales as shares of the recorded ones, so that a bound on the difference is relative.
fn relative(got: &[f32], want: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let share = |(got, want): (&f32, &f32)| if got == want { 1.0 } else { f64::from(*got) / f64::from(*want) };
    (got.iter().zip(want).map(share).collect(), vec![1.0; want.len()])
}

/// The first `width` of every `recorded` values: official wrappers pad head dims with zeros.
fn crop<V: Copy>(values: Vec<V>, recorded: usize, width: usize) -> Vec<V> {
    if recorded == width { values } else { values.chunks(recorded).flat_map(|row| row[..width.min(recorded)].to_vec()).collect() }
}

fn widen<I: Into<i64> + Copy>(values: &[I]) -> Vec<i64> {
    values.iter().map(|value| (*value).into()).collect()
}

fn integers(tensors: &Tensors, name: &str, width: usize) -> Result<Vec<i64>, Error> {
    let recorded = tensors.shape(name)?.last().copied().unwrap_or(width);
    Ok(crop(tensors.i64(name)?, recorded, width))
}

fn floats(tensors: &Tensors, name: &str, width: usize) -> Result<Vec<f32>, Error> {
    let recorded = tensors.shape(name)?.last().copied().unwrap_or(width);
    Ok(crop(tensors.f32(name)?, recorded, width))
}

/// An output beside a recorded one: where the record is in 16 bits, it stands for every number that rounds to it.
fn as_stored(tensors: &Tensors, name: &str, width: usize, got: Vec<f32>) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let (want, dtype) = (floats(tensors, name, width)?, tensors.dtype(name)?);
    let stored = |value: f32| match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    };
    let got = got.iter().zip(&want).map(|(got, want)| if stored(*got) == *want { *want } else { *got }).collect();
    Ok((got, want))
}

/// Compares quantised rows with `{group}.{side}_int8` and `{group}.{side}_scale`.
fn compare_quantised(
    rows: &mut Rows,
    case: &str,
    tensors: &Tensors,
    name: &str,
    got: &Quantised,
    width: usize,
    (share, scale_bound): (f64, f64),
) -> Result<(), Error> {
    let int8 = format!("{name}_int8");
    if tensors.has(&int8) {
        rows.integers(format!("{case} {int8}"), &widen(&got.values), &integers(tensors, &int8, width)?, share);
    }
    let scale = format!("{name}_scale");
    if tensors.has(&scale) {
        let want = tensors.f32(&scale)?;
        if want.len() != got.scales.len() {
            rows.fact(format!("{case} {scale}"), false, format!("{} scales where the fixture has {}", got.scales.len(), want.len()));
        } else {
            let (got, want) = relative(&got.scales, &want);
            rows.compare(format!("{case} {scale} (relative)"), &got, &want, Bound::max_abs(scale_bound));
        }
    }
    Ok(())
}

/// The mean key against the recorded one: at most one unit in the last place of its format.
fn compare_mean<T: Element>(rows: &mut Rows, case: &str, got: &[f32], want: &[f32], digits: i32) {
    let off = got.iter().zip(want).filter(|(got, want)| (**got - **want).abs() > want.abs() * 2f32.powi(1 - digits)).count();
    let equal = got.iter().zip(want).filter(|(got, want)| T::narrow(**got).widen() == **want).count();
    rows.fact(format!("{case} k_mean"), off == 0, format!("{equal} of {} equal, {off} off by more than one unit", want.len()));
}

/// The variant that a tensor group was recorded with.
fn variant(group: &str) -> Option<Sage> {
    let tile = if group.ends_with("sm90") { Tile::SM90 } else { Tile::SM80 };
    match group {
        "triton_block" => Some(Sage::triton_per_block()),
        "triton_block_nosmooth" => Some(Sage { smoothing: Smoothing::None, ..Sage::triton_per_block() }),
        _ if group.starts_with("thread") => Some(Sage::per_thread(tile)),
        _ if group.starts_with("cuda_warp") => Some(Sage::cuda_per_warp(tile)),
        _ if group.starts_with("cuda_block") => {
            Some(Sage { granularity: Granularity::PerBlock(tile), folds_scale: true, ..Sage::cuda_per_warp(tile) })
        }
        _ => None,
    }
}

fn quantisers<T: Element>(fixture: &Fixture, rows: &mut Rows, case: &str, tensors: &Tensors, causal: bool) -> Result<(), Error> {
    let operands = Operands::<T>::read(tensors)?;
    let (shape, width) = (operands.shape, operands.shape.head_dim);
    let limits = (by_one(fixture)?, fixture.number("/tolerance/scales_rel")?);
    let out_bound = Bound::max_abs(fixture.number("/tolerance/out_max_abs")?);
    let fp8_bound = Bound::relative_l2(fixture.number("/tolerance/fp8_out_rel_l2")?);
    let mean = floats(tensors, "k_mean", width)?;
    let digits = if tensors.dtype("k_mean")? == Dtype::BF16 { 8 } else { 11 };
    compare_mean::<T>(rows, case, &mean_keys(&operands.k, &shape, &Sage::default()).map_err(Error::model)?, &mean, digits);

    let names = tensors.names()?;
    let mut groups: Vec<&str> = names.iter().filter_map(|name| name.split_once('.').map(|(group, _)| group)).collect();
    groups.dedup();
    for group in groups {
        if let Some(sage) = variant(group) {
            let query = quantise_queries(&operands.q, &shape, &sage).map_err(Error::model)?;
            compare_quantised(rows, case, tensors, &format!("{group}.q"), &query, width, limits)?;
            let key = quantise_keys(&operands.k, Some(&mean), &shape, &sage).map_err(Error::model)?;
            compare_quantised(rows, case, tensors, &format!("{group}.k"), &key, width, limits)?;
            for name in names.iter().filter(|name| name.starts_with(&format!("{group}.out_"))) {
                let (values, bound) = match name.rsplit_once("smax") {
                    Some((_, max)) => {
                        let scale_max = max.parse().map_err(|_| fixture.broken(format!("{name}: {max} is no number")))?;
                        (ValuePrecision::Fp8 { scale_max }, fp8_bound)
                    }
                    None if name.contains(".out_official") => (ValuePrecision::F16, out_bound),
                    None => (ValuePrecision::F32, out_bound),
                };
                let got = operands.forward(None, causal, &sage.with_values(values))?;
                let (got, want) = as_stored(tensors, name, width, got)?;
                rows.compare(format!("{case} {name}"), &got, &want, bound);
            }
        }
    }
    for name in names.iter().filter(|name| name.starts_with("v_fp8_smax") && name.ends_with(".transposed_u8")) {
        let group = name.trim_end_matches(".transposed_u8");
        let scale_max = group.trim_start_matches("v_fp8_smax").parse().map_err(|_| fixture.broken(format!("{name}: no scale")))?;
        let padded = tensors.shape(name)?.last().copied().unwrap_or_default();
        let pad = if shape.key_len.next_multiple_of(64) == padded { 64 } else { 128 };
        let got = quantise_values(&operands.v, &shape, scale_max, pad, &Sage::default()).map_err(Error::model)?;
        // channels lie outside tokens here
        let recorded = tensors.shape(name)?.iter().rev().nth(1).copied().unwrap_or(width) * padded;
        let channels = |name: &str| Ok::<_, Error>(crop(tensors.i64(name)?, recorded, width * padded));
        rows.integers(format!("{case} {name}"), &widen(&got.transposed), &channels(name)?, limits.0);
        let permuted = format!("{group}.transposed_permuted_u8");
        if tensors.has(&permuted) {
            rows.integers(format!("{case} {permuted}"), &widen(&got.permuted()), &channels(&permuted)?, limits.0);
        }
        let (scales, ones) = relative(&got.scales, &floats(tensors, &format!("{group}.scale"), width)?);
        rows.compare(format!("{case} {group}.scale (relative)"), &scales, &ones, Bound::max_abs(limits.1));
    }
    if tensors.has("out_exact_f32") {
        let wide = |values: &[T]| values.iter().map(|value| value.widen()).collect::<Vec<f32>>();
        let (q, k, v) = (wide(&operands.q), wide(&operands.k), wide(&operands.v));
        let heads = q.chunks(shape.query_len * width).zip(k.chunks(shape.key_len * width)).zip(v.chunks(shape.key_len * width));
        let mask = if causal { Mask::Causal } else { Mask::None };
        let exact: Vec<f64> =
            heads.flat_map(|((query, key), value)| attend(Head { query, key, value, head_dim: width }, mask).out).collect();
        rows.compare(format!("{case} out_exact_f32 (oracle)"), &exact, &tensors.f32("out_exact_f32")?, out_bound);
    }
    Ok(())
}

/// Lists of a map as the official kernels read them: the first block, then differences; zeros behind.
fn deltas(map: &BlockMap) -> Vec<i64> {
    let mut lut = Vec::with_capacity(map.lists().len() / map.kept() * map.key_blocks());
    for list in map.lists().chunks(map.kept()) {
        let mut before = 0;
        for block in list {
            lut.push(i64::from(*block) - before);
            before = i64::from(*block);
        }
        lut.resize(lut.len() + map.key_blocks() - map.kept(), 0);
    }
    lut
}

/// Ones at the kept blocks, `[problems, query_blocks, key_blocks]`.
fn dense(map: &BlockMap) -> Vec<i64> {
    let mut cells = vec![0; map.lists().len() / map.kept() * map.key_blocks()];
    for (list, row) in map.lists().chunks(map.kept()).zip(cells.chunks_mut(map.key_blocks())) {
        list.iter().for_each(|block| row[*block as usize] = 1);
    }
    cells
}

fn sagesla(fixture: &Fixture, rows: &mut Rows, name: &str, case: &Value, tensors: &Tensors) -> Result<(), Error> {
    let operands = Operands::<f32>::read(tensors)?;
    let (shape, width) = (operands.shape, operands.shape.head_dim);
    let topk = case["config"]["topk"].as_f64().ok_or_else(|| fixture.broken(format!("{name}: no config.topk")))?;
    let density = Density::new(topk).ok_or_else(|| fixture.broken(format!("{name}: topk {topk} is no share")))?;
    let sparse = Bound::relative_l2(fixture.number("/tolerance/o_s_rel_l2")?);
    let exact_values = Bound::relative_l2(fixture.number("/tolerance/pv_f32_rel_l2")?);
    let limits = (by_one(fixture)?, 1e-6);
    let mean = floats(tensors, "k_mean", width)?;
    let bf16_sage = Sage { operands: Rounding::Bf16, ..Sage::default() };
    compare_mean::<bf16>(rows, name, &mean_keys(&operands.k, &shape, &bf16_sage).map_err(Error::model)?, &mean, 8);

    let (weight, bias) = (tensors.f32("proj_l.weight")?, tensors.f32("proj_l.bias")?);
    let projection = Some(Projection { weight: &weight, bias: &bias });
    let how = LinearBranch { features: FeatureMap::Softmax, projection, rounding: Rounding::Bf16, isa: Isa::detect() };
    let linear = linear_branch(&operands.q, &operands.k, &operands.v, &shape, &how).map_err(Error::model)?;
    rows.compare(format!("{name} linear_branch_bf16"), &linear, &tensors.f32("linear_branch_bf16")?, sparse);

    let archs = case["results"].as_object().ok_or_else(|| fixture.broken(format!("{name}: no results")))?;
    for (arch, result) in archs {
        let side = |key: &str| result[key].as_u64().map(|n| n as usize).ok_or_else(|| fixture.broken(format!("{name} {arch}: no {key}")));
        let (block_q, block_k) = (side("BLKQ")?, side("BLKK")?);
        let map = block_map(&operands.q, &operands.k, &shape, (block_q, block_k), density, Rounding::Bf16).map_err(Error::model)?;
        let label = format!("{name} {arch}");
        rows.integers(format!("{label}.sparse_map"), &dense(&map), &tensors.i64(&format!("{arch}.sparse_map"))?, 0.0);
        rows.integers(format!("{label}.lut_delta"), &deltas(&map), &tensors.i64(&format!("{arch}.lut_delta"))?, 0.0);
        let kept = vec![map.kept() as i64; map.lists().len() / map.kept()];
        rows.integers(format!("{label}.valid_block_num"), &kept, &tensors.i64(&format!("{arch}.valid_block_num"))?, 0.0);

        let sage = Sage::sagesla(block_q, block_k);
        let query = quantise_queries(&operands.q, &shape, &sage).map_err(Error::model)?;
        compare_quantised(rows, name, tensors, &format!("{arch}.q"), &query, width, limits)?;
        let key = quantise_keys(&operands.k, Some(&mean), &shape, &sage).map_err(Error::model)?;
        compare_quantised(rows, name, tensors, &format!("{arch}.k"), &key, width, limits)?;

        for tensor in tensors.names()?.iter().filter(|tensor| tensor.starts_with(&format!("{arch}.o_s_"))) {
            let (values, bound) = match tensor.rsplit_once("smax") {
                Some((_, max)) => {
                    let scale_max = max.parse().map_err(|_| fixture.broken(format!("{tensor}: {max} is no number")))?;
                    let scales = quantise_values(&operands.v, &shape, scale_max, 128, &sage).map_err(Error::model)?.scales;
                    let (scales, ones) = relative(&scales, &tensors.f32(&format!("v_scale_smax{max}"))?);
                    rows.compare(format!("{name} v_scale_smax{max} (relative)"), &scales, &ones, Bound::max_abs(limits.1));
                    (ValuePrecision::Fp8 { scale_max }, sparse)
                }
                None => (ValuePrecision::F32, exact_values),
            };
            let got = operands.forward(Some(&map), false, &sage.with_values(values))?;
            let (near, want) = as_stored(tensors, tensor, width, got.clone())?;
            rows.compare(format!("{name} {tensor}"), &near, &want, bound);
            if matches!(values, ValuePrecision::Fp8 { .. }) {
                let sum: Vec<f32> = got.iter().zip(&linear).map(|(o, l)| Rounding::Bf16.apply(Rounding::Bf16.apply(*o) + l)).collect();
                rows.compare(format!("{name} {arch}.out_fp8_bf16"), &sum, &tensors.f32(&format!("{arch}.out_fp8_bf16"))?, sparse);
            }
        }
    }
    Ok(())
}
