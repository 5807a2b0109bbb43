//! A whole generation: parameters, bytes of each stage on a device and on the host, predicted time, and what fits.

use std::path::Path;

use serde::Serialize;

use super::Setting;
use super::fit::{self, Fix, Row};
use super::gpu::Gpu;
use super::host::{self, HostPlan};
use super::model::Model;
use super::price::Part;
use super::stages::{DryRuns, Stage};
use crate::bench::ceiling::Measured;
use crate::error::Error;

/// A network's size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Which network.
    pub network: String,
    /// Its parameters.
    pub count: usize,
}

/// What a generation takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// Networks.
    pub parameters: Vec<Parameters>,
    /// Stages on the device.
    pub device: Vec<Stage>,
    /// The most that is in use on the device.
    pub device_peak_bytes: u64,
    /// Whether the GPU holds that beside what it keeps for itself.
    pub fits: bool,
    /// What would fit where that does not.
    pub fixes: Vec<Fix>,
    /// Predicted from the GPU's data sheet, all stages, without loading.
    pub device_predicted_seconds: f64,
    /// Memory on the host, when the networks work there.
    pub host: HostPlan,
    /// Predicted for the host from ceilings that were measured, where they are given.
    pub host_predicted_seconds: Option<f64>,
    /// The released models on a chip like the GPU.
    pub table: Vec<Row>,
}

/// Who asks: what does not depend on the setting.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Calls of the transformer.
    pub steps: usize,
    /// Resident bytes of this process before it planned.
    pub program_bytes: u64,
    /// Threads of the host.
    pub threads: usize,
    /// Measured ceilings of the host.
    pub ceilings: Option<Measured>,
}

/// Plans a generation; the table only where it is wanted, for it plans twelve more.
///
/// # Errors
/// What a network or a launcher refuses.
pub fn of(setting: &Setting, gpu: &Gpu, asked: Asked, wants_table: bool) -> Result<Generation, Error> {
    let mut runs = DryRuns::on(gpu);
    let device = runs.stages(setting, asked.steps)?;
    let device_peak_bytes = fit::peak_bytes(&device);
    let fits = fit::fits(device_peak_bytes, gpu.memory_bytes());
    let work = device.iter().fold(Part::default(), |sum, stage| sum + stage.work);
    Ok(Generation {
        parameters: parameters(&setting.model),
        device_peak_bytes,
        fits,
        fixes: if fits { Vec::new() } else { fit::fixes(setting, &mut runs)? },
        device_predicted_seconds: work.predicted_seconds,
        host: host::of(setting, asked.program_bytes, asked.threads)?,
        host_predicted_seconds: asked.ceilings.and_then(|ceilings| on_host(&work, &ceilings)),
        table: if wants_table { fit::table(setting, &mut runs)? } else { Vec::new() },
        device,
    })
}

fn parameters(model: &Model) -> Vec<Parameters> {
    let count = |specs: Vec<turbowan_wan_model::config::TensorSpec>| specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
    let transformer = if model.experts > 1 { format!("transformer, each of {} experts", model.experts) } else { "transformer".to_owned() };
    [
        ("text encoder".to_owned(), count(model.text.tensors())),
        (transformer, count(model.dit.tensors(Model::traits(false)))),
        ("autoencoder".to_owned(), count(model.vae.tensors())),
    ]
    .map(|(network, count)| Parameters { network, count })
    .into()
}

/// The products alone, at the rates of the best products that were measured: no run is faster.
fn on_host(work: &Part, ceilings: &Measured) -> Option<f64> {
    let [float, int8] = [ceilings.float_tops?, ceilings.int8_tops?].map(|tops| tops * 1e12);
    Some(work.float_operations as f64 / float + work.int8_operations as f64 / int8)
}

/// The ceilings in a record of `bench`: of its first line that has both products.
///
/// # Errors
/// A file that cannot be read or has none.
pub fn ceilings(path: &Path) -> Result<Measured, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let found = text.lines().filter_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_host = record["machine"]["gpu"].is_null();
        serde_json::from_value::<Measured>(record["ceilings"]["measured"].clone()).ok().filter(|_| is_host)
    });
    let complete = |measured: &Measured| [measured.float_tops, measured.int8_tops].iter().all(|tops| tops.is_some_and(|tops| tops > 0.0));
    let nothing = "it holds no ceilings of a host; `turbowan bench --json` measures and prints them";
    found.into_iter().find(complete).ok_or_else(|| Error::broken(path, nothing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceilings_are_those_of_a_hosts_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let line = |gpu: &str, float: &str| {
            format!(r#"{{"machine":{{"gpu":{gpu}}},"ceilings":{{"measured":{{"float_tops":{float},"int8_tops":0.5}}}}}}"#)
        };
        std::fs::write(&path, [line(r#"{"name":"H200"}"#, "700.0"), line("null", "null"), line("null", "0.25")].join("\n")).unwrap();
        let found = ceilings(&path).unwrap();
        assert_eq!((found.float_tops, found.int8_tops), (Some(0.25), Some(0.5)));
        let work = Part { float_operations: 500_000_000_000, int8_operations: 2_000_000_000_000, ..Part::default() };
        assert_eq!(on_host(&work, &found), Some(2.0 + 4.0));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(ceilings(&path).unwrap_err().to_string().contains("turbowan bench"));
    }
}
