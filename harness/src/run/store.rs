//! Prompt embeddings kept in a folder.

use std::path::PathBuf;

use turbowan_wan_model::text::StateStore;

use crate::atomic_file;

/// Largest entry that is read back: 512 rows of 4096 channels and their description.
const LARGEST_ENTRY: u64 = 64 << 20;

/// A folder with one file an entry.
#[derive(Debug)]
pub struct FolderStore(pub PathBuf);

impl StateStore for FolderStore {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.0.join(name);
        let size = std::fs::metadata(&path).ok()?.len();
        if size > LARGEST_ENTRY { None } else { std::fs::read(path).ok() }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        // Losing an entry costs one encoding; a cache that cannot be written must not stop a run.
        let path = self.0.join(name);
        if atomic_file::check(&path).is_ok() {
            let _ = atomic_file::write(&path, bytes);
        }
    }
}
