//! What is written, read back: by our own reader, by other people's parsers, and as pixels.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use openh264::decoder::Decoder;
use openh264::formats::YUVSource;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A red disc jumps over moving coloured waves: smooth parts, sharp edges, motion.
fn pattern(width: usize, height: usize, count: usize, rate: FrameRate) -> Frames {
    let mut rgb = Vec::with_capacity(count * width * height * 3);
    for t in 0..count {
        let time = t as f64 / 16.0;
        let (centre_x, centre_y) =
            (width as f64 * (0.5 + 0.3 * (2.0 * time).cos()), height as f64 * (0.5 + 0.3 * (3.0 * time).sin().abs()));
        let radius = width.min(height) as f64 / 7.0;
        for y in 0..height {
            for x in 0..width {
                let (x, y) = (x as f64, y as f64);
                let disc = (radius + 0.5 - (x - centre_x).hypot(y - centre_y)).clamp(0.0, 1.0);
                let red = 128.0 + 100.0 * (x / 23.0 + 2.0 * time).sin() * (y / 31.0 - time).cos();
                let green = 128.0 + 90.0 * ((x + y) / 37.0 - 3.0 * time).sin();
                let blue = 110.0 + 80.0 * (x / 17.0).cos() * (y / 13.0 + time).sin();
                rgb.extend([(red, 220.0), (green, 40.0), (blue, 30.0)].map(|(wave, inside)| (wave + disc * (inside - wave)) as u8));
            }
        }
    }
    Frames::new(width, height, rate, rgb).unwrap()
}

fn request() -> Value {
    json!({"prompt": "a <red> ball & \"quotes\", ünï🟥\n]]> end", "seed": u64::MAX, "steps": [1, 2.5, null], "nested": {"b": true, "a": ""}})
}

fn text() -> String {
    crate::sidecar::one_line(&request())
}

fn encoded(format: Format, frames: &Frames) -> Vec<u8> {
    let mut done = Vec::new();
    let mut heard = |count| done.push(count);
    let bytes = match format {
        Format::Mp4 => mp4::encode(frames, &text(), &mut heard).unwrap(),
        Format::WebP => webp::encode(frames, &text(), &mut heard).unwrap(),
        Format::Gif => gif::encode(frames, &text(), &mut heard).unwrap(),
        Format::Png => png::encode(frames, frames.iter().next().unwrap(), &text()).unwrap(),
    };
    assert!(format == Format::Png || done.into_iter().eq(1..=frames.count()));
    bytes
}

const FORMATS: [Format; 4] = [Format::Mp4, Format::WebP, Format::Gif, Format::Png];

/// Peak signal to noise in dB, peak 255.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0_f64.powi(2) * a.len() as f64 / squares).log10()
}

/// Decodes our MP4 with OpenH264's decoder: units by the sizes in `stsz`, pictures to RGB by the inverse of the BT.709 matrix.
fn decoded(file: &[u8]) -> Vec<Vec<u8>> {
    let parsed = re_mp4::Mp4::read_bytes(file).unwrap();
    let track = parsed.tracks().values().next().unwrap();
    let configuration = &parsed.moov.traks[0].mdia.minf.stbl.stsd.contents;
    let re_mp4::StsdBoxContent::Avc1(entry) = configuration else { panic!("no avc1") };
    let mut decoder = Decoder::new().unwrap();
    let mut stream = Vec::new();
    for unit in entry.avcc.sequence_parameter_sets.iter().chain(&entry.avcc.picture_parameter_sets) {
        stream.extend_from_slice(&[0, 0, 0, 1]);
        stream.extend_from_slice(&unit.bytes);
    }
    let mut pictures = Vec::new();
    for sample in &track.samples {
        let mut units = &file[sample.offset as usize..][..sample.size as usize];
        while let Some((length, rest)) = units.split_first_chunk::<4>() {
            let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            stream.extend_from_slice(&[0, 0, 0, 1]);
            stream.extend_from_slice(unit);
            units = rest;
        }
        let picture = decoder.decode(&stream).unwrap().expect("each sample is one picture");
        pictures.push(to_rgb(&picture));
        stream.clear();
    }
    pictures
}

/// BT.709, limited range; chroma is interpolated from the even columns and the places between two rows where it was taken.
fn to_rgb(picture: &impl YUVSource) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let (luma_stride, chroma_stride, _) = picture.strides();
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let nearer = y / 2;
        let farther = if y % 2 == 0 { nearer.saturating_sub(1) } else { (nearer + 1).min(height / 2 - 1) };
        for x in 0..width {
            let columns = [x / 2, (x / 2 + x % 2).min(width / 2 - 1)];
            let chroma = |plane: &[u8]| {
                let row = |row: usize| columns.map(|column| f64::from(plane[row * chroma_stride + column])).iter().sum::<f64>() / 2.0;
                (0.75 * row(nearer) + 0.25 * row(farther) - 128.0) / 224.0
            };
            let luma = (f64::from(picture.y()[y * luma_stride + x]) - 16.0) / 219.0;
            let (blue, red) = (luma + 1.8556 * chroma(picture.u()), luma + 1.5748 * chroma(picture.v()));
            let green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152;
            rgb.extend([red, green, blue].map(|value| (value * 255.0).round().clamp(0.0, 255.0) as u8));
        }
    }
    rgb
}

