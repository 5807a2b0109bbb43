//! Each method's loss equals a sum written out from the papers, and its gradient the difference quotients of that sum.
//!
//! The sums below know one value of one sample at a time, in f64, with the official wrapper; `live` weights learn, `held` ones stand where a
//! gradient stops. Times and noise are those that the step draws, in the order that it states.

use turbowan_rcm::loss::LossScale;
use turbowan_rcm::optim::gradient;
use turbowan_rcm::train::{
    Alignment, Batch, Consistency, ContinuousConsistency, Derivative, DiscreteConsistency, Distillation, DistributionMatching,
    FlowMatching, Metrics, Networks, Simulation, TimeDistribution,
};
use turbowan_rcm::{FlowTime, Stream, Trainable, TrigTime};

use crate::toy::{Toy, WEIGHTS, toy};

const SAMPLES: usize = 4;
const LEN: usize = 3;
const LABELS: [f64; SAMPLES] = [0.3, -0.2, 0.5, 0.0];
const NEGATIVE: [f64; SAMPLES] = [-1.0; SAMPLES];
const GUIDANCE: f64 = 2.5;
const SEED: u64 = 21;

/// The step rounds networks' inputs and outputs to f32.
const LOSS_BOUND: f64 = 3e-6;
/// The same, and f32 gradients, relative to the largest.
const GRADIENT_BOUND: f64 = 1e-5;

/// A weight set as a network: `(x, 1000 u, label)` to a velocity.
fn net(weights: &[f64]) -> impl Fn(f64, f64, f64) -> f64 + '_ {
    |x, time, label| toy(weights, x, time, label, |_, _| ())[0]
}

/// The official wrapper: clean estimate and `F`.
fn denoise(weights: &[f64], x: f64, t: f64, label: f64) -> (f64, f64) {
    let (sin, cos) = t.sin_cos();
    let (skip, out) = (1.0 / (cos + sin), -sin / (cos + sin));
    let clean = skip * x + out * net(weights)(x / (cos + sin), 1000.0 * sin / (cos + sin), label);
    (clean, (cos * x - clean) / sin)
}

fn guided(weights: &[f64], x: f64, t: f64, sample: usize) -> (f64, f64) {
    let (with, without) = (denoise(weights, x, t, LABELS[sample]), denoise(weights, x, t, NEGATIVE[sample]));
    (without.0 + GUIDANCE * (with.0 - without.0), without.1 + GUIDANCE * (with.1 - without.1))
}

/// Three networks and a batch, and the weights of each.
struct Case {
    student: Toy,
    critic: Toy,
    teacher: Toy,
    latents: Vec<f32>,
    labels: Vec<f64>,
    negative: Vec<f64>,
}

impl Case {
    fn new() -> Self {
        let latents = Stream::new(5).normals(SAMPLES * LEN);
        let [student, critic, teacher] = [1, 2, 3].map(|seed| Toy::new(seed, 0.4));
        Self { student, critic, teacher, latents, labels: LABELS.to_vec(), negative: NEGATIVE.to_vec() }
    }

    fn batch(&self) -> Batch<'_, Vec<f64>> {
        Batch { latents: &self.latents, condition: &self.labels, negative: &self.negative }
    }

    fn clean(&self, i: usize) -> f64 {
        f64::from(self.latents[i])
    }
}

/// The step's loss against `sum(live, held)`, and the gradient that it left in `model` against difference quotients in `live`.
fn agrees(what: &str, metrics: Metrics, model: &Toy, sum: impl Fn(&[f64], &[f64]) -> f64) {
    let held = model.weights();
    let want = sum(&held, &held);
    assert!((metrics.loss - want).abs() <= LOSS_BOUND * want.abs(), "{what}: loss {}, want {want}", metrics.loss);
    assert_eq!(metrics.masked, 0, "{what}");
    assert!(want > 1e-3 && metrics.pull > 0.0, "{what}: a loss of {want} tests nothing");
    let quotient = |weight: usize| {
        let at = |step: f64| {
            let mut live = held.clone();
            live[weight] += step;
            sum(&live, &held)
        };
        (at(1e-5) - at(-1e-5)) / 2e-5
    };
    let want: Vec<f64> = (0..WEIGHTS).map(quotient).collect();
    let most = want.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
    for (weight, (got, want)) in model.gradient().iter().zip(&want).enumerate() {
        assert!((got - want).abs() <= GRADIENT_BOUND * most, "{what}: gradient of weight {weight}: got {got}, want {want}, most {most}");
    }
}

