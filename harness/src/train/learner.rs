//! What a stage of training is to the frame around it.

use std::path::Path;

use turbowan_rcm::resume::SliceMut;
use turbowan_wan_model::backend::tape::StoredParameters;
use turbowan_wan_model::checkpoint::Statement;

use crate::error::Error;

/// Named numbers that a step or a look has to tell, in the order in which they are written.
pub type Metrics = Vec<(String, f64)>;

/// Something that learns step by step, and whose whole state is written down between two steps.
///
/// A step is a function of the state and the step's number alone: a run that is stopped, written down and read back goes on to the same bits.
pub trait Learner {
    /// Everything that a step changes, in a fixed order, each name once: weights, moments, averages, noise streams, counters. Read where a
    /// checkpoint is written, overwritten where one is read.
    fn state_mut(&mut self) -> Vec<SliceMut<'_>>;

    /// Step `step`, counted from 0: forward, backward, clipping, optimiser, average.
    ///
    /// # Errors
    /// An error that [`Error::is_not_finite`] says is about a number that is none costs this step alone: the weights must be as they were.
    /// Every other one ends the run.
    fn step(&mut self, step: u64) -> Result<Metrics, Error>;

    /// A slower measure of quality after `step` steps, of the averaged weights. Pictures go to `folder`, which exists. It must leave the
    /// state as it was.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn look(&mut self, folder: &Path, step: u64) -> Result<Metrics, Error>;

    /// The averaged weights under their official names.
    ///
    /// # Errors
    /// When they cannot be had.
    fn weights(&self) -> Result<StoredParameters, Error>;

    /// What the weights' file states that no shape shows: nothing where shapes say it all.
    ///
    /// # Errors
    /// When it cannot be written.
    fn statement(&self) -> Result<Statement, Error> {
        Ok(Statement::default())
    }
}
