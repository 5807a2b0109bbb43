//! The safetensors format: eight bytes of header length, a JSON header, and the tensors' bytes without gaps.
//!
//! Held more tightly than the `safetensors` crate holds it: a name may appear once, every sum and product is checked
//! before it is used, and the header is bounded by the file before anything is allocated for it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Contents, Format, MAX_RANK, Read, Stored, check_name};
use crate::checkpoint::tensor::Dtype;

/// Longest header, in bytes; a thousand tensors take about a hundredth of it.
const MAX_HEADER: usize = 16 << 20;

/// A tensor's line in the header.
#[derive(serde::Deserialize)]
struct Line {
    dtype: ::safetensors::Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// A shape of at most [`MAX_RANK`] axes.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Axes;

        impl<'de> Visitor<'de> for Axes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MAX_RANK} axes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut axes: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(side) = axes.next_element()? {
                    if shape.len() == MAX_RANK {
                        return Err(A::Error::invalid_length(MAX_RANK + 1, &self));
                    }
                    shape.push(side);
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Axes)
    }
}

/// The header as JSON: entries in the order of the file.
struct Header {
    tensors: Vec<(String, Line)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    check_name(&name).map_err(A::Error::custom)?;
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("{name:?} appears twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Whether these bytes begin as a safetensors file does: a header length below 4 GiB, then an object.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    bytes.get(4..9) == Some(b"\0\0\0\0{")
}

/// Reads a whole file.
pub(crate) fn read(bytes: &[u8]) -> Read<Contents> {
    let unknown = || String::from("neither a safetensors file nor a torch zip archive");
    let length = bytes.first_chunk().ok_or_else(|| format!("{}: only {} bytes", unknown(), bytes.len()))?;
    let declared = u64::from_le_bytes(*length);
    let header_len = usize::try_from(declared).unwrap_or(usize::MAX);
    let data_start = header_len.saturating_add(length.len());
    if data_start > bytes.len() {
        return Err(if begins(bytes) {
            format!("truncated: its header of {declared} bytes does not fit the file of {}; download it again", bytes.len())
        } else {
            unknown()
        });
    }
    if header_len > MAX_HEADER {
        return Err(format!("a safetensors header of {header_len} bytes, more than {MAX_HEADER}"));
    }
    let header: Header = serde_json::from_slice(&bytes[length.len()..data_start])
        .map_err(|error| if begins(bytes) { format!("malformed safetensors header: {error}") } else { unknown() })?;

    let mut tensors = Vec::with_capacity(header.tensors.len());
    for (name, line) in header.tensors {
        let range = line.data_offsets;
        let stored = place(line, data_start, bytes.len()).map_err(|reason| format!("{name:?}: {reason}"))?;
        tensors.push((name, range, stored));
    }
    let mut ranges: Vec<_> = tensors.iter().map(|(name, range, _)| (*range, name)).collect();
    ranges.sort_unstable();
    let mut end = 0;
    for ((from, to), name) in ranges {
        if from != end {
            let fault = if from < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(format!("{name:?}: {fault} (begins at {from}, expected {end})"));
        }
        end = to;
    }
    let data_len = bytes.len() - data_start;
    if end != data_len {
        return Err(format!("its tensors take {end} bytes, {data_len} follow the header; download it again"));
    }
    let tensors = tensors.into_iter().map(|(name, _, stored)| (name, stored)).collect();
    Ok(Contents { format: Format::Safetensors, tensors, metadata: header.metadata, globals: Vec::new(), notes: Vec::new() })
}

fn place(line: Line, data_start: usize, file_len: usize) -> Read<Stored> {
    let Some(dtype) = dtype(line.dtype) else {
        return Err(format!("its number format {:?} is not read; use f32, f16, bf16 or an int8 -quant checkpoint", line.dtype));
    };
    let (from, to) = line.data_offsets;
    let (Some(start), Some(end)) = (from.checked_add(data_start), to.checked_add(data_start)) else {
        return Err(format!("its bytes {from}..{to} lie outside the file"));
    };
    if from > to || end > file_len {
        let reason = format!("its bytes {from}..{to} lie outside the {} that follow the header", file_len - data_start);
        return Err(if from <= to { format!("{reason}; the file is truncated, download it again") } else { reason });
    }
    Stored::packed(dtype, line.shape.0, start..end, file_len)
}

/// Our name for a number format of the file, if it is one that is read.
fn dtype(of: ::safetensors::Dtype) -> Option<Dtype> {
    use ::safetensors::Dtype as Theirs;
    Some(match of {
        Theirs::F32 => Dtype::F32,
        Theirs::F16 => Dtype::F16,
        Theirs::BF16 => Dtype::Bf16,
        Theirs::F64 => Dtype::F64,
        Theirs::I8 => Dtype::I8,
        Theirs::U8 => Dtype::U8,
        Theirs::I32 => Dtype::I32,
        Theirs::I64 => Dtype::I64,
        Theirs::BOOL => Dtype::Bool,
        _ => return None,
    })
}