/// `mean over samples of sum over values`.
fn total(value: impl Fn(usize, usize) -> f64) -> f64 {
    (0..SAMPLES * LEN).map(|i| value(i, i / LEN)).sum::<f64>() / SAMPLES as f64
}

fn trig(distribution: TimeDistribution, noise: &mut Stream) -> Vec<f64> {
    distribution.draw(SAMPLES, noise).into_iter().map(|time| time.trig().radians()).collect()
}

#[test]
fn flow_matching_is_its_sum() {
    let times = TimeDistribution::logit_normal_shift(0.0, 1.0, 3.0).unwrap();
    let method = FlowMatching::new(times, 0.5).unwrap();
    flow_matching_agrees(times, &method, &[1.0; LEN]);
    let weights: Vec<f64> = (0..LEN).map(|value| 0.5 * value as f64).collect();
    flow_matching_agrees(times, &method.weighted(&weights).unwrap(), &weights);
}

fn flow_matching_agrees(times: TimeDistribution, method: &FlowMatching, weights: &[f64]) {
    let mut case = Case::new();
    let mut student = case.student.clone();
    let metrics = method.step(&mut student, case.batch(), &mut Stream::new(SEED)).unwrap();
    let mut noise = Stream::new(SEED);
    let u: Vec<f64> = times.draw(SAMPLES, &mut noise).into_iter().map(FlowTime::share).collect();
    let epsilon = noise.normals(SAMPLES * LEN);
    let dropped: Vec<bool> = noise.uniforms(SAMPLES).iter().map(|v| *v < 0.5).collect();
    assert!(dropped.contains(&true) && dropped.contains(&false));
    case.student = student;
    agrees("flow matching", metrics, &case.student, |live, _| {
        total(|i, s| {
            let (x, e) = (case.clean(i), f64::from(epsilon[i]));
            let label = if dropped[s] { NEGATIVE[s] } else { LABELS[s] };
            weights[i % LEN] * (net(live)((1.0 - u[s]) * x + u[s] * e, 1000.0 * u[s], label) - (e - x)).powi(2) / LEN as f64
        })
    });
}

#[test]
fn alignment_is_its_sum() {
    let case = Case::new();
    let (mut student, mut teacher) = (case.student.clone(), case.teacher.clone());
    let method = Alignment::default();
    let metrics = method.step(&mut student, &mut teacher, case.batch(), &mut Stream::new(SEED)).unwrap();
    assert_eq!(teacher, case.teacher);
    let mut noise = Stream::new(SEED);
    let u: Vec<f64> = method.times.draw(SAMPLES, &mut noise).into_iter().map(FlowTime::share).collect();
    let epsilon = noise.normals(SAMPLES * LEN);
    let frozen = teacher.weights();
    agrees("alignment", metrics, &student, |live, _| {
        total(|i, s| {
            let x = (1.0 - u[s]) * case.clean(i) + u[s] * f64::from(epsilon[i]);
            (net(live)(x, 1000.0 * u[s], LABELS[s]) - net(&frozen)(x, 1000.0 * u[s], LABELS[s])).powi(2) / LEN as f64
        })
    });
}

/// `cos t sin t dF/dt` along the teacher's path, in each form, by difference quotients of the definition.
fn slope(form: Derivative, held: &[f64], x: f64, t: f64, path: f64, label: f64) -> f64 {
    let f = |x: f64, t: f64| denoise(held, x, t, label).1;
    let (sin, cos) = t.sin_cos();
    let e = 1e-5;
    match form {
        Derivative::Exact => sin * cos * (f(x + e * path, t + e) - f(x - e * path, t - e)) / (2.0 * e),
        Derivative::SemiContinuous(h) => {
            let along = (f(x + e * path, t) - f(x - e * path, t)) / (2.0 * e);
            sin * cos * (along + (h.cos() * f(x, t) - f(x, t - h)) / h.sin())
        }
        Derivative::Discrete(h) => sin * cos * (h.cos() * f(x, t) - f(h.cos() * x - h.sin() * path, t - h)) / h.sin(),
    }
}

