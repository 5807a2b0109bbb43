//! From a prompt to the rows that cross attention reads: clean-up, tokenizer, umT5 encoder, kept states.

pub mod cache;
mod charsmap;
mod clean;
mod names;
pub mod tokenizer;
pub mod umt5;

pub use cache::{StateKey, StateStore};
pub use clean::clean_prompt;
pub use tokenizer::{Cut, PromptTokenizer, TokenizerFile, Tokens};
pub use umt5::{EPS, TextEncoder, TextStates, position_bucket};
