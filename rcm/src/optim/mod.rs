//! How parameters follow their gradients: [`AdamW`], [`Muon`] for matrices, groups by a rule, learning rates, clipping, averages.
//!
//! A step is: zero the gradients, run one or more backward passes that add to them ([`gradient::zero`], [`gradient::scale`] for
//! accumulation), clip ([`gradient::clip`]), [`Optimiser::step`], [`Ema::update`]. Everything is in place and spread over threads by fixed
//! parts, so that results do not depend on how many there are.

pub mod adamw;
pub mod ema;
pub mod gradient;
pub mod muon;
pub mod rate;

use rayon::prelude::*;

pub use adamw::AdamW;
pub use ema::{Ema, EmaRate};
pub use muon::{MatrixProduct, Muon, PlainProduct};
pub use rate::{Decay, LearningRate};

use crate::error::Error;
use crate::resume::{Resumable, Slice, SliceMut, Values, ValuesMut};
use crate::trainable::Parameter;

/// Values that one task updates.
pub(crate) const CHUNK: usize = 1 << 14;

/// The update rule of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Orthogonalised momentum, for matrices.
    Muon(Muon),
}

/// Parameters that are updated alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// The update rule.
    pub method: Method,
    /// This group's learning rate, as a multiple of the rate that a step is given.
    pub rate: f64,
}

/// The state of one parameter.
#[derive(Debug, Clone, PartialEq)]
struct Slot {
    name: String,
    len: usize,
    /// `None`: frozen.
    group: Option<usize>,
    /// First moment, or momentum.
    first: Vec<f32>,
    /// Second moment; empty under Muon.
    second: Vec<f32>,
}

/// Groups of parameters, their moments, and the number of steps done.
#[derive(Debug, Clone)]
pub struct Optimiser<P = PlainProduct> {
    groups: Vec<Group>,
    slots: Vec<Slot>,
    steps: [u64; 1],
    product: P,
}

impl Optimiser {
    /// An optimiser before its first step. `choose` gives a parameter's group from its name and shape, or `None` to leave it frozen.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], or [`Error::NotMatrix`] for a parameter of fewer than two axes under Muon.
    pub fn new(groups: Vec<Group>, parameters: &[Parameter<'_>], choose: impl Fn(&str, &[usize]) -> Option<usize>) -> Result<Self, Error> {
        Self::with_product(groups, parameters, choose, PlainProduct)
    }
}

impl<P: MatrixProduct> Optimiser<P> {
    /// As [`Optimiser::new`], with a matrix product of the caller's for Muon.
    ///
    /// # Errors
    /// As [`Optimiser::new`].
    pub fn with_product(
        groups: Vec<Group>,
        parameters: &[Parameter<'_>],
        choose: impl Fn(&str, &[usize]) -> Option<usize>,
        product: P,
    ) -> Result<Self, Error> {
        let mut slots = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let (name, len) = (parameter.name.to_owned(), parameter.values.len());
            let group = choose(parameter.name, parameter.shape);
            let method = match group {
                None => None,
                Some(group) => {
                    let unknown = || Error::UnknownGroup { name: name.clone(), group, groups: groups.len() };
                    Some(groups.get(group).ok_or_else(unknown)?.method)
                }
            };
            let (first, second) = match method {
                None => (0, 0),
                Some(Method::AdamW(_)) => (len, len),
                Some(Method::Muon(_)) if parameter.shape.len() < 2 => {
                    return Err(Error::NotMatrix { name, shape: parameter.shape.to_vec() });
                }
                Some(Method::Muon(_)) => (len, 0),
            };
            slots.push(Slot { name, len, group, first: vec![0.0; first], second: vec![0.0; second] });
        }
        Ok(Self { groups, slots, steps: [0], product })
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps[0]
    }

    /// The groups; settings may change between steps, kinds of method should not.
    pub fn groups_mut(&mut self) -> &mut [Group] {
        &mut self.groups
    }

    /// One update of every parameter that is not frozen, at learning rate `rate` times its group's.
    ///
    /// # Errors
    /// [`Error::ForeignParameter`] unless `parameters` are those that the optimiser was made for, in their order; nothing is changed then.
    pub fn step(&mut self, parameters: &mut [Parameter<'_>], rate: f64) -> Result<(), Error> {
        check(self.slots.iter().map(|slot| (slot.name.as_str(), slot.len)), parameters)?;
        self.steps[0] += 1;
        let (step, groups, product) = (self.steps[0], &self.groups, &self.product);
        self.slots.par_iter_mut().zip(parameters).for_each(|(slot, parameter)| {
            let Some(group) = slot.group.map(|group| &groups[group]) else { return };
            let rate = rate * group.rate;
            match group.method {
                Method::AdamW(method) => {
                    method.step(step, rate, parameter.values, parameter.gradient, &mut slot.first, &mut slot.second);
                }
                Method::Muon(method) => {
                    method.step(rate, parameter.shape, parameter.values, parameter.gradient, &mut slot.first, product);
                }
            }
        });
        Ok(())
    }
}

impl<P> Resumable for Optimiser<P> {
    fn state(&self) -> Vec<Slice<'_>> {
        let mut state = vec![Slice { name: "steps".to_owned(), values: Values::U64(&self.steps) }];
        for slot in self.slots.iter().filter(|slot| slot.group.is_some()) {
            for (kind, values) in [("first", &slot.first), ("second", &slot.second)] {
                if !values.is_empty() {
                    state.push(Slice { name: format!("{kind}.{}", slot.name), values: Values::F32(values) });
                }
            }
        }
        state
    }

    fn state_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut state = vec![SliceMut { name: "steps".to_owned(), values: ValuesMut::U64(&mut self.steps) }];
        for slot in self.slots.iter_mut().filter(|slot| slot.group.is_some()) {
            for (kind, values) in [("first", &mut slot.first), ("second", &mut slot.second)] {
                if !values.is_empty() {
                    state.push(SliceMut { name: format!("{kind}.{}", slot.name), values: ValuesMut::F32(values) });
                }
            }
        }
        state
    }
}

/// Whether `parameters` are those of `known`, in order.
pub(crate) fn check<'a>(known: impl ExactSizeIterator<Item = (&'a str, usize)>, parameters: &[Parameter<'_>]) -> Result<(), Error> {
    let word = |name: &str, len: usize| format!("{name} of {len} values");
    let none = || "nothing".to_owned();
    let count = known.len();
    for (index, (name, len)) in known.enumerate() {
        let found = parameters.get(index);
        if found.is_none_or(|found| found.name != name || found.values.len() != len || found.gradient.len() != len) {
            let found = found.map_or_else(none, |found| word(found.name, found.values.len().min(found.gradient.len())));
            return Err(Error::ForeignParameter { index, expected: word(name, len), found });
        }
    }
    match parameters.get(count) {
        Some(extra) => Err(Error::ForeignParameter { index: count, expected: none(), found: word(extra.name, extra.values.len()) }),
        None => Ok(()),
    }
}
