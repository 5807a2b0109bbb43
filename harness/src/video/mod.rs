//! From decoded frames to a file that a player shows and `rerun` understands.
//!
//! The extension chooses the format; in each of them lies the request that made it, as JSON, and [`read_metadata`] gives it back.
//!
//! | name | what is written | frame times | request |
//! |---|---|---|---|
//! | `.mp4` | H.264, 4:2:0, BT.709, for browsers | exact | `uuid` box and ©cmt |
//! | `.webp` | animated, lossless | to the nearest 1 ms | XMP |
//! | `.gif` | animated, a palette of 256 for each frame, ordered dither | to the nearest 10 ms, no frame under 20 ms | comment |
//! | `.png` | `name-0001.png`, `name-0002.png`, ... | none | iTXt, in every frame |
//!
//! Where a format's clock is coarse, each frame begins at the tick nearest to its true time, so the rounding never adds up: at 16 fps a GIF's
//! frames last 6, 7, 6, 6 hundredths of a second.
//!
//! The same frames and request give the same bytes, on every machine and at any number of threads: nothing here reads a clock,
//! starts a thread, or computes in floating point with a library's help.
//!
//! ```
//! use turbowan::video::{FrameRate, Frames, Output, read_metadata};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let frames = Frames::new(32, 16, FrameRate::WAN, vec![90; 5 * 32 * 16 * 3])?;
//! let request = serde_json::json!({"prompt": "a red ball", "seed": 7});
//! let output = Output::new(&folder.path().join("ball.mp4"))?;
//! output.check()?; // before the long work
//! let files = output.write(&frames, &request, &mut |_done| {})?;
//! assert_eq!(read_metadata(&files[0])?, request);
//! # Ok(())
//! # }
//! ```

use std::path::Path;

mod error;
mod frames;
mod gif;
mod metadata;
pub mod mp4;
mod name;
mod output;
mod png;
mod source;
mod webp;

pub use error::Error;
pub use frames::{FrameRate, Frames, Shape};
pub use metadata::{ReadError, read_from, read_metadata};
pub use output::{Format, Output, write_picture};
pub use source::LARGEST_REQUEST;

/// The frames of an animated WebP file.
///
/// # Errors
/// When it cannot be read, or is no animated WebP.
pub fn read_webp(path: &Path) -> Result<Frames, crate::Error> {
    let file = std::fs::read(path).map_err(|source| crate::Error::Read { path: path.to_owned(), source })?;
    webp::decode(&file).map_err(|reason| crate::Error::broken(path, reason))
}

#[cfg(test)]
mod tests;
