//! One frame as a PNG: 8-bit RGB, sRGB, with the request as text.

use std::io::{Read, Seek};

use super::source::{Fault, Source};
use super::{Error, Frames};

/// The text's keyword.
const KEYWORD: &str = "Turbowan";

/// Whether a PNG holds frames of this size.
///
/// # Errors
/// [`Error::TooLarge`].
pub(super) fn check_size(width: usize, height: usize) -> Result<(), Error> {
    const LONGEST_SIDE: usize = i32::MAX as usize;
    if width.max(height) > LONGEST_SIDE {
        return Err(Error::TooLarge { format: "PNG", width, height, limit: "a side holds 2^31 - 1 pixels" });
    }
    Ok(())
}

/// `rgb` is one of `frames`; a failure is the encoder's message.
pub(super) fn encode(frames: &Frames, rgb: &[u8], request: &str) -> Result<Vec<u8>, String> {
    let mut file = Vec::new();
    write(&mut file, frames, rgb, request).map_err(|error| error.to_string())?;
    Ok(file)
}

fn write(file: &mut Vec<u8>, frames: &Frames, rgb: &[u8], request: &str) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(file, frames.width() as u32, frames.height() as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    encoder.add_text_chunk("Software".to_owned(), concat!("Turbowan ", env!("CARGO_PKG_VERSION")).to_owned())?;
    encoder.add_itxt_chunk(KEYWORD.to_owned(), request.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()
}

/// The text under our keyword.
pub(super) fn request<R: Read + Seek>(source: &mut Source<R>) -> Result<Vec<u8>, Fault> {
    const SIGNATURE_BYTES: u64 = 8;
    const CHECKSUM_BYTES: u64 = 4;
    source.seek(SIGNATURE_BYTES)?;
    while source.left() > 0 {
        let start = source.at();
        let length = u64::from(u32::from_be_bytes(source.array()?));
        let kind: [u8; 4] = source.array()?;
        if &kind == b"IEND" {
            break;
        }
        if &kind == b"iTXt" && length > KEYWORD.len() as u64 {
            let text = source.take(length)?;
            if let Some(request) = text_under_keyword(&text) {
                return request.ok_or(Fault::Broken { at: start, what: "the request's text is compressed or cut short" });
            }
            source.skip(CHECKSUM_BYTES)?;
        } else {
            source.skip(length + CHECKSUM_BYTES)?;
        }
    }
    Err(Fault::Absent)
}

/// `None` under another keyword, `Some(None)` under ours when it cannot be read.
fn text_under_keyword(chunk: &[u8]) -> Option<Option<Vec<u8>>> {
    let rest = chunk.strip_prefix(KEYWORD.as_bytes())?.strip_prefix(&[0])?;
    // Not compressed, no method; then a language and the keyword in that language, each up to its 0.
    let text = rest.strip_prefix(&[0, 0]).and_then(after_zero).and_then(after_zero);
    Some(text.map(<[u8]>::to_vec))
}

fn after_zero(bytes: &[u8]) -> Option<&[u8]> {
    let zero = bytes.iter().position(|&byte| byte == 0)?;
    Some(&bytes[zero + 1..])
}
