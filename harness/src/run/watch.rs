//! Follows a run for the user: progress out, Ctrl-C in, and the state on disk after every step.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use turbowan_wan_model::backend::Heads;
use turbowan_wan_model::pipeline::{AttentionPlace, Event, Snapshot, Watch};
use turbowan_wan_model::{Error as ModelError, Result as ModelResult};

use crate::progress::{Progress, Stage};
use crate::request::Request;
use crate::run::capture::Capture;
use crate::run::state::SavedRun;

/// Set by Ctrl-C; looked at after every block and every latent frame.
static STOP: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C ask for a stop; a second one ends the process at once.
pub fn hear_ctrl_c() {
    let handler = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // A handler that is there already (a second run in one process) serves as well.
    let _ = ctrlc::set_handler(handler);
}

/// An error once Ctrl-C was pressed.
pub fn check_stop() -> ModelResult<()> {
    if STOP.load(Ordering::SeqCst) { Err(ModelError::Cancelled) } else { Ok(()) }
}

/// The watch of one run's denoising or decoding.
pub struct Follow<'a> {
    progress: &'a Progress,
    stage: Option<Stage<'a>>,
    saved: SavedRun,
    path: PathBuf,
    /// Steps in the state file, once there is one of this run.
    pub kept: Option<usize>,
    /// Blocks whose queries, keys and values are kept.
    pub capture: Option<Capture>,
    /// Set when a file could not be written.
    pub failed: Option<crate::Error>,
}

impl<'a> Follow<'a> {
    /// Follows the run that makes `save_path`; its state goes to `path`.
    pub fn new(progress: &'a Progress, request: &Request, save_path: PathBuf, path: PathBuf, snapshot: Snapshot) -> Self {
        let saved = SavedRun { request: request.clone(), save_path, snapshot };
        Self { progress, stage: None, saved, path, kept: None, capture: None, failed: None }
    }

    /// Opens a stage; the one before is ended.
    pub fn stage(&mut self, name: &'static str, total: Option<u64>) {
        self.end_stage();
        self.stage = Some(self.progress.stage(name, total));
    }

    /// Ends the open stage.
    pub fn end_stage(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.end();
        }
    }

    /// Stops the run when a file could not be written, and remembers why.
    fn or_stop(&mut self, written: Result<(), crate::Error>) -> ModelResult<()> {
        written.map_err(|error| {
            self.failed = Some(error);
            ModelError::Cancelled
        })
    }

    /// Writes the state as it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self) -> Result<(), crate::Error> {
        self.saved.save(&self.path)?;
        self.kept = Some(self.saved.snapshot.step);
        Ok(())
    }
}

impl Watch for Follow<'_> {
    fn event(&mut self, event: Event) -> ModelResult<()> {
        check_stop()?;
        if let Some(stage) = &self.stage {
            match event {
                Event::Loading(_) => {}
                Event::Block { step, block, of } => stage.advance_to((step * of + block + 1) as u64),
                Event::Frames { done, .. } => stage.advance_to(done as u64),
            }
        }
        Ok(())
    }

    fn stepped(&mut self, snapshot: &Snapshot) -> ModelResult<()> {
        self.saved.snapshot = snapshot.clone();
        let saved = self.save();
        self.or_stop(saved)
    }

    fn wants_attention(&self, place: AttentionPlace) -> bool {
        self.capture.as_ref().is_some_and(|capture| capture.wants(place))
    }

    fn attention(&mut self, place: AttentionPlace, qkv: [Vec<f32>; 3], heads: Heads) -> ModelResult<()> {
        let written = self.capture.as_ref().map_or(Ok(()), |capture| capture.write(place, &qkv, heads));
        self.or_stop(written)
    }
}
