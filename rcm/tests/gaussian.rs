//! Data whose every answer is known: each value drawn from `N(MEAN, SPREAD^2)`.
//!
//! At time `u` the noisy latent has deviation `sd(u) = sqrt((1 - u)^2 SPREAD^2 + u^2)`. The flow keeps `z = (x - (1 - u) MEAN) / sd(u)`, so its
//! endpoint is `MEAN + SPREAD z`, and the mean clean latent given `x` is `MEAN + SPREAD^2 (1 - u) / sd(u) z`.

#![allow(clippy::unwrap_used)] // a test panics on what it did not expect

use std::ops::ControlFlow;

use turbowan_rcm::{
    Call, Denoiser, Error, FewStep, FlowTime, Guidance, NoiseKind, NoiseSource, Outcome, Sampler, Schedule, Solver, Teacher, TeacherState,
};

const MEAN: f64 = 0.7;
const SPREAD: f64 = 0.4;

fn deviation(u: f64) -> f64 {
    ((1.0 - u).powi(2) * SPREAD * SPREAD + u * u).sqrt()
}

fn standard(x: f64, u: f64) -> f64 {
    (x - (1.0 - u) * MEAN) / deviation(u)
}

/// An undistilled model: its clean estimate is the mean over all that fits.
struct Diffusion;

impl Denoiser for Diffusion {
    type Latent = Vec<f64>;
    type Error = Error;

    fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
        let u = call.time.share();
        let clean = |x: f64| MEAN + SPREAD * SPREAD * (1.0 - u) / deviation(u) * standard(x, u);
        Ok(latent.iter().map(|x| (x - clean(*x)) / u).collect())
    }
}

/// A distilled model: its clean estimate is the flow's endpoint.
struct Consistency;

impl Denoiser for Consistency {
    type Latent = Vec<f64>;
    type Error = Error;

    fn velocity(&mut self, latent: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
        let u = call.time.share();
        Ok(latent.iter().map(|x| (x - (MEAN + SPREAD * standard(*x, u))) / u).collect())
    }
}

fn few_step(sampler: Sampler, steps: usize, count: usize) -> Vec<f64> {
    let run = FewStep::new(Schedule::few_step(80.0, steps).unwrap(), sampler);
    let mut noise = NoiseSource::seeded(NoiseKind::Native, 3);
    let start = run.start(vec![0.0; count], &mut noise).unwrap();
    run.run(start, &mut Consistency, &mut noise, |_| ControlFlow::Continue(())).unwrap().into_state().latent
}

fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

#[test]
fn sde_steps_of_a_consistent_model_have_the_mean_and_variance_of_the_closed_form() {
    const COUNT: usize = 400_000;
    for steps in 1..=4 {
        let times: Vec<f64> = Schedule::few_step(80.0, steps).unwrap().times().iter().map(|t| t.share()).collect();
        let (mut mean, mut variance) = (0.0, times[0] * times[0]);
        for pair in times.windows(2) {
            let gain = SPREAD / deviation(pair[0]);
            let clean = MEAN + gain * (mean - (1.0 - pair[0]) * MEAN);
            mean = (1.0 - pair[1]) * clean;
            variance = ((1.0 - pair[1]) * gain).powi(2) * variance + pair[1] * pair[1];
        }
        let (got_mean, got_variance) = mean_and_variance(&few_step(Sampler::Sde, steps, COUNT));
        // Four standard errors of the mean and of the variance at this count.
        let root = (COUNT as f64).sqrt();
        assert!((got_mean - mean).abs() < 4.0 * variance.sqrt() / root, "{steps} steps: mean {got_mean}, want {mean}");
        assert!((got_variance - variance).abs() < 4.0 * 2f64.sqrt() * variance / root, "{steps} steps: {got_variance}, want {variance}");
        // More steps forget that the start was pure noise: the variance is the data's.
        assert!((variance / (SPREAD * SPREAD) - 1.0).abs() < 1e-3);
    }
}

