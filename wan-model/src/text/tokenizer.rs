//! A prompt as token ids: whatever `tokenizer.json` says, `</s>` at the end, cut to the length of the context.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::json;
use tokenizers::{Encoding, Tokenizer, TruncationDirection};

use super::charsmap;
use crate::{Error, Result};

/// Largest tokenizer file that is read; umT5's is 17 MB.
const LARGEST_FILE: u64 = 1 << 28;

/// A tokenizer read from `tokenizer.json`.
pub struct PromptTokenizer {
    path: PathBuf,
    inner: Tokenizer,
    pad: u32,
    /// `</s>`, where the file itself does not append it.
    end: Option<u32>,
}

impl fmt::Debug for PromptTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptTokenizer").field("path", &self.path).field("pad", &self.pad).finish_non_exhaustive()
    }
}

/// Ids of one prompt, `</s>` included, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The ids, at least one.
    pub ids: Vec<u32>,
    /// What was cut off, if anything.
    pub cut: Option<Cut>,
}

/// A prompt was longer than the context: its end has no effect on the video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Tokens kept, `</s>` included.
    pub kept: usize,
    /// Tokens left out.
    pub dropped: usize,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the prompt is longer than {} tokens: its last {} tokens are ignored", self.kept, self.dropped)
    }
}

impl Tokens {
    /// Ids and mask (1 for a token, 0 for padding), both of length `len`.
    pub fn padded(&self, len: usize, pad: u32) -> (Vec<u32>, Vec<u32>) {
        let mut ids = self.ids.clone();
        let mut mask = vec![1; ids.len()];
        ids.resize(len, pad);
        mask.resize(len, 0);
        (ids, mask)
    }
}

impl PromptTokenizer {
    /// Reads `path`: a tokenizer file, or a folder that holds `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no tokenizer.
    pub fn open(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let io = |source| Error::Io { path: path.clone(), source };
        let size = std::fs::metadata(&path).map_err(io)?.len();
        if size > LARGEST_FILE {
            return Err(Error::Format { path, reason: format!("{size} bytes are too many for a tokenizer file") });
        }
        Self::from_bytes(&std::fs::read(&path).map_err(io)?, &path)
    }

    /// Reads the contents of a tokenizer file; `path` names them in errors.
    ///
    /// # Errors
    /// [`Error::Format`] when they are no tokenizer.
    pub fn from_bytes(json: &[u8], path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::Format { path: path.to_owned(), reason };
        charsmap::check_file(json).map_err(refuse)?;
        let mut inner = guarded(|| Tokenizer::from_bytes(json).map_err(|error| error.to_string()))
            .map_err(|error| refuse(format!("not a tokenizer file: {error}")))?;
        // Length is the caller's business, not the file's.
        inner.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        inner.with_padding(None);
        let end = match inner.get_post_processor() {
            Some(_) => None,
            None => Some(inner.token_to_id("</s>").ok_or_else(|| refuse("it neither appends </s> nor knows it".into()))?),
        };
        let pad = inner.token_to_id("<pad>").unwrap_or(0);
        Ok(Self { path: path.to_owned(), inner, pad, end })
    }

    /// The id that fills up a context.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Ids of a cleaned prompt, at most `max_len` of them.
    ///
    /// # Errors
    /// [`Error::Setting`] when `max_len` leaves no room, [`Error::Format`] when the file cannot encode this text.
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Tokens> {
        let refuse = |reason: String| Error::Format { path: self.path.clone(), reason: format!("this text cannot be encoded: {reason}") };
        let (encoding, cut) = guarded(|| self.encode_within(text, max_len)).map_err(refuse)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.extend(self.end);
        if ids.is_empty() || ids.len() > max_len {
            let must = format!("room for at least one token and its end mark ({} tokens)", self.appended());
            return Err(Error::Setting { what: "text length", found: max_len.to_string(), must });
        }
        let cut = (cut > 0).then_some(Cut { kept: ids.len(), dropped: cut });
        Ok(Tokens { ids, cut })
    }

    /// Encodes, cuts what is too long, then lets the file append its marks: the order in which Hugging Face does it.
    fn encode_within(&self, text: &str, max_len: usize) -> std::result::Result<(Encoding, usize), String> {
        let mut encoding = self.inner.encode_fast(text, false).map_err(|error| error.to_string())?;
        let room = max_len.saturating_sub(self.appended());
        let cut = encoding.len().saturating_sub(room);
        if cut > 0 {
            encoding.truncate(room, 0, TruncationDirection::Right);
        }
        let encoding = self.inner.post_process(encoding, None, true).map_err(|error| error.to_string())?;
        Ok((encoding, cut))
    }

    /// Marks that every encoding gets.
    fn appended(&self) -> usize {
        use tokenizers::PostProcessor;
        self.inner.get_post_processor().map_or(1, |marks| marks.added_tokens(false))
    }
}

/// Runs the tokenizer library on what came from outside. It indexes by what a file says in places that no check of ours
/// foresees; a forged file must end in an error.
fn guarded<T>(work: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its tables contradict one another".into()))
}

/// A `tokenizer.json` made here: unigram pieces with byte fallback, laid out as umT5's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFile {
    json: Vec<u8>,
    vocab: usize,
}

impl TokenizerFile {
    /// `<pad> </s> <s> <unk>` have the ids 0 to 3, the 256 bytes follow, then the pieces.
    pub const FIRST_PIECE: usize = 4 + 256;

