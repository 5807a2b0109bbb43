use std::path::Path;

use turbowan_rcm::Stream;
use turbowan_wan_model::checkpoint::Dtype;

use super::{data, look, network, resumes_to_the_same_bits, run, taught, told};
use crate::train::diffusion::look::LookSettings;
use crate::train::diffusion::settings::ExpertName;
use crate::train::diffusion::student::{Student, StudentSettings};
use crate::train::diffusion::terms::{
    ConsistencyName, ConsistencySettings, DerivativeName, MatchingSettings, ScaleSettings, TimesSettings,
};
use crate::train::{Config, Learner, RunSettings};

fn settings(folder: &Path) -> StudentSettings {
    let look = LookSettings { guided: Vec::new(), few: vec![2, 1], ..look() };
    StudentSettings { data: data(folder), network: network(), teacher: Some(taught(folder)), batch: 2, look, ..Default::default() }
}

fn consistent(folder: &Path, kind: ConsistencyName, derivative: DerivativeName) -> StudentSettings {
    let matching = MatchingSettings { on: false, ..Default::default() };
    StudentSettings { consistency: ConsistencySettings { kind, derivative, ..Default::default() }, matching, ..settings(folder) }
}

fn steps(steps: u64) -> RunSettings {
    RunSettings { steps, log_every: 1, ..RunSettings::default() }
}

#[test]
fn student_and_critic_learn_in_turns_and_the_teacher_never() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Student::new(&settings(folder.path()), &steps(8)).unwrap();
    let stored = |run: &Student| [&run.student, &run.critic, &run.teacher].map(|net| net.dit.parameters().stored(|_| Dtype::F32));
    let start = stored(&run);
    assert!(start[0] == start[1] && start[1] == start[2], "all begin from the teacher");
    for step in 0..4 {
        run.passes(step).unwrap();
        let is_students = step % 2 == 0;
        for (net, learns) in [(&mut run.student, is_students), (&mut run.critic, !is_students)] {
            for parameter in net.parameters_mut().iter() {
                assert_eq!(parameter.gradient().iter().any(|g| *g != 0.0), learns, "step {step}: {}", parameter.name());
            }
            net.parameters_mut().zero_gradients();
        }
        let before = stored(&run);
        let told = run.step(step).unwrap();
        let after = stored(&run);
        assert_eq!([0, 1, 2].map(|net| before[net] != after[net]), [is_students, !is_students, false], "step {step}");
        let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
        let whose = if is_students { "student" } else { "critic" };
        let loss = if is_students { "matching" } else { "critic" };
        assert_eq!(names, [loss, &format!("{loss}.masked"), &format!("{whose}.gradient_norm"), &format!("{whose}.rate")]);
    }
}

#[test]
fn the_critic_comes_to_know_what_the_student_makes() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = settings(folder.path());
    // From iteration 1 on all turns are the critic's.
    stage.matching.student_every = 1000;
    (stage.critic_optimiser.rate, stage.batch) = (3e-3, 8);
    let mut run = Student::new(&stage, &steps(80)).unwrap();
    let on_the_same_batch = |run: &mut Student| {
        let noise = std::mem::replace(&mut run.noise, Stream::new(99));
        let told = run.passes(1).unwrap();
        run.noise = noise;
        run.critic.parameters_mut().zero_gradients();
        told[0].1
    };
    let before = on_the_same_batch(&mut run);
    for step in 1..80 {
        run.step(step).unwrap();
    }
    let after = on_the_same_batch(&mut run);
    assert!(after < 0.92 * before, "{before} to {after}");
}

#[test]
fn a_look_leaves_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run(steps(2), settings(folder.path()), &out, 2);
    for row in ["few_2", "few_1"] {
        assert_eq!(told(&out, &format!("{row}.mean")).len(), 1);
        assert!(out.join(format!("looks/step-000002-{row}.png")).exists());
    }
}

#[test]
fn a_run_that_was_stopped_ends_in_the_same_bits() {
    resumes_to_the_same_bits(steps(6), settings);
    let both = |folder: &Path| StudentSettings {
        consistency: ConsistencySettings { kind: ConsistencyName::Continuous, ..Default::default() },
        matching: MatchingSettings { warm_up: 2, least_steps: 2, most_steps: 2, ..Default::default() },
        ..settings(folder)
    };
    resumes_to_the_same_bits(steps(5), both);
}

#[test]
fn every_consistency_term_reaches_every_parameter_of_the_student_alone() {
    let folder = tempfile::tempdir().unwrap();
    let all = [
        (ConsistencyName::Continuous, DerivativeName::Exact),
        (ConsistencyName::Continuous, DerivativeName::SemiContinuous),
        (ConsistencyName::Continuous, DerivativeName::Discrete),
        (ConsistencyName::Discrete, DerivativeName::Discrete),
    ];
    for (kind, derivative) in all {
        let mut run = Student::new(&consistent(folder.path(), kind, derivative), &steps(4)).unwrap();
        assert_eq!(run.critic.parameters_mut().learning_values(), 0);
        for step in 0..2 {
            let told = run.passes(step).unwrap();
            assert_eq!(told[0].0, "consistency");
            for parameter in run.student.parameters_mut().iter() {
                assert!(parameter.gradient().iter().any(|g| *g != 0.0), "{kind:?}, {derivative:?}: {}", parameter.name());
            }
            run.student.parameters_mut().zero_gradients();
        }
    }
}

#[test]
fn the_student_may_attend_sparsely() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Student::new(&StudentSettings { sla_topk: 0.5, ..settings(folder.path()) }, &steps(4)).unwrap();
    run.step(0).unwrap();
    run.step(1).unwrap();
    assert!(run.student.parameters_mut().iter().any(|parameter| parameter.name().contains("proj_l")));
    assert!(!run.critic.parameters_mut().iter().any(|parameter| parameter.name().contains("proj_l")));
}

#[test]
fn what_cannot_be_distilled_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = settings(folder.path());
    let matching = MatchingSettings::default;
    for (settings, word) in [
        (StudentSettings { teacher: None, ..good.clone() }, "teacher"),
        (StudentSettings { matching: MatchingSettings { on: false, ..matching() }, ..good.clone() }, "consistency"),
        (StudentSettings { matching: MatchingSettings { warm_up: 5, ..matching() }, ..good.clone() }, "consistency"),
        (StudentSettings { matching: MatchingSettings { most_steps: 5, ..matching() }, ..good.clone() }, "4 steps"),
        (StudentSettings { expert: ExpertName::Low, ..good.clone() }, "low-noise"),
        (StudentSettings { sla_topk: -1.0, ..good }, "sla_topk"),
    ] {
        let refused = Student::new(&settings, &steps(4)).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn a_term_is_set_in_part_and_the_rest_is_the_stage_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let text =
        "[rcm.consistency]\nkind = \"continuous\"\nscale = \"sum 100\"\ntimes = \"uniform 5\"\n[rcm.critic_optimiser]\nrate = 0.001\n";
    std::fs::write(&path, text).unwrap();
    let mut want = StudentSettings::default();
    want.consistency.kind = ConsistencyName::Continuous;
    want.consistency.scale = ScaleSettings::Sum(100.0);
    want.consistency.times = TimesSettings::Uniform { shift: 5.0 };
    want.critic_optimiser.rate = 0.001;
    let config = Config::<StudentSettings>::read(&path).unwrap();
    assert_eq!(config.stage, want);
    std::fs::write(&path, config.text().unwrap()).unwrap();
    assert_eq!(Config::<StudentSettings>::read(&path).unwrap(), config);
}
