//! The pieces that the small text encoder knows: what a caption of simple clips says, in English and Chinese, and every
//! letter and byte beside it.

use crate::text::TokenizerFile;

/// Words of captions: things, colours, motions, places, and what joins them.
const WORDS: &str = "a an the on in at of and with to its is it over under across from into while around against through \
red green blue yellow purple orange black white gray grey cyan crimson scarlet emerald azure golden violet dark bright \
ball circle disc square box block triangle star shape object \
moves moving slides drifts glides travels goes flies bounces rolls jumps falls rises stays rests grows growing shrinks \
shrinking orbits orbiting circles turns still steady bigger smaller expands contracts loop \
left right up down upward downward leftward rightward upwards downwards center middle side \
background ground floor sky field screen scene video clip shows showing there canvas backdrop \
cat dog man woman walks street city water sea mountain forest camera slowly fast stylish tokyo neon light night day";

/// Characters of Chinese captions.
const CHINESE: &str = "一个的在红绿蓝黄紫橙黑白灰青色球圆形方三角星向左右上下移动静止变大小绕圈背景前中是着";

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
