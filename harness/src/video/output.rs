//! Where a video goes, and in which format.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::name::{numbered, with_suffix};
use super::{Error, Frames, gif, mp4, png, webp};
use crate::atomic_file::{self, Sealed};
use crate::sidecar;

/// What is written, chosen by the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// H.264 in MP4.
    Mp4,
    /// Animated lossless WebP.
    WebP,
    /// Animated GIF.
    Gif,
    /// Numbered PNG frames.
    Png,
}

impl Format {
    /// The format that a name's extension asks for, in either case of letters.
    ///
    /// # Errors
    /// [`Error::UnknownExtension`], which lists the known ones.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let extension = path.extension().map(|text| text.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("mp4") => Ok(Self::Mp4),
            Some("webp") => Ok(Self::WebP),
            Some("gif") => Ok(Self::Gif),
            Some("png") => Ok(Self::Png),
            _ => Err(Error::UnknownExtension { path: path.to_owned(), extension }),
        }
    }

    /// Whether frames of this size can be written.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn check_size(self, width: usize, height: usize) -> Result<(), Error> {
        match self {
            Self::Mp4 => mp4::h264::check_size(width, height),
            Self::WebP => webp::check_size(width, height),
            Self::Gif => gif::check_size(width, height),
            Self::Png => png::check_size(width, height),
        }
    }
}

/// A place to write one video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    path: PathBuf,
    format: Format,
}

impl Output {
    /// A video named `path`; nothing is touched yet.
    ///
    /// # Errors
    /// [`Error::UnknownExtension`].
    pub fn new(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), format: Format::of(path)? })
    }

    /// The name as it was given; numbered PNG frames bear it with `-0001` and so on.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What will be written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The output for sample `index` (from 0) of `count`: itself when there is one, else `name-s1.mp4`, `name-s2.mp4` and so on.
    pub fn sample(&self, index: usize, count: usize) -> Self {
        if count <= 1 { self.clone() } else { Self { path: with_suffix(&self.path, &format!("-s{}", index + 1)), format: self.format } }
    }

    /// Finds out before a long run whether the video and its sidecar can be written: makes the folder where it is missing,
    /// and makes and removes a file in it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn check(&self) -> Result<(), Error> {
        atomic_file::check(&if self.format == Format::Png { numbered(&self.path, 1) } else { self.path.clone() })?;
        atomic_file::check(&sidecar::path_beside(&self.path))?;
        Ok(())
    }

    /// Writes the video with `request` in it and returns the files' names, the first frame first. `on_frame` hears how many frames are done.
    ///
    /// Nothing bears a final name before all of it is on the disk. PNG frames of an earlier, longer video are not removed.
    ///
    /// # Errors
    /// [`Error`]; what stood under the names before still stands there.
    pub fn write(&self, frames: &Frames, request: &Value, on_frame: &mut dyn FnMut(usize)) -> Result<Vec<PathBuf>, Error> {
        self.format.check_size(frames.width(), frames.height())?;
        let request = sidecar::one_line(request);
        let bytes = match self.format {
            Format::Mp4 => mp4::encode(frames, &request, on_frame)?,
            Format::WebP => webp::encode(frames, &request, on_frame)?,
            Format::Gif => gif::encode(frames, &request, on_frame)?,
            Format::Png => return self.write_numbered(frames, &request, on_frame),
        };
        atomic_file::write(&self.path, &bytes)?;
        Ok(vec![self.path.clone()])
    }

    fn write_numbered(&self, frames: &Frames, request: &str, on_frame: &mut dyn FnMut(usize)) -> Result<Vec<PathBuf>, Error> {
        let mut ready: Vec<Sealed> = Vec::with_capacity(frames.count());
        let mut names = Vec::with_capacity(frames.count());
        for (index, rgb) in frames.iter().enumerate() {
            let name = numbered(&self.path, index + 1);
            let bytes = png::encode(frames, rgb, request).map_err(|message| Error::Encoder { format: "PNG", frame: index, message })?;
            ready.push(atomic_file::stage(&name, &bytes)?);
            names.push(name);
            on_frame(index + 1);
        }
        for file in ready {
            file.publish()?;
        }
        Ok(names)
    }
}

/// Writes the first frame as one PNG of this very name, with `text` in it.
///
/// # Errors
/// [`Error`]; what stood under the name before still stands there.
pub fn write_picture(path: &Path, frames: &Frames, text: &Value) -> Result<(), Error> {
    png::check_size(frames.width(), frames.height())?;
    let rgb = frames.iter().next().unwrap_or_default();
    let encoded = png::encode(frames, rgb, &sidecar::one_line(text));
    let bytes = encoded.map_err(|message| Error::Encoder { format: "PNG", frame: 0, message })?;
    Ok(atomic_file::write(path, &bytes)?)
}
