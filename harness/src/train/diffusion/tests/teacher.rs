use std::path::Path;

use turbowan_wan_model::checkpoint::{Checkpoint, Kind};

use super::{data, look, network, resumes_to_the_same_bits, run, taught, told};
use crate::train::diffusion::settings::{ExpertName, NetworkSettings};
use crate::train::diffusion::teacher::{Teacher, TeacherSettings};
use crate::train::{Config, Learner, RunSettings};

fn settings(folder: &Path) -> TeacherSettings {
    TeacherSettings { data: data(folder), network: network(), look: look(), batch: 3, ..TeacherSettings::default() }
}

fn steps(steps: u64) -> RunSettings {
    RunSettings { steps, log_every: 1, ..RunSettings::default() }
}

#[test]
fn the_loss_falls_and_a_look_leaves_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut stage = settings(folder.path());
    stage.optimiser.warm_up = 5;
    run(steps(60), stage, &out, 60);
    let losses = told(&out, "loss");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[55..]));
    assert!(losses.len() == 60 && last < 0.8 * first, "{first} to {last}");
    for row in ["unipc_2", "few_2"] {
        assert!(out.join(format!("looks/step-000060-{row}.png")).exists());
        for what in ["shape", "colour", "background", "motion", "mean", "constant", "first_frame", "passed", "held_out_mean"] {
            assert_eq!(told(&out, &format!("{row}.{what}")).len(), 1, "{row}.{what}");
        }
    }
    // The file says what its shapes do not.
    let weights = Checkpoint::open(out.join("weights.safetensors")).unwrap();
    match weights.kind(None).unwrap() {
        Kind::Dit { config, .. } => assert_eq!((config.heads, config.text_len), (1, NetworkSettings::default().text_len)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_that_was_stopped_ends_in_the_same_bits() {
    resumes_to_the_same_bits(steps(6), settings);
    // An image-to-video expert, and a run that looks in between.
    let image = |folder: &Path| TeacherSettings {
        network: NetworkSettings { image: true, ..network() },
        expert: ExpertName::High,
        recompute: true,
        ..settings(folder)
    };
    resumes_to_the_same_bits(RunSettings { look_every: 2, ..steps(5) }, image);
}

#[test]
fn gradients_reach_every_parameter() {
    let folder = tempfile::tempdir().unwrap();
    for image in [false, true] {
        let stage = TeacherSettings { network: NetworkSettings { image, ..network() }, ..settings(folder.path()) };
        let mut teacher = Teacher::new(&stage, &steps(10)).unwrap();
        // At first the head is zero and lets nothing through.
        teacher.step(0).unwrap();
        teacher.passes().unwrap();
        for parameter in teacher.net.parameters_mut().iter() {
            assert!(parameter.gradient().iter().any(|g| *g != 0.0), "{}", parameter.name());
        }
    }
}

#[test]
fn two_experts_look_together_each_on_its_side() {
    let folder = tempfile::tempdir().unwrap();
    let plain = settings(folder.path());
    let looked = |expert, other: Option<&Path>| {
        let mut stage = TeacherSettings { start: Some(taught(folder.path())), expert, ..plain.clone() };
        stage.look.other_expert = other.map(Path::to_owned);
        stage.look.few = vec![4];
        stage.look.guided = Vec::new();
        let out = tempfile::tempdir().unwrap();
        Teacher::new(&stage, &steps(2))
            .and_then(|mut teacher| teacher.look(out.path(), 0))
            .map(|_| std::fs::read(out.path().join("step-000000-few_4.png")).unwrap())
    };
    let alone = looked(ExpertName::High, None).unwrap();
    // The same weights on both sides change nothing, others do.
    assert!(looked(ExpertName::High, Some(&taught(folder.path()))).unwrap() == alone);
    let out = folder.path().join("other");
    run(steps(2), TeacherSettings { start: Some(taught(folder.path())), ..plain.clone() }, &out, 2);
    let [high, low] = [ExpertName::High, ExpertName::Low].map(|own| looked(own, Some(&out.join("weights.safetensors"))).unwrap());
    assert!(high != alone && low != alone && high != low);
    assert!(looked(ExpertName::Only, Some(&taught(folder.path()))).unwrap_err().to_string().contains("other_expert"));
}

#[test]
fn a_run_begins_from_the_weights_of_another_at_another_size() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    run(steps(2), settings(folder.path()), &first, 2);
    let mut stage = settings(folder.path());
    stage.start = Some(first.join("weights.safetensors"));
    stage.data.side = 48;
    stage.data.frames = 9;
    let teacher = Teacher::new(&stage, &steps(2)).unwrap();
    let weights = Checkpoint::open(first.join("weights.safetensors")).unwrap();
    for parameter in teacher.net.dit.parameters().iter() {
        use turbowan_wan_model::checkpoint::TensorSource;
        assert_eq!(parameter.values(), weights.get(parameter.name()).unwrap().to_f32(), "{}", parameter.name());
    }
    stage.network.ffn_dim = 80;
    let refused = Teacher::new(&stage, &steps(2)).unwrap_err().to_string();
    assert!(refused.contains("[network]"), "{refused}");
}

#[test]
fn a_table_written_in_part_keeps_the_stage_s_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "[teacher]\nbatch = 8\n[teacher.optimiser]\nrate = 0.001\n").unwrap();
    let config = Config::<TeacherSettings>::read(&path).unwrap();
    let mut want = TeacherSettings { batch: 8, ..TeacherSettings::default() };
    want.optimiser.rate = 0.001;
    assert_eq!(config.stage, want);
    std::fs::write(&path, "[teacher.optimiser]\nrat = 0.001\n").unwrap();
    assert!(Config::<TeacherSettings>::read(&path).unwrap_err().to_string().contains("rat"));
}
