//! Opcodes of a pickle: the ones that describe tensors, decoded one by one. Anything else is refused by its name.

use super::Read;

/// One instruction. Strings are those of the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Op<'a> {
    /// A version or a frame: says nothing about values.
    Nothing,
    Stop,
    Mark,
    Pop,
    PopMark,
    Duplicate,
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    /// A tuple of the values above the mark.
    Tuple,
    /// A tuple of the topmost 0 to 3 values.
    TupleOf(usize),
    EmptyList,
    List,
    Append,
    Appends,
    EmptyDict,
    Dict,
    SetItem,
    SetItems,
    Global(&'a str, &'a str),
    StackGlobal,
    Reduce,
    Build,
    PersistentId,
    Put(u32),
    Get(u32),
    Memoize,
}

/// Longest string that a pickle may hold, in bytes.
const MAX_TEXT: usize = 1 << 16;

/// Walks the instructions of a pickle.
#[derive(Debug)]
pub(crate) struct Opcodes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Opcodes<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next instruction begins.
    pub fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let taken = self.at.checked_add(len).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("the pickle ends inside an instruction at byte {}", self.at))?;
        self.at += len;
        Ok(taken)
    }

    fn little_endian<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    fn count(&mut self) -> Read<usize> {
        Ok(u32::from_le_bytes(self.little_endian()?) as usize)
    }

    fn count_of_8(&mut self) -> Read<usize> {
        usize::try_from(u64::from_le_bytes(self.little_endian()?)).map_err(|_| "a length beyond this machine's memory".into())
    }

    fn text(&mut self, len: usize) -> Read<&'a str> {
        if len > MAX_TEXT {
            return Err(format!("a string of {len} bytes in the pickle, more than {MAX_TEXT}"));
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| "a string in the pickle is not UTF-8".into())
    }

    fn line(&mut self) -> Read<&'a str> {
        let rest = &self.bytes[self.at..];
        let rest = &rest[..rest.len().min(MAX_TEXT)];
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or("a line in the pickle has no end")?;
        let line = self.text(len)?;
        self.at += 1;
        Ok(line)
    }

    fn long(&mut self, len: usize) -> Read<i64> {
        if len > 8 {
            return Err(format!("an integer of {len} bytes in the pickle"));
        }
        let bytes = self.take(len)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..len].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    /// The next instruction.
    pub fn next(&mut self) -> Read<Op<'a>> {
        let at = self.at;
        Ok(match self.byte()? {
            0x80 => match self.byte()? {
                2..=5 => Op::Nothing,
                version => return Err(format!("pickle protocol {version}, where 2 to 5 are read")),
            },
            0x95 => {
                let frame = self.count_of_8()?;
                if frame > self.bytes.len() - self.at {
                    return Err(format!("a pickle frame of {frame} bytes at byte {at} reaches past its end"));
                }
                Op::Nothing
            }
            b'.' => Op::Stop,
            b'(' => Op::Mark,
            b'0' => Op::Pop,
            b'1' => Op::PopMark,
            b'2' => Op::Duplicate,
            b'N' => Op::None,
            0x88 => Op::Bool(true),
            0x89 => Op::Bool(false),
            b'J' => Op::Int(i64::from(i32::from_le_bytes(self.little_endian()?))),
            b'K' => Op::Int(i64::from(self.byte()?)),
            b'M' => Op::Int(i64::from(u16::from_le_bytes(self.little_endian()?))),
            0x8a => {
                let len = usize::from(self.byte()?);
                Op::Int(self.long(len)?)
            }
            0x8b => {
                let len = self.count()?;
                Op::Int(self.long(len)?)
            }
            b'G' => {
                self.take(8)?;
                Op::Float
            }
            b'X' => {
                let len = self.count()?;
                Op::Text(self.text(len)?)
            }
            0x8c | b'U' => {
                let len = usize::from(self.byte()?);
                Op::Text(self.text(len)?)
            }
            0x8d => {
                let len = self.count_of_8()?;
                Op::Text(self.text(len)?)
            }
            b')' => Op::TupleOf(0),
            0x85 => Op::TupleOf(1),
            0x86 => Op::TupleOf(2),
            0x87 => Op::TupleOf(3),
            b't' => Op::Tuple,
            b']' => Op::EmptyList,
            b'l' => Op::List,
            b'a' => Op::Append,
            b'e' => Op::Appends,
            b'}' => Op::EmptyDict,
            b'd' => Op::Dict,
            b's' => Op::SetItem,
            b'u' => Op::SetItems,
            b'c' => Op::Global(self.line()?, self.line()?),
            0x93 => Op::StackGlobal,
            b'R' => Op::Reduce,
            b'b' => Op::Build,
            b'Q' => Op::PersistentId,
            b'q' => Op::Put(u32::from(self.byte()?)),
            b'r' => Op::Put(u32::from_le_bytes(self.little_endian()?)),
            b'h' => Op::Get(u32::from(self.byte()?)),
            b'j' => Op::Get(u32::from_le_bytes(self.little_endian()?)),
            0x94 => Op::Memoize,
            code => return Err(refused(code, at)),
        })
    }
}

fn refused(code: u8, at: usize) -> String {
    let name = match code {
        b'i' => "INST, which makes an object",
        b'o' => "OBJ, which makes an object",
        0x81 => "NEWOBJ, which makes an object",
        0x92 => "NEWOBJ_EX, which makes an object",
        b'P' => "PERSID, a persistent id as text",
        0x82..=0x84 => "EXT, an extension registry",
        b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' => "an instruction of pickle protocol 0",
        b'B' | b'C' | 0x8e | 0x96..=0x98 => "a byte string or buffer",
        b'T' => "BINSTRING",
        0x8f..=0x91 => "a set",
        _ => return format!("no pickle instruction has the code {code:#04x} (byte {at})"),
    };
    format!("the pickle uses {name} ({code:#04x} at byte {at}); only what describes tensors is read")
}

/// Every class or function that a pickle names, in order of appearance, whether allowed or not.
///
/// Nothing is resolved. The walk ends at the first instruction that is not read, so that a hostile file still shows what
/// it asks for.
pub(crate) fn globals(bytes: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut texts = [""; 2];
    let mut opcodes = Opcodes::of(bytes);
    const MOST: usize = 1000;
    while let Ok(op) = opcodes.next() {
        let name = match op {
            Op::Stop => break,
            Op::Text(text) => {
                texts = [texts[1], text];
                continue;
            }
            Op::Global(module, name) => format!("{module}.{name}"),
            Op::StackGlobal => texts.join("."),
            _ => continue,
        };
        if !found.contains(&name) {
            found.push(name);
        }
        if found.len() == MOST {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_their_sign_and_width() {
        let mut ops = Opcodes::of(b"J\xff\xff\xff\xff\x8a\x02\x00\x80\x8a\x00K\xff\x8a\x05\x00\x00\x00\x00\x01");
        let want = [-1, -32768, 0, 255, 1 << 32];
        for value in want {
            assert_eq!(ops.next().unwrap(), Op::Int(value));
        }
        assert!(ops.next().is_err());
    }

    #[test]
    fn globals_are_listed_without_being_resolved() {
        assert_eq!(globals(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00hi\x85R."), ["os.system"]);
        assert_eq!(globals(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), ["builtins.eval"]);
    }
}
