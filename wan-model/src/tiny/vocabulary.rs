//! The pieces that the small text encoder knows: what a caption of simple clips says, in English and Chinese, and every
//! letter and byte beside it.

use crate::text::TokenizerFile;

/// Words of captions: what joins them, things and places, colours, motions.
const WORDS: &str = "a an the on in of to and it is with over against around there video \
background backdrop ground canvas screen circle ball disc square box block triangle star \
red crimson scarlet green emerald blue azure yellow golden purple violet orange black white gray grey cyan \
moves slides drifts glides goes flies falls rises stays rests grows growing expands shrinks shrinking contracts orbits orbiting circles \
left leftward right rightward up upward upwards down downward downwards still steady bigger smaller";

/// Characters of Chinese captions.
const CHINESE: &str = "一个的在着上中前背景红绿蓝黄紫橙黑白灰青色球圆形方三角星向左右下移动静止变大小绕圈";

/// The small encoder's tokenizer: the pieces below, behind the special ones and the bytes.
pub fn tokenizer() -> TokenizerFile {
    TokenizerFile::unigram(&pieces())
}

/// Words with a leading space mark, letters and Chinese characters, each with its score.
fn pieces() -> Vec<(String, f64)> {
    let words = WORDS.split_whitespace().map(|word| (format!("\u{2581}{word}"), -4.0));
    let letters = ('!'..='~').map(|letter| (letter.to_string(), -8.0));
    let characters = CHINESE.chars().map(|character| (character.to_string(), -5.0));
    let mut pieces = vec![("\u{2581}".to_owned(), -3.0)];
    for (piece, score) in words.chain(letters).chain(characters) {
        if !pieces.iter().any(|(known, _)| *known == piece) {
            pieces.push((piece, score));
        }
    }
    pieces
}
