//! Machine code as cuobjdump prints it: functions and instructions.

use std::collections::BTreeMap;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Its place in the function.
    pub address: u64,
    /// Name with its suffixes, e.g. `IMMA.16832.S8.S8`.
    pub name: String,
    /// Where a branch goes.
    pub target: Option<u64>,
    /// Whether it never goes on to the next one: a branch or an end without a condition.
    pub is_end: bool,
    /// Whether a warpgroup's product reads its left side from shared memory too.
    pub is_left_shared: bool,
}

impl Instruction {
    /// The name without suffixes.
    pub fn root(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Whether it has a suffix.
    pub fn has(&self, suffix: &str) -> bool {
        self.name.split('.').skip(1).any(|part| part == suffix)
    }

    /// Whether it multiplies matrices.
    pub fn is_tensor(&self) -> bool {
        // IMMA HMMA QMMA OMMA DMMA BMMA of a warp, IGMMA HGMMA QGMMA of a warpgroup, UTC?MMA of later chips
        self.root().ends_with("MMA")
    }
}

/// The machine code of one file on one chip: functions by name.
pub type Code = BTreeMap<String, Vec<Instruction>>;

/// Reads what `cuobjdump --dump-sass` prints.
pub fn parse(text: &str) -> Code {
    let mut code = Code::new();
    let mut function = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("Function :") {
            function = Some(name.trim().to_owned());
            code.entry(name.trim().to_owned()).or_default();
        } else if let (Some(name), Some(instruction)) = (&function, instruction(line)) {
            code.entry(name.clone()).or_default().push(instruction);
        }
    }
    code
}

/// `/*0c50*/  @!P2 BRA 0xe10 ;  /* 0x00000000006ca947 */`
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address.trim(), 16).ok()?;
    // the encoding stands behind as a comment; a line of encoding alone has nothing before it
    let text = rest.split("/*").next()?.trim().trim_end_matches(';').trim();
    let mut words = text.split_whitespace();
    let first = words.next()?;
    let name = if first.starts_with('@') { words.next()? } else { first };
    let name = name.trim_end_matches(';');
    let operands: Vec<&str> = words.collect();
    let root = name.split('.').next().unwrap_or_default();
    let is_branch = matches!(root, "BRA" | "JMP");
    let number = |word: &str| u64::from_str_radix(word.trim_end_matches(';').strip_prefix("0x")?, 16).ok();
    let target = is_branch.then(|| operands.last().copied().and_then(number)).flatten();
    // a condition stands before the name, or before the target
    let is_plain = !first.starts_with('@') && (!is_branch || operands.len() == 1);
    let is_end = is_plain && matches!(root, "BRA" | "JMP" | "BRX" | "JMX" | "EXIT" | "RET");
    let is_left_shared = operands.get(1).is_some_and(|operand| operand.starts_with("gdesc"));
    Some(Instruction { address, name: name.to_owned(), target, is_end, is_left_shared })
}

/// Threads that a launch of each function may have, from `cuobjdump --dump-elf`: the first number of `EIATTR_MAX_THREADS`,
/// which is what `__launch_bounds__` said, or of `EIATTR_REQNTID`.
pub fn max_threads(elf: &str) -> BTreeMap<String, u32> {
    let (mut found, mut function, mut is_next) = (BTreeMap::new(), None, false);
    for line in elf.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".nv.info.").filter(|name| !name.contains(char::is_whitespace)) {
            function = Some(name.to_owned());
        } else if line.starts_with(".nv.") || line.starts_with(".text") {
            function = None;
        } else if line.starts_with("Attribute:") {
            is_next = line.ends_with("EIATTR_MAX_THREADS") || line.ends_with("EIATTR_REQNTID");
        } else if let (true, Some(name), Some(value)) = (is_next, &function, line.strip_prefix("Value:")) {
            is_next = false;
            let sides = value.split_whitespace().filter_map(|side| u32::from_str_radix(side.trim_start_matches("0x"), 16).ok());
            found.insert(name.clone(), sides.product());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of a real dump: two functions, one with a loop of products, cold code behind a branch, and a wait that spins.
    const SAMPLE: &str = include_str!("sample.sass");

    #[test]
    fn a_dump_is_read_line_by_line() {
        let code = parse(SAMPLE);
        assert_eq!(code.keys().map(String::as_str).collect::<Vec<_>>(), ["copy_rows", "product"]);
        let product = &code["product"];
        let branch = product.iter().find(|instruction| instruction.target == Some(0x1c0)).unwrap();
        assert_eq!((branch.address, branch.name.as_str()), (0xb0, "BRA"));
        let imma = product.iter().find(|instruction| instruction.is_tensor()).unwrap();
        assert!(imma.has("16832") && !imma.has("S32") && imma.root() == "IMMA");
        // a condition before the target, and none
        let ends: Vec<u64> = product.iter().filter(|instruction| instruction.is_end).map(|instruction| instruction.address).collect();
        assert_eq!(ends, [0x1e0, 0x1f0]);
        let group = instruction("/*2470*/  IGMMA.64x128x32.S8.S8 R88, gdesc[UR12], RZ, !UPT ;  /* 0x00 */").unwrap();
        assert!(group.is_left_shared && !instruction("/*10*/  QGMMA.64x128x32.F32 R24, R152, gdesc[UR12], R24 ;").unwrap().is_left_shared);
        assert!(product.windows(2).all(|pair| pair[0].address < pair[1].address));
    }

    #[test]
    fn threads_are_those_of_the_launch_bounds() {
        let elf = ".nv.info\n\t<0x1>\n\tAttribute:\tEIATTR_REGCOUNT\n\tValue:\tfunction: one(0x1)\tregister count: 3\n.nv.info.one\n\tAttribute:\tEIATTR_MAX_THREADS\n\tFormat:\tEIFMT_SVAL\n\tValue:\t0x100 0x1 0x1 \n\tAttribute:\tEIATTR_OTHER\n\tValue:\t0x7\n.text.one\n\tAttribute:\tEIATTR_MAX_THREADS\n\tValue:\t0x9 0x1 0x1";
        assert_eq!(max_threads(elf), BTreeMap::from([("one".to_owned(), 256)]));
    }
}
