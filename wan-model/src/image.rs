//! The picture a video begins with: from untrusted bytes to what the VAE reads.
//!
//! JPEG, PNG or WebP, of any channel count and depth, becomes 8-bit RGB: alpha is dropped, grey is repeated, of 16 bits the upper 8 are
//! kept, the EXIF orientation is applied (the official scripts ignore it). Then a resize that does not keep the aspect ratio, as the official
//! one, and `x / 127.5 - 1`. From the same RGB pixels, resize and normalisation equal torch's to the last bit; JPEG decoders differ among
//! themselves by a level or two.

pub mod error;
mod resize;

use std::io::Cursor;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

pub use error::ImageError;

use crate::resolution::{FrameSize, LatentShape};

/// Longest side that is decoded.
pub const MOST_SIDE: u32 = 16_384;
/// Most pixels that are decoded.
pub const MOST_PIXELS: u64 = 1 << 26;
/// Largest file that is looked at.
pub const MOST_BYTES: usize = 256 << 20;
/// What a decoder may allocate.
const MOST_ALLOCATED: u64 = 768 << 20;

/// An 8-bit RGB picture, rows of pixels, three bytes a pixel. It has at least one pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl RgbImage {
    /// A picture from its pixels, `[height, width, 3]`; `None` unless there are that many, and at least one.
    pub fn new(width: usize, height: usize, bytes: Vec<u8>) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        (expected > 0 && bytes.len() == expected).then_some(Self { width, height, bytes })
    }

    /// Reads a JPEG, PNG or WebP file's bytes.
    ///
    /// # Errors
    /// [`ImageError`], before anything large is allocated where the header already says so.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if bytes.len() > MOST_BYTES {
            return Err(ImageError::FileTooLarge { found: bytes.len(), most: MOST_BYTES });
        }
        let (format, name) = match ::image::guess_format(bytes) {
            Ok(format @ ImageFormat::Jpeg) => (format, "JPEG"),
            Ok(format @ ImageFormat::Png) => (format, "PNG"),
            Ok(format @ ImageFormat::WebP) => (format, "WebP"),
            _ => return Err(ImageError::UnknownFormat),
        };
        let broken = |reason: String| ImageError::Broken { format: name, reason };
        if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
            return Err(broken("the file ends before the picture does".to_owned()));
        }
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MOST_ALLOCATED);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        // The size is checked below, where the error can say it.
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(|error| broken(error.to_string()))?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
        if width > MOST_SIDE || height > MOST_SIDE || u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(ImageError::TooLarge { width, height, most_pixels: MOST_PIXELS, most_side: MOST_SIDE });
        }
        decoder.set_limits(limits).map_err(|error| broken(error.to_string()))?;
        // Metadata that cannot be read does not make a picture unusable.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| broken(error.to_string()))?;
        picture.apply_orientation(orientation);
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        Self::new(width, height, rgb_bytes(picture)).ok_or_else(|| broken("pixels are missing".to_owned()))
    }

    /// Pixels across.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `[height, width, 3]`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The picture at another size: antialiased bilinear, in torch's 8-bit fixed-point arithmetic. The aspect ratio is not kept.
    pub fn resized(&self, width: usize, height: usize) -> Option<Self> {
        (width > 0 && height > 0).then(|| resize::bilinear(self, width, height))
    }

    /// The picture at a frame's size, in `[-1, 1]`: `[3, height, width]`.
    pub fn frame(&self, size: FrameSize) -> Vec<f32> {
        resize::bilinear(self, size.width(), size.height()).normalised()
    }

    /// Channels apart and in `[-1, 1]`: `(x / 255 - 0.5) / 0.5`, `[3, height, width]`. The quotient by 255 is a product, as torch's is.
    pub fn normalised(&self) -> Vec<f32> {
        let value = |byte: &u8| (f32::from(*byte) * (1.0 / 255.0) - 0.5) / 0.5;
        (0..3).flat_map(|channel| self.bytes[channel..].iter().step_by(3).map(value)).collect()
    }
}