#[test]
fn every_format_gives_its_request_back() {
    let folder = tempfile::tempdir().unwrap();
    let frames = pattern(48, 32, 3, FrameRate::WAN);
    for name in ["a.mp4", "a.WEBP", "a.gif", "a.png"] {
        let output = Output::new(&folder.path().join("new").join(name)).unwrap();
        output.check().unwrap();
        let files = output.write(&frames, &request(), &mut |_| {}).unwrap();
        assert_eq!(files.len(), if name == "a.png" { 3 } else { 1 });
        for file in &files {
            assert_eq!(read_metadata(file).unwrap(), request(), "{name}");
        }
        assert_eq!(read_metadata(output.path()).unwrap(), request(), "{name} by the name that was asked for");
    }
    let sidecar = crate::sidecar::write(&folder.path().join("new/a.mp4"), &request()).unwrap();
    assert_eq!(read_metadata(&sidecar).unwrap(), request());
    let mut names: Vec<String> =
        std::fs::read_dir(folder.path().join("new")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a-0001.png", "a-0002.png", "a-0003.png", "a.WEBP", "a.gif", "a.json", "a.mp4"]);
}

#[test]
fn the_same_frames_give_the_same_bytes_in_any_thread() {
    let frames = pattern(80, 48, 9, FrameRate::WAN);
    for format in FORMATS {
        let first = encoded(format, &frames);
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..3).map(|_| scope.spawn(|| encoded(format, &frames))).collect();
            others.into_iter().for_each(|other| assert!(other.join().unwrap() == first, "{format:?}"));
        });
    }
}

#[test]
fn an_mp4_keeps_38_db_in_red_green_and_blue() {
    // Against the frames that went in, so that the halved chroma counts too.
    const BOUND: f64 = 38.0;
    let frames = pattern(128, 128, 33, FrameRate::WAN);
    let pictures = decoded(&encoded(Format::Mp4, &frames));
    assert_eq!(pictures.len(), 33);
    let found = psnr(&pictures.concat(), frames.rgb());
    assert!(found >= BOUND, "{found:.2} dB");
}

#[test]
fn other_parsers_read_our_mp4() {
    let rates = [("16", 16.0), ("24000/1001", 24000.0 / 1001.0), ("0.5", 0.5), ("120", 120.0)];
    for ((width, height, count), (rate, hertz)) in [(48, 32, 70), (832, 480, 2), (16, 16, 1), (17, 33, 5)].into_iter().zip(rates) {
        let file = encoded(Format::Mp4, &pattern(width, height, count, rate.parse().unwrap()));
        let parsed = re_mp4::Mp4::read_bytes(&file).unwrap();
        let track = parsed.tracks().values().next().unwrap();
        assert_eq!((usize::from(track.width), usize::from(track.height)), (mp4::yuv::coded_side(width), mp4::yuv::coded_side(height)));
        assert_eq!(track.samples.len(), count);
        let seconds = track.duration as f64 / track.timescale as f64;
        assert!((seconds - count as f64 / hertz).abs() < 1e-9, "{seconds}");
        let period = (2.0 * hertz).floor().max(1.0) as usize;
        assert!(track.samples.iter().enumerate().all(|(index, sample)| sample.is_sync == (index % period == 0)));

        let summary = mp4::reader::summary(&file).unwrap();
        assert_eq!((summary.width, summary.height, summary.frames), (track.width.into(), track.height.into(), count as u32));
        assert_eq!(summary.key_frames as usize, count.div_ceil(period));
        assert!((summary.frames_per_second - hertz).abs() < 1e-9);
        assert_eq!(Some(summary.codec), track.codec_string(&parsed).map(|text| text.to_lowercase()));
    }
}

#[test]
fn a_lossless_webp_has_the_very_pixels_and_times() {
    let frames = pattern(33, 18, 5, FrameRate::WAN);
    let file = encoded(Format::WebP, &frames);
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(&file)).unwrap();
    assert_eq!((decoder.dimensions(), decoder.num_frames(), decoder.has_alpha()), ((33, 18), 5, false));
    let mut picture = vec![0; decoder.output_buffer_size().unwrap()];
    let mut times = Vec::new();
    for frame in frames.iter() {
        times.push(decoder.read_frame(&mut picture).unwrap());
        assert_eq!(picture, frame);
    }
    assert_eq!(times, [63, 62, 63, 62, 63]);
}

