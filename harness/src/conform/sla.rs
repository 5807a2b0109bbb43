//! `sla_op`: sparse-linear attention alone, its map, branches and gradients, against the official module.

use half::f16;
use safetensors::Dtype;
use turbowan_cuda::host::Isa;
use turbowan_cuda::{AttnShape, Rounding};
use turbowan_reference::metrics::Bound;
use turbowan_sla::{Attend, Density, FeatureMap, Keys, Projection, SparseLinear, attend, pooled_scores};

use super::{Error, Fixture, Rows, Tensors};

/// Replays every case.
pub(super) fn replay(fixture: &Fixture, rows: &mut Rows) -> Result<(), Error> {
    let cases = fixture.meta["cases"].as_object().ok_or_else(|| fixture.broken("no \"cases\""))?;
    for (name, case) in cases {
        let tensors = fixture.tensors(&format!("{name}.safetensors"))?;
        let side = |key| fixture.count(&format!("/cases/{name}/config/{key}"));
        let inputs = Inputs::read(&tensors, (side("BQ")?, side("BK")?))?;
        let results = case["results"].as_object().ok_or_else(|| fixture.broken(format!("no results of {name}")))?;
        for (result, facts) in results {
            let (features, density) = parse(result).ok_or_else(|| fixture.broken(format!("{result:?} names no feature map and topk")))?;
            let run = Run { fixture, tensors: &tensors, inputs: &inputs, case: name, result, features, density };
            run.map(facts["real_topk"].as_u64(), rows)?;
            run.outputs(rows)?;
            run.gradients(rows)?;
        }
    }
    Ok(())
}

/// `softmax.topk0.5` as a feature map and a share.
fn parse(result: &str) -> Option<(FeatureMap, Density)> {
    let (features, share) = result.split_once(".topk")?;
    let features = match features {
        "softmax" => FeatureMap::Softmax,
        "elu" => FeatureMap::Elu,
        "relu" => FeatureMap::Relu,
        _ => return None,
    };
    Some((features, Density::new(share.parse().ok()?)?))
}

/// What all results of a case share.
struct Inputs {
    shape: AttnShape,
    sides: (usize, usize),
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Inputs {
    fn read(tensors: &Tensors, sides: (usize, usize)) -> Result<Self, Error> {
        let sizes = |name| -> Result<[usize; 4], Error> {
            tensors.shape(name)?.try_into().map_err(|found| Error::model(format!("{name}: [B, H, L, D] expected, found {found:?}")))
        };
        let ([batch, heads, query_len, head_dim], [.., key_len, _]) = (sizes("q")?, sizes("k")?);
        let shape = AttnShape::cross(batch, heads, query_len, key_len, head_dim).map_err(Error::model)?;
        Ok(Self {
            shape,
            sides,
            q: tensors.f32("q")?,
            k: tensors.f32("k")?,
            v: tensors.f32("v")?,
            weight: tensors.f32("proj_l.weight")?,
            bias: tensors.f32("proj_l.bias")?,
        })
    }
}

struct Run<'a> {
    fixture: &'a Fixture,
    tensors: &'a Tensors,
    inputs: &'a Inputs,
    case: &'a str,
    result: &'a str,
    features: FeatureMap,
    density: Density,
}

