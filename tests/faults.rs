//! A device that fails on purpose in the middle of a run: one clear error, nothing half-written, and the next run to the same
//! bits.

#![allow(clippy::unwrap_used)] // what helps a test may panic as the test does

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::tensor::{SafeTensors, TensorView};
use turbowan::Error;
use turbowan::progress::{Progress, Style};
use turbowan::request::{AttentionChoice, Mode, Models, Precision, Request, SamplerChoice};
use turbowan::run::Run;
use turbowan::run::processor::Processor;
use turbowan::run::state::SavedRun;
use turbowan::video::Output;
use turbowan_cuda::device::{Device, EmulatorOptions, Fault};

fn request(num_steps: usize) -> Request {
    Request {
        mode: Mode::T2v,
        prompt: "a red ball bounces on blue ground".to_owned(),
        negative_prompt: String::new(),
        image: None,
        clip: None,
        models: Models::embedded(Mode::T2v),
        width: 32,
        height: 32,
        num_frames: 1,
        fps: 16,
        num_samples: 1,
        grid: false,
        seed: 3,
        rng: "native".to_owned(),
        num_steps,
        sigma_max: 80.0,
        boundary: None,
        sampler: SamplerChoice::Rcm { ode: false },
        attention: AttentionChoice::SageSla(0.5),
        precision: Precision::Bf16,
        quant_linear: true,
        default_norm: false,
    }
}

/// A folder where a picture of so many steps is asked for again and again.
struct Place {
    folder: tempfile::TempDir,
    steps: usize,
}

impl Place {
    fn new(steps: usize) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), steps }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn run(&self, device: &Device, resumed: Option<SavedRun>) -> Result<Vec<PathBuf>, Error> {
        let progress = Progress::new(Style::Silent.listener());
        let (request, output) = (request(self.steps), Output::new(&self.path("a.png")).unwrap());
        let processor = Processor::Device(device.clone());
        Run { request: &request, output, resumed, cache: None, capture: None, processor, progress: &progress }.finish()
    }

    /// The picture of a run that ends well, taken away.
    fn take(&self, files: &[PathBuf]) -> Vec<u8> {
        assert_eq!(files, [self.path("a-0001.png")]);
        assert_eq!(self.names(), ["a-0001.png", "a.json"], "a run that ended well leaves its picture alone");
        let bytes = std::fs::read(&files[0]).unwrap();
        self.names().iter().for_each(|name| std::fs::remove_file(self.path(name)).unwrap());
        bytes
    }
}

fn emulator(fault: Option<Fault>) -> Option<Device> {
    let options = EmulatorOptions { fault, ..EmulatorOptions::default() };
    Device::emulated(options).inspect_err(|why| println!("skipped: no emulator ({why})")).ok()
}

/// A run of one step on a device with a fault, held to what an ending must be.
struct Met<'a> {
    place: Place,
    /// What a run without a fault makes.
    want: Vec<u8>,
    next_step: &'a str,
    /// The device to go on with where the faulty one is of no use any more.
    other: Option<Device>,
}

/// How a run with a fault ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    BeforeAStep,
    AfterTheStep,
    Well,
}

/// Faults after which the whole run is made again.
const RUN_AGAIN: [u64; 2] = [1, 64];

impl Met<'_> {
    fn run(&self, at: u64, fault: Fault) -> Ending {
        let (place, device) = (&self.place, emulator(Some(fault)).unwrap());
        let error = match place.run(&device, None) {
            Ok(files) => {
                assert!(place.take(&files) == self.want, "{fault:?}: a fault that does not come changes nothing");
                return Ending::Well;
            }
            Err(error) => error,
        };
        let text = error.to_string();
        println!("{fault:?}: {text}");
        assert_eq!(error.exit_code(), 1, "{text}");
        assert!(text.contains(self.next_step) && text.lines().count() == 1, "{text}");
        let next = self.other.as_ref().unwrap_or(&device);
        let Error::Interrupted { step, state, .. } = &error else {
            assert!(place.names().is_empty(), "{text} leaves {:?}", place.names());
            if RUN_AGAIN.contains(&at) {
                assert!(place.take(&place.run(next, None).unwrap()) == self.want, "{fault:?}: the next run has other bits");
            }
            return Ending::BeforeAStep;
        };
        assert!(text.ends_with(&format!("continue with: turbowan t2v --device emulator --resume {}", state.display())), "{text}");
        assert_eq!((*step, place.names()), (1, vec!["a.png.run".to_owned()]), "what is left is named");
        let saved = SavedRun::load(state).unwrap();
        assert!(place.take(&place.run(next, Some(saved)).unwrap()) == self.want, "{fault:?}: the run goes on to other bits");
        Ending::AfterTheStep
    }
}

