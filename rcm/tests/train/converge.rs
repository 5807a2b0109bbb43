//! Each method, run for a while, finds what it should. The toy is affine in a latent value, with coefficients that are polynomials of
//! the time, as are (nearly) the answers: so what is left after training is known to be small.

use turbowan_rcm::loss::LossScale;
use turbowan_rcm::optim::{AdamW, Decay, Ema, EmaRate, Group, LearningRate, Method, Optimiser, gradient};
use turbowan_rcm::train::{
    Alignment, Alternation, Batch, Consistency, ContinuousConsistency, Derivative, DiscreteConsistency, Distillation, DistributionMatching,
    FlowMatching, Metrics, Networks, Phase, Simulation, TimeDistribution, TrigNet,
};
use turbowan_rcm::{Error, Stream, Trainable, TrigTime, VelocityNet};

use crate::toy::{Closed, MEAN, SPREAD, Toy, consistent, data, diffusion};

const LEN: usize = 8;

/// What learns: a network with its optimiser, rate and average.
struct Learner {
    net: Toy,
    optimiser: Optimiser,
    rate: LearningRate,
    ema: Ema,
}

impl Learner {
    fn new(mut net: Toy, peak: f64, steps: u64, betas: (f64, f64)) -> Self {
        let method = Method::AdamW(AdamW { betas, epsilon: 1e-8, decay: 0.0 });
        // The toy's hidden units stay silent: its answers are affine.
        let choose = |name: &str, _: &[usize]| (!name.starts_with("hidden")).then_some(0);
        let optimiser = Optimiser::new(vec![Group { method, rate: 1.0 }], &net.parameters(), choose).unwrap();
        let rate = LearningRate { peak, warm_up: 20, hold: steps / 3, end: steps, floor: 0.01, decay: Decay::Cosine };
        let ema = Ema::new(EmaRate::constant(0.97).unwrap(), &net.parameters());
        Self { net, optimiser, rate, ema }
    }

    fn learn(&mut self) {
        let rate = self.rate.at(self.optimiser.steps());
        let mut parameters = self.net.parameters();
        gradient::clip(&mut parameters, 10.0).unwrap();
        self.optimiser.step(&mut parameters, rate).unwrap();
        gradient::zero(&mut parameters);
        self.ema.update(&parameters, self.optimiser.steps()).unwrap();
    }

    /// The averaged network.
    fn averaged(mut self) -> Toy {
        self.ema.swap(&mut self.net.parameters()).unwrap();
        self.net
    }
}

/// Labels of a batch, other ones each step.
fn labels(noise: &mut Stream, samples: usize) -> Vec<f64> {
    noise.uniforms(samples).into_iter().map(|u| u - 0.5).collect()
}

