//! What an MP4 says of itself: its request, and its size, length and rate.
//!
//! This reads the boxes that we write, with every length checked; it decodes no picture.

use std::io::{Read, Seek};

use super::REQUEST_BOX;
use crate::video::source::{Fault, LARGEST_REQUEST, Source};

/// What the track's headers say.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Pixels in a row.
    pub width: u32,
    /// Rows in a picture.
    pub height: u32,
    /// Pictures.
    pub frames: u32,
    /// Pictures that a decoder can start at.
    pub key_frames: u32,
    /// Whole length, in seconds.
    pub seconds: f64,
    /// Pictures a second.
    pub frames_per_second: f64,
    /// As browsers name it, such as `avc1.64001e`.
    pub codec: String,
}

/// Summarises an MP4 in memory; `None` when a box that this needs is missing or misshapen.
pub fn summary(file: &[u8]) -> Option<Summary> {
    let media = path(file, &[b"moov", b"trak", b"mdia"])?;
    let header = path(media, &[b"mdhd"])?;
    let ticks_per_second = number(header, 12)?;
    let duration = number(header, 16)?;
    let table = path(media, &[b"minf", b"stbl"])?;
    let entry = path(path(table, &[b"stsd"])?.get(8..)?, &[b"avc1"])?;
    let size = number(entry, 24)?;
    let profile = path(entry.get(78..)?, &[b"avcC"])?.get(1..4)?;
    let frames = number(path(table, &[b"stsz"])?, 8)?;
    let seconds = f64::from(duration) / f64::from(ticks_per_second);
    (header.first() == Some(&0) && ticks_per_second > 0 && duration > 0).then(|| Summary {
        width: size >> 16,
        height: size & 0xffff,
        frames,
        key_frames: path(table, &[b"stss"]).and_then(|keys| number(keys, 4)).unwrap_or(frames),
        seconds,
        frames_per_second: f64::from(frames) / seconds,
        codec: format!("avc1.{:02x}{:02x}{:02x}", profile[0], profile[1], profile[2]),
    })
}

/// The request's bytes: from our own box, or from ©cmt where a remux dropped it.
pub(in crate::video) fn request<R: Read + Seek>(source: &mut Source<R>) -> Result<Vec<u8>, Fault> {
    let mut comment = None;
    while source.left() > 0 {
        let start = source.at();
        let mut length = u64::from(u32::from_be_bytes(source.array()?));
        let name: [u8; 4] = source.array()?;
        let mut header = 8;
        match length {
            0 => length = source.left() + 8, // to the end of the file
            1 => {
                length = u64::from_be_bytes(source.array()?);
                header = 16;
            }
            _ => {}
        }
        let body = length.checked_sub(header).ok_or(Fault::Broken { at: start, what: "a box is shorter than its own header" })?;
        if body > source.left() {
            return Err(Fault::Broken { at: start, what: "a box reaches beyond the end of the file" });
        }
        if &name == b"uuid" && body >= 16 && source.array::<16>()? == REQUEST_BOX {
            return source.take(body - 16);
        }
        if &name == b"moov" && body <= LARGEST_REQUEST {
            comment = comment.or(comment_in(&source.take(body)?));
        }
        source.seek(start.saturating_add(length))?;
    }
    comment.ok_or(Fault::Absent)
}

/// The text of ©cmt when it is a JSON object.
fn comment_in(movie: &[u8]) -> Option<Vec<u8>> {
    let list = path(path(movie, &[b"udta", b"meta"])?.get(4..)?, &[b"ilst", b"\xa9cmt", b"data"])?;
    let text = list.get(8..)?;
    (text.first() == Some(&b'{')).then(|| text.to_vec())
}

/// The content of the first box at the end of the path `names`.
fn path<'a>(boxes: &'a [u8], names: &[&[u8; 4]]) -> Option<&'a [u8]> {
    let Some((first, rest)) = names.split_first() else { return Some(boxes) };
    let mut boxes = boxes;
    while boxes.len() >= 8 {
        let (name, body, next) = split_box(boxes)?;
        if name == **first {
            return path(body, rest);
        }
        boxes = next;
    }
    None
}

/// The first box's name and content, and what follows it.
fn split_box(boxes: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let length = match number(boxes, 0)? {
        0 => boxes.len(),
        length => length as usize,
    };
    let name = *boxes.get(4..8)?.first_chunk()?;
    let body = boxes.get(8..length)?;
    Some((name, body, &boxes[length..]))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
