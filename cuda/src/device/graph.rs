//! Work recorded once and replayed as often as wanted.

use std::fmt;
use std::sync::Arc;

use super::driver;
use super::launch::Launch;
use super::memory::Memory;
use super::stream::Stream;
use super::trace::Work;
use crate::Error;

/// What the emulator does for one node.
pub(super) type Step = Box<dyn Fn() -> Result<(), Error> + Send>;

/// What is being recorded.
#[derive(Default)]
pub(super) struct Capture {
    pub(super) works: Vec<Work>,
    pub(super) kept: Vec<Arc<Memory>>,
    pub(super) steps: Vec<Step>,
}

/// One piece of recorded work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The kernel, or `fill`, or `copy`.
    pub name: &'static str,
    /// Grid, block and shared memory of a kernel.
    pub launch: Option<Launch>,
}

/// A recorded graph, made by [`Stream::capture`]. It keeps all memory that its nodes touch.
pub struct Graph {
    // dropped first: after it nothing of the graph is queued any more
    replay: Option<driver::Replay>,
    steps: Vec<Step>,
    works: Vec<Work>,
    nodes: Vec<Node>,
    stream: Stream,
    _kept: Vec<Arc<Memory>>,
}

impl Graph {
    pub(super) fn new(stream: Stream, capture: Capture, replay: Option<driver::Replay>) -> Self {
        let node = |work: &Work| Node { name: work.name(), launch: work.launch() };
        let nodes = capture.works.iter().map(node).collect();
        Self { replay, steps: capture.steps, works: capture.works, nodes, stream, _kept: capture.kept }
    }

    /// Queues all of it on the stream it was recorded on.
    ///
    /// # Errors
    /// [`Error::Capturing`], or what the driver or the emulator says.
    pub fn replay(&mut self) -> Result<(), Error> {
        self.stream.refuse_capture("the replay of a graph")?;
        match &mut self.replay {
            Some(replay) => replay.launch()?,
            None => self.steps.iter().try_for_each(|step| step())?,
        }
        for work in &self.works {
            self.stream.note(|| work.clone(), &mut std::iter::empty());
        }
        Ok(())
    }

    /// What it does, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The same with the operands of each launch, for [`super::totals`].
    pub fn works(&self) -> &[Work] {
        &self.works
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}
