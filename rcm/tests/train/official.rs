//! The constants that stand for the official setting, each as its configuration file states it.

use turbowan_rcm::loss::LossScale;
use turbowan_rcm::optim::{AdamW, EmaRate, LearningRate};
use turbowan_rcm::train::{
    Alignment, Alternation, Consistency, ContinuousConsistency, Derivative, DiscreteConsistency, Distillation, DistributionMatching,
    Simulation, TimeDistribution,
};

#[test]
fn defaults_are_the_official_setting() {
    let Distillation { guidance, consistency, matching, alternation } = Distillation::default();
    let law = |mean| TimeDistribution::log_normal(mean, 1.6).unwrap();
    let matched = TimeDistribution::uniform_shift(5.0).unwrap();
    assert_eq!(guidance, 5.0);
    assert_eq!(alternation, Alternation { warm_up: 1000, student_every: 5, least_steps: 1, most_steps: 4 });
    let continuous =
        ContinuousConsistency { times: law(0.7), scale: LossScale::Sum(100.0), derivative: Derivative::Exact, norm_floor: 0.1 };
    assert_eq!(consistency, Some(Consistency::Continuous(continuous)));
    let simulation = Simulation::Drawn(matched);
    let (scale, critic_scale) = (LossScale::Sum(1.0), LossScale::Sum(1.0));
    assert_eq!(matching, Some(DistributionMatching { times: matched, simulation, scale, critic_scale }));
    let discrete = DiscreteConsistency { intervals: 48, skip: 1, shift: 5.0, scale: LossScale::Sum(100.0) };
    assert_eq!(DiscreteConsistency::default(), discrete);
    assert_eq!(Alignment::default(), Alignment { times: law(1.5), scale: LossScale::Mean(1.0) });
    assert_eq!(AdamW::ALIGNMENT, AdamW { betas: (0.9, 0.999), epsilon: 1e-8, decay: 0.01 });
    assert_eq!(AdamW::DISTILLATION, AdamW { betas: (0.0, 0.999), epsilon: 1e-8, decay: 0.01 });
    assert_eq!([LearningRate::STUDENT, LearningRate::CRITIC, LearningRate::ALIGNMENT].map(|rate| rate.at(0)), [2e-6, 4e-7, 1e-5]);
    assert_eq!((EmaRate::OFFICIAL_WIDTH, Derivative::OFFICIAL_STEP), (0.1, 1e-4));
}