#[test]
fn one_ode_step_of_a_consistent_model_lands_on_the_flow_s_endpoint() {
    let one_sde = few_step(Sampler::Sde, 1, 50);
    for (got, want) in few_step(Sampler::Ode, 1, 50).iter().zip(&one_sde) {
        assert!((got - want).abs() < 1e-12);
    }
}

/// Largest error at the end of a teacher's run against the exact flow. Unshifted, so that all spans shrink alike.
fn teacher_error(solver: Solver, steps: usize) -> f64 {
    let teacher = Teacher::new(solver, steps, 80.0, 1.0, Guidance::uniform(1.0)).unwrap();
    let mut noise = NoiseSource::seeded(NoiseKind::Native, 4);
    let start = teacher.start(vec![0.0; 64], &mut noise).unwrap();
    let u = teacher.times()[0].share();
    let want: Vec<f64> = start.latent.iter().map(|x| MEAN + SPREAD * standard(*x, u)).collect();
    let got = teacher.run(start, &mut Diffusion, |_| ControlFlow::Continue(())).unwrap().into_state().latent;
    got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max)
}

#[test]
fn euler_is_of_first_and_unipc_of_second_order() {
    for (solver, least, most) in [(Solver::Euler, 0.95, 1.05), (Solver::UniPc, 1.8, 2.2)] {
        for steps in [40, 125, 250, 500] {
            let order = (teacher_error(solver, steps) / teacher_error(solver, 2 * steps)).log2();
            assert!((least..most).contains(&order), "{solver:?} at {steps} steps: order {order}");
        }
    }
    assert!(teacher_error(Solver::UniPc, 50) < teacher_error(Solver::Euler, 50) / 15.0);
}

#[test]
fn a_teacher_s_run_broken_and_resumed_is_the_same_run() {
    for solver in [Solver::Euler, Solver::UniPc] {
        let teacher = Teacher::new(solver, 6, 80.0, 5.0, Guidance { high: 3.5, low: 2.0 }).unwrap().with_boundary(0.9).unwrap();
        let mut noise = NoiseSource::seeded(NoiseKind::TorchCpu, 0);
        let start = teacher.start(vec![0.0; 5], &mut noise).unwrap();
        let whole = teacher.run(start.clone(), &mut Diffusion, |_| ControlFlow::Continue(())).unwrap();
        for at in 0..6 {
            let stop = |s: &TeacherState<Vec<f64>>| if s.step == at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let Outcome::Stopped(state) = teacher.run(start.clone(), &mut Diffusion, stop).unwrap() else { panic!("was to stop at {at}") };
            assert_eq!(teacher.run(state, &mut Diffusion, |_| ControlFlow::Continue(())).unwrap(), whole, "{solver:?}, step {at}");
        }
    }
}

#[test]
fn a_teacher_refuses_what_it_cannot_run() {
    let make = |steps, sigma, shift, guidance| Teacher::new(Solver::UniPc, steps, sigma, shift, Guidance::uniform(guidance));
    assert_eq!(make(0, 80.0, 5.0, 5.0), Err(Error::Steps { steps: 0, most: 1000 }));
    for (sigma, shift, guidance) in [(0.0, 5.0, 5.0), (f64::INFINITY, 5.0, 5.0), (80.0, 0.0, 5.0), (80.0, 5.0, f64::NAN), (80.0, 5.0, -1.0)]
    {
        assert!(matches!(make(4, sigma, shift, guidance), Err(Error::OutOfRange { .. })));
    }
    let teacher = make(4, 80.0, 5.0, 1.0).unwrap();
    let lost = TeacherState { step: 2, latent: vec![0.0], history: None };
    assert_eq!(teacher.step(lost, &mut Diffusion), Err(Error::HistoryMissing { step: 2 }));
    let start = teacher.start(vec![0.0; 3], &mut NoiseSource::seeded(NoiseKind::Native, 0)).unwrap();
    let mut cut = teacher.step(start, &mut Diffusion).unwrap();
    cut.latent.pop();
    assert_eq!(teacher.step(cut, &mut Diffusion), Err(Error::HistoryMissing { step: 1 }));
    assert_eq!(teacher.times()[4], FlowTime::CLEAN);
}