#[test]
fn continuous_consistency_is_its_sum_in_all_three_forms() {
    let case = Case::new();
    for (form, w) in [(Derivative::Exact, 1.0), (Derivative::SemiContinuous(0.02), 0.3), (Derivative::Discrete(0.02), 1.0)] {
        let (mut student, mut teacher) = (case.student.clone(), case.teacher.clone());
        let method = ContinuousConsistency { derivative: form, ..Default::default() };
        let metrics = method.step(&mut student, &mut teacher, case.batch(), GUIDANCE, w, &mut Stream::new(SEED)).unwrap();
        let mut noise = Stream::new(SEED);
        let times = trig(TimeDistribution::log_normal(0.7, 1.6).unwrap(), &mut noise);
        let epsilon = noise.normals(SAMPLES * LEN);
        let frozen = teacher.weights();
        let noisy: Vec<f64> =
            (0..SAMPLES * LEN).map(|i| times[i / LEN].cos() * case.clean(i) + times[i / LEN].sin() * f64::from(epsilon[i])).collect();
        agrees(&format!("sCM, {form:?}"), metrics, &student, |live, held| {
            let raw: Vec<f64> = (0..SAMPLES * LEN)
                .map(|i| {
                    let (x, s) = (noisy[i], i / LEN);
                    let (t, label) = (times[s], LABELS[s]);
                    let path = guided(&frozen, x, t, s).1;
                    -t.cos() * (1.0 - w * w * t.sin().powi(2)).sqrt() * (denoise(held, x, t, label).1 - path)
                        - (w * t.cos() * t.sin() * x + slope(form, held, x, t, path, label))
                })
                .collect();
            let norm = |s: usize| raw[s * LEN..(s + 1) * LEN].iter().map(|g| g * g).sum::<f64>().sqrt();
            total(|i, s| {
                let f = |weights: &[f64]| denoise(weights, noisy[i], times[s], LABELS[s]).1;
                100.0 * (f(live) - f(held) - raw[i] / (norm(s) + 0.1)).powi(2)
            })
        });
    }
}

#[test]
fn discrete_consistency_is_its_sum() {
    let case = Case::new();
    for skip in [1, 3] {
        let (mut student, mut teacher) = (case.student.clone(), case.teacher.clone());
        let method = DiscreteConsistency { skip, ..Default::default() };
        let metrics = method.step(&mut student, &mut teacher, case.batch(), GUIDANCE, &mut Stream::new(SEED)).unwrap();
        let mut noise = Stream::new(SEED);
        let v: Vec<f64> = noise.uniforms(SAMPLES).iter().map(|v| v * (1.0 - skip as f64 / 48.0)).collect();
        let epsilon = noise.normals(SAMPLES * LEN);
        let frozen = teacher.weights();
        let time = |s: usize, k: usize| {
            let share = 1.0 - (v[s] + k as f64 / 48.0);
            let u = 5.0 * share / (1.0 + 4.0 * share);
            (u / (1.0 - u)).atan()
        };
        agrees(&format!("dCM of {skip}"), metrics, &student, |live, held| {
            total(|i, s| {
                let x = time(s, 0).cos() * case.clean(i) + time(s, 0).sin() * f64::from(epsilon[i]);
                let step = |x: f64, k: usize| x - (time(s, k) - time(s, k + 1)) * guided(&frozen, x, time(s, k), s).1;
                let walked = (0..skip).fold(x, step);
                let target = denoise(held, walked, time(s, skip), LABELS[s]).0;
                100.0 * (denoise(live, x, time(s, 0), LABELS[s]).0 - target).powi(2)
            })
        });
    }
}

