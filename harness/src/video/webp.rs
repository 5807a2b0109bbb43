//! Animated WebP, lossless.
//!
//! ```text
//! RIFF WEBP   VP8X (animated, has XMP), ANIM (for ever), ANMF x T (one VP8L picture each), XMP
//! ```
//!
//! A frame begins at the millisecond nearest to its true time. The request is the text of `turbowan:request` in the XMP packet.

use std::io::{Cursor, Read, Seek};

use image_webp::{ColorType, WebPDecoder, WebPEncoder};

use super::source::{Fault, Source};
use super::{Error, FrameRate, Frames};

const OPENING: &str = "<turbowan:request>";
const CLOSING: &str = "</turbowan:request>";

/// Whether lossless WebP holds frames of this size.
///
/// # Errors
/// [`Error::TooLarge`].
pub(super) fn check_size(width: usize, height: usize) -> Result<(), Error> {
    const LONGEST_SIDE: usize = 1 << 14;
    if width.max(height) > LONGEST_SIDE {
        return Err(Error::TooLarge { format: "WebP", width, height, limit: "a side holds 16384 pixels" });
    }
    Ok(())
}

/// The file's bytes. `request` is JSON text; `on_frame` hears how many frames are coded.
pub(super) fn encode(frames: &Frames, request: &str, on_frame: &mut dyn FnMut(usize)) -> Result<Vec<u8>, Error> {
    const HAS_XMP_AND_MOVES: u8 = 0b110;
    const NOT_BLENDED: u8 = 0b10;
    let failed = |frame: usize, message: String| Error::Encoder { format: "WebP", frame, message };
    let (width, height) = (frames.width() as u32, frames.height() as u32);

    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    chunk(&mut file, b"VP8X", |out| {
        out.extend_from_slice(&[HAS_XMP_AND_MOVES, 0, 0, 0]);
        [width - 1, height - 1].into_iter().for_each(|side| three_bytes(out, side));
    });
    chunk(&mut file, b"ANIM", |out| out.extend_from_slice(&[0, 0, 0, 255, 0, 0])); // opaque black behind; no end
    for (index, rgb) in frames.iter().enumerate() {
        let picture = picture(rgb, width, height).map_err(|message| failed(index, message))?;
        let milliseconds = frames.rate().frame_ticks(index, 1000);
        chunk(&mut file, b"ANMF", |out| {
            [0, 0, width - 1, height - 1, milliseconds as u32].into_iter().for_each(|value| three_bytes(out, value));
            out.push(NOT_BLENDED);
            out.extend_from_slice(&picture);
        });
        on_frame(index + 1);
    }
    chunk(&mut file, b"XMP ", |out| out.extend_from_slice(packet(request).as_bytes()));
    let length = u32::try_from(file.len() - 8).map_err(|_| Error::TooLarge {
        format: "WebP",
        width: frames.width(),
        height: frames.height(),
        limit: "a file holds 4 GiB",
    })?;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(file)
}

/// The frames of an animated file, ours or another's, over black where they are transparent. They are as far apart as the first two.
pub(super) fn decode(file: &[u8]) -> Result<Frames, String> {
    const LARGEST_FRAME: usize = 1 << 28;
    let told = |error: image_webp::DecodingError| error.to_string();
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(told)?;
    decoder.set_memory_limit(LARGEST_FRAME);
    if !decoder.is_animated() {
        return Err("it holds one picture, no frames".to_owned());
    }
    let (width, height) = decoder.dimensions();
    let size = decoder.output_buffer_size().filter(|size| *size <= LARGEST_FRAME).ok_or("its frames are too large")?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let (mut frame, mut rgb, mut milliseconds) = (vec![0; size], Vec::new(), 0);
    for index in 0..decoder.num_frames() {
        let lasts = decoder.read_frame(&mut frame).map_err(told)?;
        milliseconds = if index == 0 { lasts } else { milliseconds };
        rgb.extend(frame.chunks_exact(channels).flat_map(|pixel| {
            let alpha = u16::from(pixel.get(3).copied().unwrap_or(u8::MAX));
            [0, 1, 2].map(|channel| ((u16::from(pixel[channel]) * alpha + 127) / 255) as u8)
        }));
    }
    let rate = FrameRate::new(1000, milliseconds.max(1)).map_err(|error| error.to_string())?;
    Frames::new(width as usize, height as usize, rate, rgb).map_err(|error| error.to_string())
}

/// One frame as a VP8L chunk: what a file of one picture holds behind its first 12 bytes.
fn picture(rgb: &[u8], width: u32, height: u32) -> Result<Vec<u8>, String> {
    let mut file = Cursor::new(Vec::new());
    WebPEncoder::new(&mut file).encode(rgb, width, height, ColorType::Rgb8).map_err(|error| error.to_string())?;
    let mut file = file.into_inner();
    if file.get(12..16) != Some(b"VP8L") {
        return Err("the encoder wrote no lossless picture".to_owned());
    }
    Ok(file.split_off(12))
}

fn packet(request: &str) -> String {
    let escaped = request.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" xmlns:turbowan=\"urn:turbowan\">\
         <xmp:CreatorTool>Turbowan {}</xmp:CreatorTool>{OPENING}{escaped}{CLOSING}\
         </rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>",
        env!("CARGO_PKG_VERSION")
    )
}

/// The request from the XMP packet.
pub(super) fn request<R: Read + Seek>(source: &mut Source<R>) -> Result<Vec<u8>, Fault> {
    const HEADER_BYTES: u64 = 12;
    source.seek(HEADER_BYTES)?;
    while source.left() > 0 {
        let start = source.at();
        let name: [u8; 4] = source.array()?;
        let length = u64::from(u32::from_le_bytes(source.array()?));
        if &name != b"XMP " {
            // Chunks are padded to an even length; a last one without its padding is forgiven.
            let padded = length + length % 2;
            source.skip(if padded == source.left() + 1 { length } else { padded })?;
            continue;
        }
        let packet = source.take(length)?;
        let broken = |what| Fault::Broken { at: start, what };
        let packet = std::str::from_utf8(&packet).map_err(|_| broken("the XMP packet is not UTF-8"))?;
        let (_, rest) = packet.split_once(OPENING).ok_or(Fault::Absent)?;
        let (text, _) = rest.split_once(CLOSING).ok_or_else(|| broken("the request in the XMP packet has no end"))?;
        return Ok(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").into_bytes());
    }
    Err(Fault::Absent)
}

/// A RIFF chunk: name, length, what `fill` writes, and a 0 where that is odd.
fn chunk(out: &mut Vec<u8>, name: &[u8; 4], fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(name);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    // The file's whole length is checked at the end, and no chunk is longer.
    let length = out.len() - start - 4;
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    if length % 2 == 1 {
        out.push(0);
    }
}

fn three_bytes(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes()[..3]);
}
