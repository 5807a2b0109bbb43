//! Few-step sampling of a distilled model: one network call a step, no guidance.
//!
//! With times `u_0 > u_1 > ... > u_n = 0`, initial latent `x = u_0 * noise`, and `v = network(x, u_i)`:
//!
//! ```text
//! SDE   x <- (1 - u_{i+1}) (x - u_i v) + u_{i+1} noise_{i+1}      back to the clean estimate, then noised anew
//! ODE   x <- x - (u_i - u_{i+1}) v                                an Euler step
//! ```
//!
//! The state is f64. Noise is drawn in f32, and `u_{i+1} noise` is rounded to f32, as in the official scripts. There is one draw for the
//! start, then one after every SDE step, also after the last, where its weight is zero: a generator ends where the official scripts leave it.

use std::ops::ControlFlow;

use crate::denoiser::{Branch, Call, Denoiser, Expert, Latent, checked};
use crate::error::{Error, in_range};
use crate::noise::NoiseSource;
use crate::schedule::Schedule;
use crate::time::FlowTime;

/// How a step goes on from the velocity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// To the clean estimate, then noised anew.
    #[default]
    Sde,
    /// Along the velocity.
    Ode,
}

/// A few-step run: times, kind of step, and the experts' boundary.
#[derive(Debug, Clone, PartialEq)]
pub struct FewStep {
    schedule: Schedule,
    sampler: Sampler,
    boundary: Option<FlowTime>,
}

/// A run between two steps: all that is needed, with the seed, to continue it to the same bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct State<L> {
    /// Steps done.
    pub step: usize,
    /// The latent after them.
    pub latent: L,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<S> {
    /// All steps are done.
    Finished(S),
    /// The callback stopped the run here; it can be continued from this state.
    Stopped(S),
}

impl<S> Outcome<S> {
    /// The state, however the run ended.
    pub fn into_state(self) -> S {
        match self {
            Self::Finished(state) | Self::Stopped(state) => state,
        }
    }
}

impl FewStep {
    /// A run of one network.
    pub fn new(schedule: Schedule, sampler: Sampler) -> Self {
        Self { schedule, sampler, boundary: None }
    }

    /// The same run with two experts: from the first step whose time is strictly below `boundary`, the low one works for good.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `boundary` is in `[0, 1]`.
    pub fn with_boundary(self, boundary: f64) -> Result<Self, Error> {
        in_range("boundary", boundary, 0.0, 1.0, "in [0, 1]")?;
        Ok(Self { boundary: Some(FlowTime::new(boundary)?), ..self })
    }

    /// The times.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The kind of step.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// The expert of each step. One that is not listed need never be loaded.
    pub fn experts(&self) -> Vec<Expert> {
        let mut expert = Expert::High;
        let times = &self.schedule.times()[..self.schedule.steps()];
        let switch = |time: &FlowTime| {
            if self.boundary.is_some_and(|boundary| time < &boundary) {
                expert = Expert::Low;
            }
            expert
        };
        times.iter().map(switch).collect()
    }

    /// The state before the first step: noise of `latent`'s length times the first time. What `latent` held is lost.
    ///
    /// # Errors
    /// [`Error::EmptyLatent`], or the noise source's.
    pub fn start<L: Latent>(&self, mut latent: L, noise: &mut NoiseSource) -> Result<State<L>, Error> {
        if latent.is_empty() {
            return Err(Error::EmptyLatent);
        }
        let mut values = vec![0.0; latent.len()];
        noise.seek(0, values.len())?;
        noise.fill(&mut values)?;
        latent.fill(&values);
        latent.scale(self.schedule.times()[0].share());
        Ok(State { step: 0, latent })
    }

    /// One step onward.
    ///
    /// # Errors
    /// [`Error::StepPastEnd`] when no step is left, [`Error::VelocityLength`], [`Error::NotFinite`], the noise source's, or the network's.
    pub fn step<D: Denoiser>(
        &self,
        state: State<D::Latent>,
        denoiser: &mut D,
        noise: &mut NoiseSource,
    ) -> Result<State<D::Latent>, D::Error> {
        let State { step, latent: mut x } = state;
        let (now, next) = self.schedule.step(step).ok_or(Error::StepPastEnd { step, steps: self.schedule.steps() })?;
        let call = Call { step, time: now, expert: self.experts()[step], branch: Branch::Conditional };
        let velocity = checked(denoiser.velocity(&x, call)?, &x, step)?;
        match self.sampler {
            Sampler::Ode => x.add_scaled(-(now.share() - next.share()), &velocity),
            Sampler::Sde => {
                x.add_scaled(-now.share(), &velocity);
                x.scale(1.0 - next.share());
                self.noise_anew(&mut x, velocity, step, next, noise)?;
            }
        }
        if !x.is_finite() {
            return Err(Error::NotFinite { step, what: "latent" }.into());
        }
        Ok(State { step: step + 1, latent: x })
    }