/// The last step's input of a simulation, replayed with weights `held`.
fn simulated(held: &[f64], simulation: &Simulation, steps: usize, noise: &mut Stream) -> (Vec<f64>, Vec<f64>) {
    let mut x: Vec<f64> = noise.normals(SAMPLES * LEN).into_iter().map(f64::from).collect();
    let mut t = vec![std::f64::consts::FRAC_PI_2; SAMPLES];
    for step in 1..steps {
        let clean: Vec<f64> = (0..SAMPLES * LEN).map(|i| denoise(held, x[i], t[i / LEN], LABELS[i / LEN]).0).collect();
        t = match simulation {
            Simulation::Fixed(times) => vec![times[step - 1].radians(); SAMPLES],
            Simulation::Drawn(law) => t.iter().zip(trig(*law, noise)).map(|(t, drawn)| t.min(drawn)).collect(),
        };
        let fresh = noise.normals(SAMPLES * LEN);
        x = (0..SAMPLES * LEN).map(|i| t[i / LEN].cos() * clean[i] + t[i / LEN].sin() * f64::from(fresh[i])).collect();
    }
    (x, t)
}

fn simulations() -> [Simulation; 2] {
    let fixed = [1.5, 1.4, 1.0].map(|radians| TrigTime::new(radians).unwrap());
    assert_eq!(Simulation::official_fixed(), Simulation::Fixed(fixed.to_vec()));
    [Simulation::Drawn(TimeDistribution::uniform_shift(5.0).unwrap()), Simulation::Fixed(fixed.to_vec())]
}

#[test]
fn distribution_matching_is_its_sum_for_one_to_four_steps() {
    let case = Case::new();
    for simulation in simulations() {
        for steps in 1..=4 {
            let (mut student, mut critic, mut teacher) = (case.student.clone(), case.critic.clone(), case.teacher.clone());
            let method = DistributionMatching { simulation: simulation.clone(), ..Default::default() };
            let networks = (&mut student, &mut critic, &mut teacher);
            let metrics = method.student_step(networks, case.batch(), GUIDANCE, steps, &mut Stream::new(SEED)).unwrap();
            assert_eq!((&critic, &teacher), (&case.critic, &case.teacher));
            let (fake, frozen) = (critic.weights(), teacher.weights());
            agrees(&format!("DMD of {steps}, {simulation:?}"), metrics, &student, |live, held| {
                let mut noise = Stream::new(SEED);
                let (x, t) = simulated(held, &simulation, steps, &mut noise);
                let times = trig(TimeDistribution::uniform_shift(5.0).unwrap(), &mut noise);
                let epsilon = noise.normals(SAMPLES * LEN);
                let made = |weights: &[f64], i: usize| denoise(weights, x[i], t[i / LEN], LABELS[i / LEN]).0;
                let noisy = |i: usize| times[i / LEN].cos() * made(held, i) + times[i / LEN].sin() * f64::from(epsilon[i]);
                let wanted = |i: usize| guided(&frozen, noisy(i), times[i / LEN], i / LEN).0;
                let mean = |s: usize| (s * LEN..(s + 1) * LEN).map(|i| (made(held, i) - wanted(i)).abs()).sum::<f64>() / LEN as f64;
                total(|i, s| {
                    let direction = (denoise(&fake, noisy(i), times[s], LABELS[s]).0 - wanted(i)) / mean(s).max(1e-5);
                    (made(live, i) - (made(held, i) - direction)).powi(2)
                })
            });
        }
    }
}

#[test]
fn the_critics_loss_is_its_sum_for_one_to_four_steps() {
    let case = Case::new();
    for simulation in simulations() {
        for steps in 1..=4 {
            let (mut student, mut critic) = (case.student.clone(), case.critic.clone());
            let method = DistributionMatching { simulation: simulation.clone(), ..Default::default() };
            let metrics = method.critic_step((&mut student, &mut critic), case.batch(), steps, &mut Stream::new(SEED)).unwrap();
            assert_eq!(student, case.student);
            let maker = student.weights();
            let mut noise = Stream::new(SEED);
            let (x, t) = simulated(&maker, &simulation, steps, &mut noise);
            let times = trig(TimeDistribution::MATCHING, &mut noise);
            let epsilon = noise.normals(SAMPLES * LEN);
            agrees(&format!("critic of {steps}, {simulation:?}"), metrics, &critic, |live, _| {
                total(|i, s| {
                    let made = denoise(&maker, x[i], t[s], LABELS[s]).0;
                    let noisy = times[s].cos() * made + times[s].sin() * f64::from(epsilon[i]);
                    (made - denoise(live, noisy, times[s], LABELS[s]).0).powi(2) / times[s].sin().powi(2)
                })
            });
        }
    }
}

