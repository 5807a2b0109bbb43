//! rCM: from noise to a latent in one to four network calls, and the training that makes it possible, knowing nothing of tensors, devices
//! or models.
//!
//! A model distilled by rCM (score-regularised continuous-time consistency) estimates the clean latent from any noise level at once. With
//! rectified-flow times `u` ([`time::FlowTime`], the share of noise) and velocity `v`,
//!
//! ```text
//! x0 estimate    x - u v
//! SDE step       x <- (1 - u') (x - u v) + u' noise
//! ODE step       x <- x - (u - u') v
//! ```
//!
//! The times come from a [`schedule::Schedule`]: `atan(sigma_max), 1.5, 1.4, 1.0, 0` on the TrigFlow clock. A model is a
//! [`denoiser::Denoiser`]; a latent is whatever can be scaled, added and filled with noise ([`denoiser::Latent`]); noise comes from a
//! [`noise::NoiseSource`], seeded, the same on every device. A run is [`sampler::FewStep`]; it can be stopped between steps and
//! continued to the same bytes. The undistilled teacher is sampled by [`teacher::Teacher`].
//!
//! ```
//! use std::ops::ControlFlow;
//! use turbowan_rcm::{Call, Denoiser, Error, FewStep, NoiseKind, NoiseSource, Sampler, Schedule};
//!
//! /// The velocity of data that is the number 3: x0 = 3, so v = (x - 3) / u.
//! struct Three;
//! impl Denoiser for Three {
//!     type Latent = Vec<f64>;
//!     type Error = Error;
//!     fn velocity(&mut self, x: &Vec<f64>, call: Call) -> Result<Vec<f64>, Error> {
//!         Ok(x.iter().map(|x| (x - 3.0) / call.time.share()).collect())
//!     }
//! }
//!
//! let run = FewStep::new(Schedule::few_step(80.0, 4)?, Sampler::Sde);
//! let mut noise = NoiseSource::seeded(NoiseKind::Native, 42);
//! let start = run.start(vec![0.0; 8], &mut noise)?;
//! let end = run.run(start, &mut Three, &mut noise, |_| ControlFlow::Continue(()))?.into_state();
//! assert!(end.latent.iter().all(|x| (x - 3.0).abs() < 1e-12));
//! # Ok::<(), Error>(())
//! ```
//!
//! Such a model is made by training, and the same crate does it: a network is a [`trainable::Trainable`], [`train`] has the methods (flow matching,
//! alignment, distillation), [`loss`] their closed forms, [`optim`] the optimisers, [`resume`] what a run must remember, [`merge`] the carrying
//! over of what was learnt. Nothing here differentiates: each loss states its gradient with respect to the network's output.
#![forbid(unsafe_code)]

pub mod denoiser;
pub mod error;
pub mod loss;
pub mod merge;
pub mod noise;
pub mod optim;
pub mod resume;
pub mod sampler;
pub mod schedule;
pub mod teacher;
pub mod time;
pub mod train;
pub mod trainable;
pub mod unipc;

pub use denoiser::{AtBoundary, Branch, Call, Denoiser, Expert, Latent, LatentRounding, Network};
pub use error::Error;
pub use noise::{GpuGrid, NoiseKind, NoiseSource, Stream};
pub use resume::{Resumable, restore};
pub use sampler::{FewStep, Outcome, Sampler, State};
pub use schedule::Schedule;
pub use teacher::{Guidance, Solver, Teacher, TeacherState};
pub use time::{FlowTime, TimeRounding, TrigTime, round_bf16};
pub use trainable::{Condition, OwnedParameter, Parameter, Trainable, VelocityNet};
