//! Zip archives as `torch.save` writes them: stored entries, zip64 where sizes ask for it.
//!
//! The central directory is the only list that is believed, and only as far as the local headers agree with it. Entries
//! must lie one after another, before the directory and without overlap, so no byte can be counted twice; compressed
//! entries are refused, so nothing can unfold.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Read;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const LOCATOR64_LEN: usize = 20;
/// A comment follows the end record; its length is a `u16`.
const MAX_COMMENT: usize = u16::MAX as usize;
/// Value of a 32-bit field whose true value stands in a zip64 record.
const IN_ZIP64: u32 = u32::MAX;

/// Whether these bytes begin as a zip archive does.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&LOCAL.to_le_bytes())
}

/// Little-endian fields at an offset; `None` outside the file.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }
    fn u32(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }
    fn u64(&self, at: usize) -> Option<u64> {
        self.0.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// Names and places of an archive's entries.
#[derive(Debug)]
pub(crate) struct Archive<'a> {
    entries: BTreeMap<&'a str, Range<usize>>,
}

impl<'a> Archive<'a> {
    /// Reads the directory of an archive and checks every entry's place.
    pub fn read(bytes: &'a [u8]) -> Read<Self> {
        let directory = Directory::find(bytes)?;
        let fields = Fields(bytes);
        let broken = |at: usize| format!("the zip directory is broken at byte {at}");
        let mut entries = BTreeMap::new();
        let mut spans = Vec::new();
        let mut at = directory.start;
        for _ in 0..directory.entries {
            if at + CENTRAL_LEN > directory.end || fields.u32(at) != Some(CENTRAL) {
                return Err(broken(at));
            }
            let entry = Entry::read(bytes, at, directory.end).ok_or_else(|| broken(at))?;
            let name = std::str::from_utf8(entry.name).map_err(|_| "the zip directory has a name that is not UTF-8".to_owned())?;
            if entry.flags & 1 != 0 {
                return Err(format!("zip entry {name:?} is encrypted"));
            }
            if entry.method != 0 {
                return Err(format!(
                    "zip entry {name:?} is compressed, and torch.save stores its entries plainly; a TorchScript program has compressed \
                     code: save its state_dict. Any other archive can be packed again with `zip -0`"
                ));
            }
            if entry.packed != entry.size {
                return Err(format!("stored zip entry {name:?} has two sizes, {} and {}", entry.packed, entry.size));
            }
            let (local, data) = entry.place(bytes, directory.start).map_err(|reason| format!("zip entry {name:?}: {reason}"))?;
            spans.push((local, data.end, name));
            if entries.insert(name, data).is_some() {
                return Err(format!("the zip directory lists {name:?} twice"));
            }
            at = entry.next;
        }
        if at != directory.end {
            return Err(broken(at));
        }
        spans.sort_unstable();
        if let Some(pair) = spans.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            return Err(format!("zip entries {:?} and {:?} overlap", pair[0].2, pair[1].2));
        }
        Ok(Self { entries })
    }

    /// Where an entry's bytes lie in the file.
    pub fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).cloned()
    }

    /// Names of all entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.entries.keys().copied()
    }
}

/// Where the central directory lies and how many entries it has.
struct Directory {
    start: usize,
    end: usize,
    entries: usize,
}

impl Directory {
    fn find(bytes: &[u8]) -> Read<Self> {
        let fields = Fields(bytes);
        let truncated = || String::from("truncated: a zip archive without its directory; download it again");
        let last = bytes.len().checked_sub(END_LEN).ok_or_else(truncated)?;
        let first = last.saturating_sub(MAX_COMMENT);
        let is_end = |at: &usize| {
            fields.u32(*at) == Some(END) && fields.u16(*at + 20).is_some_and(|comment| *at + END_LEN + usize::from(comment) == bytes.len())
        };
        let end = (first..=last).rev().find(is_end).ok_or_else(truncated)?;
        let found = Self::of_end(&fields, end).ok_or("the zip end record is broken")?;
        let (this_disk, entries, size, start, limit) = found;
        let in_file = |value: u64| usize::try_from(value).ok().filter(|value| *value <= limit);
        let (Some(size), Some(start)) = (in_file(size), in_file(start)) else {
            return Err(format!("the zip directory ({size} bytes at {start}) lies outside the file"));
        };
        if !this_disk {
            return Err("a zip archive in several parts".into());
        }
        if start + size != limit {
            return Err(format!("the zip directory ({size} bytes at {start}) does not end where its end record begins ({limit})"));
        }
        match usize::try_from(entries).ok().filter(|entries| *entries <= size / CENTRAL_LEN) {
            Some(entries) => Ok(Self { start, end: start + size, entries }),
            None => Err(format!("the zip directory claims {entries} entries in {size} bytes")),
        }
    }

