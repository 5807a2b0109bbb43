//! What can go wrong: what was asked, what was found, where.

use thiserror::Error;

/// Every way in which this crate refuses.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Error {
    /// A number outside the range that its meaning allows.
    #[error("{what}: {value} is not {range}")]
    OutOfRange {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: f64,
        /// The allowed range, in words.
        range: &'static str,
    },
    /// A step count that the schedule has no times for.
    #[error("{steps} steps asked, this schedule has times for 1 to {most}")]
    Steps {
        /// Steps asked.
        steps: usize,
        /// Most steps that there are times for.
        most: usize,
    },
    /// A word that names no noise source.
    #[error("{word:?} is not a noise source: native, torch-cpu, or torch-cuda:GPU with GPU one of {known} or SMSxBLOCKS such as 170x6")]
    UnknownNoise {
        /// The word.
        word: String,
        /// GPUs known by name.
        known: &'static str,
    },
    /// Recorded noise has fewer draws than the run needs.
    #[error("recorded noise holds {found} draws, draw {draw} (counted from 0) was asked")]
    NoiseMissing {
        /// The draw asked, from 0.
        draw: u64,
        /// Draws recorded.
        found: usize,
    },
    /// A recorded draw has another length than the latent.
    #[error("recorded noise: draw {draw} holds {found} values, the latent has {expected}")]
    NoiseLength {
        /// The draw, from 0.
        draw: u64,
        /// Values of the latent.
        expected: usize,
        /// Values recorded.
        found: usize,
    },
    /// A draw larger than one launch of torch's generator.
    #[error("torch-cuda draws at most {most} values at once, {asked} were asked")]
    DrawTooLarge {
        /// Values asked.
        asked: usize,
        /// Values allowed.
        most: usize,
    },
    /// A latent with no values.
    #[error("a latent without values cannot be sampled")]
    EmptyLatent,
    /// The velocity has another length than the latent.
    #[error("step {step}: the network returned {found} values for a latent of {expected}")]
    VelocityLength {
        /// The step, from 0.
        step: usize,
        /// Values of the latent.
        expected: usize,
        /// Values returned.
        found: usize,
    },
    /// A state that belongs to another run.
    #[error("cannot continue at step {step}: this run has {steps} steps")]
    StepPastEnd {
        /// The state's step.
        step: usize,
        /// Steps of this run.
        steps: usize,
    },
    /// A state of a multistep solver without the history that its step needs, or with one of another length.
    #[error("cannot continue at step {step}: the state lacks the solver's history for its latent")]
    HistoryMissing {
        /// The state's step.
        step: usize,
    },
    /// NaN or infinity came out of the network or the update.
    #[error("step {step}: the {what} holds NaN or infinity")]
    NotFinite {
        /// The step, from 0.
        step: usize,
        /// Which tensor.
        what: &'static str,
    },
}

/// `value` if it lies in `low..=high`.
pub(crate) fn in_range(what: &'static str, value: f64, low: f64, high: f64, range: &'static str) -> Result<f64, Error> {
    if value >= low && value <= high { Ok(value) } else { Err(Error::OutOfRange { what, value, range }) }
}

/// `value` if it is finite and above zero.
pub(crate) fn positive(what: &'static str, value: f64) -> Result<f64, Error> {
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(Error::OutOfRange { what, value, range: "finite and above 0" }) }
}