/// Meets a fault ever later, from the text encoder to the last frame.
fn meet(fault: fn(u64) -> Fault, next_step: &str, it_works_on: bool) {
    let Some(clean) = emulator(None) else { return };
    let place = Place::new(1);
    let want = place.take(&place.run(&clean, None).unwrap());
    let met = Met { place, want, next_step, other: (!it_works_on).then_some(clean) };
    let mut at = 1;
    let mut endings = Vec::new();
    while endings.last() != Some(&Ending::Well) {
        endings.push(met.run(at, fault(at)));
        at *= 2;
    }
    let before = endings.iter().filter(|ending| **ending == Ending::BeforeAStep).count();
    assert!(before >= 6, "{endings:?}");
    // doubling may pass by the decoder, which comes last: it lies between the last fault that came and the first that did not
    let (mut came, mut did_not) = (at / 4, at / 2);
    while !endings.contains(&Ending::AfterTheStep) {
        let middle = came.midpoint(did_not);
        assert!(middle > came, "no fault came after the step: {endings:?}");
        let ending = met.run(middle, fault(middle));
        *(if ending == Ending::Well { &mut did_not } else { &mut came }) = middle;
        endings.push(ending);
    }
}

#[test]
fn memory_that_is_short_once_costs_one_run() {
    meet(|allocation| Fault::OutOfMemory { allocation }, "free some memory, ask for less", true);
}

#[test]
fn a_launch_that_fails_once_costs_one_run() {
    meet(|launch| Fault::LaunchFailed { launch }, "try again", true);
}

#[test]
fn a_device_that_is_lost_stays_lost_and_another_goes_on() {
    meet(|operation| Fault::DeviceLost { operation }, "start the program again", false);
    let Some(device) = emulator(Some(Fault::DeviceLost { operation: 40 })) else { return };
    let place = Place::new(1);
    for _ in 0..2 {
        assert!(place.run(&device, None).unwrap_err().to_string().contains("the device is lost"));
        assert!(place.names().is_empty());
    }
}

/// A run of two steps is interrupted in the second, taken up, and interrupted again before it has done a step.
#[test]
fn a_second_fault_does_not_lose_what_the_first_left() {
    let Some(clean) = emulator(None) else { return };
    let place = Place::new(2);
    let want = place.take(&place.run(&clean, None).unwrap());
    let state = place.path("a.png.run");
    // the first that comes in the second step
    let saved = std::iter::successors(Some(350u64), |at| Some(at * 5 / 4)).find_map(|launch| {
        let error = place.run(&emulator(Some(Fault::LaunchFailed { launch }))?, None).unwrap_err();
        matches!(error, Error::Interrupted { .. }).then(|| SavedRun::load(&state).unwrap())
    });
    let broken = emulator(Some(Fault::LaunchFailed { launch: 1 })).unwrap();
    let error = place.run(&broken, saved).unwrap_err();
    assert!(matches!(&error, Error::Interrupted { step: 1, .. }), "{error}");
    let again = SavedRun::load(&state).unwrap();
    assert_eq!(again.snapshot.step, 1);
    assert!(place.take(&place.run(&clean, Some(again)).unwrap()) == want);
}

/// One value of one weight of a checkpoint is NaN: in int8 it would be a 0, and the video another.
#[test]
fn a_nan_among_the_weights_is_named_and_nothing_is_written() {
    if emulator(None).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let turbowan = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_turbowan")).current_dir(&folder).args(arguments).output().unwrap();
    assert!(turbowan(&["init-tiny", "model", "--random"]).status.success());
    let dit = folder.path().join("model/TurboWan2.1-T2V-tiny.safetensors");
    spoil(&dit, "blocks.1.ffn.0.weight");
    let ask = ["t2v", "--prompt", "x", "--resolution", "32x32", "--num_frames", "1", "--num_steps", "1", "--seed", "3", "-o", "a.png"];
    for more in [&["--device", "emulator"][..], &["--device", "emulator", "--quant_linear"], &["--quant_linear"]] {
        let output = turbowan(&[&ask[..], &["--model_dir", "model"], more].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!((output.status.code(), errors.len()), (Some(1), 1), "{more:?}: {text}");
        let whole = "error: blocks.1.ffn.0.weight: value 0 is not a finite number; stopped before anything broken was written";
        assert!(errors[0].starts_with(whole) && errors[0].contains("fetch the checkpoint anew"), "{text}");
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["model"], "{more:?}");
    }
}

/// Makes a tensor's first value NaN.
fn spoil(path: &Path, name: &str) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        file.tensors().into_iter().map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec())).collect();
    let (_, dtype, _, data) = tensors.iter_mut().find(|(known, ..)| known == name).unwrap();
    let nan = match dtype {
        safetensors::Dtype::BF16 => half::bf16::NAN.to_le_bytes().to_vec(),
        safetensors::Dtype::F16 => half::f16::NAN.to_le_bytes().to_vec(),
        safetensors::Dtype::F32 => f32::NAN.to_le_bytes().to_vec(),
        other => panic!("{name} is {other:?}"),
    };
    data[..nan.len()].copy_from_slice(&nan);
    let views = tensors.iter().map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(path, safetensors::serialize(views, header.metadata().clone()).unwrap()).unwrap();
}
