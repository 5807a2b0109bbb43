//! MP4: H.264 pictures and the request that made them, in an ISO base media file.
//!
//! ```text
//! ftyp   isom, avc1
//! moov   mvhd, trak (tkhd, mdia (mdhd, hdlr, minf (vmhd, dinf, stbl))), udta (meta: ©too, ©cmt)
//! uuid   the request as JSON, under an identifier of ours
//! mdat   the pictures, one chunk
//! ```
//!
//! `moov` stands before `mdat`, so that a browser can play while it loads. No B pictures: decoding order is display order, and no edit
//! list is needed. Times are in ticks of `1 / (numerator * k)` s, so that a frame is a whole number of ticks for every rate. No clock is
//! read: the creation time is 0, and the same frames and request give the same bytes.
//!
//! 4:2:0 pictures have even sides, and the encoder wants at least 16: a frame with other sides repeats its last row or column.
//! `tkhd` and the sample entry state the coded size, which is what every player shows.
//!
//! The request stands twice: in the box of ours, and in ©cmt, which players show and which survives a remux.

pub mod h264;
pub mod reader;
pub mod yuv;

use h264::Stream;

use super::{Error, Frames};

/// The `uuid` box that holds the request.
pub(super) const REQUEST_BOX: [u8; 16] = [0x74, 0x75, 0x72, 0x62, 0x6f, 0x77, 0x61, 0x6e, 0x8a, 0x51, 0x4d, 0x0e, 0x9c, 0x37, 0x21, 0xf6];

/// The ticks of a second are at least this many, as players expect of a video track.
const FEWEST_TICKS_PER_SECOND: u32 = 10_000;

/// What ©too says.
const TOOL: &str = concat!("Turbowan ", env!("CARGO_PKG_VERSION"));

/// The file's bytes. `request` is JSON text; `on_frame` hears how many frames are coded.
///
/// # Errors
/// As [`h264::encode`]; [`Error::TooLarge`] beyond 4 GiB or 2^32 ticks.
pub fn encode(frames: &Frames, request: &str, on_frame: &mut dyn FnMut(usize)) -> Result<Vec<u8>, Error> {
    let stream = h264::encode(frames, on_frame)?;
    let too_large = |limit| Error::TooLarge { format: "MP4", width: frames.width(), height: frames.height(), limit };
    let track = Track::of(&stream, frames).ok_or_else(|| too_large("a file holds 2^32 ticks of time"))?;

    let mut file = Vec::new();
    boxed(&mut file, b"ftyp", |out| {
        out.extend_from_slice(b"isom");
        out.extend_from_slice(&512_u32.to_be_bytes());
        out.extend_from_slice(b"isomiso2avc1mp41");
    });
    // Where the pictures begin depends on the length of `moov`, which does not depend on where they begin.
    let after_moov = file.len() + track.movie(request, 0).len() + 8 + REQUEST_BOX.len() + request.len();
    let data: usize = stream.samples.iter().map(|sample| sample.bytes.len()).sum();
    let first_picture = u32::try_from(after_moov + 8).map_err(|_| too_large("a file holds 4 GiB"))?;
    u32::try_from(after_moov + 8 + data).map_err(|_| too_large("a file holds 4 GiB"))?;

    file.extend_from_slice(&track.movie(request, first_picture));
    boxed(&mut file, b"uuid", |out| {
        out.extend_from_slice(&REQUEST_BOX);
        out.extend_from_slice(request.as_bytes());
    });
    debug_assert_eq!(file.len(), after_moov);
    boxed(&mut file, b"mdat", |out| stream.samples.iter().for_each(|sample| out.extend_from_slice(&sample.bytes)));
    Ok(file)
}

/// What `moov` tells of the one track.
struct Track<'a> {
    stream: &'a Stream,
    /// Ticks in a second, for the movie and for the track.
    ticks_per_second: u32,
    /// Ticks that every frame is shown.
    frame_ticks: u32,
    /// Ticks of the whole.
    duration: u32,
}

impl<'a> Track<'a> {
    fn of(stream: &'a Stream, frames: &Frames) -> Option<Self> {
        let rate = frames.rate();
        let multiple = FEWEST_TICKS_PER_SECOND.div_ceil(rate.numerator());
        let frame_ticks = rate.denominator().checked_mul(multiple)?;
        let duration = frame_ticks.checked_mul(u32::try_from(frames.count()).ok()?)?;
        Some(Self { stream, ticks_per_second: rate.numerator().checked_mul(multiple)?, frame_ticks, duration })
    }

    /// The `moov` box, for pictures that begin at byte `first_picture` of the file.
    fn movie(&self, request: &str, first_picture: u32) -> Vec<u8> {
        let mut movie = Vec::new();
        boxed(&mut movie, b"moov", |out| {
            full_box(out, b"mvhd", 0, 0, |out| {
                numbers(out, &[0, 0, self.ticks_per_second, self.duration]);
                numbers(out, &[ONE, 0x0100_0000, 0, 0]); // speed 1, volume 1, reserved
                numbers(out, &UNTURNED);
                numbers(out, &[0, 0, 0, 0, 0, 0, 2]); // predefined; the next track would be number 2
            });
            boxed(out, b"trak", |out| self.track(out, first_picture));
            boxed(out, b"udta", |out| user_data(out, request));
        });
        movie
    }

