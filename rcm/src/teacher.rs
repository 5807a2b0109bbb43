//! Many-step sampling of an undistilled model, with classifier-free guidance.
//!
//! Times are evenly spaced before the shift: `u_i = shift(s (1 - i / n))`, where `s` is the unshifted time of `sigma_max`, so that the
//! run begins at `sigma_max` exactly. The initial latent is pure noise. Under guidance `g` the velocity is `v = v_u + g (v_c - v_u)`.
//!
//! ```text
//! Euler   x <- x + (u_{i+1} - u_i) v
//! UniPC   order 2, B2(h), predicting x0 = x - u v; see the `unipc` module
//! ```
//!
//! The official samplers keep the times in f32; ours are f64. They agree to about 1e-6 relative.

use std::ops::ControlFlow;

use crate::denoiser::{Branch, Call, Denoiser, Expert, Latent, checked};
use crate::error::{Error, in_range, positive};
use crate::noise::NoiseSource;
use crate::sampler::Outcome;
use crate::time::FlowTime;
use crate::unipc::{History, predict};

/// How a step uses the velocities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Solver {
    /// First order.
    Euler,
    /// Predictor and corrector of second order; the last step is of first order.
    #[default]
    UniPc,
}

/// How strongly the prompt is followed, by expert. At 1 the negative prompt is not asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// While the high-noise expert works.
    pub high: f64,
    /// While the low-noise expert works.
    pub low: f64,
}

impl Guidance {
    /// One strength throughout.
    pub const fn uniform(strength: f64) -> Self {
        Self { high: strength, low: strength }
    }

    fn of(self, expert: Expert) -> f64 {
        match expert {
            Expert::High => self.high,
            Expert::Low => self.low,
        }
    }
}

/// A many-step run.
#[derive(Debug, Clone, PartialEq)]
pub struct Teacher {
    times: Vec<FlowTime>,
    solver: Solver,
    guidance: Guidance,
    boundary: Option<FlowTime>,
}

/// A many-step run between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherState<L> {
    /// Steps done.
    pub step: usize,
    /// The latent after them.
    pub latent: L,
    /// What UniPC remembers; `None` before the first step, and for Euler.
    pub history: Option<History<L>>,
}

impl Teacher {
    /// Most steps of a run: there are as many training timesteps.
    pub const MOST_STEPS: usize = 1000;

    /// `steps` steps from noise level `sigma_max` (80), with times shifted by `shift` (5).
    ///
    /// # Errors
    /// [`Error::Steps`] or [`Error::OutOfRange`].
    pub fn new(solver: Solver, steps: usize, sigma_max: f64, shift: f64, guidance: Guidance) -> Result<Self, Error> {
        if steps == 0 || steps > Self::MOST_STEPS {
            return Err(Error::Steps { steps, most: Self::MOST_STEPS });
        }
        positive("shift", shift)?;
        for strength in [guidance.high, guidance.low] {
            in_range("guidance", strength, 0.0, 1000.0, "in [0, 1000]")?;
        }
        // Beyond this a share of noise is 1 to within f64's noise, and its signal-to-noise ratio lost.
        let sigma_max = in_range("sigma_max", sigma_max, f64::MIN_POSITIVE, 1e9, "above 0 and at most 1e9")?;
        let first = FlowTime::from_sigma(sigma_max)?.unshifted(shift)?.share();
        let time = |step: usize| FlowTime::new(first * (steps - step) as f64 / steps as f64)?.shifted(shift);
        let times = (0..=steps).map(time).collect::<Result<_, _>>()?;
        Ok(Self { times, solver, guidance, boundary: None })
    }

    /// The same run with two experts, as [`FewStep::with_boundary`](crate::sampler::FewStep::with_boundary).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `boundary` is in `[0, 1]`.
    pub fn with_boundary(self, boundary: f64) -> Result<Self, Error> {
        in_range("boundary", boundary, 0.0, 1.0, "in [0, 1]")?;
        Ok(Self { boundary: Some(FlowTime::new(boundary)?), ..self })
    }

    /// All `steps + 1` times, noisy to clean.
    pub fn times(&self) -> &[FlowTime] {
        &self.times
    }

