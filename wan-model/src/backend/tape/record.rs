//! What was done, and how it is undone.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::Tape;
use crate::Result;

/// A value that a gradient can be taken with respect to. Its rows may be changed in place by operations that know how
/// their gradient changes with them; it stays the same variable then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Variable(pub u64);

/// Where the gradient of an operand goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nowhere.
    Constant,
    /// To a value of this pass.
    Variable(Variable),
    /// To a parameter that learns.
    Parameter(usize),
}

impl Slot {
    pub fn is_wanted(self) -> bool {
        self != Self::Constant
    }
}

/// Rows on a [`Tape`]: values of this pass, or a parameter, whose values are those of the moment.
#[derive(Debug)]
pub struct TapeTensor {
    pub(super) width: usize,
    pub(super) source: Source,
}

#[derive(Debug)]
pub(super) enum Source {
    Rows { values: Arc<Vec<f32>>, variable: Option<Variable> },
    Parameter(usize),
}

impl TapeTensor {
    /// The same rows at this moment, as the same variable: where a part of the pass starts when it is run once more.
    pub(crate) fn again(&self) -> Self {
        let source = match &self.source {
            Source::Rows { values, variable } => Source::Rows { values: Arc::clone(values), variable: *variable },
            Source::Parameter(index) => Source::Parameter(*index),
        };
        Self { width: self.width, source }
    }
}

/// One recorded operation with what its gradient needs.
pub(super) trait Operation: Debug + Send {
    /// Takes the gradients of what it made out of `gradients`, and adds those of what it read.
    fn backward(self: Box<Self>, tape: &Tape, gradients: &mut Gradients) -> Result<()>;
}

/// The operations of a pass, or of a part of one.
#[derive(Debug, Default)]
pub struct Recording {
    pub(super) operations: Vec<Box<dyn Operation>>,
}

impl Recording {
    /// Number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// Gradients of the values of a pass, while it runs backwards.
#[derive(Debug, Default)]
pub struct Gradients {
    slots: HashMap<Variable, Vec<f32>>,
}

impl Gradients {
    /// Sets the gradient of the loss with respect to `x`, where a pass is left. Rows that no parameter had a part in have none.
    ///
    /// # Errors
    /// When `gradient` is not as long as `x`.
    pub fn seed(&mut self, tape: &Tape, x: &TapeTensor, gradient: Vec<f32>) -> Result<()> {
        turbowan_cuda::Error::expect_len("gradient", &gradient, tape.values(x).len())?;
        self.add(tape, tape.slot(x), gradient);
        Ok(())
    }

    /// The gradient with respect to `x`, if any has come to it.
    pub fn of(&self, x: &TapeTensor) -> Option<&[f32]> {
        match &x.source {
            Source::Rows { variable: Some(variable), .. } => self.slots.get(variable).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(super) fn take(&mut self, variable: Variable) -> Option<Vec<f32>> {
        self.slots.remove(&variable)
    }

    /// Puts back a gradient that was taken out.
    pub(super) fn put(&mut self, variable: Variable, gradient: Vec<f32>) {
        debug_assert!(!self.slots.contains_key(&variable));
        self.slots.insert(variable, gradient);
    }

    pub(super) fn add(&mut self, tape: &Tape, slot: Slot, gradient: Vec<f32>) {
        match slot {
            Slot::Constant => {}
            Slot::Parameter(index) => tape.with_gradient(index, |sum| sum.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value)),
            Slot::Variable(variable) => match self.slots.entry(variable) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(gradient);
                }
                std::collections::hash_map::Entry::Occupied(mut slot) => {
                    slot.get_mut().iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value);
                }
            },
        }
    }

    /// Lets `write(adds, gradient)` write the gradient of `slot`, `len` long, or add to the one that is there.
    pub(super) fn write(&mut self, tape: &Tape, slot: Slot, len: usize, write: impl FnOnce(bool, &mut [f32]) -> Result<()>) -> Result<()> {
        match slot {
            Slot::Constant => Ok(()),
            Slot::Parameter(index) => tape.with_gradient(index, |sum| write(true, sum)),
            Slot::Variable(variable) => match self.take(variable) {
                Some(mut sum) => {
                    let written = write(true, &mut sum);
                    self.put(variable, sum);
                    written
                }
                None => {
                    let mut sum = vec![0.0; len];
                    let written = write(false, &mut sum);
                    self.put(variable, sum);
                    written
                }
            },
        }
    }
}
