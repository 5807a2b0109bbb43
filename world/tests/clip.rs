//! Clips: the same bytes everywhere, the same scene at every size.

use turbowan_world::{Clip, Error, Size, Split, World};

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn frames_and_captions_are_the_recorded_ones() {
    let world = World::new(2024, Split::Seen);
    let clips = |side, frames| -> Vec<u64> {
        let size = Size::new(side, frames).unwrap();
        (0..4).map(|index| hash(&world.clip(index).frames(size))).collect()
    };
    let captions: String = (0..40).map(|index| world.caption(index, index % 3) + "\n").collect();
    let got = (clips(64, 17), clips(96, 5), hash(captions.as_bytes()));
    let want = (
        vec![13220388133808821493, 7102507059002265025, 2595652086876963375, 2496867097151365672],
        vec![14711078043122480827, 5432574344997432257, 6258125080798810019, 17036749719241027800],
        11303149876654941593,
    );
    assert_eq!(got, want, "the world has changed: weights trained on it were trained on another");
}

#[test]
fn time_is_a_share_of_the_clip() {
    let (short, long, whole) = (Size::new(64, 17).unwrap(), Size::new(64, 33).unwrap(), Size::new(64, 1).unwrap());
    for seed in 0..40 {
        let clip = Clip::draw(Split::All, seed);
        let (short, long, whole) = (clip.frames(short), clip.frames(long), clip.frames(whole));
        let len = whole.len();
        assert!((0..17).all(|frame| short[frame * len..][..len] == long[2 * frame * len..][..len]), "{}", clip.attributes);
        assert!(short[..len] == whole);
    }
}

#[test]
fn a_larger_clip_shows_the_same_scene() {
    let (small, large) = (Size::new(64, 5).unwrap(), Size::new(128, 5).unwrap());
    for seed in 0..40 {
        let clip = Clip::draw(Split::All, seed);
        let (small, large) = (clip.frames(small), clip.frames(large));
        let mut sum = 0.0;
        for (index, value) in small.iter().enumerate() {
            let (pixel, channel) = (index / 3, index % 3);
            let (frame, row, column) = (pixel / 4096, pixel / 64 % 64, pixel % 64);
            let at =
                |down: usize, right: usize| f64::from(large[((frame * 128 + 2 * row + down) * 128 + 2 * column + right) * 3 + channel]);
            sum += (f64::from(*value) - (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0).abs();
        }
        // Only edges differ, as each is one pixel soft at its own size: of levels up to 255, on a few pixels in a hundred.
        let mean = sum / small.len() as f64;
        assert!(mean < 0.6, "{}: {mean}", clip.attributes);
    }
}

#[test]
fn a_video_is_its_frames_channels_apart() {
    let size = Size::new(40, 5).unwrap();
    let clip = Clip::draw(Split::HeldOut, 5);
    let (frames, video) = (clip.frames(size), clip.video(size));
    let (mut frame, mut signed) = (vec![0; size.frame_len()], vec![0.0; size.frame_len()]);
    for index in 0..5 {
        clip.frame(size, index, &mut frame).unwrap();
        clip.frame_signed(size, index, &mut signed).unwrap();
        assert!(frame == frames[index * size.frame_len()..][..size.frame_len()]);
        for pixel in 0..1600 {
            for channel in 0..3 {
                let want = f32::from(frame[pixel * 3 + channel]) / 127.5 - 1.0;
                assert_eq!(signed[channel * 1600 + pixel], want);
                assert_eq!(video[(channel * 5 + index) * 1600 + pixel], want);
            }
        }
    }
}

#[test]
fn sequences_differ_and_clips_within_them_do_too() {
    let size = Size::new(32, 1).unwrap();
    let (one, two) = (World::new(1, Split::Seen), World::new(2, Split::Seen));
    let shared = (0..500).filter(|&index| one.clip(index).seed == two.clip(index + 1).seed).count();
    assert_eq!((shared, one.clip(7)), (0, World::new(1, Split::Seen).clip(7)));
    let pictures: std::collections::BTreeSet<Vec<u8>> = (0..300).map(|index| one.clip(index).frames(size)).collect();
    assert_eq!(pictures.len(), 300);
}

#[test]
fn sizes_that_no_clip_has_are_refused() {
    assert_eq!(Size::new(24, 17), Err(Error::Side { side: 24, least: 32 }));
    assert_eq!(Size::new(68, 17), Err(Error::Side { side: 68, least: 32 }));
    assert_eq!(Size::new(64, 16), Err(Error::Length { frames: 16 }));
    assert_eq!(Size::new(64, 0), Err(Error::Length { frames: 0 }));
    let (size, clip) = (Size::new(32, 5).unwrap(), Clip::draw(Split::Seen, 0));
    assert_eq!(clip.frame(size, 5, &mut [0; 3072]), Err(Error::FrameIndex { frame: 5, frames: 5 }));
    assert!(clip.frame_signed(size, 0, &mut [0.0; 3071]).is_err());
}
