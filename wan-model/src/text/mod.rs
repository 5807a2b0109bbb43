//! From a prompt to the rows that cross attention reads: clean-up, tokenizer, umT5 encoder, kept embeddings.

mod charsmap;
mod clean;
mod tokenizer;

pub use clean::clean_prompt;
pub use tokenizer::{Cut, PromptTokenizer, TokenizerFile, Tokens};
