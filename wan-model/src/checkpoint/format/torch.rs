//! `.pth`, `.pt`, `.bin`: a zip archive of storages and the pickle that names the tensors in them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::machine::{Machine, StorageId, Value};
use super::zip::Archive;
use super::{Contents, Format, Read, Stored, check_name, pickle};

/// Longest pickle, in bytes; a thousand tensors take a hundredth of it.
const MAX_PICKLE: usize = 16 << 20;
/// Keys under which training scripts keep the network, in order of preference.
const WRAPPERS: &[&str] = &["state_dict", "model_state_dict", "model", "generator_ema", "generator", "module", "params"];
/// Most wrappers inside one another.
const MAX_WRAPPERS: usize = 8;

/// The archive, its folder's name, and its pickle.
struct Torch<'a> {
    archive: Archive<'a>,
    root: &'a str,
    pickle: &'a [u8],
}

impl<'a> Torch<'a> {
    fn read(bytes: &'a [u8]) -> Read<Self> {
        let archive = Archive::read(bytes)?;
        // The pickle lies in the archive's one folder, which is named after the file.
        let is_pickle = |name: &&str| *name == "data.pkl" || name.ends_with("/data.pkl");
        let pickles: Vec<&str> = archive.names().filter(is_pickle).collect();
        let name = match pickles[..] {
            [name] => name,
            [] => return Err("a zip archive without data.pkl: not written by torch.save".into()),
            _ => return Err("a zip archive with more than one data.pkl".into()),
        };
        let root = name.strip_suffix("data.pkl").unwrap_or_default();
        if root.trim_end_matches('/').contains('/') {
            return Err("a zip archive whose data.pkl lies deeper than one folder".into());
        }
        if archive.names().any(|name| name.strip_prefix(root).is_some_and(|name| name.starts_with("code/"))) {
            return Err("a TorchScript program; save its state_dict as .safetensors".into());
        }
        let place = archive.entry(name).ok_or("a zip archive without data.pkl")?;
        let pickle = bytes.get(place).ok_or("data.pkl lies outside the file")?;
        if pickle.len() > MAX_PICKLE {
            return Err(format!("a pickle of {} bytes, more than {MAX_PICKLE}", pickle.len()));
        }
        let torch = Self { archive, root, pickle };
        if let Some(order) = torch.entry("byteorder")
            && bytes.get(order) != Some(b"little")
        {
            return Err("its values are not little-endian; save it again on a little-endian machine".into());
        }
        Ok(torch)
    }

    fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.archive.entry(&format!("{}{name}", self.root))
    }

    /// Where a storage's values lie.
    fn storage(&self, id: StorageId<'_>) -> Read<Range<usize>> {
        let key = id.key.escape_debug();
        let place = self.entry(&format!("data/{}", id.key)).ok_or_else(|| format!("its storage data/{key} is not in the archive"))?;
        let needed = id.values.checked_mul(id.dtype.bytes());
        // torch counts whole values; a storage with a few bytes more than that is still a good one.
        match needed.filter(|needed| *needed <= place.len() && place.len() - needed < id.dtype.bytes()) {
            Some(needed) => Ok(place.start..place.start + needed),
            None => Err(format!("its storage data/{key} has {} bytes for {} values of {}", place.len(), id.values, id.dtype.name())),
        }
    }
}

/// Every class or function that the file's pickle names, whether allowed or not; nothing is resolved.
pub(crate) fn globals(bytes: &[u8]) -> Read<Vec<String>> {
    Torch::read(bytes).map(|torch| pickle::globals(torch.pickle))
}

/// Reads a whole file.
pub(crate) fn read(bytes: &[u8]) -> Read<Contents> {
    let torch = Torch::read(bytes)?;
    let (machine, root) = Machine::run(torch.pickle)?;
    let mut notes = Vec::new();
    let entries = network(&machine, root, &mut notes)?;

    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    let (mut packing, mut left_out) = (0usize, 0usize);
    for (key, value) in entries {
        let (Value::Text(name), Value::Tensor(tensor)) = (key, value) else {
            left_out += 1;
            continue;
        };
        check_name(name)?;
        if !seen.insert(*name) {
            return Err(format!("{name:?} appears twice"));
        }
        let id = machine.tensor(*tensor);
        let stored = torch
            .storage(id.storage)
            .and_then(|place| Stored::strided(id.storage.dtype, id.shape.clone(), &id.strides, id.offset, place))
            .map_err(|reason| format!("{name:?}: {reason}"))?;
        packing = packing.saturating_add(stored.packing_bytes());
        if packing > bytes.len() {
            return Err("its strided views would take more memory than the file; save contiguous tensors".into());
        }
        tensors.push(((*name).to_owned(), stored));
    }
    if tensors.is_empty() {
        return Err("no tensors by name: a dictionary of them is expected, as state_dict() gives".into());
    }
    if left_out > 0 {
        notes.push(format!("{left_out} entries that are no tensors are left out"));
    }
    Ok(Contents { format: Format::Torch, tensors, metadata: BTreeMap::new(), globals: pickle::globals(torch.pickle), notes })
}

/// The dictionary that holds the network: the root, or what lies in it under a wrapper's name.
fn network<'m, 'a>(machine: &'m Machine<'a>, root: Value<'a>, notes: &mut Vec<String>) -> Read<&'m [(Value<'a>, Value<'a>)]> {
    let mut value = root;
    for _ in 0..MAX_WRAPPERS {
        let Value::Dict(dict) = value else {
            return Err("its pickle is no dictionary of tensors, as state_dict() gives".into());
        };
        let entries = machine.dict(dict);
        if entries.iter().any(|(key, value)| matches!((key, value), (Value::Text(_), Value::Tensor(_)))) {
            return Ok(entries);
        }
        let inner = |wrapper: &'static str| {
            let of_name = |entry: &&(Value<'a>, Value<'a>)| entry.0 == Value::Text(wrapper) && matches!(entry.1, Value::Dict(_));
            entries.iter().find(of_name).map(|entry| (wrapper, entry.1))
        };
        let Some((name, found)) = WRAPPERS.iter().find_map(|wrapper| inner(wrapper)) else {
            return Ok(entries);
        };
        notes.push(format!("tensors are those under {name:?}"));
        value = found;
    }
    Err(format!("more than {MAX_WRAPPERS} dictionaries inside one another"))
}
