//! A fine-tuned difference carried over to another model: `base + weight * (target - diff_base)`, tensor by tensor.
//!
//! So a student distilled from one base brings its few steps to a base that was fine-tuned elsewhere. Every sum is in f32. Tensors that only
//! the target has (`proj_l` of sparse-linear attention) come from the target; tensors that cannot be added keep the base's values, and are
//! named. (TurboDiffusion's merge script.)

use std::collections::BTreeMap;

pub use crate::error::ShapeMismatch;

use crate::error::Error;

/// A model as named tensors; values may be read from a file one tensor at a time.
pub trait Tensors {
    /// The caller's error, which can hold ours.
    type Error: From<Error>;

    /// Shapes by name.
    fn shapes(&self) -> BTreeMap<String, Vec<usize>>;

    /// The values of a tensor that [`Tensors::shapes`] names, row-major, widened to f32.
    ///
    /// # Errors
    /// Whatever reading meets.
    fn values(&self, name: &str) -> Result<Vec<f32>, Self::Error>;
}

/// Tensors in memory: shape and values by name.
pub type TensorMap = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

impl Tensors for TensorMap {
    type Error = Error;

    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        self.get(name).map(|(_, values)| values.clone()).ok_or_else(|| Error::StateMissing { name: name.to_owned() })
    }
}

/// What becomes of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The weighted difference is added to the base.
    Blend,
    /// Only the target has it.
    TakeTarget,
    /// The base stays as it is: the target or the base of the difference lacks the tensor, or shapes differ.
    KeepBase,
}

/// What a merge will do, known from names and shapes alone, before a value is read.
#[must_use = "a plan may hold misfits that keep the base's values"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergePlan {
    /// Every tensor of the result, by name.
    pub actions: BTreeMap<String, Action>,
    /// Tensors that keep the base's values since shapes differ.
    pub mismatches: Vec<ShapeMismatch>,
    /// Tensors of the base that the target or the base of the difference lacks.
    pub unmatched: Vec<String>,
}

impl MergePlan {
    /// The plan for three models.
    pub fn new(base: &impl Tensors, target: &impl Tensors, diff_base: &impl Tensors) -> Self {
        let (base, target, diff_base) = (base.shapes(), target.shapes(), diff_base.shapes());
        let mut plan = Self { actions: BTreeMap::new(), mismatches: Vec::new(), unmatched: Vec::new() };
        for (name, shape) in &base {
            let action = match (target.get(name), diff_base.get(name)) {
                (Some(target), Some(diff_base)) if target == shape && diff_base == shape => Action::Blend,
                (Some(target), Some(diff_base)) => {
                    let (base, target, diff_base) = (shape.clone(), target.clone(), diff_base.clone());
                    plan.mismatches.push(ShapeMismatch { name: name.clone(), base, target, diff_base });
                    Action::KeepBase
                }
                _ => {
                    plan.unmatched.push(name.clone());
                    Action::KeepBase
                }
            };
            plan.actions.insert(name.clone(), action);
        }
        for name in target.keys().filter(|name| !base.contains_key(*name)) {
            plan.actions.insert(name.clone(), Action::TakeTarget);
        }
        plan
    }

    /// The plan, if every shape fits.
    ///
    /// # Errors
    /// [`Error::MergeShapes`] with all misfits.
    pub fn strict(self) -> Result<Self, Error> {
        if self.mismatches.is_empty() { Ok(self) } else { Err(Error::MergeShapes { mismatches: self.mismatches }) }
    }

