//! What must hold whatever the numbers: zeros at the true answers, limits, masks, refusals.

use turbowan_rcm::loss::{ConsistencyTerms, LossScale, consistency, distribution_matching, squared_error};
use turbowan_rcm::train::{
    Batch, Coefficients, ContinuousConsistency, Derivative, DiscreteConsistency, DistributionMatching, FlowMatching, Simulation,
    TimeDistribution, TrigNet,
};
use turbowan_rcm::{Error, FlowTime, Stream, TrigTime, VelocityNet};

use crate::toy::{Closed, Toy, consistent, data, diffusion};

const LEN: usize = 16;
const LABELS: [f64; 8] = [0.0, 0.1, 0.2, -0.3, 0.4, 0.0, -0.1, 0.3];

fn batch<'a>(latents: &'a [f32], labels: &'a Vec<f64>) -> Batch<'a, Vec<f64>> {
    Batch { latents, condition: labels, negative: labels }
}

#[test]
fn the_wrapper_is_the_official_one_also_where_sin_t_vanishes() {
    let labels = vec![0.1; 4];
    let times = [1e-9, 0.4, 1.2, std::f64::consts::FRAC_PI_2].map(|t| TrigTime::new(t).unwrap());
    let noisy = [0.3, -0.8, 1.7, 0.05];
    let mut toy = Toy::new(4, 0.5);
    let got = TrigNet(&mut toy).predict(&noisy, &times, &labels).unwrap();
    for (i, time) in times.iter().enumerate() {
        let (sin, cos) = time.radians().sin_cos();
        let c = Coefficients::at(*time);
        let u = time.flow().share();
        assert!((c.time - 1000.0 * u).abs() < 1e-9 && (c.input - 1.0 / (cos + sin)).abs() < 1e-15 && (c.output + u).abs() < 1e-15);
        let net = f64::from(toy.forward(&[(c.input * noisy[i]) as f32], &[c.time], &vec![0.1]).unwrap()[0]);
        let clean = noisy[i] / (cos + sin) - sin / (cos + sin) * net;
        assert!((got.clean[i] - clean).abs() < 1e-15);
        // The two pictures of one network: x0 = cos t x - sin t F always, and the rectified flow's x - u v.
        assert!((cos * noisy[i] - sin * got.velocity[i] - clean).abs() < 1e-15);
        assert!((c.input * noisy[i] - u * net - clean).abs() < 1e-15);
    }
    // At t = 0 F is x + net, which (cos t x - x0) / sin t cannot say.
    assert!((got.velocity[0] - (noisy[0] + f64::from(toy.forward(&[0.3], &[0.0], &vec![0.1]).unwrap()[0]))).abs() < 1e-6);
}

/// The raw tangent `g` of sCM from the gradient that a step sends back, undone: its length, relative to the floor 0.1.
fn tangent_length(student: Closed, derivative: Derivative, warm_up: f64) -> f64 {
    let (labels, mut student, mut teacher) = (LABELS.to_vec(), student, Closed::new(diffusion));
    let latents = data(&labels, LEN, &mut Stream::new(1));
    let method = ContinuousConsistency { derivative, ..Default::default() };
    let metrics = method.step(&mut student, &mut teacher, batch(&latents, &labels), 1.0, warm_up, &mut Stream::new(2)).unwrap();
    assert_eq!(metrics.masked, 0);
    // The loss of a sample is 100 (|g| / (|g| + 0.1))^2.
    let length = (metrics.loss / 100.0).sqrt();
    0.1 * length / (1.0 - length)
}

#[test]
fn the_tangent_vanishes_at_the_true_consistency_function_and_nowhere_near() {
    let at_truth = tangent_length(Closed::new(consistent), Derivative::Exact, 1.0);
    // 16 values, each wrong by a few f32 roundings of numbers near 1.
    assert!(at_truth < 1e-5, "length {at_truth}");
    let at_teacher = tangent_length(Closed::new(diffusion), Derivative::Exact, 1.0);
    assert!(at_teacher > 0.1, "length {at_teacher}");
    // Not fully warm, it is another equation.
    assert!(tangent_length(Closed::new(consistent), Derivative::Exact, 0.5) > 0.01);
    // A network without its own tangent gets a central difference: good to its step squared.
    let central = tangent_length(Closed { tangents: false, ..Closed::new(consistent) }, Derivative::Exact, 1.0);
    assert!(central < 2e-3, "length {central}");
}

