//! What a run is doing, told as events to whoever listens: a person at a terminal, a log, a program.
//!
//! A run opens one [`Stage`] after another, advances it and ends it; [`Progress`] keeps the times for the sidecar and passes every event to its
//! listener. Telling never fails: a listener whose pipe is closed goes quiet and the run goes on.
//!
//! ```
//! use turbowan::progress::{Progress, Style};
//!
//! let progress = Progress::new(Style::Silent.listener());
//! let stage = progress.stage("denoise", Some(4));
//! for _step in 0..4 {
//!     stage.advance(1);
//! }
//! stage.end();
//! assert_eq!(progress.times()[0].stage, "denoise");
//! ```

mod listeners;
mod memory;

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

pub use listeners::{Bars, JsonLines, Lines, time};
pub use memory::peak_memory;

/// Something that a listener can hear. As JSON it is one object with its kind under `event`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A stage begins.
    StageStarted {
        /// Its name.
        stage: &'static str,
        /// Steps that it will take, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A stage got further.
    Advanced {
        /// Its name.
        stage: &'static str,
        /// Steps that are done.
        done: u64,
        /// Steps that it will take, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// Since its start.
        #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
        elapsed: Duration,
    },
    /// A stage is done.
    StageEnded(StageTime),
    /// A stage was left without being done: an error or a cancel follows.
    StageLeft {
        /// Its name.
        stage: &'static str,
    },
    /// A remark for the reader, such as the seed that was drawn.
    Note {
        /// One line.
        text: String,
    },
}

impl Event {
    /// Seconds that are left at the pace so far; `None` before the first step and where the total is unknown.
    pub fn seconds_left(&self) -> Option<f64> {
        match *self {
            Self::Advanced { done, total: Some(total), elapsed, .. } if done > 0 => {
                Some(elapsed.as_secs_f64() * total.saturating_sub(done) as f64 / done as f64)
            }
            _ => None,
        }
    }
}

/// How long a stage took, and the most memory that the process has held up to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageTime {
    /// Its name.
    pub stage: &'static str,
    /// From its start to its end.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Bytes, over the whole run so far; see [`peak_memory`].
    #[serde(rename = "peak_memory_bytes")]
    pub peak_memory: Option<u64>,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

/// Hears the events of a run, in order, one at a time.
pub trait Listener: Send {
    /// Something happened.
    fn hear(&mut self, event: &Event);
}

impl<F: FnMut(&Event) + Send> Listener for F {
    fn hear(&mut self, event: &Event) {
        self(event);
    }
}

/// How a command tells of its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bars with the time left, on standard error.
    Bars,
    /// Plain lines on standard error.
    Lines,
    /// One JSON object a line, on standard output.
    Json,
    /// Nothing.
    Silent,
}

impl Style {
    /// JSON where a program asked for it, bars where a person watches, plain lines elsewhere.
    pub fn detect(wants_json: bool) -> Self {
        match (wants_json, std::io::stderr().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }

    /// The listener that writes in this style.
    pub fn listener(self) -> Box<dyn Listener> {
        match self {
            Self::Bars => Box::new(Bars::new()),
            Self::Lines => Box::new(Lines::new(std::io::stderr())),
            Self::Json => Box::new(JsonLines::new(std::io::stdout())),
            Self::Silent => Box::new(|_: &Event| {}),
        }
    }
}

/// The progress of one run; shared by reference, also between threads.
pub struct Progress {
    state: Mutex<State>,
}

struct State {
    listener: Box<dyn Listener>,
    times: Vec<StageTime>,
}

impl Progress {
    /// Progress that `listener` hears.
    pub fn new(listener: Box<dyn Listener>) -> Self {
        Self { state: Mutex::new(State { listener, times: Vec::new() }) }
    }

