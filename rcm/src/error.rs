//! What can go wrong: what was asked, what was found, where.

use std::fmt;

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
    /// Latents that do not divide into the batch's samples, or a batch without samples.
    #[error("{values} latent values cannot be {samples} samples of one length")]
    BatchLength {
        /// Values of all latents.
        values: usize,
        /// Samples of the condition.
        samples: usize,
    },
    /// The loss has another number of weights than a latent has values.
    #[error("a latent holds {expected} values, the loss has {found} weights")]
    WeightsLength {
        /// Values of a latent.
        expected: usize,
        /// Weights that were given.
        found: usize,
    },
    /// The negative condition has another number of samples than the condition.
    #[error("the condition holds {expected} samples, the negative one {found}")]
    ConditionLength {
        /// Samples of the condition.
        expected: usize,
        /// Samples of the negative condition.
        found: usize,
    },
    /// A network's output or tangent has another length than its input.
    #[error("the network returned {found} values for an input of {expected}")]
    OutputLength {
        /// Values of the input.
        expected: usize,
        /// Values returned.
        found: usize,
    },
    /// A rule gave a parameter to a group that does not exist.
    #[error("{name}: group {group} was chosen, there are {groups}")]
    UnknownGroup {
        /// The parameter.
        name: String,
        /// The group chosen, from 0.
        group: usize,
        /// Groups that exist.
        groups: usize,
    },
    /// Muon was chosen for what is no matrix.
    #[error("{name}: Muon needs at least two axes, the shape is {shape:?}")]
    NotMatrix {
        /// The parameter.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The parameters are not those that the optimiser or the average was made for.
    #[error("parameter {index}: expected {expected}, found {found}")]
    ForeignParameter {
        /// Place in the fixed order, from 0.
        index: usize,
        /// Name and length expected, in words.
        expected: String,
        /// Name and length found, in words.
        found: String,
    },
    /// NaN or infinity in a gradient.
    #[error("{name}: the gradient holds NaN or infinity")]
    GradientNotFinite {
        /// The parameter.
        name: String,
    },
    /// A saved state lacks a slice.
    #[error("the saved state lacks {name}")]
    StateMissing {
        /// The slice.
        name: String,
    },
    /// A saved state holds a slice that nothing here bears.
    #[error("the saved state holds {name}, which has no place here")]
    StateForeign {
        /// The slice.
        name: String,
    },
    /// A slice of a saved state has another length or kind.
    #[error("{name}: expected {expected}, the saved state holds {found}")]
    StateLength {
        /// The slice.
        name: String,
        /// Length and kind expected, in words.
        expected: String,
        /// Length and kind found, in words.
        found: String,
    },
    /// A tensor's values are not as many as its shape says.
    #[error("{name}: expected {expected} values, found {found}")]
    TensorLength {
        /// The tensor.
        name: String,
        /// Values expected.
        expected: usize,
        /// Values found.
        found: usize,
    },
    /// Tensors that a merge cannot add, since their shapes differ.
    #[error("cannot merge {}", .mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    MergeShapes {
        /// Every misfit.
        mismatches: Vec<ShapeMismatch>,
    },
}

/// A tensor whose three shapes are not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor.
    pub name: String,
    /// Shape in the base.
    pub base: Vec<usize>,
    /// Shape in the target.
    pub target: Vec<usize>,
    /// Shape in the base of the difference.
    pub diff_base: Vec<usize>,
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: base {:?}, target {:?}, base of the difference {:?}", self.name, self.base, self.target, self.diff_base)
    }
}

/// `value` if it lies in `low..=high`.
pub(crate) fn in_range(what: &'static str, value: f64, low: f64, high: f64, range: &'static str) -> Result<f64, Error> {
    if value >= low && value <= high { Ok(value) } else { Err(Error::OutOfRange { what, value, range }) }
}

/// `value` if it is finite and above zero.
pub(crate) fn positive(what: &'static str, value: f64) -> Result<f64, Error> {
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(Error::OutOfRange { what, value, range: "finite and above 0" }) }
}
