//! `turbowan eval`: what a model makes of many captions, read by a judge that sees frames alone.
//!
//! Every row of the table is one way of making a video (steps, attention, arithmetic, network), beside the real clips. For
//! each caption all rows are made with the same noise, measured and forgotten; networks stay loaded, and each prompt is
//! encoded once. *Adherence* is what the judge reads against what was asked. *Fidelity* is likeness to the dense teacher, or
//! to the same steps in dense f32: it says what an approximation changes, not how good a video is.

pub mod asked;
pub mod grid;
mod loaded;
mod measured;
pub mod pareto;
mod record;
pub mod row;
pub mod score;
pub mod settings;
mod sheet;
mod table;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use turbowan_wan_model::Error as ModelError;

use crate::error::Error;
use crate::metrics::lpips::Lpips;
use crate::progress::Progress;
use crate::run::watch;
use crate::video;
use asked::Asked;
use loaded::{Loaded, Scene, Shot};
use measured::Measured;
pub use record::SCHEMA;
use record::{Line, Record};
use row::{Row, references};
use score::{Constant, Scores};
use settings::{Settings, Task};
use sheet::Strip;

/// An evaluation to be made.
pub struct Evaluation<'a> {
    /// What decides its numbers.
    pub settings: &'a Settings,
    /// Captions that are done already.
    done: Vec<Line>,
    /// Where its record grows.
    pub record: &'a Path,
    /// Where the contact sheet goes.
    pub sheet: Option<&'a Path>,
    /// Who listens.
    pub progress: &'a Progress,
}

/// What was found.
pub struct Findings {
    /// As a person reads it.
    pub text: String,
    /// As a program reads it.
    pub json: Value,
    /// What is said of each row.
    pub scores: Vec<Scores>,
    /// Whether it was stopped before its end.
    pub is_stopped: bool,
}

/// The settings of a record.
///
/// # Errors
/// When it cannot be read, is no record, or what it names has changed.
pub fn recorded(path: &Path) -> Result<Settings, Error> {
    let (settings, _) = record::load(path)?;
    settings.verify()?;
    Ok(settings)
}

/// What a record holds so far, as `--json` writes it.
///
/// # Errors
/// When it cannot be read, or is no record of an evaluation.
pub fn recorded_findings(path: &Path) -> Result<Value, Error> {
    let (head, done) = record::read(path)?;
    Ok(findings(&head.settings, &done, &asked::all(&head.settings)?, false).json)
}

impl<'a> Evaluation<'a> {
    /// A new one.
    pub fn new(settings: &'a Settings, record: &'a Path, sheet: Option<&'a Path>, progress: &'a Progress) -> Self {
        Self { settings, done: Vec::new(), record, sheet, progress }
    }