    /// `x + f32(next * noise)`, where `room` is a latent to hold the noise.
    fn noise_anew<L: Latent>(&self, x: &mut L, mut room: L, step: usize, next: FlowTime, noise: &mut NoiseSource) -> Result<(), Error> {
        noise.seek(step as u64 + 1, x.len())?;
        if next == FlowTime::CLEAN {
            return noise.skip(x.len());
        }
        let mut values = vec![0.0; x.len()];
        noise.fill(&mut values)?;
        // f32, as in the official scripts: there a lone f64 number times an f32 tensor stays f32.
        let share = next.share() as f32;
        values.iter_mut().for_each(|value| *value *= share);
        room.fill(&values);
        x.add_scaled(1.0, &room);
        Ok(())
    }

    /// All steps from `state` on. `progress` sees the state before the first step and after every step, and may stop the run.
    ///
    /// `noise` may be fresh: it is moved to where the state's next draw stands, so that a resumed run equals an unbroken one.
    ///
    /// # Errors
    /// As [`FewStep::step`].
    pub fn run<D: Denoiser>(
        &self,
        state: State<D::Latent>,
        denoiser: &mut D,
        noise: &mut NoiseSource,
        mut progress: impl FnMut(&State<D::Latent>) -> ControlFlow<()>,
    ) -> Result<Outcome<State<D::Latent>>, D::Error> {
        let steps = self.schedule.steps();
        if state.step > steps {
            return Err(Error::StepPastEnd { step: state.step, steps }.into());
        }
        if state.latent.is_empty() {
            return Err(Error::EmptyLatent.into());
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
            state = self.step(state, denoiser, noise)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{GpuGrid, NoiseKind};

    /// `v = x / 2 + u`, counting who was asked.
    struct Toy(Vec<Call>);

    impl Denoiser for Toy {
        type Latent = Vec<f64>;
        type Error = Error;

        fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
            self.0.push(call);
            Ok(latent.iter().map(|x| 0.5 * x + call.time.share()).collect())
        }
    }

    fn run_of(sampler: Sampler) -> FewStep {
        FewStep::new(Schedule::few_step(200.0, 4).unwrap(), sampler).with_boundary(0.9).unwrap()
    }

    fn go(_: &State<Vec<f64>>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_run_is_its_equation_written_out() {
        for sampler in [Sampler::Sde, Sampler::Ode] {
            let run = run_of(sampler);
            let u: Vec<f64> = run.schedule().times().iter().map(|t| t.share()).collect();
            assert_eq!(u.len(), 5);
            let draws: Vec<Vec<f32>> = (0..5).map(|draw| vec![0.3 - draw as f32, 1.7 * draw as f32]).collect();
            let mut noise = NoiseSource::recorded(draws.clone());
            let start = run.start(vec![0.0; 2], &mut noise).unwrap();
            let got = run.run(start, &mut Toy(vec![]), &mut noise, go).unwrap().into_state().latent;
            for (element, got) in got.iter().enumerate() {
                let mut x = f64::from(draws[0][element]) * u[0];
                for i in 0..4 {
                    let v = 0.5 * x + u[i];
                    x = match sampler {
                        Sampler::Sde => (1.0 - u[i + 1]) * (x - u[i] * v) + f64::from(u[i + 1] as f32 * draws[i + 1][element]),
                        Sampler::Ode => x - (u[i] - u[i + 1]) * v,
                    };
                }
                assert_eq!(*got, x, "{sampler:?}");
            }
        }
    }

    #[test]
    fn the_low_expert_takes_over_strictly_below_the_boundary_and_for_good() {
        let mut toy = Toy(vec![]);
        let mut noise = NoiseSource::seeded(NoiseKind::Native, 0);
        let run = run_of(Sampler::Ode);
        let start = run.start(vec![0.0; 3], &mut noise).unwrap();
        run.run(start, &mut toy, &mut noise, go).unwrap();
        use Expert::{High, Low};
        assert_eq!(toy.0.iter().map(|call| call.expert).collect::<Vec<_>>(), [High, High, Low, Low]);
        assert_eq!(run.experts(), [High, High, Low, Low]);
        let two = FewStep::new(Schedule::few_step(200.0, 2).unwrap(), Sampler::Sde);
        assert_eq!(two.clone().with_boundary(0.9).unwrap().experts(), [High, High]);
        // Equal is not below.
        let at = two.schedule().times()[1].share();
        assert_eq!(two.clone().with_boundary(at).unwrap().experts(), [High, High]);
        assert_eq!(two.with_boundary(1.0).unwrap().experts(), [Low, Low]);
        // A low sigma starts below the boundary; later, noisier steps do not bring the high expert back.
        let odd = FewStep::new(Schedule::few_step(3.0, 2).unwrap(), Sampler::Sde).with_boundary(0.9).unwrap();
        assert_eq!(odd.experts(), [Low, Low]);
    }

    #[test]
    fn a_run_broken_at_any_step_and_resumed_with_a_fresh_generator_ends_in_the_same_bytes() {
        for sampler in [Sampler::Sde, Sampler::Ode] {
            for kind in [NoiseKind::Native, NoiseKind::TorchCpu, NoiseKind::TorchCuda(GpuGrid::A100)] {
                let run = run_of(sampler);
                let fresh = || NoiseSource::seeded(kind, 9);
                let mut noise = fresh();
                let start = run.start(vec![0.0; 37], &mut noise).unwrap();
                let whole = run.run(start.clone(), &mut Toy(vec![]), &mut noise, go).unwrap();
                for at in 0..4 {
                    let stop = |state: &State<Vec<f64>>| if state.step == at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                    let broken = run.run(start.clone(), &mut Toy(vec![]), &mut fresh(), stop).unwrap();
                    let Outcome::Stopped(state) = broken else { panic!("the run was to stop at step {at}") };
                    assert_eq!(state.step, at);
                    assert_eq!(run.run(state, &mut Toy(vec![]), &mut fresh(), go).unwrap(), whole, "{sampler:?}, {kind}, step {at}");
                }
            }
        }
    }

    #[test]
    fn every_sde_step_draws_and_no_ode_step_does() {
        for (sampler, draws) in [(Sampler::Sde, 5), (Sampler::Ode, 1)] {
            let mut noise = NoiseSource::seeded(NoiseKind::TorchCpu, 1);
            let run = run_of(sampler);
            let start = run.start(vec![0.0; 20], &mut noise).unwrap();
            run.run(start, &mut Toy(vec![]), &mut noise, go).unwrap();
            assert_eq!(noise.draws(), draws);
        }
    }

    #[test]
    fn recorded_noise_may_leave_out_the_last_draw() {
        let run = FewStep::new(Schedule::few_step(80.0, 2).unwrap(), Sampler::Sde);
        let finish = |draws: Vec<Vec<f32>>| {
            let mut noise = NoiseSource::recorded(draws);
            let start = run.start(vec![0.0; 2], &mut noise).unwrap();
            run.run(start, &mut Toy(vec![]), &mut noise, go)
        };
        let two = vec![vec![1.0, 2.0], vec![3.0, 4.0]];
        let three = [two.clone(), vec![vec![5.0, 6.0]]].concat();
        assert_eq!(finish(two.clone()).unwrap(), finish(three).unwrap());
        assert_eq!(finish(two[..1].to_vec()), Err(Error::NoiseMissing { draw: 1, found: 1 }));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let run = run_of(Sampler::Sde);
        let mut noise = NoiseSource::seeded(NoiseKind::Native, 0);
        assert_eq!(run.start(Vec::new(), &mut noise), Err(Error::EmptyLatent));
        let late = State { step: 5, latent: vec![0.0] };
        assert_eq!(run.run(late, &mut Toy(vec![]), &mut noise, go), Err(Error::StepPastEnd { step: 5, steps: 4 }));
        assert!(run_of(Sampler::Ode).with_boundary(f64::NAN).is_err());
        struct Broken;
        impl Denoiser for Broken {
            type Latent = Vec<f64>;
            type Error = Error;
            fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
                Ok(if call.step == 1 { vec![f64::NAN; latent.len()] } else { latent.clone() })
            }
        }
        let start = run.start(vec![0.0; 4], &mut noise).unwrap();
        assert_eq!(run.run(start, &mut Broken, &mut noise, go), Err(Error::NotFinite { step: 1, what: "velocity" }));
    }
}
