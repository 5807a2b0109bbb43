//! Safetensors, written: the same tensors give the same bytes, in whatever order they come.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::tensor::{Dtype, TensorView};

/// Data starts at a multiple of this many bytes.
const ALIGNMENT: usize = 8;

/// Writes tensors and metadata as a safetensors file: wide formats first, then by name, so that every tensor is aligned.
///
/// For a file that is whole or absent, give it something that is renamed when it is done.
///
/// # Errors
/// What `out` says; [`io::ErrorKind::InvalidInput`] when two tensors bear one name, one is called `__metadata__`, or a
/// shape does not match its bytes.
pub fn write_safetensors(out: &mut impl Write, tensors: &[(&str, TensorView<'_>)], metadata: &BTreeMap<String, String>) -> io::Result<()> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by(|(a, x), (b, y)| y.dtype.bytes().cmp(&x.dtype.bytes()).then_with(|| a.cmp(b)));
    let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);

    // Built by hand so that the lines keep the order of the data.
    let mut header = String::from("{");
    if !metadata.is_empty() {
        header.push_str(&format!("\"__metadata__\":{},", serde_json::to_string(metadata)?));
    }
    let mut seen = std::collections::HashSet::from(["__metadata__"]);
    let mut end = 0usize;
    for (name, view) in &sorted {
        if !seen.insert(name) {
            return Err(refused(format!("{name:?} cannot be written twice or at all")));
        }
        let values = view.shape.iter().try_fold(view.dtype.bytes(), |bytes, side| bytes.checked_mul(*side));
        if values != Some(view.bytes.len()) {
            return Err(refused(format!("{name:?}: shape {:?} of {} with {} bytes", view.shape, view.dtype.name(), view.bytes.len())));
        }
        let start = end;
        end += view.bytes.len();
        let (name, dtype) = (serde_json::to_string(name)?, tag(view.dtype));
        header.push_str(&format!("{name}:{{\"dtype\":\"{dtype}\",\"shape\":{:?},\"data_offsets\":[{start},{end}]}},", view.shape));
    }
    if header.ends_with(',') {
        header.pop();
    }
    header.push('}');
    while !(header.len() + 8).is_multiple_of(ALIGNMENT) {
        header.push(' ');
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    sorted.iter().try_for_each(|(_, view)| out.write_all(view.bytes))
}

/// The format's name for a number format.
fn tag(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
        Dtype::F64 => "F64",
        Dtype::I8 => "I8",
        Dtype::U8 => "U8",
        Dtype::I32 => "I32",
        Dtype::I64 => "I64",
        Dtype::Bool => "BOOL",
    }
}
