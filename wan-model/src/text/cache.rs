//! Text states that are kept: the encoder is large, and prompts come again.
//!
//! An entry is found by what made it (which encoder, which arithmetic, which cleaned prompt, how many tokens), holds that
//! description itself, and ends in a hash of everything before it. Whatever is cut short, altered or of another prompt
//! counts as absent, so a broken entry costs one encoding and is then replaced. Where entries live is the caller's
//! business ([`StateStore`]).

use super::TextStates;
use turbowan_cuda::Rounding;

const MAGIC: &[u8; 8] = b"TWtext01";
const HASH: usize = blake3::OUT_LEN;

/// What text states are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateKey<'a> {
    /// Anything that names the encoder's and the tokenizer's bytes, e.g. a hash of both.
    pub model: &'a str,
    /// Arithmetic of the encoder.
    pub rounding: Rounding,
    /// Longest prompt, in tokens.
    pub text_len: usize,
    /// The prompt after [`clean_prompt`](super::clean_prompt).
    pub prompt: &'a str,
}

/// Where entries live: a folder, a table. It may lose or damage them.
pub trait StateStore {
    /// The bytes that were put under `name`, if they are there.
    fn get(&self, name: &str) -> Option<Vec<u8>>;
    /// Keeps `bytes` under `name`, replacing what was there. A store that cannot keep them does nothing.
    fn put(&self, name: &str, bytes: &[u8]);
}

impl StateKey<'_> {
    /// The name of its entry: hexadecimal digits, fit for a file.
    pub fn name(&self) -> String {
        blake3::hash(&self.description()).to_hex().to_string()
    }

    /// Everything that the states depend on; lengths keep the parts apart.
    fn description(&self) -> Vec<u8> {
        let arithmetic = match self.rounding {
            Rounding::None => "f32",
            Rounding::Bf16 => "bf16",
        };
        let mut bytes = self.text_len.to_string().into_bytes();
        for part in [arithmetic, self.model, self.prompt] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }

    /// The entry that holds `states`.
    pub fn entry(&self, states: &TextStates) -> Vec<u8> {
        let description = self.description();
        let mut bytes = MAGIC.to_vec();
        for size in [description.len(), states.dim, states.values.len()] {
            bytes.extend((size as u64).to_le_bytes());
        }
        bytes.extend(description);
        bytes.extend(states.values.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// The states of an entry, if it is whole and this key's.
    pub fn states(&self, entry: &[u8]) -> Option<TextStates> {
        let (body, hash) = entry.split_at_checked(entry.len().checked_sub(HASH)?)?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (sizes, rest) = rest.split_first_chunk::<24>()?;
        let size = |index: usize| sizes.as_chunks::<8>().0.get(index).and_then(|bytes| usize::try_from(u64::from_le_bytes(*bytes)).ok());
        let (description, dim, count) = (size(0)?, size(1)?, size(2)?);
        let (found, values) = rest.split_at_checked(description)?;
        let fits = found == self.description() && dim > 0 && count.is_multiple_of(dim) && count.checked_mul(4) == Some(values.len());
        fits.then(|| TextStates { dim, values: values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect() })
    }

    /// The kept states, or those that `encode` makes, which are then kept; and whether they were kept already.
    ///
    /// # Errors
    /// What `encode` returns.
    pub fn kept_or<E>(&self, store: &dyn StateStore, encode: impl FnOnce() -> Result<TextStates, E>) -> Result<(TextStates, bool), E> {
        let name = self.name();
        if let Some(states) = store.get(&name).and_then(|entry| self.states(&entry)) {
            return Ok((states, true));
        }
        let states = encode()?;
        store.put(&name, &self.entry(&states));
        Ok((states, false))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Memory(RefCell<HashMap<String, Vec<u8>>>);

    impl StateStore for Memory {
        fn get(&self, name: &str) -> Option<Vec<u8>> {
            self.0.borrow().get(name).cloned()
        }

        fn put(&self, name: &str, bytes: &[u8]) {
            self.0.borrow_mut().insert(name.to_owned(), bytes.to_vec());
        }
    }

    const KEY: StateKey<'_> = StateKey { model: "abc", rounding: Rounding::Bf16, text_len: 512, prompt: "a red ball" };

    fn states() -> TextStates {
        TextStates { dim: 3, values: vec![0.5, -1.0, 2.0, 1e-30, f32::MAX, -0.0] }
    }

    #[test]
    fn states_are_encoded_once() {
        let store = Memory::default();
        let made = KEY.kept_or::<()>(&store, || Ok(states())).unwrap();
        let kept = KEY.kept_or::<()>(&store, || panic!("they are kept")).unwrap();
        assert_eq!((made, kept), ((states(), false), (states(), true)));
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let store = Memory::default();
        let whole = KEY.entry(&states());
        for broken in [&whole[..whole.len() - 1], &whole[..40], b""] {
            store.put(&KEY.name(), broken);
            assert_eq!(KEY.kept_or::<()>(&store, || Ok(states())).unwrap(), (states(), false));
            assert_eq!(store.get(&KEY.name()).unwrap(), whole);
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert_eq!(KEY.states(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn whatever_changes_the_states_changes_the_entry() {
        let others = [
            StateKey { model: "abd", ..KEY },
            StateKey { rounding: Rounding::None, ..KEY },
            StateKey { text_len: 511, ..KEY },
            StateKey { prompt: "a red ball ", ..KEY },
            StateKey { model: "abca", prompt: " red ball", ..KEY },
        ];
        for other in others {
            assert_ne!(other.name(), KEY.name());
            assert_eq!(other.states(&KEY.entry(&states())), None);
        }
    }
}
