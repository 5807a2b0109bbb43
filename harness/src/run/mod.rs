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
use turbowan_rcm::NoiseSource;
use turbowan_wan_model::Error as ModelError;
use turbowan_wan_model::pipeline::{Sampling, Snapshot};

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
        self.output.check()?;
        watch::hear_ctrl_c();
        self.processor.check(self.request.precision)?;
        let stages = Stages::new(self.request, self.progress).on(&self.processor);
        let sampling = stages.sampling()?;
        let mut noise = stages.noise()?;
        let start = match &self.resumed {
            Some(saved) => saved.snapshot.clone(),
            None => sampling.start(stages.latent_values(), &mut noise)?,
        };
        let state_path = SavedRun::path_beside(self.output.path());
        if start.latent.len() != stages.latent_values() {
            return Err(Error::broken(&state_path, "its latent is not of the request's size"));
        }
        let mut follow = Follow::new(self.progress, self.request, self.output.path().to_owned(), state_path.clone(), start.clone());
        follow.capture = self.capture.clone();
        follow.kept = self.resumed.as_ref().filter(|_| state_path.exists()).map(|saved| saved.snapshot.step);
        let videos = self.videos(&stages, &sampling, &mut noise, start, &mut follow);
        let files = videos.and_then(|videos| self.write(&videos)).map_err(|error| self.ended(error, follow.kept, &state_path))?;
        SavedRun::remove(&state_path);
        Ok(files)
    }

    fn videos(
        &self,
        stages: &Stages<'_>,
        sampling: &Sampling,
        noise: &mut NoiseSource,
        start: Snapshot,
        follow: &mut Follow<'_>,
    ) -> Result<Vec<Frames>, Error> {
        let done = if start.step < sampling.steps() {
            let conditions = stages.conditions(self.cache.as_deref(), sampling.is_guided(), follow)?;
            follow.save()?;
            let done = stages.denoise(start, sampling, noise, &conditions, follow);
            if let Some(error) = follow.failed.take() {
                return Err(error);
            }
            done?
        } else {
            start
        };
        stages.decode(&done.latent, follow)
    }

    /// An error as the user is told it, when the state file holds so many steps of this run.
    fn ended(&self, error: Error, kept: Option<usize>, state_path: &Path) -> Error {
        let (mode, place, state) = (self.request.mode.command(), self.processor.flags(), state_path.to_owned());
        match (error, kept) {
            (Error::Model(ModelError::Cancelled), Some(_)) => Error::Stopped { mode, place, state },
            (Error::Model(ModelError::Cancelled), None) => Error::StoppedEarly,
            (error, None) => error,
            (error, Some(0)) if self.resumed.is_none() => {
                // nothing is in it that the same command does not make at once
                SavedRun::remove(state_path);
                error
            }
            (error, Some(step)) => Error::Interrupted { reason: Box::new(error), step, mode, place, state },
        }
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