    /// Begins a stage of `total` steps, or of nobody knows how many.
    pub fn stage(&self, name: &'static str, total: Option<u64>) -> Stage<'_> {
        self.tell(&Event::StageStarted { stage: name, total });
        Stage { progress: self, name, total, started: Instant::now(), done: Mutex::new(0), is_over: false }
    }

    /// Makes a remark of one line.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(&Event::Note { text: text.into() });
    }

    /// The stages that have ended, in order.
    pub fn times(&self) -> Vec<StageTime> {
        self.state().times.clone()
    }

    fn tell(&self, event: &Event) {
        self.state().listener.hear(event);
    }

    /// A listener that panicked has nothing half-done that matters here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stage that is running; dropped without [`Stage::end`], it is told as left.
pub struct Stage<'a> {
    progress: &'a Progress,
    name: &'static str,
    total: Option<u64>,
    started: Instant,
    done: Mutex<u64>,
    is_over: bool,
}

impl Stage<'_> {
    /// `steps` more are done.
    pub fn advance(&self, steps: u64) {
        // Held while telling, so that a listener never hears a smaller number after a larger one.
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += steps;
        self.tell_done(*done);
    }

    /// `done` steps are done in all; less than before counts as no news.
    pub fn advance_to(&self, done: u64) {
        let mut known = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done > *known {
            *known = done;
            self.tell_done(done);
        }
    }

    /// The stage is done; its time is kept.
    pub fn end(mut self) -> StageTime {
        self.is_over = true;
        let time = StageTime { stage: self.name, elapsed: self.started.elapsed(), peak_memory: peak_memory() };
        let mut state = self.progress.state();
        state.times.push(time.clone());
        state.listener.hear(&Event::StageEnded(time.clone()));
        time
    }

    fn tell_done(&self, done: u64) {
        self.progress.tell(&Event::Advanced { stage: self.name, done, total: self.total, elapsed: self.started.elapsed() });
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.progress.tell(&Event::StageLeft { stage: self.name });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn overheard() -> (Progress, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        (Progress::new(Box::new(move |event: &Event| sender.send(event.clone()).unwrap())), receiver)
    }

    #[test]
    fn a_stage_is_told_from_start_to_end_and_its_time_is_kept() {
        let (progress, heard) = overheard();
        let stage = progress.stage("decode", Some(3));
        stage.advance(2);
        stage.advance_to(1);
        stage.advance_to(3);
        let time = stage.end();
        drop(progress.stage("encode", None));
        progress.note("done");
        assert_eq!(progress.times(), std::slice::from_ref(&time));
        drop(progress);
        let heard: Vec<Event> = heard.iter().collect();
        assert_eq!(heard[0], Event::StageStarted { stage: "decode", total: Some(3) });
        assert!(matches!(heard[1], Event::Advanced { done: 2, total: Some(3), .. }));
        assert!(matches!(heard[2], Event::Advanced { done: 3, .. }));
        assert_eq!(heard[3], Event::StageEnded(time));
        assert_eq!(heard[5..], [Event::StageLeft { stage: "encode" }, Event::Note { text: "done".to_owned() }]);
    }

    #[test]
    fn steps_from_many_threads_are_told_in_order() {
        let (progress, heard) = overheard();
        let stage = progress.stage("blocks", Some(400));
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| (0..100).for_each(|_| stage.advance(1))))));
        stage.end();
        drop(progress);
        let done: Vec<u64> =
            heard.iter().filter_map(|event| if let Event::Advanced { done, .. } = event { Some(done) } else { None }).collect();
        assert!(done.into_iter().eq(1..=400));
    }

    #[test]
    fn the_time_left_follows_the_pace() {
        let event = |done, total| Event::Advanced { stage: "a", done, total, elapsed: Duration::from_secs(6) };
        assert_eq!(event(2, Some(6)).seconds_left(), Some(12.0));
        assert_eq!(event(6, Some(6)).seconds_left(), Some(0.0));
        assert_eq!((event(0, Some(6)).seconds_left(), event(1, None).seconds_left()), (None, None));
    }
}
