//! The parameter structs in Rust are those of the C headers: what the tests of every crate with kernels ask, included by
//! them, not by a build.
//!
//! `TURBOWAN_WRITE_PARAMS=1 cargo test -p CRATE --test device_params` writes them anew. It needs the programs that
//! `scripts/fetch-nvcc --bindgen` fetches: bindgen takes two minutes to compile, too long for every build of the tests.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// A header of a crate's `kernels` and the Rust file that holds its structs.
pub struct Bindings {
    /// Its name, e.g. `params.h`.
    pub header: &'static str,
    /// Path in the crate, e.g. `src/device/params/dense.rs`.
    pub rust: &'static str,
}

/// Every Rust file is what bindgen reads in its header. `device` is the path of the device runtime from the file.
pub fn demand_bindings(crate_folder: &str, device: &str, tables: &[Bindings]) {
    let crate_folder = Path::new(crate_folder);
    let root = crate_folder.parent().unwrap();
    let (bindgen, libclang) = (root.join(".nvcc/bin/bindgen"), root.join(".nvcc/clang/native"));
    if !bindgen.is_file() || !libclang.is_dir() {
        println!("skipped: no bindgen (scripts/fetch-nvcc --bindgen fetches it)");
        return;
    }
    let mut stale = Vec::new();
    for Bindings { header, rust } in tables {
        let output = Command::new(&bindgen)
            .args(["--allowlist-file", &format!(".*/{header}"), "--blocklist-type", "tw_.*", "--disable-header-comment"])
            .arg("--rustfmt-configuration-file")
            .arg(root.join("rustfmt.toml"))
            .arg(crate_folder.join("kernels").join(header))
            .args(["--", &builtin_headers(), &format!("-I{}", root.join("cuda/kernels").display())])
            .env("LIBCLANG_PATH", &libclang)
            .output()
            .unwrap();
        assert!(output.status.success(), "bindgen: {}", String::from_utf8_lossy(&output.stderr));
        let bindings = with_doc_comments(&String::from_utf8(output.stdout).unwrap());
        let want = format!(
            "//! The parameter structs of `kernels/{header}`.\n\
             //!\n\
             //! Written by `tests/device_params.rs`; do not edit.\n\
             \n\
             {}\n\
             {}\n{}",
            imports(&bindings, device),
            bindings.trim(),
            implementations(&bindings)
        );
        let file = crate_folder.join(rust);
        if std::env::var_os("TURBOWAN_WRITE_PARAMS").is_some() {
            std::fs::write(&file, &want).unwrap();
        }
        if std::fs::read_to_string(&file).ok() != Some(want) {
            stale.push(*rust);
        }
    }
    assert!(stale.is_empty(), "out of date, write them anew with TURBOWAN_WRITE_PARAMS=1: {}", stale.join(", "));
}

/// The compiler's own `stddef.h`, which a libclang by itself lacks.
fn builtin_headers() -> String {
    let output = Command::new("gcc").arg("-print-file-name=include").output().unwrap();
    format!("-I{}", String::from_utf8(output.stdout).unwrap().trim())
}

/// Doc comments as people write them, with the `<` of a C comment behind its member gone.
fn with_doc_comments(bindings: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("#[doc = \"").and_then(|rest| rest.strip_suffix("\"]")) {
        Some(text) => {
            let indent = &line[..line.len() - line.trim_start().len()];
            format!("{indent}/// {}\n", text.trim_start_matches([' ', '<']))
        }
        None => format!("{line}\n"),
    };
    bindings.lines().map(line).collect()
}

/// The number formats that C has by their bits, where a struct has them, and the trait of a parameter struct.
fn imports(bindings: &str, device: &str) -> String {
    let mut text = String::new();
    for (alias, path) in [("tw_bf16", "half::bf16"), ("tw_f16", "half::f16")] {
        if bindings.contains(alias) {
            writeln!(text, "use {path} as {alias};").unwrap();
        }
    }
    if !text.is_empty() && device.starts_with("crate") {
        text.push('\n');
    }
    writeln!(text, "use {device}::Params;").unwrap();
    text
}

/// One implementation of `Params` for each struct: every pointer among its fields.
fn implementations(bindings: &str) -> String {
    let mut text = String::new();
    let mut fields: Option<Vec<&str>> = None;
    let mut name = "";
    for line in bindings.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            name = rest.trim_end_matches(" {");
            fields = Some(Vec::new());
        } else if let (Some(found), Some((field, kind))) =
            (&mut fields, line.trim().strip_prefix("pub ").and_then(|rest| rest.split_once(": ")))
        {
            if kind.starts_with('*') {
                found.push(field);
            }
        } else if line == "}"
            && let Some(found) = fields.take()
        {
            write!(
                text,
                "\n// SAFETY: a C struct as the header declares it, with all its pointers.\nunsafe impl Params for {name} {{\n    \
                 fn addresses(&self, visit: &mut dyn FnMut(&'static str, u64)) {{\n"
            )
            .unwrap();
            for field in found {
                writeln!(text, "        visit({field:?}, self.{field} as u64);").unwrap();
            }
            text.push_str("    }\n}\n");
        }
    }
    text
}