#[test]
fn differences_approach_the_exact_tangent_as_their_step_shrinks() {
    for form in [Derivative::SemiContinuous as fn(f64) -> Derivative, Derivative::Discrete] {
        let lengths: Vec<f64> =
            [0.04, 0.02, 0.01, 0.005].into_iter().map(|h| tangent_length(Closed::new(consistent), form(h), 1.0)).collect();
        // First order: half the step, half the error.
        for pair in lengths.windows(2) {
            assert!((1.8..2.3).contains(&(pair[0] / pair[1])), "{:?}: {lengths:?}", form(0.0));
        }
        // At the official step f32 has about three digits left.
        let official = tangent_length(Closed::new(consistent), form(Derivative::OFFICIAL_STEP), 1.0);
        assert!(official < 0.01, "{:?}: {official}", form(0.0));
    }
}

#[test]
fn a_consistent_student_hardly_changes_along_the_teachers_steps() {
    let labels = LABELS.to_vec();
    let latents = data(&labels, LEN, &mut Stream::new(1));
    let loss = |form, intervals| {
        let method = DiscreteConsistency { intervals, scale: LossScale::Mean(1.0), ..Default::default() };
        let (mut student, mut teacher) = (Closed::new(form), Closed::new(diffusion));
        method.step(&mut student, &mut teacher, batch(&latents, &labels), 1.0, &mut Stream::new(2)).unwrap().loss
    };
    // An Euler step errs by its square, a squared error by its fourth power.
    let (coarse, fine) = (loss(consistent, 48), loss(consistent, 96));
    assert!(coarse / fine > 8.0 && coarse < 2e-5, "{coarse}, then {fine}");
    // An inconsistent one does by as much as a step is long, however fine the grid.
    let (rough, finer) = (loss(diffusion, 48), loss(diffusion, 96));
    assert!(rough > 3.0 * coarse && finer > 15.0 * fine && (3.0..5.0).contains(&(rough / finer)), "{rough}, then {finer}");
}

#[test]
fn matched_distributions_have_no_gradient() {
    // The consistency function makes just the data, so the true critic is the teacher.
    let labels = LABELS.to_vec();
    let latents = data(&labels, LEN, &mut Stream::new(1));
    let run = |critic| {
        let (mut student, mut critic, mut teacher) = (Closed::new(consistent), Closed::new(critic), Closed::new(diffusion));
        let networks = (&mut student, &mut critic, &mut teacher);
        let method = DistributionMatching::default();
        let metrics = method.student_step(networks, batch(&latents, &labels), 1.0, 2, &mut Stream::new(2)).unwrap();
        assert_eq!(student.received.iter().any(|g| *g != 0.0), metrics.pull > 0.0);
        metrics.pull
    };
    assert_eq!(run(diffusion), 0.0);
    assert!(run(|x, u, label| diffusion(x, u, label + 0.1)) > 0.1);
}

#[test]
fn the_best_critic_of_a_perfect_generator_is_the_teacher() {
    let labels = vec![0.2; 512];
    let latents = vec![0.0; 512 * LEN];
    let loss = |critic| {
        let (mut student, mut critic) = (Closed::new(consistent), Closed::new(critic));
        let method = DistributionMatching::default();
        method.critic_step((&mut student, &mut critic), batch(&latents, &labels), 1, &mut Stream::new(2)).unwrap().loss
    };
    let best = loss(diffusion);
    for worse in [|x, u, label| diffusion(x, u, label + 0.2), |x, u, label| diffusion(x, u, label - 0.2), consistent] {
        assert!(loss(worse) > 1.005 * best);
    }
}

#[test]
fn a_sample_that_is_not_finite_leaves_the_others_alone() {
    fn broken(x: f64, u: f64, label: f64) -> [f64; 3] {
        if label > 5.0 { [f64::NAN; 3] } else { consistent(x, u, label + 0.2) }
    }
    fn moved(x: f64, u: f64, label: f64) -> [f64; 3] {
        diffusion(x, u, label + 0.1)
    }
    let (good, bad) = (vec![0.0, 0.1, 0.2], vec![0.0, 9.0, 0.2]);
    let latents = data(&good, LEN, &mut Stream::new(1));
    let pulls = |labels: &Vec<f64>| {
        let (mut student, mut critic, mut teacher) = (Closed::new(broken), Closed::new(moved), Closed::new(diffusion));
        let (batch, noise) = (batch(&latents, labels), || Stream::new(2));
        let mut all = Vec::new();
        let metrics = ContinuousConsistency::default().step(&mut student, &mut teacher, batch, 1.0, 1.0, &mut noise()).unwrap();
        all.push((metrics.masked, metrics.loss, student.received.clone()));
        let metrics = DiscreteConsistency::default().step(&mut student, &mut teacher, batch, 1.0, &mut noise()).unwrap();
        all.push((metrics.masked, metrics.loss, student.received.clone()));
        let networks = (&mut student, &mut critic, &mut teacher);
        let metrics = DistributionMatching::default().student_step(networks, batch, 1.0, 2, &mut noise()).unwrap();
        all.push((metrics.masked, metrics.loss, student.received.clone()));
        let metrics = DistributionMatching::default().critic_step((&mut student, &mut critic), batch, 2, &mut noise()).unwrap();
        all.push((metrics.masked, metrics.loss, critic.received.clone()));
        all
    };
    for ((masked, loss, got), (none, whole, want)) in pulls(&bad).into_iter().zip(pulls(&good)) {
        assert_eq!((masked, none), (1, 0));
        assert!(loss > 0.0 && loss < whole, "{loss} of {whole}");
        assert_eq!((&got[..LEN], &got[2 * LEN..]), (&want[..LEN], &want[2 * LEN..]));
        assert!(got[LEN..2 * LEN].iter().all(|g| *g == 0.0) && want[LEN..2 * LEN].iter().any(|g| *g != 0.0));
    }
}