impl Run<'_> {
    fn recorded(&self, what: &str) -> Option<String> {
        let name = format!("{}.{what}", self.result);
        self.tensors.has(&name).then_some(name)
    }

    fn tolerance(&self, name: &str) -> Result<f64, Error> {
        self.fixture.number(&format!("/tolerance/{name}"))
    }

    fn sla(&self, inner: Rounding) -> SparseLinear<'_> {
        SparseLinear {
            density: self.density,
            block_q: self.inputs.sides.0,
            block_k: self.inputs.sides.1,
            features: self.features,
            projection: Projection { weight: &self.inputs.weight, bias: &self.inputs.bias },
            outer: Rounding::None,
            inner,
            isa: Isa::detect(),
        }
    }

    /// Holds `got` to a recorded tensor: the distance counts from the interval that its stored values were rounded from.
    fn compare(&self, name: &str, got: &[f32], bound: Bound, rows: &mut Rows) -> Result<(), Error> {
        let (want, dtype) = (self.tensors.f32(name)?, self.tensors.dtype(name)?);
        let case = format!("{} {name}", self.case);
        if got.len() != want.len() {
            rows.compare(case, got, &want, bound);
            return Ok(());
        }
        let got: Vec<f32> = got.iter().zip(&want).map(|(got, want)| outside_storage(*got, *want, dtype)).collect();
        rows.compare(case, &got, &want, bound);
        Ok(())
    }

    fn map(&self, kept: Option<u64>, rows: &mut Rows) -> Result<(), Error> {
        let Inputs { shape, sides, q, k, .. } = self.inputs;
        let map = self.sla(Rounding::None).map(q, k, shape).map_err(Error::model)?;
        if let Some(kept) = kept {
            let note = format!("{} key blocks kept, {kept} recorded", map.kept());
            rows.fact(format!("{} {}.real_topk", self.case, self.result), map.kept() as u64 == kept, note);
        }
        if let Some(name) = self.recorded("lut_sorted") {
            let lists: Vec<i64> = map.lists().iter().map(|block| i64::from(*block)).collect();
            rows.integers(format!("{} {name}", self.case), &lists, &self.tensors.i64(&name)?, 0.0);
        }
        if let Some(name) = self.recorded("pooled_score") {
            let scores = pooled_scores(q, k, shape, *sides, Rounding::None).map_err(Error::model)?;
            self.compare(&name, &scores, Bound::max_abs(self.tolerance("f32_max_abs")?), rows)?;
        }
        Ok(())
    }

    fn outputs(&self, rows: &mut Rows) -> Result<(), Error> {
        let Inputs { shape, q, k, v, .. } = self.inputs;
        if let Some(name) = self.recorded("out") {
            let got = self.sla(Rounding::None).forward(q, k, v, shape).map_err(Error::model)?;
            self.compare(&name, &got, Bound::max_abs(self.tolerance("f32_max_abs")?), rows)?;
        }
        if let Some(name) = self.recorded("out_sparse_branch") {
            let map = self.sla(Rounding::None).map(q, k, shape).map_err(Error::model)?;
            let how = Attend { keys: Keys::Listed(&map), ..Attend::default() };
            let got = attend(q, k, v, shape, &how).map_err(Error::model)?;
            self.compare(&name, &got, Bound::max_abs(self.tolerance("f32_max_abs")?), rows)?;
        }
        if let Some(name) = self.recorded("out_bf16") {
            let got = self.sla(Rounding::Bf16).forward(q, k, v, shape).map_err(Error::model)?;
            // both sides hold bf16 values: no interval is taken off
            rows.compare(
                format!("{} {name}", self.case),
                &got,
                &self.tensors.f32(&name)?,
                Bound::relative_l2(self.tolerance("bf16_rel_l2")?),
            );
        }
        Ok(())
    }

    fn gradients(&self, rows: &mut Rows) -> Result<(), Error> {
        let Inputs { shape, q, k, v, .. } = self.inputs;
        if self.recorded("grad.q").is_none() {
            return Ok(());
        }
        let sla = self.sla(Rounding::None);
        let (_, saved) = sla.forward_saved(q, k, v, shape).map_err(Error::model)?;
        let got = sla.backward(q, k, v, shape, &saved, &self.tensors.f32("grad_out")?).map_err(Error::model)?;
        let bound = Bound::max_abs(self.tolerance("grad_max_abs")?);
        for (what, got) in [("q", &got.q), ("k", &got.k), ("v", &got.v), ("proj_l.weight", &got.weight), ("proj_l.bias", &got.bias)] {
            if let Some(name) = self.recorded(&format!("grad.{what}")) {
                self.compare(&name, got, bound, rows)?;
            }
        }
        Ok(())
    }
}

/// `got`, moved to `want` by at most half a step of the format that `want` was stored in.
fn outside_storage(got: f32, want: f32, dtype: Dtype) -> f32 {
    let half_step = match dtype {
        Dtype::F16 => want.abs().max(f32::from(f16::MIN_POSITIVE)) * 2f32.powi(-11),
        Dtype::BF16 => want.abs().max(f32::MIN_POSITIVE) * 2f32.powi(-8),
        _ => return got,
    };
    let difference = got - want;
    want + difference.signum() * (difference.abs() - half_step).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_names_its_feature_map_and_share() {
        assert_eq!(parse("elu.topk0.25"), Some((FeatureMap::Elu, Density::new(0.25).unwrap())));
        for foreign in ["elu", "tanh.topk0.5", "elu.topk0", "elu.topkx"] {
            assert_eq!(parse(foreign), None);
        }
    }

    #[test]
    fn storage_takes_off_half_a_step_and_no_more() {
        assert_eq!(outside_storage(1.0003, 1.0, Dtype::F16), 1.0);
        assert_eq!(outside_storage(1.5, 1.0, Dtype::F32), 1.5);
        let far = outside_storage(1.01, 1.0, Dtype::F16);
        assert!(far > 1.009 && far < 1.01, "{far}");
        assert!(outside_storage(f32::NAN, 1.0, Dtype::F16).is_nan());
    }
}
