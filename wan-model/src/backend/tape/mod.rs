//! The host backend that learns: the same fused operations in `f32`, recorded, and run backwards.
//!
//! ```text
//! forward    out, recording = recorded( network )          every operation keeps what its gradient needs
//! backward   gradients of out -> gradients of parameters   operations in reverse, each dropped as it is done
//! ```
//!
//! A network is not written twice: `WanDit<Tape>` and `TextEncoder<Tape>` are the inference code. Loading one gives
//! layers that only know which [`Parameters`] they read, so that an optimiser changes values in place, a network need
//! never be loaded again, and one network runs with the parameters of several tapes (student, average, teacher).
//!
//! An operation that changes rows in place leaves them the same variable: a sum passes its gradient on as it is, a norm
//! turns it into that of the rows before. Values are shared, not copied, between an operation and what it keeps, until
//! someone writes to them. Every sum runs in an order that the shapes alone decide; gradients are the same bits for any
//! number of threads. Results are those of [`Host`](super::host::Host) in `f32`, bit for bit.

mod attention;
mod backend;
pub mod frames;
mod linear;
mod norm;
pub mod parameters;
mod record;
mod rows;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use turbowan_cuda::ops::rope::RopeTable;

pub use frames::{TapeFrame, TapeFrames};
pub use linear::TapeLinear;
pub use parameters::{Parameter, Parameters, StoredParameters};
pub use record::{Gradients, Recording, TapeTensor};

use crate::error::Misfit;
use crate::{Error, Result};
use record::{Operation, Slot, Source, Variable};

/// A backend that records; see the [module](self).
#[derive(Debug, Default)]
pub struct Tape {
    parameters: Mutex<Parameters>,
    /// Operations since recording began; none while nothing is recorded.
    record: Mutex<Option<Recording>>,
    variables: AtomicU64,
}

/// Rotary tables and those that turn back.
#[derive(Debug, Clone)]
pub struct TapeRope {
    pub(super) table: Arc<RopeTable>,
    pub(super) opposite: Arc<RopeTable>,
}

/// SLA's projection: which parameters its weight and bias are.
#[derive(Debug, Clone, Copy)]
pub struct TapeProjection {
    pub(super) weight: usize,
    pub(super) bias: usize,
}

impl Tape {
    /// A tape on which networks find their parameters by name.
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters: Mutex::new(parameters), ..Self::default() }
    }

    /// The parameters, for as long as the guard lives; do not run a network meanwhile.
    pub fn parameters(&self) -> MutexGuard<'_, Parameters> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parameters, to be changed between passes.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        self.parameters.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `work` gives, and its operations. Outside of this nothing is recorded. Inside another call of it, what `work`
    /// does is recorded here alone.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn recorded<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Recording)> {
        let outer = self.record().replace(Recording::default());
        let result = work();
        let recording = std::mem::replace(&mut *self.record(), outer).unwrap_or_default();
        Ok((result?, recording))
    }

    /// Runs a recording backwards: gradients of what it made, in `gradients`, become gradients of what it read. Those of
    /// parameters are added to what they hold. The values of parameters must be those of the recording.
    ///
    /// # Errors
    /// When an operation refuses a gradient that was seeded in another shape.
    pub fn backward(&self, recording: Recording, gradients: &mut Gradients) -> Result<()> {
        recording.operations.into_iter().rev().try_for_each(|operation| operation.backward(self, gradients))
    }

    /// Rows that a gradient can be taken with respect to: `[rows, width]` values.
    ///
    /// # Errors
    /// When `values` are not whole rows.
    pub fn variable(&self, values: Vec<f32>, width: usize) -> Result<TapeTensor> {
        let rows = values.len().checked_div(width).unwrap_or(0);
        turbowan_cuda::Error::expect_len("rows", &values, rows.max(1) * width)?;
        Ok(TapeTensor { width, source: Source::Rows { values: Arc::new(values), variable: Some(self.next()) } })
    }

    /// Makes rows a variable that were none.
    pub(crate) fn mark(&self, x: &mut TapeTensor) {
        if let Source::Rows { variable, .. } = &mut x.source {
            variable.get_or_insert_with(|| self.next());
        }
    }

    fn record(&self) -> MutexGuard<'_, Option<Recording>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_recording(&self) -> bool {
        self.record().is_some()
    }

    fn next(&self) -> Variable {
        Variable(self.variables.fetch_add(1, Ordering::Relaxed))
    }

    /// Where the parameter `name` is.
    fn find(&self, name: &str) -> Result<usize> {
        self.parameters().index(name).ok_or_else(|| {
            let misfits = vec![Misfit::Missing { name: name.to_owned(), expected: Vec::new() }];
            Error::Misfits { path: "parameters".into(), misfits }
        })
    }

    fn values(&self, x: &TapeTensor) -> Arc<Vec<f32>> {
        match &x.source {
            Source::Rows { values, .. } => Arc::clone(values),
            Source::Parameter(index) => self.parameters().values_of(*index),
        }
    }

    fn slot(&self, x: &TapeTensor) -> Slot {
        match &x.source {
            Source::Rows { variable, .. } => variable.map_or(Slot::Constant, Slot::Variable),
            Source::Parameter(index) => self.parameter_slot(*index),
        }
    }

    fn parameter_slot(&self, index: usize) -> Slot {
        if self.parameters().at(index).learns() { Slot::Parameter(index) } else { Slot::Constant }
    }

    /// Works on the gradient of a parameter without holding the others.
    fn with_gradient<R>(&self, index: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut gradient = self.parameters().take_gradient(index);
        let result = work(&mut gradient);
        self.parameters().put_gradient(index, gradient);
        result
    }

    /// Values that nothing is known of.
    fn constant(&self, values: Vec<f32>, width: usize) -> TapeTensor {
        TapeTensor { width, source: Source::Rows { values: Arc::new(values), variable: None } }
    }

    /// The result of an operation, which is recorded where one of the operands in `slots` wants a gradient.
    fn result<O: Operation + 'static>(
        &self,
        values: Vec<f32>,
        width: usize,
        slots: &[Slot],
        operation: impl FnOnce(Variable, &Arc<Vec<f32>>) -> O,
    ) -> TapeTensor {
        let mut result = self.constant(values, width);
        if self.is_recording() && slots.iter().any(|slot| slot.is_wanted()) {
            let variable = self.next();
            if let Source::Rows { values, variable: of_result } = &mut result.source {
                *of_result = Some(variable);
                let operation = operation(variable, values);
                self.push(operation);
            }
        }
        result
    }

    fn push(&self, operation: impl Operation + 'static) {
        if let Some(recording) = &mut *self.record() {
            recording.operations.push(Box::new(operation));
        }
    }

    /// Changes rows in place: `change` is given their values, and `operation` makes the record where the rows or one of
    /// the operands in `slots` want a gradient.
    fn in_place<O: Operation + 'static>(
        &self,
        x: &mut TapeTensor,
        slots: &[Slot],
        change: impl FnOnce(&mut [f32]) -> Result<()>,
        operation: impl FnOnce(Variable) -> O,
    ) -> Result<()> {
        let Source::Rows { values, variable } = &mut x.source else {
            let must = "changed by an optimiser between passes, not by a network".to_owned();
            return Err(Error::Setting { what: "a parameter", found: "written to".to_owned(), must });
        };
        let values: &mut Vec<f32> = Arc::make_mut(values);
        change(values)?;
        if self.is_recording() && (variable.is_some() || slots.iter().any(|slot| slot.is_wanted())) {
            let variable = *variable.get_or_insert_with(|| self.next());
            self.push(operation(variable));
        }
        Ok(())
    }
}
