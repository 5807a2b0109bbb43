//! Machine code as cuobjdump prints it: functions, instructions, loops.

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
    let is_branch = matches!(name.split('.').next(), Some("BRA" | "JMP"));
    let number = |word: &str| u64::from_str_radix(word.trim_end_matches(';').strip_prefix("0x")?, 16).ok();
    let target = is_branch.then(|| words.last().and_then(number)).flatten();
    Some(Instruction { address, name: name.trim_end_matches(';').to_owned(), target })
}

/// A loop: from where its backward branch goes to that branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loop<'a> {
    /// Its instructions, each counted once, whether a branch skips it or not.
    pub body: &'a [Instruction],
}

impl Loop<'_> {
    /// Matrix products in it.
    pub fn tensor(&self) -> usize {
        self.body.iter().filter(|instruction| instruction.is_tensor()).count()
    }
}

/// The hot loop: of the loops without another loop of products inside, the one with the most products; the shorter of two.
/// None in a function whose products stand in no loop, or that has none.
///
/// Loops that begin at one place and differ in their branch back are one loop, the longest: a body is left and taken up again
/// by several branches.
pub fn hot_loop(function: &[Instruction]) -> Option<Loop<'_>> {
    let place = |address: u64| function.iter().position(|instruction| instruction.address == address);
    let mut spans: BTreeMap<usize, usize> = BTreeMap::new();
    for (end, instruction) in function.iter().enumerate() {
        let begin = instruction.target.filter(|target| *target < instruction.address).and_then(place);
        if let Some(begin) = begin {
            let longest = spans.entry(begin).or_insert(end);
            *longest = end.max(*longest);
        }
    }
    let tensor = |(begin, end): (usize, usize)| Loop { body: &function[begin..=end] }.tensor();
    let spans: Vec<(usize, usize)> = spans.into_iter().filter(|span| tensor(*span) > 0).collect();
    let is_inside = |inner: &(usize, usize), outer: &(usize, usize)| inner != outer && inner.0 >= outer.0 && inner.1 <= outer.1;
    let innermost = spans.iter().filter(|span| !spans.iter().any(|other| is_inside(other, span)));
    let (begin, end) = *innermost.max_by_key(|span| (tensor(**span), std::cmp::Reverse(span.1 - span.0)))?;
    Some(Loop { body: &function[begin..=end] })
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
        assert!(product.iter().any(|instruction| instruction.name == "BRA.U"));
        assert!(product.windows(2).all(|pair| pair[0].address < pair[1].address));
    }

    #[test]
    fn the_hot_loop_is_the_innermost_one_with_the_most_products() {
        let code = parse(SAMPLE);
        let hot = hot_loop(&code["product"]).unwrap();
        assert_eq!((hot.body[0].address, hot.body[hot.body.len() - 1].address), (0xc0, 0x1b0));
        assert_eq!(hot.tensor(), 3);
        assert!(hot_loop(&code["copy_rows"]).is_none(), "a loop that copies is not one of products");
    }

    #[test]
    fn the_outer_of_two_loops_with_products_is_not_the_hot_one() {
        let at = |address: u64, name: &str, target: Option<u64>| Instruction { address, name: name.into(), target };
        let code = [
            at(0, "IMMA.16832.S8.S8", None),
            at(16, "HMMA.16816.F32.BF16", None),
            at(32, "HMMA.16816.F32.BF16", None),
            at(48, "BRA", Some(16)),
            at(64, "IMMA.16832.S8.S8", None),
            at(80, "BRA", Some(0)),
            at(96, "BRA", Some(96)),
        ];
        assert_eq!(hot_loop(&code).unwrap().body[0].address, 16);
        // a product without a loop
        assert!(hot_loop(&code[..3]).is_none());
    }

    #[test]
    fn threads_are_those_of_the_launch_bounds() {
        let elf = ".nv.info\n\t<0x1>\n\tAttribute:\tEIATTR_REGCOUNT\n\tValue:\tfunction: one(0x1)\tregister count: 3\n.nv.info.one\n\tAttribute:\tEIATTR_MAX_THREADS\n\tFormat:\tEIFMT_SVAL\n\tValue:\t0x100 0x1 0x1 \n\tAttribute:\tEIATTR_OTHER\n\tValue:\t0x7\n.text.one\n\tAttribute:\tEIATTR_MAX_THREADS\n\tValue:\t0x9 0x1 0x1";
        assert_eq!(max_threads(elf), BTreeMap::from([("one".to_owned(), 256)]));
    }
}