    /// Whether it is one disk, entries, directory size, directory start, and where the directory must end.
    fn of_end(fields: &Fields<'_>, end: usize) -> Option<(bool, u64, u64, u64, usize)> {
        let (disk, entries) = (fields.u16(end + 4)?, fields.u16(end + 10)?);
        let (size, start) = (fields.u32(end + 12)?, fields.u32(end + 16)?);
        // Archives may carry a zip64 record without needing it; torch does.
        let locator = end.checked_sub(LOCATOR64_LEN).filter(|at| fields.u32(*at) == Some(LOCATOR64));
        let Some(locator) = locator else {
            return Some((disk == 0 && fields.u16(end + 6)? == 0, entries.into(), size.into(), start.into(), end));
        };
        let record = usize::try_from(fields.u64(locator + 8)?).ok()?;
        let record_end = record.checked_add(END64_LEN)?;
        if record_end > locator || fields.u32(record)? != END64 {
            return None;
        }
        let one_disk = fields.u32(record + 16)? == 0 && fields.u32(record + 20)? == 0;
        let (entries64, size64, start64) = (fields.u64(record + 32)?, fields.u64(record + 40)?, fields.u64(record + 48)?);
        let agrees = |narrow: u32, wide: u64| narrow == IN_ZIP64 || u64::from(narrow) == wide;
        let agree = (entries == u16::MAX || u64::from(entries) == entries64) && agrees(size, size64) && agrees(start, start64);
        agree.then_some((one_disk, entries64, size64, start64, record))
    }
}

/// One line of the central directory.
struct Entry<'a> {
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    local: u64,
    name: &'a [u8],
    next: usize,
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8], at: usize, directory_end: usize) -> Option<Self> {
        let fields = Fields(bytes);
        let name_at = at + CENTRAL_LEN;
        let extra_at = name_at + usize::from(fields.u16(at + 28)?);
        let comment_at = extra_at + usize::from(fields.u16(at + 30)?);
        let next = comment_at + usize::from(fields.u16(at + 32)?);
        if next > directory_end {
            return None;
        }
        let mut wide = Wide::find(bytes.get(extra_at..comment_at)?)?;
        // The order of the zip64 field is fixed: size, packed size, place.
        let size = wide.value(fields.u32(at + 24)?)?;
        let packed = wide.value(fields.u32(at + 20)?)?;
        let local = wide.value(fields.u32(at + 42)?)?;
        let (flags, method) = (fields.u16(at + 8)?, fields.u16(at + 10)?);
        Some(Self { flags, method, packed, size, local, name: bytes.get(name_at..extra_at)?, next })
    }

    /// Where the entry begins and where its bytes lie; both before `limit`.
    fn place(&self, bytes: &[u8], limit: usize) -> Read<(usize, Range<usize>)> {
        let fields = Fields(bytes);
        let outside = || format!("{} bytes at {} lie outside the file", self.size, self.local);
        let local = usize::try_from(self.local).ok().filter(|local| *local < limit).ok_or_else(outside)?;
        let header = || {
            let is_header = fields.u32(local)? == LOCAL && fields.u16(local + 8)? == self.method;
            let name_at = local + LOCAL_LEN;
            let extra_at = name_at + usize::from(fields.u16(local + 26)?);
            let data = extra_at + usize::from(fields.u16(local + 28)?);
            (is_header && bytes.get(name_at..extra_at)? == self.name).then_some(data)
        };
        let start = header().ok_or_else(|| format!("the header at byte {local} is not its own"))?;
        let end = usize::try_from(self.size).ok().and_then(|size| start.checked_add(size));
        match end.filter(|end| *end <= limit) {
            Some(end) => Ok((local, start..end)),
            None => Err(outside()),
        }
    }
}

/// The values of a zip64 extra field, in order.
struct Wide<'a>(Option<&'a [u8]>);

impl<'a> Wide<'a> {
    /// `None` when the extra fields are malformed.
    fn find(mut extra: &'a [u8]) -> Option<Self> {
        const ZIP64: u16 = 1;
        while extra.len() >= 4 {
            let fields = Fields(extra);
            let (id, len) = (fields.u16(0)?, usize::from(fields.u16(2)?));
            let value = extra.get(4..4 + len)?;
            if id == ZIP64 {
                return Some(Self(Some(value)));
            }
            extra = &extra[4 + len..];
        }
        Some(Self(None))
    }

    /// The value of a 32-bit field: itself, or the next of the zip64 values where it says so.
    fn value(&mut self, narrow: u32) -> Option<u64> {
        if narrow != IN_ZIP64 {
            return Some(narrow.into());
        }
        let (value, rest) = self.0?.split_first_chunk()?;
        self.0 = Some(rest);
        Some(u64::from_le_bytes(*value))
    }
}
