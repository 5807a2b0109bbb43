//! Small runs of every stage, on a model of random weights.

mod alignment;
mod conditions;
mod folder;
mod student;
mod teacher;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use turbowan_rcm::Stream;
use turbowan_wan_model::checkpoint::Dtype;

use super::clips::Data;
use super::look::LookSettings;
use super::settings::NetworkSettings;
use crate::progress::{Progress, Style};
use crate::train::{Config, Plan, RunSettings, StageSettings, frame};

/// Two frames of latents, of two by two tokens each.
fn data(folder: &Path) -> Data {
    Data { clips: 4, captions: 2, side: 32, frames: 5, cache: folder.join("latents"), ..Data::default() }
}

fn network() -> NetworkSettings {
    NetworkSettings { dim: 64, layers: 2, heads: 1, ffn_dim: 48, freq_dim: 32, ..NetworkSettings::default() }
}

fn look() -> LookSettings {
    LookSettings { held_out: 2, seen: 1, guided: vec![2], few: vec![2], batch: 2, ..LookSettings::default() }
}

/// Runs a stage in `folder` up to step `until`, going on from what is there.
fn run<S: StageSettings>(run: RunSettings, stage: S, folder: &Path, until: u64) {
    let plan = Plan { resumes: folder.join("checkpoint.safetensors").exists(), until: Some(until) };
    frame::train(&Config { run, stage }, folder, plan, &Progress::new(Style::Silent.listener())).unwrap();
}

/// Weights of a transformer that says something and attends unevenly, as one that has learnt does; made once a folder.
fn taught(folder: &Path) -> PathBuf {
    let path = folder.join("taught.safetensors");
    if !path.exists() {
        let (config, mut noise) = (network().config(128).unwrap(), Stream::new(8));
        let mut parameters = config.initial(false, 8);
        for parameter in parameters.iter_mut() {
            let values = noise.normals(parameter.values().len());
            parameter.values_mut().iter_mut().zip(values).for_each(|(value, noise)| *value += 0.1 * noise);
        }
        let metadata = BTreeMap::from([("turbowan.config".to_owned(), serde_json::to_string(&config).unwrap())]);
        parameters.stored(|_| Dtype::F32).write(&mut File::create(&path).unwrap(), &metadata).unwrap();
    }
    path
}

/// What a run told under `name`, step by step.
fn told(folder: &Path, name: &str) -> Vec<f64> {
    let journal = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line[name].as_f64().or(line["look"][name].as_f64())).collect()
}

/// A run that is stopped and taken up again leaves the files of one that is not.
fn resumes_to_the_same_bits<S: StageSettings + Clone>(settings: RunSettings, stage: impl Fn(&Path) -> S) {
    let folder = tempfile::tempdir().unwrap();
    let stage = stage(folder.path());
    let [whole, broken] = ["whole", "broken"].map(|name| folder.path().join(name));
    run(settings.clone(), stage.clone(), &whole, settings.steps);
    for until in [2, 3, settings.steps] {
        run(settings.clone(), stage.clone(), &broken, until);
    }
    for file in ["checkpoint.safetensors", "weights.safetensors"] {
        let [whole, broken] = [&whole, &broken].map(|folder| std::fs::read(folder.join(file)).unwrap());
        let [whole, broken] = [&whole, &broken].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        assert_eq!(whole.len(), broken.len());
        for (name, tensor) in whole.tensors() {
            assert!(tensor.data() == broken.tensor(&name).unwrap().data(), "{file}: {name} differs");
        }
    }
    assert_eq!(told(&whole, "loss"), told(&broken, "loss"));
}
