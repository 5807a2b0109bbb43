//! Animated GIF: a palette for each frame, for ever, with the request as a comment.
//!
//! A frame begins at the hundredth of a second nearest to its true time. Viewers show frames of less than 0.02 s far too slowly,
//! so none is written: above 50 frames a second a GIF plays slower than it should.

mod palette;

use std::borrow::Cow;
use std::io::{Read, Seek};

use gif::{AnyExtension, DisposalMethod, Encoder, EncodingError, Extension, Frame, Repeat};
use palette::Quantiser;

use super::source::{Fault, LARGEST_REQUEST, Source};
use super::{Error, Frames};

/// Hundredths of a second below which viewers ignore a frame's length.
const SHORTEST_FRAME: u64 = 2;

/// Whether a GIF holds frames of this size.
///
/// # Errors
/// [`Error::TooLarge`].
pub(super) fn check_size(width: usize, height: usize) -> Result<(), Error> {
    if width.max(height) > usize::from(u16::MAX) {
        return Err(Error::TooLarge { format: "GIF", width, height, limit: "a side holds 65535 pixels" });
    }
    Ok(())
}

/// The file's bytes. `request` is JSON text; `on_frame` hears how many frames are coded.
pub(super) fn encode(frames: &Frames, request: &str, on_frame: &mut dyn FnMut(usize)) -> Result<Vec<u8>, Error> {
    let failed = |frame: usize, error: EncodingError| Error::Encoder { format: "GIF", frame, message: error.to_string() };
    let (width, height) = (frames.width() as u16, frames.height() as u16);
    let mut encoder = Encoder::new(Vec::new(), width, height, &[]).map_err(|error| failed(0, error))?;
    encoder.set_repeat(Repeat::Infinite).map_err(|error| failed(0, error))?;
    encoder.write_raw_extension(AnyExtension(Extension::Comment as u8), &[request.as_bytes()]).map_err(|error| failed(0, error))?;
    let mut quantiser = Quantiser::new();
    for (index, rgb) in frames.iter().enumerate() {
        let (palette, indices) = quantiser.quantise(rgb, frames.width());
        let hundredths = frames.rate().frame_ticks(index, 100).clamp(SHORTEST_FRAME, u64::from(u16::MAX));
        let frame = Frame {
            delay: hundredths as u16,
            dispose: DisposalMethod::Keep,
            width,
            height,
            palette: Some(palette.concat()),
            buffer: Cow::Owned(indices),
            ..Frame::default()
        };
        encoder.write_frame(&frame).map_err(|error| failed(index, error))?;
        on_frame(index + 1);
    }
    encoder.into_inner().map_err(|error| failed(frames.count(), error))
}

/// The first comment that is a JSON object.
pub(super) fn request<R: Read + Seek>(source: &mut Source<R>) -> Result<Vec<u8>, Fault> {
    const SIGNATURE_BYTES: u64 = 6;
    const COMMENT: u8 = 0xfe;
    source.seek(SIGNATURE_BYTES)?;
    let [_, _, _, _, flags, _, _] = source.array::<7>()?;
    source.skip(table_bytes(flags))?;
    while source.left() > 0 {
        let start = source.at();
        match source.array::<1>()? {
            [b'!'] => {
                let [label] = source.array()?;
                let text = sub_blocks(source, label == COMMENT)?;
                if text.first() == Some(&b'{') {
                    return Ok(text);
                }
            }
            [b','] => {
                let [_, _, _, _, _, _, _, _, flags] = source.array::<9>()?;
                source.skip(table_bytes(flags) + 1)?; // and the width of an index
                sub_blocks(source, false)?;
            }
            [b';'] => break,
            _ => return Err(Fault::Broken { at: start, what: "neither an extension, a picture nor the end" }),
        }
    }
    Err(Fault::Absent)
}

/// Bytes of the colour table that the flags announce.
fn table_bytes(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Reads up to the empty block; keeps the bytes only where asked.
fn sub_blocks<R: Read + Seek>(source: &mut Source<R>, keeps: bool) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    loop {
        let [length] = source.array()?;
        match (length, keeps) {
            (0, _) => return Ok(text),
            (_, true) => text.extend_from_slice(&source.take(u64::from(length))?),
            (_, false) => source.skip(u64::from(length))?,
        }
        if text.len() as u64 > LARGEST_REQUEST {
            return Err(Fault::TooLong { length: text.len() as u64 });
        }
    }
}
