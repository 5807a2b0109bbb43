//! The parameter structs in Rust are those of the C headers: what the tests of every crate with kernels ask, included by
//! them, not by a build.
//!
//! `TURBOWAN_WRITE_PARAMS=1 cargo test -p CRATE --test device_params` writes them anew. It needs the programs that
//! `scripts/fetch-nvcc --bindgen` fetches: bindgen takes two minutes to compile, too long for every build of the tests.

use std::collections::BTreeSet;
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
            .args(["--allowlist-file", &format!(".*/{header}"), "--no-recursive-allowlist", "--blocklist-type", "tw_.*"])
            .arg("--disable-header-comment")
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

/// Doc comments as people write them, with the `<` of a C comment behind its member gone; and `Copy` for a struct whose
/// fields bindgen does not know well enough to say so.
fn with_doc_comments(bindings: &str) -> String {
    let is_bare = |before: &str, line: &str| line.starts_with("pub struct ") && !before.starts_with("#[derive");
    let lines: Vec<&str> = bindings.lines().collect();
    let derived = lines.iter().enumerate().flat_map(|(index, line)| {
        let derive = (index > 0 && is_bare(lines[index - 1], line)).then_some("#[derive(Debug, Copy, Clone)]");
        derive.into_iter().chain([*line])
    });
    let line = |line: &str| match line.trim_start().strip_prefix("#[doc = \"").and_then(|rest| rest.strip_suffix("\"]")) {
        Some(text) => {
            let indent = &line[..line.len() - line.trim_start().len()];
            let text = text.trim_start_matches([' ', '<']).replace("\\n ", &format!("\n{indent}/// "));
            format!("{indent}/// {text}\n")
        }
        None => format!("{line}\n"),
    };
    derived.map(line).collect()
}

/// The number formats that C has by their bits, where a struct has them, the trait of a parameter struct, and what its
/// fields are that another header declares: tensor maps, and other parameter structs.
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
    if bindings.contains("tw_tensor_map") {
        writeln!(text, "use {device}::TensorMap as tw_tensor_map;").unwrap();
    }
    let kinds = bindings.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": ")?.1.strip_suffix(','));
    let is_nested = |kind: &&str| kind.ends_with("Params") && !kind.starts_with('*') && !bindings.contains(&format!("pub struct {kind} "));
    let nested: BTreeSet<_> = kinds.filter(is_nested).collect();
    match nested.len() {
        0 => {}
        1 => nested.iter().for_each(|kind| writeln!(text, "use {device}::params::{kind};").unwrap()),
        _ => writeln!(text, "use {device}::params::{{{}}};", Vec::from_iter(nested).join(", ")).unwrap(),
    }
    text
}

/// One implementation of `Params` for each struct: every pointer among its fields, and in its arrays, tensor maps and structs.
fn implementations(bindings: &str) -> String {
    let mut text = String::new();
    let mut fields: Option<Vec<String>> = None;
    let mut name = "";
    for line in bindings.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            name = rest.trim_end_matches(" {");
            fields = Some(Vec::new());
        } else if let (Some(found), Some((field, kind))) =
            (&mut fields, line.trim().strip_prefix("pub ").and_then(|rest| rest.split_once(": ")))
        {
            match kind.trim_end_matches(',') {
                pointer if pointer.starts_with('*') => found.push(format!("visit({field:?}, self.{field} as u64);")),
                array if array.trim_start_matches('[').starts_with('*') => {
                    found.push(format!("self.{field}.iter().for_each(|pointer| visit({field:?}, *pointer as u64));"));
                }
                "tw_tensor_map" => found.push(format!("self.{field}.addresses({field:?}, visit);")),
                nested if nested.ends_with("Params") => found.push(format!("self.{field}.addresses(visit);")),
                _ => {}
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
            for line in found {
                writeln!(text, "        {line}").unwrap();
            }
            text.push_str("    }\n}\n");
        }
    }
    text
}
