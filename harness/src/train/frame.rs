//! Steps a learner through its run and keeps the run's folder.
//!
//! ```text
//! config.toml               every setting, defaults written out
//! checkpoint.safetensors    the whole state after some step
//! metrics.jsonl             what steps and looks told
//! weights.safetensors       the averaged weights at the checkpoint, official names, f32
//! looks/                    pictures
//! ```
//! The checkpoint is what counts: whatever else the folder holds of later steps is made again from it, to the same bits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoint::{self, Place, Saved};
use super::journal::{Journal, Sums};
use super::{Config, Learner, StageSettings};
use crate::atomic_file::{self, WriteError};
use crate::error::Error;
use crate::progress::{Progress, time};
use crate::run::watch;

/// So many steps in a row without a number end a run.
const MOST_SKIPPED: u64 = 10;

/// How a run is begun and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Whether it goes on from the folder's checkpoint.
    pub resumes: bool,
    /// The step at which it stops though the configuration has more; the schedule stays that of the whole run.
    pub until: Option<u64>,
}

/// Trains a stage under `config` in `folder`.
///
/// # Errors
/// A folder that holds a run though none is to be taken up, or another; files that cannot be read or written; what the learner refuses; ten
/// steps in a row without a number; [`Error::Paused`] after Ctrl-C, when everything is on the disk.
pub fn train<S: StageSettings>(config: &Config<S>, folder: &Path, plan: Plan, progress: &Progress) -> Result<(), Error> {
    let steps = config.run.steps;
    let until = plan.until.unwrap_or(steps);
    if until == 0 || until > steps {
        return Err(Error::flag(
            "--steps",
            format!("{until} is not between 1 and the {steps} steps of the configuration; raise run.steps there"),
        ));
    }
    let mut learner = config.stage.learner(&config.run)?;
    let checkpoint = folder.join("checkpoint.safetensors");
    let place = begin(config, &checkpoint, plan.resumes, learner.as_mut())?;
    let looks = folder.join("looks");
    std::fs::create_dir_all(&looks).map_err(|error| WriteError::of(&looks, "make the folder", error))?;
    atomic_file::write(&folder.join("config.toml"), place.config.as_bytes())?;
    let journal = Journal::open(&folder.join("metrics.jsonl"), place.steps)?;
    let mut run = Run { config, folder, checkpoint, looks, journal, place, learner, progress };
    run.steps(until)
}

/// Where the run stands: at its start, or where `checkpoint` says, whose state the learner then has.
fn begin<S: StageSettings>(config: &Config<S>, checkpoint: &Path, resumes: bool, learner: &mut dyn Learner) -> Result<Place, Error> {
    let text = config.text()?;
    match (checkpoint.exists(), resumes) {
        (false, false) => {
            let stage = S::STAGE.to_owned();
            Ok(Place { stage, config: text, steps: 0, skipped: 0, skipped_in_a_row: 0, pending: Sums::default() })
        }
        (true, false) => {
            Err(Error::flag("--out", format!("{} is there already; add --resume, or name another folder", checkpoint.display())))
        }
        (false, true) => Err(Error::flag("--resume", format!("there is no {}; leave --resume out", checkpoint.display()))),
        (true, true) => {
            let saved = Saved::load(checkpoint)?;
            if saved.place.stage != S::STAGE {
                return Err(Error::flag("--resume", format!("this is a run of the stage {}", saved.place.stage)));
            }
            let old = Config::<S>::parse(&saved.place.config).map_err(|reason| Error::broken(checkpoint, reason))?;
            if let Some(difference) = config.difference(&old)? {
                return Err(Error::flag("--resume", format!("{difference}; put it back, or begin a new run in another folder")));
            }
            saved.restore(checkpoint, learner)?;
            Ok(Place { config: text, ..saved.place })
        }
    }
}

struct Run<'a, S> {
    config: &'a Config<S>,
    folder: &'a Path,
    checkpoint: PathBuf,
    looks: PathBuf,
    journal: Journal,
    place: Place,
    learner: Box<dyn Learner>,
    progress: &'a Progress,
}

