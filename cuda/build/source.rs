//! A kernel file: its name, its text, and the chips that its header asks for.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hash;
use std::path::{Path, PathBuf};

/// The chips of a file that says nothing else, in nvcc's words: A100; L40 and 4090; H100 and H200; 5090.
pub const CHIPS: [&str; 4] = ["80", "89", "90a", "120a"];

/// The PTX that later chips compile for themselves. Not that of the newest chip: PTX runs on no chip older than itself,
/// and 8.9 is the first that has every instruction of the files for all chips, so that 10.0 is served too.
pub const PTX: &str = "89";

/// A line of a file's header that names the chips it is for, e.g. `// chips: 90a`. Such a file has no PTX: it uses what
/// only those chips have.
const CHIPS_LINE: &str = "// chips:";

/// A line of a file's header that names instructions its machine code must contain, e.g.
/// `// sass: 80 LDG.E.128 IMMA.16832.S8.S8`; the first word is a chip or `all`.
const SASS_LINE: &str = "// sass:";

/// One `.cu`.
pub struct Source {
    /// The file's name without its extension.
    pub name: String,
    pub path: PathBuf,
    pub chips: Vec<String>,
    pub ptx: Option<&'static str>,
    /// Chip (or `all`) and the instructions that its code must contain.
    pub sass: Vec<(String, Vec<String>)>,
}

impl Source {
    /// Every `.cu` of a folder, by name; none where there is no folder.
    pub fn all(folder: &Path) -> Result<Vec<Self>, String> {
        files(folder, &["cu"]).into_iter().map(Self::read).collect()
    }

    fn read(path: PathBuf) -> Result<Self, String> {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let named = text.lines().find_map(|line| line.strip_prefix(CHIPS_LINE)).map(words);
        let sass = text.lines().filter_map(|line| line.strip_prefix(SASS_LINE)).map(words);
        let sass = sass.filter_map(|line| Some((line.first()?.clone(), line[1..].to_vec()))).collect();
        let ptx = named.is_none().then_some(PTX);
        Ok(Self { name, path, chips: named.unwrap_or_else(|| CHIPS.map(str::to_owned).to_vec()), ptx, sass })
    }

    /// Whether it is to be compiled: `TURBOWAN_KERNELS=one,other` leaves out all other files, while those are worked on.
    pub fn is_wanted(&self) -> bool {
        let Ok(wanted) = std::env::var("TURBOWAN_KERNELS") else { return true };
        wanted.is_empty() || wanted.split(',').any(|name| name == self.name)
    }

    /// The name of the file's constant in Rust.
    pub fn constant(&self) -> String {
        self.name.to_uppercase()
    }
}

/// Files of a folder with one of these extensions, sorted; none where there is no folder.
pub fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let has_one = |path: &PathBuf| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(has_one).collect();
    paths.sort();
    paths
}

/// Hashes a file and, in turn, every file that it includes from these folders, each once.
pub fn hash_with_includes(path: &Path, folders: &[PathBuf], hasher: &mut DefaultHasher) {
    let mut seen = vec![path.to_path_buf()];
    let mut next = 0;
    while let Some(path) = seen.get(next) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.hash(hasher);
        let beside = path.parent().map(Path::to_path_buf);
        for name in text.lines().filter_map(included) {
            let found = beside.iter().chain(folders).map(|folder| folder.join(name)).find(|path| path.is_file());
            seen.extend(found.filter(|path| !seen.contains(path)).into_iter().collect::<Vec<_>>());
        }
        next += 1;
    }
}

/// The name in `#include "name"`.
fn included(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim().strip_prefix('"')?.split('"').next()
}