    /// Carries the plan out: `sink` receives every tensor of the result in the order of names.
    ///
    /// # Errors
    /// Whatever reading or the sink meets; [`Error::TensorLength`] when a tensor's values are not as many as its shape says.
    pub fn run<B, E>(
        &self,
        base: &B,
        target: &impl Tensors<Error = E>,
        diff_base: &impl Tensors<Error = E>,
        weight: f32,
        mut sink: impl FnMut(&str, Vec<f32>) -> Result<(), E>,
    ) -> Result<(), E>
    where
        B: Tensors<Error = E>,
        E: From<Error>,
    {
        for (name, action) in &self.actions {
            let values = match action {
                Action::KeepBase => base.values(name)?,
                Action::TakeTarget => target.values(name)?,
                Action::Blend => {
                    let mut blended = base.values(name)?;
                    let (target, diff_base) = (target.values(name)?, diff_base.values(name)?);
                    for found in [target.len(), diff_base.len()] {
                        if found != blended.len() {
                            return Err(Error::TensorLength { name: name.clone(), expected: blended.len(), found }.into());
                        }
                    }
                    blend(&mut blended, weight, &target, &diff_base);
                    blended
                }
            };
            sink(name, values)?;
        }
        Ok(())
    }
}

/// `base += weight * (target - diff_base)`, each operation rounded to f32; all three have one length.
pub fn blend(base: &mut [f32], weight: f32, target: &[f32], diff_base: &[f32]) {
    debug_assert!(base.len() == target.len() && base.len() == diff_base.len());
    base.iter_mut().zip(target).zip(diff_base).for_each(|((base, target), diff_base)| *base += weight * (target - diff_base));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tensors: &[(&str, &[usize], &[f32])]) -> TensorMap {
        tensors.iter().map(|(name, shape, values)| ((*name).to_owned(), (shape.to_vec(), values.to_vec()))).collect()
    }

    #[test]
    fn a_difference_is_added_new_tensors_are_taken_and_misfits_keep_the_base_and_are_named() {
        let base = model(&[("a", &[2], &[1.0, 2.0]), ("b", &[2, 1], &[5.0, 6.0]), ("only_base", &[1], &[9.0])]);
        let target = model(&[("a", &[2], &[3.0, 5.0]), ("b", &[1, 2], &[0.0, 0.0]), ("proj_l", &[1], &[0.25])]);
        let diff = model(&[("a", &[2], &[2.0, 1.0]), ("b", &[2, 1], &[0.0, 0.0]), ("only_diff", &[1], &[1.0])]);
        let plan = MergePlan::new(&base, &target, &diff);
        let mut merged = BTreeMap::new();
        let keep = |name: &str, values| {
            merged.insert(name.to_owned(), values);
            Ok(())
        };
        plan.run(&base, &target, &diff, 0.5, keep).unwrap();
        let want = [("a", vec![1.5, 4.0]), ("b", vec![5.0, 6.0]), ("only_base", vec![9.0]), ("proj_l", vec![0.25])];
        assert_eq!(merged, want.map(|(name, values)| (name.to_owned(), values)).into());
        assert_eq!(plan.unmatched, ["only_base"]);
        let misfit = ShapeMismatch { name: "b".to_owned(), base: vec![2, 1], target: vec![1, 2], diff_base: vec![2, 1] };
        assert_eq!(plan.mismatches, std::slice::from_ref(&misfit));
        let refused = plan.strict().unwrap_err();
        assert_eq!(refused.to_string(), "cannot merge b: base [2, 1], target [1, 2], base of the difference [2, 1]");
        assert_eq!(refused, Error::MergeShapes { mismatches: vec![misfit] });
    }

    #[test]
    fn weight_zero_is_the_base_and_a_merge_onto_its_own_base_is_the_target() {
        let base = model(&[("a", &[3], &[1.0, -2.0, 0.5])]);
        let target = model(&[("a", &[3], &[1.5, -2.25, 8.0])]);
        for (weight, want) in [(0.0, &base), (1.0, &target)] {
            let plan = MergePlan::new(&base, &target, &base).strict().unwrap();
            let compare = |name: &str, values| {
                assert_eq!(values, want[name].1);
                Ok(())
            };
            plan.run(&base, &target, &base, weight, compare).unwrap();
        }
    }

    #[test]
    fn values_of_another_length_than_their_shape_are_refused() {
        let base = model(&[("a", &[2], &[0.0; 2])]);
        let target = model(&[("a", &[2], &[0.0])]);
        let got = MergePlan::new(&base, &target, &base).run(&base, &target, &base, 1.0, |_, _| Ok(()));
        assert_eq!(got, Err(Error::TensorLength { name: "a".to_owned(), expected: 2, found: 1 }));
    }
}