impl<S: StageSettings> Run<'_, S> {
    fn steps(&mut self, until: u64) -> Result<(), Error> {
        let (run, progress) = (&self.config.run, self.progress);
        let every = |interval: u64, done: u64| interval > 0 && done.is_multiple_of(interval);
        let bar = progress.stage(S::STAGE, Some(until));
        bar.advance_to(self.place.steps);
        let mut pace = Pace::new();
        while self.place.steps < until {
            self.step()?;
            let done = self.place.steps;
            bar.advance_to(done);
            pace.step();
            let is_over = done == run.steps;
            if every(run.log_every, done) || is_over {
                self.log(&mut pace, until)?;
            }
            if every(run.look_every, done) || is_over {
                self.look()?;
                pace.begin();
            }
            let stops = watch::check_stop().is_err();
            if every(run.checkpoint_every, done) || done == until || stops {
                self.save()?;
                pace.begin();
            }
            if stops && done < until {
                let (stage, folder) = (S::STAGE, self.folder.to_owned());
                return Err(Error::Paused { stage, steps: done, folder });
            }
        }
        bar.end();
        progress.note(format!("{} steps done, {} skipped; {}", self.place.steps, self.place.skipped, self.checkpoint.display()));
        Ok(())
    }

    fn step(&mut self) -> Result<(), Error> {
        match self.learner.step(self.place.steps) {
            Ok(metrics) => {
                self.place.pending.add(&metrics);
                self.place.skipped_in_a_row = 0;
            }
            Err(error) if error.is_not_finite() => {
                self.place.skipped += 1;
                self.place.skipped_in_a_row += 1;
                if self.place.skipped_in_a_row == MOST_SKIPPED {
                    let (steps, folder) = (self.place.steps, self.folder.to_owned());
                    return Err(Error::Diverged { steps, skipped: MOST_SKIPPED, reason: Box::new(error), folder });
                }
            }
            Err(error) => return Err(error),
        }
        self.place.steps += 1;
        Ok(())
    }

    /// A line in the journal and one for whoever watches.
    fn log(&mut self, pace: &mut Pace, until: u64) -> Result<(), Error> {
        let (step, seconds) = (self.place.steps, pace.seconds_per_step());
        let mut told = self.place.pending.take();
        let words: Vec<String> = told.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
        told.push(("skipped".to_owned(), self.place.skipped as f64));
        told.push(("seconds_per_step".to_owned(), seconds));
        self.journal.write(step, None, &told)?;
        let left = time(seconds * (until - step) as f64);
        self.progress.note(format!("step {step}/{until}: {}, {} a step, about {left} left", words.join(", "), time(seconds)));
        pace.forget();
        Ok(())
    }

    fn look(&mut self) -> Result<(), Error> {
        let step = self.place.steps;
        let told = self.learner.look(&self.looks, step)?;
        self.journal.write(step, Some("look"), &told)?;
        let words: Vec<String> = told.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
        self.progress.note(format!("look after step {step}: {}", words.join(", ")));
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        checkpoint::save(&self.checkpoint, &self.place, self.learner.as_mut())?;
        let path = self.folder.join("weights.safetensors");
        let mut metadata = BTreeMap::from([
            ("turbowan.stage".to_owned(), S::STAGE.to_owned()),
            ("turbowan.step".to_owned(), self.place.steps.to_string()),
            ("turbowan.train.config".to_owned(), self.place.config.clone()),
        ]);
        metadata.extend(self.learner.statement()?.metadata());
        let mut bytes = Vec::new();
        self.learner.weights()?.write(&mut bytes, &metadata).map_err(|error| Error::broken(&path, error))?;
        Ok(atomic_file::write(&path, &bytes)?)
    }
}

/// Seconds of steps alone: looks and checkpoints do not count.
struct Pace {
    began: Instant,
    spent: Duration,
    steps: u32,
}

impl Pace {
    fn new() -> Self {
        Self { began: Instant::now(), spent: Duration::ZERO, steps: 0 }
    }

    /// A step begins.
    fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// A step has ended and the next begins.
    fn step(&mut self) {
        self.spent += self.began.elapsed();
        self.steps += 1;
        self.begin();
    }

    fn seconds_per_step(&self) -> f64 {
        self.spent.as_secs_f64() / f64::from(self.steps.max(1))
    }

    fn forget(&mut self) {
        (self.spent, self.steps) = (Duration::ZERO, 0);
    }
}

/// Four digits are enough to see how it goes.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        0.01..1e4 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
pub(in crate::train) mod tests;