#[test]
fn a_gif_is_near_in_256_colours_and_keeps_time() {
    const BOUND: f64 = 28.0;
    let frames = pattern(96, 64, 5, FrameRate::WAN);
    let mut options = ::gif::DecodeOptions::new();
    options.set_color_output(::gif::ColorOutput::RGBA);
    let file = encoded(Format::Gif, &frames);
    let mut decoder = options.read_info(Cursor::new(&file)).unwrap();
    assert_eq!((decoder.width(), decoder.height(), decoder.repeat()), (96, 64, ::gif::Repeat::Infinite));
    let (mut pixels, mut delays) = (Vec::new(), Vec::new());
    while let Some(frame) = decoder.read_next_frame().unwrap() {
        delays.push(frame.delay);
        pixels.extend(frame.buffer.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]));
    }
    assert_eq!(delays, [6, 7, 6, 6, 6]);
    let found = psnr(&pixels, frames.rgb());
    assert!(found >= BOUND, "{found:.2} dB");
}

#[test]
fn a_png_has_the_very_pixels() {
    let frames = pattern(17, 9, 2, FrameRate::WAN);
    let file = encoded(Format::Png, &frames);
    let mut reader = ::png::Decoder::new(Cursor::new(&file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, frames.iter().next().unwrap());
}

#[test]
fn sizes_and_names_that_cannot_be_written_are_told() {
    assert!(matches!(Format::Mp4.check_size(3842, 2160), Err(Error::TooLarge { .. })));
    assert!(matches!(Format::Mp4.check_size(2162, 2162), Err(Error::TooLarge { .. })));
    assert!(Format::Mp4.check_size(2160, 3840).is_ok() && Format::Mp4.check_size(1, 1).is_ok());
    assert!(matches!(Format::WebP.check_size(16385, 1), Err(Error::TooLarge { .. })));
    assert!(matches!(Format::Gif.check_size(1, 65536), Err(Error::TooLarge { .. })));
    for name in ["a.avi", "a", ".mp4", "a.mp4.txt", ""] {
        let error = Output::new(Path::new(name)).unwrap_err().to_string();
        assert!([".mp4", ".webp", ".gif", ".png"].iter().all(|known| error.contains(known)), "{error}");
    }
}

#[test]
fn samples_get_names_of_their_own() {
    let output = Output::new(Path::new("out/ball.mp4")).unwrap();
    assert_eq!(output.sample(0, 1), output);
    assert_eq!(output.sample(1, 2).path(), Path::new("out/ball-s2.mp4"));
}

#[test]
fn what_could_not_be_named_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a-0002.png")).unwrap();
    let output = Output::new(&folder.path().join("a.png")).unwrap();
    assert!(matches!(output.write(&pattern(4, 4, 3, FrameRate::WAN), &request(), &mut |_| {}), Err(Error::Write(_))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn strangers_and_wrecks_are_told_apart() {
    let read = |bytes: &[u8]| read_from(Cursor::new(bytes), Path::new("x"));
    assert!(matches!(read(b""), Err(ReadError::Foreign { .. })));
    assert!(matches!(read(b"\x7fELF and so on"), Err(ReadError::Foreign { .. })));
    assert!(matches!(read(b"{\"a\": tru"), Err(ReadError::NotJson { .. })));
    assert!(matches!(read(b"{}"), Ok(Value::Object(_))));
    assert!(matches!(read(b"GIF89a"), Err(ReadError::Broken { format: "GIF", .. })));
    assert!(matches!(read(b"\0\0\0\x08ftyp"), Err(ReadError::Absent { format: "MP4", .. })));
    assert!(matches!(read(b"\0\0\0\x08ftyp\0\0\0\x03moov"), Err(ReadError::Broken { format: "MP4", at: 8, .. })));
    assert!(matches!(read(b"RIFF\xff\xff\xff\xffWEBPXMP \xff\xff\xff\xff"), Err(ReadError::Broken { format: "WebP", .. })));
    assert!(matches!(read(b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXt"), Err(ReadError::Broken { format: "PNG", .. })));
    assert!(matches!(read_metadata(Path::new("/no/such/file")), Err(ReadError::Io { .. })));
    assert!(matches!(read_metadata(&std::env::temp_dir()), Err(ReadError::Io { .. } | ReadError::Foreign { .. })));
}

#[test]
fn an_mp4_without_our_box_still_has_the_comment() {
    let mut file = encoded(Format::Mp4, &pattern(16, 16, 2, FrameRate::WAN));
    let place = file.windows(4).position(|name| name == b"uuid").unwrap();
    file[place..place + 4].copy_from_slice(b"free");
    assert_eq!(read_from(Cursor::new(&file), Path::new("x")).unwrap(), request());
    let place = file.windows(4).position(|name| name == b"\xa9cmt").unwrap();
    file[place..place + 4].copy_from_slice(b"free");
    assert!(matches!(read_from(Cursor::new(&file), Path::new("x")), Err(ReadError::Absent { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(format in 0_usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        const HEADS: [&[u8]; 5] = [b"", b"\0\0\0\x08ftyp", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"\x89PNG\r\n\x1a\n"];
        let file = [HEADS[format], &bytes].concat();
        let _ = read_from(Cursor::new(&file), Path::new("x"));
        let _ = mp4::reader::summary(&file);
    }
}

#[test]
fn cut_and_scratched_files_never_panic() {
    let frames = pattern(16, 16, 2, FrameRate::WAN);
    for format in FORMATS {
        let file = encoded(format, &frames);
        for length in 0..file.len() {
            let cut = &file[..length];
            if let Ok(found) = read_from(Cursor::new(cut), Path::new("x")) {
                assert_eq!(found, request(), "{format:?} cut to {length}");
            }
            let _ = mp4::reader::summary(cut);
        }
        for place in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut scratched = file.clone();
                scratched[place] = value;
                let _ = read_from(Cursor::new(&scratched), Path::new("x"));
                let _ = mp4::reader::summary(&scratched);
            }
        }
    }
}

/// Runs a tool; `None`, and a line that says so, where it is not installed.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(name).args(arguments).output() {
        Ok(done) => {
            assert!(done.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
            assert!(done.stderr.is_empty(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
            Some(String::from_utf8_lossy(&done.stdout).into_owned())
        }
        Err(_) => {
            eprintln!("skipped: no {name}");
            None
        }
    }
}

fn written(folder: &Path, name: &str, frames: &Frames) -> PathBuf {
    let output = Output::new(&folder.join(name)).unwrap();
    output.write(frames, &request(), &mut |_| {}).unwrap().remove(0)
}

#[test]
fn ffprobe_agrees_with_what_we_wrote() {
    let folder = tempfile::tempdir().unwrap();
    for (width, height, count, rate) in [(128, 96, 33, "16"), (18, 16, 40, "24000/1001"), (15, 7, 3, "30")] {
        let frames = pattern(width, height, count, rate.parse().unwrap());
        let path = written(folder.path(), "a.mp4", &frames);
        let path = path.to_str().unwrap();
        let Some(found) = tool("ffprobe", &["-v", "warning", "-count_frames", "-show_streams", "-show_format", "-of", "json", path]) else {
            return;
        };
        let found: Value = serde_json::from_str(&found).unwrap();
        let stream = &found["streams"][0];
        let coded = |side| json!(mp4::yuv::coded_side(side));
        assert_eq!((&stream["width"], &stream["height"]), (&coded(width), &coded(height)));
        assert_eq!((&stream["codec_name"], &stream["pix_fmt"], &stream["has_b_frames"]), (&json!("h264"), &json!("yuv420p"), &json!(0)));
        assert_eq!(stream["nb_read_frames"], json!(count.to_string()));
        assert_eq!((&stream["color_space"], &stream["color_range"]), (&json!("bt709"), &json!("tv")));
        let shown = rate.parse::<FrameRate>().unwrap();
        assert_eq!(stream["avg_frame_rate"], json!(format!("{}/{}", shown.numerator(), shown.denominator())));
        let seconds: f64 = found["format"]["duration"].as_str().unwrap().parse().unwrap();
        assert!((seconds - count as f64 / shown.as_f64()).abs() < 1e-5);
        assert_eq!(serde_json::from_str::<Value>(found["format"]["tags"]["comment"].as_str().unwrap()).unwrap(), request());
        assert!(found["format"]["tags"]["encoder"].as_str().unwrap().starts_with("Turbowan "));
    }
}

#[test]
fn ffprobe_reads_webp_frames_and_gif_times() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "a.gif", &pattern(64, 48, 16, FrameRate::WAN));
    let arguments = ["-v", "warning", "-count_frames", "-show_streams", "-of", "json", path.to_str().unwrap()];
    let Some(found) = tool("ffprobe", &arguments) else { return };
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["streams"][0]["nb_read_frames"], &found["streams"][0]["duration"]), (&json!("16"), &json!("1.000000")));
}

#[test]
fn a_remux_keeps_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "a.mp4", &pattern(64, 48, 16, FrameRate::WAN));
    let copy = folder.path().join("copy.mp4");
    if tool("ffmpeg", &["-v", "warning", "-i", path.to_str().unwrap(), "-c", "copy", copy.to_str().unwrap()]).is_some() {
        assert_eq!(read_metadata(&copy).unwrap(), request());
    }
}