    fn track(&self, out: &mut Vec<u8>, first_picture: u32) {
        const ENABLED_IN_MOVIE_AND_PREVIEW: u32 = 7;
        full_box(out, b"tkhd", 0, ENABLED_IN_MOVIE_AND_PREVIEW, |out| {
            numbers(out, &[0, 0, 1, 0, self.duration]); // track 1
            numbers(out, &[0, 0, 0, 0]); // layer, group, volume: none
            numbers(out, &UNTURNED);
            numbers(out, &[(self.stream.width as u32) << 16, (self.stream.height as u32) << 16]);
        });
        boxed(out, b"mdia", |out| {
            full_box(out, b"mdhd", 0, 0, |out| {
                numbers(out, &[0, 0, self.ticks_per_second, self.duration]);
                numbers(out, &[LANGUAGE_UNDETERMINED << 16]);
            });
            full_box(out, b"hdlr", 0, 0, |out| {
                numbers(out, &[0]);
                out.extend_from_slice(b"vide\0\0\0\0\0\0\0\0\0\0\0\0VideoHandler\0");
            });
            boxed(out, b"minf", |out| {
                full_box(out, b"vmhd", 0, 1, |out| numbers(out, &[0, 0]));
                boxed(out, b"dinf", |out| {
                    full_box(out, b"dref", 0, 0, |out| {
                        numbers(out, &[1]);
                        full_box(out, b"url ", 0, 1, |_| {}); // the pictures are in this file
                    });
                });
                boxed(out, b"stbl", |out| self.sample_table(out, first_picture));
            });
        });
    }

    fn sample_table(&self, out: &mut Vec<u8>, first_picture: u32) {
        let samples = &self.stream.samples;
        let count = samples.len() as u32;
        full_box(out, b"stsd", 0, 0, |out| {
            numbers(out, &[1]);
            boxed(out, b"avc1", |out| self.sample_entry(out));
        });
        full_box(out, b"stts", 0, 0, |out| numbers(out, &[1, count, self.frame_ticks]));
        full_box(out, b"stss", 0, 0, |out| {
            let keys: Vec<u32> = samples.iter().zip(1..).filter_map(|(sample, number)| sample.is_key.then_some(number)).collect();
            numbers(out, &[keys.len() as u32]);
            numbers(out, &keys);
        });
        full_box(out, b"stsc", 0, 0, |out| numbers(out, &[1, 1, count, 1])); // one chunk of all samples
        full_box(out, b"stsz", 0, 0, |out| {
            numbers(out, &[0, count]);
            samples.iter().for_each(|sample| numbers(out, &[sample.bytes.len() as u32]));
        });
        full_box(out, b"stco", 0, 0, |out| numbers(out, &[1, first_picture]));
    }

    fn sample_entry(&self, out: &mut Vec<u8>) {
        const INCHES_72: u32 = 72 << 16;
        let Stream { width, height, sequence, picture, .. } = self.stream;
        numbers(out, &[0, 1]); // reserved; data reference 1
        numbers(out, &[0, 0, 0, 0]);
        numbers(out, &[(*width as u32) << 16 | *height as u32, INCHES_72, INCHES_72, 0]);
        out.extend_from_slice(&1_u16.to_be_bytes()); // one picture a sample
        out.extend_from_slice(&[0; 32]); // no compressor name
        out.extend_from_slice(&24_u16.to_be_bytes()); // depth
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        boxed(out, b"avcC", |out| {
            out.extend_from_slice(&[1, sequence[1], sequence[2], sequence[3]]); // profile, its constraints, level
            out.push(0xfc | 3); // units stand behind 4 bytes of length
            out.push(0xe0 | 1);
            with_length(out, sequence);
            out.push(1);
            with_length(out, picture);
            if is_high_profile(sequence[1]) {
                out.extend_from_slice(&[0xfc | 1, 0xf8, 0xf8, 0]); // 4:2:0, 8 bits of luma and of chroma, no extensions
            }
        });
        boxed(out, b"colr", |out| {
            out.extend_from_slice(b"nclx");
            out.extend_from_slice(&[0, 1, 0, 1, 0, 1, 0]); // BT.709 primaries, transfer and matrix; limited range
        });
        boxed(out, b"pasp", |out| numbers(out, &[1, 1]));
    }
}

/// The iTunes-style list that players read: which tool, and a comment.
fn user_data(out: &mut Vec<u8>, request: &str) {
    full_box(out, b"meta", 0, 0, |out| {
        full_box(out, b"hdlr", 0, 0, |out| {
            numbers(out, &[0]);
            out.extend_from_slice(b"mdirappl\0\0\0\0\0\0\0\0\0");
        });
        boxed(out, b"ilst", |out| {
            for (name, text) in [(b"\xa9too", TOOL), (b"\xa9cmt", request)] {
                boxed(out, name, |out| {
                    boxed(out, b"data", |out| {
                        numbers(out, &[1, 0]); // UTF-8 text, no locale
                        out.extend_from_slice(text.as_bytes());
                    });
                });
            }
        });
    });
}

/// 1 in 16.16 fixed point.
const ONE: u32 = 1 << 16;

/// The matrix that leaves a picture as it is.
const UNTURNED: [u32; 9] = [ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30];

/// "und", five bits a letter.
const LANGUAGE_UNDETERMINED: u32 = 0x55c4;

fn is_high_profile(profile: u8) -> bool {
    matches!(profile, 100 | 110 | 122 | 144)
}

/// A box: its length, its name, what `fill` writes.
fn boxed(out: &mut Vec<u8>, name: &[u8; 4], fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(name);
    fill(out);
    // Lengths are checked against 4 GiB before the file is put together.
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A box with a version and flags.
fn full_box(out: &mut Vec<u8>, name: &[u8; 4], version: u8, flags: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    boxed(out, name, |out| {
        numbers(out, &[u32::from(version) << 24 | flags]);
        fill(out);
    });
}

fn numbers(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_be_bytes()));
}

fn with_length(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}
