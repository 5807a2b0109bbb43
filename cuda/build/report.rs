//! What ptxas says of the kernels it compiled, as numbers.

/// What one kernel needs on one chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub kernel: String,
    /// Without the `sm_`.
    pub chip: String,
    pub registers: u32,
    pub stack_bytes: u32,
    pub spill_bytes: u32,
    pub shared_bytes: u32,
    pub barriers: u32,
}

/// Reads the lines that `--resource-usage` prints: for each kernel its name, its stack and spills, what it uses.
pub fn parse(said: &str) -> Result<Vec<Usage>, String> {
    let mut all: Vec<Usage> = Vec::new();
    for line in said.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut quoted = rest.split('\'');
            let (kernel, chip) = (quoted.next().unwrap_or_default(), quoted.nth(1).unwrap_or_default());
            let chip = chip.strip_prefix("sm_").ok_or_else(|| format!("no chip in {line:?}"))?;
            let [registers, stack_bytes, spill_bytes, shared_bytes, barriers] = [0; 5];
            all.push(Usage {
                kernel: kernel.to_owned(),
                chip: chip.to_owned(),
                registers,
                stack_bytes,
                spill_bytes,
                shared_bytes,
                barriers,
            });
        } else if let Some(usage) = all.last_mut() {
            if line.contains("bytes stack frame") {
                usage.stack_bytes = before(line, " bytes stack frame");
                usage.spill_bytes = before(line, " bytes spill stores") + before(line, " bytes spill loads");
            } else if line.contains("Used ") {
                usage.registers = before(line, " registers");
                usage.barriers = before(line, " barriers");
                usage.shared_bytes = before(line, " bytes smem");
            }
        }
    }
    match all.iter().find(|usage| usage.registers == 0) {
        Some(usage) => Err(format!("ptxas did not say what {} uses on sm_{}", usage.kernel, usage.chip)),
        None => Ok(all),
    }
}

/// The number that stands before a phrase, zero without it.
fn before(line: &str, phrase: &str) -> u32 {
    let digits = line.split(phrase).next().filter(|head| head.len() < line.len()).unwrap_or_default();
    digits.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The report that is kept beside a fatbin.
pub fn json(usage: &[Usage]) -> String {
    let rows = usage.iter().map(|u| {
        format!(
            "  {{\"kernel\": \"{}\", \"chip\": \"sm_{}\", \"registers\": {}, \"stack_bytes\": {}, \"spill_bytes\": {}, \"shared_bytes\": {}, \"barriers\": {}}}",
            u.kernel, u.chip, u.registers, u.stack_bytes, u.spill_bytes, u.shared_bytes, u.barriers
        )
    });
    format!("[\n{}\n]\n", rows.collect::<Vec<_>>().join(",\n"))
}