    /// A file for `pieces` with their scores (log-probabilities). A piece that begins a word begins with `▁` (U+2581).
    pub fn unigram(pieces: &[(String, f64)]) -> Self {
        const MARKS: [&str; 4] = ["<pad>", "</s>", "<s>", "<unk>"];
        let marks = MARKS.iter().map(|mark| json!([mark, 0.0]));
        let bytes = (0..256).map(|byte| json!([format!("<0x{byte:02X}>"), 0.0]));
        let vocab: Vec<_> = marks.chain(bytes).chain(pieces.iter().map(|(piece, score)| json!([piece, score]))).collect();
        let added: Vec<_> = MARKS
            .iter()
            .enumerate()
            .map(|(id, mark)| {
                json!({"id": id, "content": mark, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let words = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let [text, other, end] = [
            json!({"Sequence": {"id": "A", "type_id": 0}}),
            json!({"Sequence": {"id": "B", "type_id": 0}}),
            json!({"SpecialToken": {"id": "</s>", "type_id": 0}}),
        ];
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "NFKC"},
            "pre_tokenizer": words,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [text, end],
                "pair": [text, end, other, end],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
            },
            "decoder": words,
            "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": true, "vocab": vocab},
        });
        Self { json: file.to_string().into_bytes(), vocab: Self::FIRST_PIECE + pieces.len() }
    }

    /// What to write to `tokenizer.json`.
    pub fn bytes(&self) -> &[u8] {
        &self.json
    }

    /// Number of ids.
    pub fn vocab(&self) -> usize {
        self.vocab
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> PromptTokenizer {
        let pieces = [("▁", -3.0), ("▁red", -1.0), ("▁ball", -1.0), ("s", -2.0), ("a", -4.0)];
        let file = TokenizerFile::unigram(&pieces.map(|(piece, score)| (piece.to_owned(), score)));
        assert_eq!(file.vocab(), 265);
        PromptTokenizer::from_bytes(file.bytes(), Path::new("tokenizer.json")).unwrap()
    }

    fn ids(text: &str, max_len: usize) -> Vec<u32> {
        small().encode(text, max_len).unwrap().ids
    }

    #[test]
    fn pieces_bytes_and_marks_have_their_ids() {
        assert_eq!(ids("red balls", 16), [261, 262, 263, 1]);
        assert_eq!(ids("é", 16), [260, 4 + 0xc3, 4 + 0xa9, 1], "what no piece covers is bytes");
        assert_eq!(ids("red</s>a<pad>", 16), [261, 1, 260, 264, 0, 1], "marks in a prompt are marks");
    }

    #[test]
    fn an_empty_prompt_is_its_end_mark() {
        assert_eq!(ids("", 16), [1]);
        assert_eq!(small().encode("", 16).unwrap().padded(3, 0), (vec![1, 0, 0], vec![1, 0, 0]));
    }

    #[test]
    fn a_long_prompt_is_cut_before_its_end_mark_and_says_so() {
        let tokens = small().encode("red red red red", 3).unwrap();
        assert_eq!(tokens, Tokens { ids: vec![261, 261, 1], cut: Some(Cut { kept: 3, dropped: 2 }) });
        assert_eq!(ids("red red", 3), [261, 261, 1]);
        assert_eq!(small().encode("red red", 3).unwrap().cut, None);
        assert!(matches!(small().encode("red", 0), Err(Error::Setting { .. })));
    }

    #[test]
    fn ten_thousand_words_take_less_than_a_second() {
        let words = "a lone traveller walks, ".repeat(2500);
        let start = std::time::Instant::now();
        let tokens = small().encode(&crate::text::clean_prompt(&words), 512).unwrap();
        assert_eq!((tokens.ids.len(), tokens.ids[511]), (512, 1));
        assert!(tokens.cut.unwrap().dropped > 10_000);
        assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn an_altered_file_is_an_error_or_a_tokenizer(at in 0usize..12_000, byte in any::<u8>(), cut in 0usize..12_000) {
            let file = TokenizerFile::unigram(&[("▁a".to_owned(), -1.0), ("b".to_owned(), -2.0)]);
            let mut bytes = file.bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if cut % 4 == 0 {
                bytes.truncate(cut % bytes.len());
            }
            if let Ok(tokenizer) = PromptTokenizer::from_bytes(&bytes, Path::new("tokenizer.json")) {
                // An error is an answer too; a panic is not.
                let _ = tokenizer.encode("a ab é </s>", 8);
            }
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_one_error() {
        let file = TokenizerFile::unigram(&[("a".to_owned(), -1.0)]);
        let text = String::from_utf8(file.bytes().to_vec()).unwrap();
        let half = &file.bytes()[..file.bytes().len() / 2];
        let forged = text.replace(r#"{"type":"NFKC"}"#, r#"{"type":"Precompiled","precompiled_charsmap":"8P///w=="}"#);
        let no_unknown = text.replace(r#""unk_id":3"#, r#""unk_id":9999"#);
        for bytes in [&b""[..], b"{}", b"[1, 2]", b"\xff\xfe", half, forged.as_bytes(), no_unknown.as_bytes()] {
            let error = PromptTokenizer::from_bytes(bytes, Path::new("x/tokenizer.json")).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error}");
        }
        assert_ne!(forged, text);
        assert!(matches!(PromptTokenizer::open(Path::new("/nowhere/tokenizer.json")), Err(Error::Io { .. })));
    }
}
