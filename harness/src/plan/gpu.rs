//! The GPUs that can be planned for: their data sheets, and what a launcher asks of a chip.

use turbowan_cuda::device::{Chip, Limits};

use crate::bench::ceiling::{DATA_SHEETS, DataSheet, data_sheet};
use crate::error::Error;

/// A GPU by its data sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Rates.
    pub sheet: &'static DataSheet,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Memory as the maker names it, in GiB.
    pub memory_gib: u64,
}

/// Compute capability, multiprocessors and memory of the chips in [`DATA_SHEETS`], from the same papers.
const CHIPS: [(&str, (u32, u32), u32, u64); 10] = [
    ("H200", (9, 0), 132, 141),
    ("H100 PCIe", (9, 0), 114, 80),
    ("H100 NVL", (9, 0), 132, 94),
    ("H100", (9, 0), 132, 80),
    ("A100-SXM4-80GB", (8, 0), 108, 80),
    ("A100-PCIE-40GB", (8, 0), 108, 40),
    ("A100", (8, 0), 108, 80),
    ("L40S", (8, 9), 142, 48),
    ("RTX 4090", (8, 9), 128, 24),
    ("RTX 5090", (12, 0), 170, 32),
];

impl Gpu {
    /// The GPU called `name`; case, spaces and dashes do not matter: `RTX4090`, `h100-pcie`.
    ///
    /// # Errors
    /// A GPU without a data sheet here.
    pub fn named(name: &str) -> Result<Self, Error> {
        let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let chip = CHIPS.iter().find(|(chip, ..)| plain(chip) == plain(name));
        let found = chip.and_then(|(chip, capability, multiprocessors, memory_gib)| {
            let sheet = data_sheet(chip)?;
            Some(Self { sheet, capability: *capability, multiprocessors: *multiprocessors, memory_gib: *memory_gib })
        });
        let known = DATA_SHEETS.map(|sheet| sheet.chip.replace(' ', "")).join(", ");
        found.ok_or_else(|| Error::flag("--gpu", format!("{name:?} has no data sheet here; known are {known}")))
    }

    /// As `--gpu` takes it.
    pub fn flag(&self) -> String {
        self.sheet.chip.replace(' ', "")
    }

    /// The one with the least memory that does.
    pub fn smallest(does: impl Fn(&Self) -> bool) -> Option<Self> {
        let all = DATA_SHEETS.iter().filter_map(|sheet| Self::named(sheet.chip).ok());
        all.filter(does).min_by_key(|gpu| gpu.memory_gib)
    }

    /// Bytes of its memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_gib << 30
    }

    /// As a planned device takes it.
    pub fn chip(&self) -> Chip {
        Chip {
            name: self.sheet.chip.to_owned(),
            capability: self.capability,
            multiprocessors: self.multiprocessors,
            memory_bytes: self.memory_bytes(),
            l2_bytes: 0,
            driver: None,
            limits: Limits::of(self.capability),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_sheet_has_a_chip_and_is_found_by_its_name() {
        for sheet in &DATA_SHEETS {
            let gpu = Gpu::named(&sheet.chip.replace(' ', "").to_lowercase()).unwrap();
            assert_eq!(gpu.sheet.chip, sheet.chip);
        }
        assert_eq!(Gpu::named("rtx-4090").unwrap().chip().capability, (8, 9));
        assert!(Gpu::named("Voodoo2").unwrap_err().to_string().contains("RTX5090"));
    }
}
