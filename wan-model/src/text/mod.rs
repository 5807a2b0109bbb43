//! From a prompt to the rows that cross attention reads: clean-up, tokenizer, umT5 encoder, kept embeddings.

mod clean;

pub use clean::clean_prompt;