/// What an image-to-video network reads beside the latent: `[20, frames, height, width]`, four mask channels (1 on the first latent
/// frame, which is given) and the 16 channels of the encoded clip. `None` unless `encoded` has that shape's values.
pub fn conditioning(encoded: &[f32], shape: LatentShape) -> Option<Vec<f32>> {
    const MASK_CHANNELS: usize = 4;
    if encoded.len() != shape.values() {
        return None;
    }
    let (given, all) = (shape.height * shape.width, shape.positions());
    let mut condition = Vec::with_capacity(MASK_CHANNELS * all + encoded.len());
    for _ in 0..MASK_CHANNELS {
        condition.resize(condition.len() + given, 1.0);
        condition.resize(condition.len() + all - given, 0.0);
    }
    condition.extend_from_slice(encoded);
    Some(condition)
}

/// Three bytes a pixel, whatever the picture had.
fn rgb_bytes(picture: DynamicImage) -> Vec<u8> {
    fn first_three<T: Copy>(values: &[T], channels: usize, byte: impl Fn(T) -> u8) -> Vec<u8> {
        values.chunks_exact(channels).flat_map(|pixel| [byte(pixel[0]), byte(pixel[1]), byte(pixel[2])]).collect()
    }
    fn grey<T: Copy>(values: &[T], channels: usize, byte: impl Fn(T) -> u8) -> Vec<u8> {
        values.chunks_exact(channels).flat_map(|pixel| [byte(pixel[0]); 3]).collect()
    }
    let upper = |value: u16| (value >> 8) as u8;
    match picture {
        DynamicImage::ImageRgb8(buffer) => buffer.into_raw(),
        DynamicImage::ImageRgba8(buffer) => first_three(buffer.as_raw(), 4, |value| value),
        DynamicImage::ImageLuma8(buffer) => grey(buffer.as_raw(), 1, |value| value),
        DynamicImage::ImageLumaA8(buffer) => grey(buffer.as_raw(), 2, |value| value),
        DynamicImage::ImageRgb16(buffer) => first_three(buffer.as_raw(), 3, upper),
        DynamicImage::ImageRgba16(buffer) => first_three(buffer.as_raw(), 4, upper),
        DynamicImage::ImageLuma16(buffer) => grey(buffer.as_raw(), 1, upper),
        DynamicImage::ImageLumaA16(buffer) => grey(buffer.as_raw(), 2, upper),
        other => other.into_rgb8().into_raw(),
    }
}

