//! A transformer that learns: forward, and backward to the gradients of its parameters.
//!
//! [`WanDit`] itself runs on a [`Tape`]; this adds what training asks of it, over flat latents and a time and a prompt a
//! sample. With [`TrainDit::set_recomputes`] the blocks are not recorded: the rows before each are kept, and on the way
//! back a block is run once more and recorded then, one at a time. That costs a third more and holds one block's
//! intermediate values instead of all blocks'; the gradients are the same bits.
//!
//! ```no_run
//! # fn main() -> turbowan_wan_model::Result<()> {
//! use turbowan_wan_model::attention::Attention;
//! use turbowan_wan_model::backend::NormRule;
//! use turbowan_wan_model::dit::{DitOptions, Grid, TrainDit};
//! use turbowan_wan_model::tiny::{self, Part, TinyTensors};
//!
//! let weights = TinyTensors::generate(Part::TextToVideo, 1)?;
//! let options = DitOptions { attention: Attention::Original, norms: NormRule::Standard, quantise: false };
//! let grid = Grid { frames: 5, height: 8, width: 8 };
//! let mut dit = TrainDit::load(&weights, &tiny::dit_config(16), options, grid)?;
//! let (x, target, text) = (vec![0.1; 2 * 16 * 320], vec![0.0; 2 * 16 * 320], vec![0.0; 2 * 32 * 128]);
//!
//! let (velocity, saved) = dit.forward_saved(&x, &[900.0, 300.0], &text, None)?;
//! let gradient: Vec<f32> = velocity.iter().zip(&target).map(|(v, t)| 2.0 * (v - t)).collect();
//! dit.backward(saved, &gradient)?;
//! for parameter in dit.parameters_mut().iter_mut() {
//!     let (values, gradient) = parameter.values_and_gradient();
//!     values.iter_mut().zip(gradient).for_each(|(value, g)| *value -= 1e-3 * std::mem::take(g));
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::MutexGuard;

use super::{Around, DitOptions, DitTraits, Grid, TextStates, Unobserved, WanDit};
use crate::Result;
use crate::attention::Attention;
use crate::backend::Backend;
use crate::backend::tape::{Gradients, Parameters, Recording, Tape, TapeTensor};
use crate::checkpoint::{Dtype, TensorSource};
use crate::config::DitConfig;

/// A transformer with its parameters and their gradients, for latents of one size.
#[derive(Debug)]
pub struct TrainDit {
    tape: Tape,
    network: WanDit<Tape>,
    grid: Grid,
    recomputes: bool,
}

/// What [`TrainDit::backward`] needs of a forward pass. Parameters must not change in between.
pub struct SavedPass {
    text: TextStates<Tape>,
    around: Around<Tape>,
    /// The head's rows.
    out: TapeTensor,
    batch: usize,
    /// Text, times and patches.
    entry: Recording,
    blocks: SavedBlocks,
    exit: Recording,
}

enum SavedBlocks {
    Recorded(Recording),
    /// The rows before each block.
    Starts(Vec<TapeTensor>),
}

