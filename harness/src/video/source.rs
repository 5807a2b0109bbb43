//! An untrusted file as the formats' readers see it: lengths are checked against the file before they are used.

use std::io::{self, Read, Seek, SeekFrom};

/// Longest request that is read, in bytes.
pub const LARGEST_REQUEST: u64 = 16 << 20;

/// What is wrong with a file whose name is not known here.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Broken { at: u64, what: &'static str },
    Absent,
    TooLong { length: u64 },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Bytes with a known end.
pub(super) struct Source<R> {
    reader: R,
    pub(super) length: u64,
    at: u64,
}

impl<R: Read + Seek> Source<R> {
    pub(super) fn new(mut reader: R) -> io::Result<Self> {
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        Ok(Self { reader, length, at: 0 })
    }

    /// Where the next byte is read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes from here to the end.
    pub(super) fn left(&self) -> u64 {
        self.length - self.at
    }

    /// Goes to byte `at`.
    pub(super) fn seek(&mut self, at: u64) -> Result<(), Fault> {
        if at > self.length {
            return Err(Fault::Broken { at: self.at, what: "a length reaches beyond the end of the file" });
        }
        // Within the buffer this costs no system call.
        self.reader.seek_relative(at as i64 - self.at as i64)?;
        self.at = at;
        Ok(())
    }

    /// Leaves `count` bytes out.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Fault> {
        self.seek(self.at.saturating_add(count))
    }

    /// Fills all of `bytes`.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        if bytes.len() as u64 > self.left() {
            return Err(Fault::Broken { at: self.at, what: "the file ends here" });
        }
        self.reader.read_exact(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `count` bytes, which must be there and be no more than [`LARGEST_REQUEST`].
    pub(super) fn take(&mut self, count: u64) -> Result<Vec<u8>, Fault> {
        if count > self.left() {
            return Err(Fault::Broken { at: self.at, what: "a length reaches beyond the end of the file" });
        }
        if count > LARGEST_REQUEST {
            return Err(Fault::TooLong { length: count });
        }
        let mut bytes = vec![0; count as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
