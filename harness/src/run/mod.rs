//! A request becomes files: text, image, denoising, decoding, writing, each stage told and timed.

pub mod autoencoder;
pub mod capture;
pub mod models;
pub mod processor;
pub mod stages;
pub mod state;
pub mod store;
pub mod watch;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use turbowan_wan_model::Error as ModelError;

use crate::error::Error;
use crate::progress::Progress;
use crate::request::{Mode, Request};
use crate::sidecar;
use crate::video::{Frames, Output};
use capture::Capture;
use processor::Processor;
use stages::Stages;
use state::SavedRun;
use watch::Follow;

/// One run: what is made, where it goes, and where it may start from.
pub struct Run<'a> {
    /// What is made.
    pub request: &'a Request,
    /// Where it goes.
    pub output: Output,
    /// A state to go on from.
    pub resumed: Option<SavedRun>,
    /// Folder where prompt embeddings are kept.
    pub cache: Option<PathBuf>,
    /// Blocks whose queries, keys and values are kept.
    pub capture: Option<Capture>,
    /// Where the networks work.
    pub processor: Processor,
    /// Who listens.
    pub progress: &'a Progress,
}

impl Run<'_> {
    /// Makes the videos and returns their files.
    ///
    /// # Errors
    /// One error; what had been computed by then lies in the state file that it names.
    pub fn finish(self) -> Result<Vec<PathBuf>, Error> {
        let state_path = SavedRun::path_beside(self.output.path());
        self.output.check()?;
        watch::hear_ctrl_c();
        let result = self.stages(&state_path);
        match result {
            Err(Error::Model(ModelError::Cancelled)) if state_path.exists() => {
                Err(Error::Stopped { mode: self.request.mode.command(), state: state_path })
            }
            Err(Error::Model(ModelError::Cancelled)) => Err(Error::StoppedEarly),
            other => other,
        }
    }

    fn stages(&self, state_path: &Path) -> Result<Vec<PathBuf>, Error> {
        self.processor.check(self.request.precision)?;
        let stages = Stages::new(self.request, self.progress).on(&self.processor);
        let sampling = stages.sampling()?;
        let mut noise = stages.noise()?;
        let start = match &self.resumed {
            Some(saved) => saved.snapshot.clone(),
            None => sampling.start(stages.latent_values(), &mut noise)?,
        };
        if start.latent.len() != stages.latent_values() {
            return Err(Error::broken(state_path, "its latent is not of the request's size"));
        }
        let mut follow = Follow::new(self.progress, self.request, self.output.path().to_owned(), state_path.to_owned(), start.clone());
        follow.capture = self.capture.clone();
        let done = if start.step < sampling.steps() {
            let conditions = stages.conditions(self.cache.as_deref(), sampling.is_guided(), &mut follow)?;
            follow.save()?;
            let done = stages.denoise(start, &sampling, &mut noise, &conditions, &mut follow);
            if let Some(error) = follow.failed.take() {
                return Err(error);
            }
            done?
        } else {
            start
        };
        let videos = stages.decode(&done.latent, &mut follow)?;
        let files = self.write(&videos)?;
        SavedRun::remove(state_path);
        Ok(files)
    }

    fn write(&self, videos: &[Frames]) -> Result<Vec<PathBuf>, Error> {
        let stage = self.progress.stage("write", Some(videos.iter().map(|video| video.count() as u64).sum()));
        let tiled;
        let videos = if self.request.grid && videos.len() > 1 {
            tiled = [Frames::grid(videos, Frames::square_columns(videos.len()))?];
            &tiled[..]
        } else {
            videos
        };
        let mut files = Vec::new();
        for (index, video) in videos.iter().enumerate() {
            let output = self.output.sample(index, videos.len());
            files.extend(output.write(video, &self.metadata(index, videos.len()), &mut |_| stage.advance(1))?);
        }
        stage.end();
        for index in 0..videos.len() {
            let output = self.output.sample(index, videos.len());
            let mut content = self.metadata(index, videos.len());
            content["stages"] = json!(self.progress.times());
            sidecar::write(output.path(), &content)?;
        }
        Ok(files)
    }

    /// What lies inside the video: nothing that differs between two runs of one request on one kind of processor.
    fn metadata(&self, sample: usize, samples: usize) -> Value {
        let mut value = json!({
            "turbowan": env!("CARGO_PKG_VERSION"),
            "instructions": self.processor.name(),
            "request": self.request,
        });
        if samples > 1 {
            value["sample"] = json!(sample + 1);
        }
        value
    }
}

impl Mode {
    /// The command that makes such videos.
    pub fn command(self) -> &'static str {
        match self {
            Self::T2v => "t2v",
            Self::I2v => "i2v",
        }
    }
}
