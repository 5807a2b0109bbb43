use super::*;
use turbowan_world::caption;

#[test]
fn the_tokenizer_knows_every_word_of_captions_as_one_piece() {
    let tokenizer = PromptTokenizer::from_bytes(vocabulary::tokenizer().bytes(), Path::new("tokenizer.json")).unwrap();
    let missing: Vec<String> = caption::words()
        .into_iter()
        .filter(|word| {
            let ids = tokenizer.encode(word, 16).unwrap().ids;
            // A Chinese character stands behind the mark that begins a word; both have the mark of the end behind them.
            let pieces = if word.is_ascii() { 2 } else { 3 };
            ids.len() != pieces || ids[0] < 260 || ids[pieces - 2] < 260
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