/// Whether a JPEG file has its end marker: the decoder fills what is cut off with grey instead of refusing it.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xD9;
    const SCAN: u8 = 0xDA;
    let mut at = 2;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0xFF)) {
        at += found + 1;
        let Some(marker) = bytes.get(at) else { return false };
        match *marker {
            END => return true,
            // Stuffing, restarts and fill bytes stand alone; a scan's header is followed by data that is searched for the next marker.
            0x00 | 0x01 | 0xD0..=0xD8 => at += 1,
            0xFF => {}
            SCAN => at += 1,
            _ => match bytes.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2),
                None => return false,
            },
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ::image::{ExtendedColorType, ImageEncoder};
    use proptest::prelude::*;

    use super::*;

    /// A gradient with an edge, so that a flip or a swapped channel shows.
    fn picture(width: usize, height: usize) -> RgbImage {
        let pixel = |at: usize| {
            let (x, y) = (at % width, at / width);
            [(x * 255 / width) as u8, (y * 255 / height) as u8, if x > width / 3 { 200 } else { 10 }]
        };
        RgbImage::new(width, height, (0..width * height).flat_map(pixel).collect()).unwrap()
    }

    fn encoded(format: ImageFormat, width: usize, height: usize, bytes: &[u8], colour: ExtendedColorType) -> Vec<u8> {
        let mut file = Vec::new();
        let (width, height) = (width as u32, height as u32);
        match format {
            ImageFormat::Png => ::image::codecs::png::PngEncoder::new(&mut file).write_image(bytes, width, height, colour),
            ImageFormat::WebP => ::image::codecs::webp::WebPEncoder::new_lossless(&mut file).write_image(bytes, width, height, colour),
            _ => ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 100).write_image(bytes, width, height, colour),
        }
        .unwrap();
        file
    }

    fn file(format: ImageFormat) -> Vec<u8> {
        let picture = picture(37, 23);
        encoded(format, 37, 23, picture.bytes(), ExtendedColorType::Rgb8)
    }

    const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Jpeg];

    #[test]
    fn every_format_gives_its_pixels_back() {
        for format in FORMATS {
            let got = RgbImage::decode(&file(format)).unwrap();
            let want = picture(37, 23);
            assert_eq!((got.width(), got.height()), (37, 23));
            let worst = got.bytes().iter().zip(want.bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            // Only JPEG loses anything, and at an edge of colour that is a lot.
            assert!(worst <= if format == ImageFormat::Jpeg { 110 } else { 0 }, "{format:?}: {worst}");
        }
    }

    #[test]
    fn alpha_is_dropped_grey_is_repeated_and_the_upper_of_16_bits_is_kept() {
        let png = |bytes: &[u8], colour| RgbImage::decode(&encoded(ImageFormat::Png, 2, 1, bytes, colour)).unwrap().bytes;
        assert_eq!(png(&[1, 2, 3, 0, 4, 5, 6, 255], ExtendedColorType::Rgba8), [1, 2, 3, 4, 5, 6]);
        assert_eq!(png(&[7, 9], ExtendedColorType::L8), [7, 7, 7, 9, 9, 9]);
        assert_eq!(png(&[7, 0, 9, 128], ExtendedColorType::La8), [7, 7, 7, 9, 9, 9]);
        let wide = |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|value| value.to_ne_bytes()).collect() };
        assert_eq!(png(&wide(&[0x12FF, 0xFF00]), ExtendedColorType::L16), [0x12, 0x12, 0x12, 0xFF, 0xFF, 0xFF]);
        let rgba = [0x01FF, 0x0200, 0x0380, 0, 0x0400, 0x0500, 0x0600, 0xFFFF];
        assert_eq!(png(&wide(&rgba), ExtendedColorType::Rgba16), [1, 2, 3, 4, 5, 6]);
        assert_eq!(png(&wide(&rgba[..6]), ExtendedColorType::Rgb16), [1, 2, 3, 0, 4, 5]);
    }

    /// The file with an EXIF orientation in a segment of its own behind the start marker.
    fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0".to_vec();
        exif.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]);
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
    }

    #[test]
    fn a_turned_camera_is_turned_back() {
        let plain = file(ImageFormat::Jpeg);
        let upright = RgbImage::decode(&plain).unwrap();
        let at = |picture: &RgbImage, x: usize, y: usize| picture.bytes[(y * picture.width + x) * 3..][..3].to_vec();
        assert_eq!(RgbImage::decode(&with_orientation(&plain, 1)).unwrap(), upright);
        let half = RgbImage::decode(&with_orientation(&plain, 3)).unwrap();
        assert_eq!(at(&half, 0, 0), at(&upright, 36, 22));
        let quarter = RgbImage::decode(&with_orientation(&plain, 6)).unwrap();
        assert_eq!((quarter.width(), quarter.height()), (23, 37));
        assert_eq!(at(&quarter, 22, 0), at(&upright, 0, 0));
        assert_eq!(RgbImage::decode(&with_orientation(&plain, 99)).unwrap(), upright);
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        for format in FORMATS {
            let whole = file(format);
            assert!(matches!(RgbImage::decode(&[]), Err(ImageError::Empty)));
            for length in 1..whole.len() - 16 {
                assert!(RgbImage::decode(&whole[..length]).is_err(), "{format:?} cut to {length} of {} bytes", whole.len());
            }
        }
    }

    #[test]
    fn other_files_are_not_images() {
        for bytes in [&b"GIF89a\x01\0\x01\0"[..], b"hello", b"%PDF-1.4", b"\0\0\0\0"] {
            assert!(matches!(RgbImage::decode(bytes), Err(ImageError::UnknownFormat)));
        }
    }

    #[test]
    fn absurd_sizes_are_refused_from_the_header_within_a_second() {
        let forged = |width: u32, height: u32| {
            let mut png = file(ImageFormat::Png);
            png[16..20].copy_from_slice(&width.to_be_bytes());
            png[20..24].copy_from_slice(&height.to_be_bytes());
            let sum = crc32(&png[12..29]).to_be_bytes();
            png[29..33].copy_from_slice(&sum);
            png
        };
        let begun = Instant::now();
        assert!(matches!(RgbImage::decode(&forged(100_000, 2)), Err(ImageError::TooLarge { width: 100_000, .. })));
        assert!(matches!(RgbImage::decode(&forged(16_384, 16_384)), Err(ImageError::TooLarge { .. })));
        for (width, height) in [(0, 4), (4, 0), (u32::MAX, u32::MAX), (8192, 8192)] {
            assert!(RgbImage::decode(&forged(width, height)).is_err());
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 };
        !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
    }

    #[test]
    fn a_resize_keeps_constants_and_averages_and_a_same_size_is_the_same() {
        let flat = RgbImage::new(31, 17, [9, 130, 255].repeat(31 * 17)).unwrap();
        for (width, height) in [(1, 1), (5, 40), (64, 3), (31, 17)] {
            let small = flat.resized(width, height).unwrap();
            assert_eq!(small.bytes(), [9, 130, 255].repeat(width * height));
        }
        let picture = picture(40, 30);
        assert_eq!(picture.resized(40, 30).unwrap(), picture);
        let mean = |picture: &RgbImage| picture.bytes().iter().map(|b| f64::from(*b)).sum::<f64>() / picture.bytes().len() as f64;
        assert!((mean(&picture.resized(10, 6).unwrap()) - mean(&picture)).abs() < 1.0);
        assert!(picture.resized(0, 5).is_none());
    }

    #[test]
    fn a_frame_spans_minus_one_to_one_with_channels_apart() {
        let two = RgbImage::new(2, 1, vec![0, 255, 51, 255, 0, 204]).unwrap();
        for (got, want) in two.normalised().iter().zip([-1.0, 1.0, 1.0, -1.0, -0.6, 0.6f32]) {
            assert!((got - want).abs() < 1e-6, "got {got}, want {want}");
        }
        assert_eq!(two.frame(FrameSize::new(32, 16).unwrap()).len(), 3 * 32 * 16);
        assert!(RgbImage::new(0, 1, vec![]).is_none() && RgbImage::new(2, 1, vec![0; 5]).is_none());
    }

    #[test]
    fn conditioning_marks_the_first_latent_frame_as_given() {
        let shape = LatentShape { frames: 3, height: 2, width: 2 };
        let encoded: Vec<f32> = (0..shape.values()).map(|value| value as f32).collect();
        let condition = conditioning(&encoded, shape).unwrap();
        assert_eq!(condition.len(), 20 * 12);
        for channel in condition[..48].chunks(12) {
            assert_eq!(channel, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        }
        assert_eq!(condition[48..], encoded);
        assert!(conditioning(&encoded[1..], shape).is_none());
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(which in 0usize..3, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = file(FORMATS[which]);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(picture) = RgbImage::decode(&bytes) {
                prop_assert_eq!(picture.bytes().len(), picture.width() * picture.height() * 3);
            }
        }
    }
}