#[test]
fn passes_accumulate_and_scale_and_a_means_gradient_is_a_sums_divided() {
    let case = Case::new();
    let run = |scale: LossScale, passes: usize| {
        let (mut student, mut teacher, mut noise) = (case.student.clone(), case.teacher.clone(), Stream::new(SEED));
        let method = Alignment { scale, ..Default::default() };
        for _ in 0..passes {
            method.step(&mut student, &mut teacher, case.batch(), &mut noise).unwrap();
        }
        gradient::scale(&mut student.parameters(), 1.0 / passes as f64);
        (student.gradient(), noise)
    };
    let (one, mut after) = run(LossScale::Mean(1.0), 1);
    let (both, _) = run(LossScale::Mean(1.0), 2);
    let (mut student, mut teacher) = (case.student.clone(), case.teacher.clone());
    Alignment::default().step(&mut student, &mut teacher, case.batch(), &mut after).unwrap();
    let (sum, _) = run(LossScale::Sum(0.5), 1);
    for (weight, ((one, second), (both, sum))) in one.iter().zip(student.gradient()).zip(both.iter().zip(&sum)).enumerate() {
        assert!((both - 0.5 * (one + second)).abs() <= 1e-6 * (1.0 + both.abs()), "weight {weight}");
        assert!((sum - 0.5 * LEN as f64 * one).abs() <= 1e-6 * (1.0 + sum.abs()), "weight {weight}");
    }
}

#[test]
fn a_students_iteration_adds_both_terms_and_a_critics_iteration_touches_the_critic_alone() {
    let case = Case::new();
    let consistency = ContinuousConsistency::default();
    let matching = DistributionMatching::default();
    let method = Distillation {
        guidance: GUIDANCE,
        consistency: Some(Consistency::Continuous(consistency)),
        matching: Some(matching.clone()),
        ..Default::default()
    };
    // Iteration 1010 is the student's 1002nd: three simulation steps.
    let (mut student, mut critic, mut teacher) = (case.student.clone(), case.critic.clone(), case.teacher.clone());
    let networks = Networks { student: &mut student, critic: &mut critic, teacher: &mut teacher };
    let metrics = method.step(networks, case.batch(), 1010, &mut Stream::new(SEED)).unwrap();
    assert_eq!((&critic, &teacher), (&case.critic, &case.teacher));
    let (mut apart, mut fake, mut frozen, mut noise) = (case.student.clone(), critic.clone(), teacher.clone(), Stream::new(SEED));
    let first = consistency.step(&mut apart, &mut frozen, case.batch(), GUIDANCE, 1.0, &mut noise).unwrap();
    let second = matching.student_step((&mut apart, &mut fake, &mut frozen), case.batch(), GUIDANCE, 3, &mut noise).unwrap();
    assert_eq!((metrics, student), (vec![first, second], apart));
    // Iteration 1011 is the critic's 8th: one step.
    let (mut student, mut apart) = (case.student.clone(), case.critic.clone());
    let networks = Networks { student: &mut student, critic: &mut critic, teacher: &mut teacher };
    let metrics = method.step(networks, case.batch(), 1011, &mut Stream::new(SEED)).unwrap();
    let alone = matching.critic_step((&mut student, &mut apart), case.batch(), 1, &mut Stream::new(SEED)).unwrap();
    assert_eq!((metrics, &critic, &student), (vec![alone], &apart, &case.student));
    // The 300th of 1000 of the warm-up: consistency alone, three tenths warm.
    let networks = Networks { student: &mut student, critic: &mut critic, teacher: &mut teacher };
    let metrics = method.step(networks, case.batch(), 300, &mut Stream::new(SEED)).unwrap();
    let mut apart = case.student.clone();
    let alone = consistency.step(&mut apart, &mut frozen, case.batch(), GUIDANCE, 0.3, &mut Stream::new(SEED)).unwrap();
    assert_eq!((metrics, student), (vec![alone], apart));
}
