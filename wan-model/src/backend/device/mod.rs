//! Networks on a GPU, or on the emulator that runs the same kernels.
//!
//! Everything is queued on one stream, in the order of the network; the host waits where a result is read back, and in a
//! pass of a transformer nowhere else. Rows are bf16, and f32 where the trait says so: the time, modulations and the head.

mod attention;
mod backend;
mod block_map;
mod int8_attention;
mod layer;
mod linear;
mod norm;
mod tensor;
mod text;
pub mod vae;

pub use attention::DeviceProjection;
pub use backend::DeviceBackend;
pub use layer::DeviceLinear;
pub use tensor::{DeviceActivation, DeviceTensor};
