//! H.264 pictures from RGB frames, by OpenH264.
//!
//! Why this encoder: it is BSD-2, builds from its own source with a C++ compiler alone (about half a minute on two cores), and codes P pictures
//! with real motion search. x264 is GPL; less-avc codes intra pictures only, in large files; rav1e is AV1 and slow on a laptop.
//! Cisco's patent licence covers Cisco's own binary, not a build from source: who sells a product with this encoder must look into that.
//!
//! The stream is the same for the same frames, whatever the machine: one thread, one slice a picture, one quantiser for all pictures
//! and no clock. Its build takes up assembly where it finds nasm: about twice as fast, and the same bytes.

use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate as Hertz, FrameType, IntraFramePeriod, Profile, QpRange, RateControlMode,
    UsageType, VuiConfig,
};
use openh264::formats::YUVSource;
use openh264::{OpenH264API, Timestamp};

use super::yuv::{Planes, coded_side};
use crate::video::{Error, Frames};

/// The quantiser of every picture, of 51. A disc over waves at 832x480 and 16 fps takes 3.7 Mbit/s and keeps 42 dB in RGB; halving the chroma
/// alone, with nothing coded, leaves 46 dB.
const QUANTISER: u8 = 16;

/// At least one picture in this many seconds stands alone, so that a player can seek to it.
const KEYFRAME_SECONDS: f64 = 2.0;

/// The encoder's largest picture, lying or standing.
const LONGEST_SIDE: usize = 3840;
const SHORTER_SIDE: usize = 2160;

/// A coded video, ready for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Width in the stream, after cropping; the frames' own, made even and at least 16.
    pub width: usize,
    /// Height in the stream, after cropping; the frames' own, made even and at least 16.
    pub height: usize,
    /// Sequence parameter set, without start code.
    pub sequence: Vec<u8>,
    /// Picture parameter set, without start code.
    pub picture: Vec<u8>,
    /// One a frame, in order of display.
    pub samples: Vec<Sample>,
}

/// One coded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// NAL units, each behind its length (4 bytes, big endian).
    pub bytes: Vec<u8>,
    /// A decoder can start here.
    pub is_key: bool,
}

/// Whether the encoder takes pictures of this size.
///
/// # Errors
/// [`Error::TooLarge`] when it does not.
pub fn check_size(width: usize, height: usize) -> Result<(), Error> {
    let (long, short) = (coded_side(width.max(height)), coded_side(width.min(height)));
    if long > LONGEST_SIDE || short > SHORTER_SIDE {
        return Err(Error::TooLarge {
            format: "H.264",
            width,
            height,
            limit: "3840x2160, lying or standing, is the encoder's largest picture",
        });
    }
    Ok(())
}

/// Codes `frames`; `on_frame` hears how many are done.
///
/// # Errors
/// [`Error::TooLarge`] for pictures beyond 3840x2160, [`Error::Encoder`] when the encoder fails.
pub fn encode(frames: &Frames, on_frame: &mut dyn FnMut(usize)) -> Result<Stream, Error> {
    check_size(frames.width(), frames.height())?;
    let failed = |frame: usize, message: String| Error::Encoder { format: "H.264", frame, message };
    let mut encoder =
        Encoder::with_api_config(OpenH264API::from_source(), settings(frames)).map_err(|error| failed(0, error.to_string()))?;
    let mut planes = Planes::new(frames.width(), frames.height());
    let (mut sequence, mut picture) = (Vec::new(), Vec::new());
    let mut samples = Vec::with_capacity(frames.count());
    for (index, rgb) in frames.iter().enumerate() {
        planes.fill(rgb, frames.width(), frames.height());
        let at = Timestamp::from_millis(frames.rate().start_ticks(index, 1000));
        let coded = encoder.encode_at(&planes, at).map_err(|error| failed(index, error.to_string()))?;
        let is_key = coded.frame_type() == FrameType::IDR;
        let mut bytes = Vec::new();
        for layer in (0..coded.num_layers()).filter_map(|layer| coded.layer(layer)) {
            for unit in (0..layer.nal_count()).filter_map(|unit| layer.nal_unit(unit)) {
                let unit = without_start_code(unit);
                match unit.first().map(|header| header & 31) {
                    Some(SEQUENCE_SET) => keep(&mut sequence, unit).map_err(|message| failed(index, message))?,
                    Some(PICTURE_SET) => keep(&mut picture, unit).map_err(|message| failed(index, message))?,
                    Some(_) => {
                        bytes.extend_from_slice(&(unit.len() as u32).to_be_bytes());
                        bytes.extend_from_slice(unit);
                    }
                    None => return Err(failed(index, "an empty unit".to_owned())),
                }
            }
        }
        if bytes.is_empty() {
            return Err(failed(index, "no picture came out".to_owned()));
        }
        samples.push(Sample { bytes, is_key });
        on_frame(index + 1);
    }
    if sequence.len() < 4 || picture.is_empty() || !samples.first().is_some_and(|sample| sample.is_key) {
        return Err(failed(0, "the stream does not begin with parameter sets and a key frame".to_owned()));
    }
    Ok(Stream { width: planes.width, height: planes.height, sequence, picture, samples })
}

/// NAL unit types (H.264 table 7-1).
const SEQUENCE_SET: u8 = 7;
const PICTURE_SET: u8 = 8;

fn settings(frames: &Frames) -> EncoderConfig {
    let rate = frames.rate().as_f64();
    // With the quantiser fixed, bit rate and frame rate steer nothing; from them the encoder chooses the level that it states.
    let bits = (coded_side(frames.width()) * coded_side(frames.height())) as f64 * rate * 0.5;
    EncoderConfig::new()
        .profile(Profile::High)
        .usage_type(UsageType::CameraVideoRealTime)
        .complexity(Complexity::High)
        // Of the encoder's modes this one lets both ends of the quantiser's range be the same, and says nothing on stderr.
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(QUANTISER, QUANTISER))
        .bitrate(BitRate::from_bps(bits.clamp(64e3, 100e6) as u32))
        .max_frame_rate(Hertz::from_hz(rate.clamp(1.0, 60.0) as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames((rate * KEYFRAME_SECONDS).floor().max(1.0) as u32))
        .skip_frames(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .scene_change_detect(false)
        .num_threads(1)
        .vui(VuiConfig::bt709())
}

/// Keeps the first parameter set; a container's one header cannot describe a second that differs.
fn keep(kept: &mut Vec<u8>, unit: &[u8]) -> Result<(), String> {
    if kept.is_empty() {
        kept.extend_from_slice(unit);
    }
    if kept == unit { Ok(()) } else { Err("the parameter sets changed within the video".to_owned()) }
}

/// A unit of an Annex B stream begins with 00 00 01 or 00 00 00 01.
fn without_start_code(unit: &[u8]) -> &[u8] {
    unit.strip_prefix(&[0, 0, 0, 1]).or_else(|| unit.strip_prefix(&[0, 0, 1])).unwrap_or(unit)
}

impl YUVSource for Planes {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn strides(&self) -> (usize, usize, usize) {
        (self.width, self.width / 2, self.width / 2)
    }

    fn y(&self) -> &[u8] {
        &self.luma
    }

    fn u(&self) -> &[u8] {
        &self.blue
    }

    fn v(&self) -> &[u8] {
        &self.red
    }
}