/// Root mean square of the difference of two networks' clean estimates where training looks.
fn distance(one: &mut Toy, other: &mut Closed, times: TimeDistribution) -> f64 {
    let mut noise = Stream::new(999);
    let labels = labels(&mut noise, 500);
    let clean = data(&labels, LEN, &mut noise);
    let times = times.draw(500, &mut noise);
    let epsilon = noise.normals(clean.len());
    let mix = |i: usize| (1.0 - times[i / LEN].share()) * f64::from(clean[i]) + times[i / LEN].share() * f64::from(epsilon[i]);
    let x: Vec<f32> = (0..clean.len()).map(|i| mix(i) as f32).collect();
    let network: Vec<f64> = times.iter().map(|time| time.timestep()).collect();
    let (a, b) = (one.forward(&x, &network, &labels).unwrap(), other.forward(&x, &network, &labels).unwrap());
    let each = a.iter().zip(&b).enumerate();
    (each.map(|(i, (a, b))| (times[i / LEN].share() * f64::from(a - b)).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// Mean and deviation, less the label, of what a student makes in some steps.
fn made(student: &mut Toy, steps: usize) -> [f64; 2] {
    let mut noise = Stream::new(998);
    let labels = labels(&mut noise, 2000);
    let mut x: Vec<f64> = noise.normals(2000 * LEN).into_iter().map(f64::from).collect();
    let mut clean = Vec::new();
    for time in [std::f64::consts::FRAC_PI_2, 1.5, 1.4, 1.0].into_iter().take(steps) {
        if !clean.is_empty() {
            let fresh = noise.normals(x.len());
            x = clean.iter().zip(fresh).map(|(clean, fresh): (&f64, f32)| time.cos() * clean + time.sin() * f64::from(fresh)).collect();
        }
        clean = TrigNet(student).predict(&x, &vec![TrigTime::new(time).unwrap(); 2000], &labels).unwrap().clean;
    }
    let centred: Vec<f64> = clean.iter().enumerate().map(|(i, x)| x - labels[i / LEN]).collect();
    let mean = centred.iter().sum::<f64>() / centred.len() as f64;
    [mean, (centred.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / centred.len() as f64).sqrt()]
}

#[track_caller]
fn makes_the_data(student: &mut Toy, steps: usize, bound: f64) {
    let [mean, deviation] = made(student, steps);
    assert!((mean - MEAN).abs() < bound, "{steps} steps: mean {mean}");
    assert!((deviation - SPREAD).abs() < bound, "{steps} steps: deviation {deviation}");
}

/// Runs `step` with a fresh batch of 64 samples each time; returns its last metrics.
fn train(
    learner: &mut Learner,
    steps: u64,
    mut step: impl FnMut(&mut Toy, Batch<'_, Vec<f64>>, &mut Stream) -> Result<Metrics, Error>,
) -> Metrics {
    let mut noise = Stream::new(7);
    let mut last = None;
    for _ in 0..steps {
        let labels = labels(&mut noise, 64);
        let latents = data(&labels, LEN, &mut noise);
        let batch = Batch { latents: &latents, condition: &labels, negative: &labels };
        last = Some(step(&mut learner.net, batch, &mut noise).unwrap());
        learner.learn();
    }
    last.unwrap()
}

/// A toy that answers nearly as the teacher does: what a student starts from.
fn taught() -> Toy {
    let mut learner = Learner::new(Toy::new(0, 0.0), 0.1, 1500, (0.9, 0.99));
    let method = Alignment { times: TimeDistribution::log_normal(0.0, 1.6).unwrap(), ..Default::default() };
    let last = train(&mut learner, 1500, |net, batch, noise| method.step(net, &mut Closed::new(diffusion), batch, noise));
    assert!(last.loss < 2e-3, "alignment ends at {}", last.loss);
    learner.averaged()
}

#[test]
fn alignment_finds_the_teacher() {
    let got = distance(&mut taught(), &mut Closed::new(diffusion), TimeDistribution::log_normal(0.0, 1.6).unwrap());
    // What a polynomial of the fifth degree cannot say.
    assert!(got < 0.03, "distance {got}");
}

#[test]
fn flow_matching_finds_the_mean_velocity() {
    let times = TimeDistribution::logit_normal_shift(0.0, 1.0, 3.0).unwrap();
    let mut learner = Learner::new(Toy::new(0, 0.0), 0.1, 2000, (0.9, 0.99));
    let method = FlowMatching::new(times, 0.12).unwrap();
    train(&mut learner, 2000, |net, batch, noise| method.step(net, batch, noise));
    let got = distance(&mut learner.averaged(), &mut Closed::new(diffusion), times);
    assert!(got < 0.05, "distance {got}");
}

/// The fewest steps of training that bring each test within its bounds with room to spare.
const STEPS: u64 = 3000;

#[test]
fn continuous_consistency_in_every_form_finds_the_end_of_the_path() {
    let start = taught();
    let times = TimeDistribution::log_normal(0.0, 1.6).unwrap();
    let before = distance(&mut start.clone(), &mut Closed::new(consistent), times);
    for derivative in [Derivative::Exact, Derivative::SemiContinuous(1e-2), Derivative::Discrete(1e-2)] {
        // 100 for a 480p latent is about 5 for a small one.
        let term = ContinuousConsistency { times, derivative, scale: LossScale::Sum(5.0), ..Default::default() };
        let mut learner = Learner::new(start.clone(), 0.002, STEPS, (0.9, 0.99));
        train(&mut learner, STEPS, |net, batch, noise| term.step(net, &mut Closed::new(diffusion), batch, 1.0, 1.0, noise));
        let mut student = learner.averaged();
        let after = distance(&mut student, &mut Closed::new(consistent), times);
        assert!(after < 0.1 * before, "{derivative:?}: {before} before, {after} after");
        makes_the_data(&mut student, 1, 0.03);
    }
}

#[test]
fn discrete_consistency_comes_near_the_end_of_the_path() {
    let start = taught();
    let times = TimeDistribution::log_normal(0.0, 1.6).unwrap();
    let before = distance(&mut start.clone(), &mut Closed::new(consistent), times);
    let term = DiscreteConsistency { intervals: 96, skip: 4, scale: LossScale::Mean(1.0), ..Default::default() };
    let mut learner = Learner::new(start.clone(), 0.005, STEPS, (0.9, 0.99));
    train(&mut learner, STEPS, |net, batch, noise| term.step(net, &mut Closed::new(diffusion), batch, 1.0, noise));
    let mut student = learner.averaged();
    let after = distance(&mut student, &mut Closed::new(consistent), times);
    // Euler's steps and the slow way from clean to noisy leave some.
    assert!(after < 0.35 * before, "{before} before, {after} after");
    makes_the_data(&mut student, 1, 0.12);
}

/// The student after `iterations` of its own and the critic's, both from weights `start`.
fn distilled(method: &Distillation, start: &Toy, iterations: u64) -> Toy {
    let mut student = Learner::new(start.clone(), 0.002, iterations / 5, (0.5, 0.99));
    let mut critic = Learner::new(start.clone(), 0.02, iterations, (0.5, 0.99));
    let (mut teacher, mut noise) = (Closed::new(diffusion), Stream::new(7));
    for iteration in 0..iterations {
        let labels = labels(&mut noise, 64);
        let latents = data(&labels, LEN, &mut noise);
        let batch = Batch { latents: &latents, condition: &labels, negative: &labels };
        let networks = Networks { student: &mut student.net, critic: &mut critic.net, teacher: &mut teacher };
        method.step(networks, batch, iteration, &mut noise).unwrap();
        match method.phase(iteration).unwrap() {
            Phase::Student { .. } => student.learn(),
            Phase::Critic { .. } => critic.learn(),
        }
    }
    student.averaged()
}

fn matching() -> DistributionMatching {
    let means = LossScale::Mean(1.0);
    DistributionMatching {
        times: TimeDistribution::log_normal(0.0, 1.6).unwrap(),
        simulation: Simulation::official_fixed(),
        scale: means,
        critic_scale: means,
    }
}

#[test]
fn distribution_matching_makes_the_data_in_one_step() {
    let start = taught();
    let [_, narrow] = made(&mut start.clone(), 1);
    assert!(narrow < 0.1 * SPREAD, "an undistilled model makes its mean in one step, with deviation {narrow}");
    let alternation = Alternation { warm_up: 0, student_every: 5, least_steps: 1, most_steps: 1 };
    let method = Distillation { guidance: 1.0, consistency: None, matching: Some(matching()), alternation };
    makes_the_data(&mut distilled(&method, &start, 2 * STEPS), 1, 0.03);
}

#[test]
fn consistency_and_matching_together_make_the_data_in_one_to_four_steps() {
    let start = taught();
    let times = TimeDistribution::log_normal(0.0, 1.6).unwrap();
    let consistency = ContinuousConsistency { times, scale: LossScale::Sum(5.0), ..Default::default() };
    let alternation = Alternation { warm_up: 500, student_every: 5, least_steps: 1, most_steps: 4 };
    let consistency = Some(Consistency::Continuous(consistency));
    let method = Distillation { guidance: 1.0, consistency, matching: Some(matching()), alternation };
    let mut student = distilled(&method, &start, 4 * STEPS);
    for steps in 1..=4 {
        makes_the_data(&mut student, steps, 0.05);
    }
}