    /// Steps of the run; each asks the network once, or twice under guidance.
    pub fn steps(&self) -> usize {
        self.times.len() - 1
    }

    /// The expert of a step. Times only fall, so one comparison is enough.
    pub fn expert(&self, step: usize) -> Expert {
        match (self.times.get(step), self.boundary) {
            (Some(time), Some(boundary)) if *time < boundary => Expert::Low,
            _ => Expert::High,
        }
    }

    /// The state before the first step: pure noise of `latent`'s length. What `latent` held is lost.
    ///
    /// # Errors
    /// [`Error::EmptyLatent`], or the noise source's.
    pub fn start<L: Latent>(&self, mut latent: L, noise: &mut NoiseSource) -> Result<TeacherState<L>, Error> {
        if latent.is_empty() {
            return Err(Error::EmptyLatent);
        }
        let mut values = vec![0.0; latent.len()];
        noise.seek(0, values.len())?;
        noise.fill(&mut values)?;
        latent.fill(&values);
        Ok(TeacherState { step: 0, latent, history: None })
    }

    /// One step onward.
    ///
    /// # Errors
    /// [`Error::EmptyLatent`], [`Error::StepPastEnd`], [`Error::HistoryMissing`], [`Error::VelocityLength`], [`Error::NotFinite`], or the network's.
    pub fn step<D: Denoiser>(&self, state: TeacherState<D::Latent>, denoiser: &mut D) -> Result<TeacherState<D::Latent>, D::Error> {
        let TeacherState { step, latent: x, history } = state;
        let steps = self.steps();
        if x.is_empty() {
            return Err(Error::EmptyLatent.into());
        }
        if step >= steps {
            return Err(Error::StepPastEnd { step, steps }.into());
        }
        if self.solver == Solver::UniPc && step > 0 && !history.as_ref().is_some_and(|history| history.reaches(step, x.len())) {
            return Err(Error::HistoryMissing { step }.into());
        }
        let velocity = self.guided(denoiser, &x, step)?;
        let (latent, history) = match self.solver {
            Solver::Euler => {
                let mut x = x;
                x.add_scaled(self.times[step + 1].share() - self.times[step].share(), &velocity);
                (x, None)
            }
            Solver::UniPc => {
                let mut clean = x.clone();
                clean.add_scaled(-self.times[step].share(), &velocity);
                let (x, history) = predict(&self.times, step, x, clean, history);
                (x, Some(history))
            }
        };
        if !latent.is_finite() {
            return Err(Error::NotFinite { step, what: "latent" }.into());
        }
        Ok(TeacherState { step: step + 1, latent, history })
    }

    /// `v_u + g (v_c - v_u)`.
    fn guided<D: Denoiser>(&self, denoiser: &mut D, x: &D::Latent, step: usize) -> Result<D::Latent, D::Error> {
        let expert = self.expert(step);
        let strength = self.guidance.of(expert);
        let call = Call { step, time: self.times[step], expert, branch: Branch::Conditional };
        let mut conditional = checked(denoiser.velocity(x, call)?, x, step)?;
        if strength == 1.0 {
            return Ok(conditional);
        }
        let mut velocity = checked(denoiser.velocity(x, Call { branch: Branch::Unconditional, ..call })?, x, step)?;
        conditional.add_scaled(-1.0, &velocity);
        velocity.add_scaled(strength, &conditional);
        Ok(velocity)
    }

    /// All steps from `state` on. `progress` sees the state before the first step and after every step, and may stop the run.
    ///
    /// # Errors
    /// As [`Teacher::step`].
    pub fn run<D: Denoiser>(
        &self,
        state: TeacherState<D::Latent>,
        denoiser: &mut D,
        mut progress: impl FnMut(&TeacherState<D::Latent>) -> ControlFlow<()>,
    ) -> Result<Outcome<TeacherState<D::Latent>>, D::Error> {
        let steps = self.steps();
        if state.step > steps {
            return Err(Error::StepPastEnd { step: state.step, steps }.into());
        }
        let mut state = state;
        loop {
            let verdict = progress(&state);
            if state.step == steps {
                return Ok(Outcome::Finished(state));
            }
            if verdict.is_break() {
                return Ok(Outcome::Stopped(state));
            }
            state = self.step(state, denoiser)?;
        }
    }
}
