//! Files made byte by byte: good ones, and ones that lie.

/// A safetensors file with this header and these bytes behind it.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// One line of a header.
pub fn line(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
}

/// A safetensors file of one `f32` tensor of this shape over `data`.
pub fn one_tensor(shape: &str, data: &[u8]) -> Vec<u8> {
    safetensors(&format!("{{{}}}", line("w", "F32", shape, 0, data.len() as u64)), data)
}

/// A zip archive; every field that can lie is a field here.
pub struct Zip {
    pub entries: Vec<ZipEntry>,
    /// Added to the entry count of the end record.
    pub more_entries: u16,
    /// Added to the directory's place in the end record.
    pub moved_directory: u32,
    /// A zip64 end record before the plain one: entries, size and place as it says.
    pub zip64: Option<(u64, u64, u64)>,
    /// Where the locator says that record lies; `None` for the truth.
    pub zip64_at: Option<u64>,
    pub disk: u16,
}

pub struct ZipEntry {
    pub name: String,
    pub bytes: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// Name in the local header, when it is another.
    pub local_name: Option<String>,
    /// Size in the directory, when it is another.
    pub size: Option<u32>,
    /// Packed size in the directory, when it is another.
    pub packed: Option<u32>,
    /// Place in the directory, when it is another.
    pub place: Option<u32>,
    pub extra: Vec<u8>,
}

impl ZipEntry {
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        let name = name.to_owned();
        Self {
            name,
            bytes: bytes.to_vec(),
            method: 0,
            flags: 0,
            local_name: None,
            size: None,
            packed: None,
            place: None,
            extra: Vec::new(),
        }
    }
}

impl Zip {
    pub fn of(entries: Vec<ZipEntry>) -> Self {
        Self { entries, more_entries: 0, moved_directory: 0, zip64: None, zip64_at: None, disk: 0 }
    }

    /// An archive as `torch.save` lays it out, around a pickle and storages.
    pub fn torch(pickle: &[u8], storages: &[(&str, &[u8])]) -> Self {
        let mut entries = vec![ZipEntry::new("x/data.pkl", pickle), ZipEntry::new("x/byteorder", b"little")];
        entries.extend(storages.iter().map(|(key, bytes)| ZipEntry::new(&format!("x/data/{key}"), bytes)));
        entries.push(ZipEntry::new("x/version", b"3\n"));
        Self::of(entries)
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut directory = Vec::new();
        for entry in &self.entries {
            let place = file.len() as u32;
            let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
            file.extend(0x0403_4b50u32.to_le_bytes());
            for value in [20u16, entry.flags, entry.method, 0, 0] {
                file.extend(value.to_le_bytes());
            }
            for value in [0u32, entry.bytes.len() as u32, entry.bytes.len() as u32] {
                file.extend(value.to_le_bytes());
            }
            file.extend((local_name.len() as u16).to_le_bytes());
            file.extend(0u16.to_le_bytes());
            file.extend(local_name.as_bytes());
            file.extend(&entry.bytes);

            directory.extend(0x0201_4b50u32.to_le_bytes());
            for value in [20u16, 20, entry.flags, entry.method, 0, 0] {
                directory.extend(value.to_le_bytes());
            }
            let size = entry.size.unwrap_or(entry.bytes.len() as u32);
            for value in [0u32, entry.packed.unwrap_or(size), size] {
                directory.extend(value.to_le_bytes());
            }
            for value in [entry.name.len() as u16, entry.extra.len() as u16, 0, 0, 0] {
                directory.extend(value.to_le_bytes());
            }
            directory.extend(0u32.to_le_bytes());
            directory.extend(entry.place.unwrap_or(place).to_le_bytes());
            directory.extend(entry.name.as_bytes());
            directory.extend(&entry.extra);
        }
        let at = file.len() as u32;
        file.extend(&directory);
        let in_zip64 = self.zip64.is_some();
        if let Some((entries, size, start)) = self.zip64 {
            let record = file.len() as u64;
            file.extend(0x0606_4b50u32.to_le_bytes());
            file.extend(44u64.to_le_bytes());
            file.extend([45, 0, 45, 0]);
            file.extend([0; 8]);
            for value in [entries, entries, size, start] {
                file.extend(value.to_le_bytes());
            }
            file.extend(0x0706_4b50u32.to_le_bytes());
            file.extend(0u32.to_le_bytes());
            file.extend(self.zip64_at.unwrap_or(record).to_le_bytes());
            file.extend(1u32.to_le_bytes());
        }
        let count = if in_zip64 { u16::MAX } else { self.entries.len() as u16 + self.more_entries };
        let narrow = |value: u32| if in_zip64 { u32::MAX } else { value };
        file.extend(0x0605_4b50u32.to_le_bytes());
        for value in [self.disk, 0, count, count] {
            file.extend(value.to_le_bytes());
        }
        for value in [narrow(directory.len() as u32), narrow(at.wrapping_add(self.moved_directory))] {
            file.extend(value.to_le_bytes());
        }
        file.extend(0u16.to_le_bytes());
        file
    }

    /// Bytes of the directory and where it lies, as an honest record would say.
    pub fn directory(&self) -> (u64, u64) {
        let size: usize = self.entries.iter().map(|entry| 46 + entry.name.len() + entry.extra.len()).sum();
        let start: usize = self.entries.iter().map(|entry| 30 + entry.name.len() + entry.bytes.len()).sum();
        (size as u64, start as u64)
    }
}

/// A pickle, instruction by instruction.
#[derive(Clone, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    /// Protocol 2, as torch writes.
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A tuple of integers.
    pub fn sizes(self, values: &[i32]) -> Self {
        values.iter().fold(self.raw(b"("), |pickle, value| pickle.int(*value)).raw(b"t")
    }

    /// The persistent id of a storage.
    pub fn storage(self, kind: &str, key: &str, values: i32) -> Self {
        self.raw(b"(").text("storage").global("torch", kind).text(key).text("cpu").int(values).raw(b"tQ")
    }

    /// `_rebuild_tensor_v2` over what `storage` pushes.
    pub fn rebuilt(self, storage: impl FnOnce(Self) -> Self, offset: i32, shape: &[i32], strides: &[i32]) -> Self {
        let head = storage(self.global("torch._utils", "_rebuild_tensor_v2").raw(b"("));
        head.int(offset).sizes(shape).sizes(strides).raw(b"\x89").global("collections", "OrderedDict").raw(b")RtR")
    }

    /// A tensor over a whole storage of its own.
    pub fn tensor(self, kind: &str, key: &str, values: i32, shape: &[i32], strides: &[i32]) -> Self {
        self.rebuilt(|pickle| pickle.storage(kind, key, values), 0, shape, strides)
    }

    pub fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A dictionary `{"w": ...}` whose value is what `value` pushes.
pub fn state_dict(value: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    value(Pickle::new().raw(b"}(").text("w")).raw(b"u").stop()
}

/// A torch file of one 2 x 3 `f32` tensor.
pub fn good_torch() -> Vec<u8> {
    let pickle = state_dict(|pickle| pickle.tensor("FloatStorage", "0", 6, &[2, 3], &[3, 1]));
    Zip::torch(&pickle, &[("0", &floats(6))]).build()
}

/// `0, 1, 2, ...` as little-endian `f32`.
pub fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|value| (value as f32).to_le_bytes()).collect()
}
