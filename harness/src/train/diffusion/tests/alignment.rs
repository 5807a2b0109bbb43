use std::path::Path;

use crate::run::models::OpenDit;
use turbowan_rcm::Stream;

use super::{data, look, network, resumes_to_the_same_bits, run, taught, told};
use crate::error::Error;
use crate::train::diffusion::alignment::{Alignment, AlignmentSettings};
use crate::train::diffusion::clips::Data;
use crate::train::{Learner, RunSettings};

impl Alignment {
    /// The loss on a batch that is always the same; no gradient stays.
    fn on_the_same_batch(&mut self) -> Result<f64, Error> {
        let noise = std::mem::replace(&mut self.noise, Stream::new(99));
        let loss = self.passes();
        self.noise = noise;
        self.student.parameters_mut().zero_gradients();
        loss
    }
}

/// Two blocks of keys, of which one is kept.
fn settings(folder: &Path) -> AlignmentSettings {
    let data = Data { side: 64, frames: 17, ..data(folder) };
    AlignmentSettings {
        data,
        network: network(),
        teacher: Some(taught(folder)),
        sla_topk: 0.5,
        look: look(),
        batch: 2,
        ..Default::default()
    }
}

fn steps(steps: u64) -> RunSettings {
    RunSettings { steps, log_every: 1, ..RunSettings::default() }
}

#[test]
fn the_sparse_network_comes_nearer_to_the_dense_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = settings(folder.path());
    (stage.optimiser.rate, stage.batch) = (1e-4, 8);
    let mut alignment = Alignment::new(&stage, &steps(80)).unwrap();
    let before = alignment.on_the_same_batch().unwrap();
    for step in 0..80 {
        alignment.step(step).unwrap();
    }
    let after = alignment.on_the_same_batch().unwrap();
    assert!(after < 0.9 * before, "{before} to {after}");
}

#[test]
fn a_look_leaves_its_files_and_the_weights_are_those_of_a_sparse_network() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run(steps(2), settings(folder.path()), &out, 2);
    assert_eq!(told(&out, "unipc_2.mean").len(), 1);
    let dit = OpenDit::open(&out.join("weights.safetensors")).unwrap();
    assert!(dit.traits.sla);
    // The share that it was trained with is the one that it keeps where none is asked for.
    assert_eq!(dit.topk().unwrap(), settings(folder.path()).sla_topk);
}

#[test]
fn gradients_reach_every_parameter_of_the_student_and_none_of_the_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let mut alignment = Alignment::new(&settings(folder.path()), &steps(5)).unwrap();
    for parameter in alignment.student.parameters_mut().iter().filter(|parameter| parameter.name().contains("proj_l")) {
        assert!(parameter.values().iter().all(|v| *v == 0.0), "{}", parameter.name());
    }
    let dense = alignment.teacher.dit.parameters().stored(|_| turbowan_wan_model::checkpoint::Dtype::F32);
    alignment.passes().unwrap();
    for parameter in alignment.student.parameters_mut().iter() {
        assert!(parameter.gradient().iter().any(|g| *g != 0.0), "{}", parameter.name());
    }
    alignment.step(0).unwrap();
    assert_eq!(alignment.teacher.parameters_mut().learning_values(), 0);
    assert_eq!(alignment.teacher.dit.parameters().stored(|_| turbowan_wan_model::checkpoint::Dtype::F32), dense);
}

#[test]
fn a_run_that_was_stopped_ends_in_the_same_bits() {
    resumes_to_the_same_bits(steps(4), settings);
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |settings: AlignmentSettings| Alignment::new(&settings, &steps(5)).unwrap_err().to_string();
    assert!(refused(AlignmentSettings { teacher: None, ..settings(folder.path()) }).contains("teacher"));
    assert!(refused(AlignmentSettings { sla_topk: 0.0, ..settings(folder.path()) }).contains("dense"));
    assert!(refused(AlignmentSettings { sla_topk: 1.5, ..settings(folder.path()) }).contains("1.5"));
}