impl std::fmt::Debug for SavedPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedPass").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl TrainDit {
    /// Takes a network in, its parameters widened to `f32`, to run on latents of `grid`.
    ///
    /// # Errors
    /// [`crate::Error::Misfits`] for tensors that are missing or do not fit; [`crate::Error::Setting`] for options that
    /// only inference has.
    pub fn load(source: &dyn TensorSource, config: &DitConfig, options: DitOptions, grid: Grid) -> Result<Self> {
        let sla = matches!(options.attention, Attention::Sla(_) | Attention::SageSla(_));
        let tape = Tape::new(Parameters::read(source, &config.tensors(DitTraits { quantised: false, sla }))?);
        let network = WanDit::load(&tape, source, config, options)?;
        Ok(Self { tape, network, grid, recomputes: false })
    }

    /// A network with these parameters, such as [`DitConfig::initial`] ones.
    ///
    /// # Errors
    /// As [`TrainDit::load`].
    pub fn from_parameters(parameters: Parameters, config: &DitConfig, options: DitOptions, grid: Grid) -> Result<Self> {
        Self::load(&parameters.stored(|_| Dtype::F32), config, options, grid)
    }

    /// Whether blocks are run again on the way back instead of being recorded.
    pub fn set_recomputes(&mut self, recomputes: bool) {
        self.recomputes = recomputes;
    }

    /// Another size of latents from now on.
    pub fn set_grid(&mut self, grid: Grid) {
        self.grid = grid;
    }

    /// The size of latents.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// The network.
    pub fn network(&self) -> &WanDit<Tape> {
        &self.network
    }

    /// The parameters, for as long as the guard lives; do not run the network meanwhile.
    pub fn parameters(&self) -> MutexGuard<'_, Parameters> {
        self.tape.parameters()
    }

    /// The parameters, to be changed between passes.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        self.tape.parameters_mut()
    }

    /// Runs with other parameters of the same network from now on, and gives back those that it had.
    ///
    /// # Errors
    /// [`crate::Error::Misfits`] when names or shapes are not, in order, those of its own.
    pub fn exchange(&mut self, other: Parameters) -> Result<Parameters> {
        other.check_like(self.tape.parameters_mut())?;
        Ok(std::mem::replace(self.tape.parameters_mut(), other))
    }

    /// The velocity of latents `x [batch, in_dim, T, H, W]` at network times `t [batch]` (1000 times the flow time; in
    /// `f64`, for a finite difference in time may be small), for
    /// text states `text [batch, text_len, text_dim]` (or one prompt for all) and, where the network reads them, CLIP states:
    /// `[batch, out_dim, T, H, W]`. Nothing is kept.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn forward(&mut self, x: &[f32], t: &[f64], text: &[f32], clip: Option<&[f32]>) -> Result<Vec<f32>> {
        let (tape, network) = (&self.tape, &self.network);
        let text = network.read_text(tape, text, clip)?;
        let (mut rows, around) = network.enter(tape, x, t, text.batch, self.grid)?;
        (0..network.config().layers).try_for_each(|index| network.block(tape, index, &mut rows, &around, &text, &mut Unobserved))?;
        let out = tape.download(&network.leave(tape, &rows, &around)?)?;
        Ok(self.grid.unpatches(&out, t.len(), network.config().out_dim))
    }

    /// As [`TrainDit::forward`], keeping what [`TrainDit::backward`] needs.
    ///
    /// # Errors
    /// As [`TrainDit::forward`].
    pub fn forward_saved(&mut self, x: &[f32], t: &[f64], text: &[f32], clip: Option<&[f32]>) -> Result<(Vec<f32>, SavedPass)> {
        let (tape, network, grid, batch) = (&self.tape, &self.network, self.grid, t.len());
        let ((text, mut rows, around), entry) = tape.recorded(|| {
            let text = network.read_text(tape, text, clip)?;
            let (rows, around) = network.enter(tape, x, t, text.batch, grid)?;
            Ok((text, rows, around))
        })?;
        let run = |index, rows: &mut TapeTensor| network.block(tape, index, rows, &around, &text, &mut Unobserved);
        let layers = 0..network.config().layers;
        let blocks = if self.recomputes {
            tape.mark(&mut rows);
            let mut starts = Vec::with_capacity(layers.len());
            for index in layers {
                starts.push(rows.again());
                run(index, &mut rows)?;
            }
            SavedBlocks::Starts(starts)
        } else {
            let (_, recording) = tape.recorded(|| layers.into_iter().try_for_each(|index| run(index, &mut rows)))?;
            SavedBlocks::Recorded(recording)
        };
        let (out, exit) = tape.recorded(|| network.leave(tape, &rows, &around))?;
        let velocity = grid.unpatches(&tape.download(&out)?, batch, network.config().out_dim);
        Ok((velocity, SavedPass { text, around, out, batch, entry, blocks, exit }))
    }

    /// Adds the gradients of the parameters for `gradient [batch, out_dim, T, H, W]`, that of the loss with respect to the
    /// velocity.
    ///
    /// # Errors
    /// A gradient of another length.
    pub fn backward(&mut self, saved: SavedPass, gradient: &[f32]) -> Result<()> {
        let (tape, network) = (&self.tape, &self.network);
        let SavedPass { text, around, out, batch, entry, blocks, exit } = saved;
        let channels = network.config().out_dim;
        turbowan_cuda::Error::expect_len("velocity gradient", gradient, batch * channels * self.grid.positions())?;
        let mut gradients = Gradients::default();
        gradients.seed(tape, &out, self.grid.unpatches_gradient(gradient, batch, channels))?;
        tape.backward(exit, &mut gradients)?;
        match blocks {
            SavedBlocks::Recorded(recording) => tape.backward(recording, &mut gradients)?,
            SavedBlocks::Starts(starts) => {
                for (index, mut rows) in starts.into_iter().enumerate().rev() {
                    let (_, recording) = tape.recorded(|| network.block(tape, index, &mut rows, &around, &text, &mut Unobserved))?;
                    tape.backward(recording, &mut gradients)?;
                }
            }
        }
        tape.backward(entry, &mut gradients)
    }
}
