//! The contact sheet: a row of pictures for each row of the table, and for each of the first captions three frames.

use crate::error::Error;
use crate::video::{FrameRate, Frames};

/// Captions that are shown.
pub const CAPTIONS: usize = 8;
/// Pixels between the frames of one caption, and between captions and rows.
const GAPS: [usize; 2] = [2, 8];
/// What lies between the pictures.
const PAPER: u8 = 255;

/// First, middle and last frame.
pub type Strip = [Vec<u8>; 3];

/// First, middle and last frame of a video.
pub fn strip(video: &Frames) -> Strip {
    let frame = |index: usize| video.iter().nth(index).unwrap_or_default().to_vec();
    [frame(0), frame(video.count() / 2), frame(video.count() - 1)]
}

/// All strips, `[caption][row]`; a clip that could not be made leaves its place empty.
///
/// # Errors
/// When there is nothing to show.
pub fn sheet(strips: &[Vec<Option<Strip>>], [width, height]: [usize; 2]) -> Result<Frames, Error> {
    let rows = strips.iter().map(Vec::len).max().unwrap_or(0);
    let caption_width = 3 * width + 2 * GAPS[0];
    let sheet_width = strips.len() * caption_width + strips.len().saturating_sub(1) * GAPS[1];
    let sheet_height = rows * height + rows.saturating_sub(1) * GAPS[1];
    let mut rgb = vec![PAPER; sheet_width * sheet_height * 3];
    for (caption, rows) in strips.iter().enumerate() {
        for (row, strip) in rows.iter().enumerate() {
            for (number, frame) in strip.iter().flatten().enumerate() {
                let left = caption * (caption_width + GAPS[1]) + number * (width + GAPS[0]);
                let top = row * (height + GAPS[1]);
                for (line, pixels) in frame.chunks_exact(width * 3).enumerate() {
                    rgb[((top + line) * sheet_width + left) * 3..][..width * 3].copy_from_slice(pixels);
                }
            }
        }
    }
    Ok(Frames::new(sheet_width, sheet_height, FrameRate::WAN, rgb)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_lie_where_they_belong_and_what_failed_stays_paper() {
        let video = |level: u8| Frames::new(4, 2, FrameRate::WAN, (0..5u8).flat_map(|frame| vec![level + frame; 24]).collect()).unwrap();
        let strips = [vec![Some(strip(&video(10))), None], vec![Some(strip(&video(20))), Some(strip(&video(30)))]];
        let sheet = sheet(&strips, [4, 2]).unwrap();
        let caption_width = 3 * 4 + 2 * GAPS[0];
        assert_eq!((sheet.width(), sheet.height(), sheet.count()), (2 * caption_width + GAPS[1], 4 + GAPS[1], 1));
        let level = |row: usize, column: usize| sheet.rgb()[(row * sheet.width() + column) * 3];
        let frames = [0, 4 + GAPS[0], 8 + 2 * GAPS[0]];
        assert_eq!(frames.map(|left| level(0, left)), [10, 12, 14]);
        assert_eq!(frames.map(|left| level(2 + GAPS[1], left)), [PAPER; 3]);
        assert_eq!(frames.map(|left| level(3 + GAPS[1], caption_width + GAPS[1] + left + 3)), [30, 32, 34]);
        assert!(super::sheet(&[], [4, 2]).is_err());
    }
}