    /// The one that a record is of, where it was left.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn resumed(self) -> Result<Self, Error> {
        let (_, done) = record::load(self.record)?;
        Ok(Self { done, ..self })
    }

    /// Makes and measures what is left, up to the end or to Ctrl-C.
    ///
    /// # Errors
    /// A network or a file that cannot be used. What was measured by then lies in the record.
    pub fn run(mut self) -> Result<Findings, Error> {
        let asked = asked::all(self.settings)?;
        if let Some(path) = self.sheet {
            crate::atomic_file::check(path)?;
        }
        let is_shown = |index: usize| self.sheet.is_some() && index < sheet::CAPTIONS;
        let left: Vec<usize> = (0..asked.len()).filter(|index| is_shown(*index) || !self.is_done(*index)).collect();
        let mut record = match &self.done[..] {
            [] => Record::begin(self.record, self.settings, asked.len())?,
            lines => Record::rewrite(self.record, self.settings, lines)?,
        };
        watch::hear_ctrl_c();
        let mut strips = Vec::new();
        let made = if left.is_empty() { Ok(()) } else { self.make(&asked, &left, &mut record, &mut strips) };
        let is_stopped = match made {
            Err(Error::Model(ModelError::Cancelled)) => true,
            other => other.map(|()| false)?,
        };
        if let (Some(path), false) = (self.sheet, is_stopped) {
            let pictures = sheet::sheet(&strips, [self.settings.width, self.settings.height])?;
            video::write_picture(path, &pictures, &self.legend(&asked))?;
        }
        Ok(findings(self.settings, &self.done, &asked, is_stopped))
    }

    fn is_done(&self, index: usize) -> bool {
        self.done.iter().any(|line| line.index == index)
    }

    fn make(&mut self, asked: &[Asked], left: &[usize], record: &mut Record, strips: &mut Vec<Vec<Option<Strip>>>) -> Result<(), Error> {
        let (settings, progress) = (self.settings, self.progress);
        let rows = &settings.rows;
        let lpips = settings.lpips.as_ref().map(|file| Lpips::open(&file.path)).transpose()?;
        let loaded = Loaded::new(settings, asked, progress)?;
        let stage = progress.stage("clips", Some((left.len() * rows.len()) as u64));
        for index in left {
            let mut scene = loaded.scene(*index, &asked[*index]);
            let mut shots = Vec::new();
            for row in rows {
                shots.push(scene.shot(row)?);
                stage.advance(1);
            }
            if self.sheet.is_some() && *index < sheet::CAPTIONS {
                strips.push(shots.iter().map(|shot| shot.as_ref().ok().map(|shot| sheet::strip(&shot.frames))).collect());
            }
            // A caption that is shown only was measured before.
            if !self.is_done(*index) {
                let clips = self.measure(&asked[*index], &scene, &shots, lpips.as_ref())?;
                let line = Line { index: *index, prompt: asked[*index].prompt.clone(), clips };
                record.add(&line)?;
                self.done.push(line);
            }
        }
        stage.end();
        Ok(())
    }

    fn measure(
        &self,
        asked: &Asked,
        scene: &Scene<'_>,
        shots: &[Result<Shot, String>],
        lpips: Option<&Lpips>,
    ) -> Result<Vec<Measured>, Error> {
        let rows = &self.settings.rows;
        let given = if self.settings.task == Task::I2v { Some(scene.first_frame()?) } else { None };
        let of = |(index, shot): (usize, &Result<Shot, String>)| {
            let frames_of = |row: usize| shots[row].as_ref().ok().map(|shot| &shot.frames);
            let others: Vec<_> =
                references(rows, index).into_iter().filter_map(|(against, other)| Some((against, frames_of(other)?))).collect();
            // The real clip begins with its own first frame: nothing is measured by that.
            let given = given.as_deref().filter(|_| rows[index] != Row::Real);
            match shot {
                Ok(shot) => Ok(Measured {
                    denoising_seconds: shot.denoising_seconds,
                    ..Measured::of(&shot.frames, asked.attributes.as_ref(), &others, lpips, given)?
                }),
                Err(reason) => Ok(Measured::failed(reason.clone(), asked.attributes.is_some())),
            }
        };
        shots.iter().enumerate().map(of).collect()
    }

    /// What lies where on the sheet.
    fn legend(&self, asked: &[Asked]) -> Value {
        let rows: Vec<_> = self.settings.rows.iter().map(Row::to_string).collect();
        let captions: Vec<_> = asked.iter().take(sheet::CAPTIONS).map(|one| &one.prompt).collect();
        json!({ "rows": rows, "captions": captions, "frames": ["first", "middle", "last"], "settings": self.settings })
    }
}

/// What the captions that are done say.
fn findings(settings: &Settings, done: &[Line], asked: &[Asked], is_stopped: bool) -> Findings {
    let rows = &settings.rows;
    let scores: Vec<Scores> =
        (0..rows.len()).map(|row| Scores::of(done.iter().filter_map(|line| Some((asked.get(line.index)?, &line.clips[row]))))).collect();
    let constant = Constant::of(done.iter().filter_map(|line| asked.get(line.index)));
    let listed: Vec<_> =
        rows.iter().zip(&scores).map(|(row, scores)| json!({ "row": row.to_string(), "settings": row, "scores": scores.json() })).collect();
    let json = json!({
        "settings": settings,
        "captions": asked.len(),
        "measured": done.len(),
        "constant_answer": constant.map(|constant| constant.json()),
        "rows": listed,
    });
    Findings { text: table::table(rows, &scores, constant), json, scores, is_stopped }
}

/// Where a record goes when no place is named.
pub fn default_record() -> PathBuf {
    PathBuf::from("output/eval.jsonl")
}