#[test]
fn losses_are_masked_at_infinity_as_at_nan() {
    let time = [TrigTime::new(0.5).unwrap(); 2];
    let (one, far) = ([1.0, 1.0], [1.0, f64::INFINITY]);
    let terms = ConsistencyTerms { noisy: &one, times: &time, student: &far, teacher: &one, derivative: &one, warm_up: 1.0, floor: 0.1 };
    let scale = LossScale::Sum(1.0);
    for loss in
        [consistency(terms, scale), distribution_matching(&one, &far, &[0.0; 2], 2, scale), squared_error(&far, &[0.0; 2], &one, scale)]
    {
        assert_eq!((loss.masked, loss.samples[1], loss.gradient[1]), (1, 0.0, 0.0));
        assert!(loss.samples[0] > 0.0 && loss.gradient[0] != 0.0 && loss.mean() == loss.samples[0] / 2.0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    struct Short;
    impl VelocityNet for Short {
        type Error = Error;
        type Condition = Vec<f64>;
        fn forward(&mut self, x: &[f32], _: &[f64], _: &Vec<f64>) -> Result<Vec<f32>, Error> {
            Ok(vec![0.0; x.len() - 1])
        }
    }
    let (mut toy, mut noise) = (Toy::new(1, 0.1), Stream::new(0));
    let method = FlowMatching::new(TimeDistribution::MATCHING, 0.1).unwrap();
    let three = vec![0.0; 3];
    for (values, samples) in [(7, 3), (0, 3)] {
        assert_eq!(method.step(&mut toy, batch(&vec![0.0; values], &three), &mut noise), Err(Error::BatchLength { values, samples }));
    }
    assert!(matches!(method.step(&mut toy, batch(&[0.0], &vec![]), &mut noise), Err(Error::BatchLength { samples: 0, .. })));
    let uneven = Batch { latents: &[0.0; 6], condition: &three, negative: &vec![0.0; 2] };
    assert_eq!(method.step(&mut toy, uneven, &mut noise), Err(Error::ConditionLength { expected: 3, found: 2 }));
    let short = turbowan_rcm::train::Alignment::default().step(&mut toy, &mut Short, batch(&[0.0; 6], &three), &mut noise);
    assert_eq!(short, Err(Error::OutputLength { expected: 6, found: 5 }));
    let time = [FlowTime::new(0.5).unwrap().trig()];
    assert!(matches!(TrigNet(&mut Short).predict(&[0.0; 4], &time, &vec![0.0]), Err(Error::OutputLength { expected: 4, found: 3 })));
    let matching = DistributionMatching { simulation: Simulation::official_fixed(), ..Default::default() };
    let mut critic = toy.clone();
    for steps in [0, 5] {
        let got = matching.critic_step((&mut toy, &mut critic), batch(&[0.0; 6], &three), steps, &mut noise);
        assert_eq!(got, Err(Error::Steps { steps, most: 4 }));
    }
    for skip in [0, 49] {
        assert_eq!(DiscreteConsistency { skip, ..Default::default() }.grid(&[0.0]), Err(Error::Steps { steps: skip, most: 48 }));
    }
    assert!(FlowMatching::new(TimeDistribution::MATCHING, 1.5).is_err());
    assert!(method.clone().weighted(&[1.0, -1.0]).is_err() && method.clone().weighted(&[f64::NAN]).is_err());
    let got = method.weighted(&[1.0; 3]).unwrap().step(&mut toy, batch(&[0.0; 6], &three), &mut noise);
    assert_eq!(got, Err(Error::WeightsLength { expected: 2, found: 3 }));
}
