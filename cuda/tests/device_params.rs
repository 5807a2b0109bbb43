//! The parameter structs in Rust are those of the C header.
//!
//! `TURBOWAN_WRITE_PARAMS=1 cargo test -p turbowan-cuda --test device_params` writes them anew. It needs the programs that
//! `scripts/fetch-nvcc --bindgen` fetches: bindgen takes two minutes to compile, too long for every build of the tests.

#![allow(clippy::unwrap_used, reason = "a header that cannot be read fails the test")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

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

#[test]
fn the_parameter_structs_are_what_bindgen_reads_in_the_header() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.parent().unwrap();
    let (bindgen, libclang) = (root.join(".nvcc/bin/bindgen"), root.join(".nvcc/clang/native"));
    if !bindgen.is_file() || !libclang.is_dir() {
        println!("skipped: no bindgen (scripts/fetch-nvcc --bindgen fetches it)");
        return;
    }
    let header = crate_folder.join("kernels/params.h");
    let output = Command::new(bindgen)
        .args(["--allowlist-type", ".*Params", "--blocklist-type", "tw_.*", "--disable-header-comment"])
        .arg("--rustfmt-configuration-file")
        .arg(root.join("rustfmt.toml"))
        .arg(header)
        .args(["--", &builtin_headers()])
        .env("LIBCLANG_PATH", libclang)
        .output()
        .unwrap();
    assert!(output.status.success(), "bindgen: {}", String::from_utf8_lossy(&output.stderr));
    let bindings = with_doc_comments(&String::from_utf8(output.stdout).unwrap());
    let want = format!(
        "//! The parameter structs of `kernels/params.h`.\n\
         //!\n\
         //! Written by `tests/device_params.rs`; do not edit.\n\
         \n\
         use half::bf16 as tw_bf16;\n\
         \n\
         use super::launch::Params;\n\
         \n\
         {}\n{}",
        bindings.trim(),
        implementations(&bindings)
    );
    let file = crate_folder.join("src/device/params.rs");
    if std::env::var_os("TURBOWAN_WRITE_PARAMS").is_some() {
        std::fs::write(&file, &want).unwrap();
    }
    assert!(
        std::fs::read_to_string(&file).unwrap() == want,
        "{} is out of date: write it anew with TURBOWAN_WRITE_PARAMS=1",
        file.display()
    );
}
