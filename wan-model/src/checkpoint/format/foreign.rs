//! Files that are something else: what they are and what to do about it.

/// Beginnings of other formats, and the next step.
const KNOWN: &[(&[u8], &str)] = &[
    (b"GGUF", "a GGUF file; GGUF is not read, take the .safetensors or .pth of the same model"),
    (b"version https://git-lfs.github.com/spec/", "a git-lfs pointer, not the file itself; run `git lfs pull` where it lies"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image, not a checkpoint"),
    (b"\xff\xd8\xff", "a JPEG image, not a checkpoint"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; convert the model to .safetensors"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first (unzstd)"),
    (b"\xfd7zXZ\0", "xz-compressed; unpack it first (unxz)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"\x93NUMPY", "a NumPy array; convert the model to .safetensors"),
    (b"\x7fELF", "a program, not a checkpoint"),
    (b"%PDF-", "a PDF document, not a checkpoint"),
    (b"PK\x05\x06", "an empty zip archive"),
];

/// What `torch.save` wrote before version 1.6: a pickle whose first value is this number.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Why these bytes are no checkpoint, when they are plainly something else.
pub(crate) fn refusal(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("the file is empty; download it again".into());
    }
    if let Some((_, what)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some((*what).into());
    }
    let head = &bytes[..bytes.len().min(512)];
    if head.iter().all(|byte| *byte == 0) {
        return Some("the file begins with zeros only, as an interrupted download does; download it again".into());
    }
    if is_pickle(head) {
        let legacy = head.windows(LEGACY_MAGIC.len()).any(|window| window == LEGACY_MAGIC);
        let what = if legacy { "the legacy torch format from before 1.6" } else { "a bare pickle without a zip archive" };
        return Some(format!(
            "{what}, which is not read; where the file is trusted, load it in Python and write it again with \
             safetensors.torch.save_file or with torch.save of a current torch"
        ));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it first".into());
    }
    let text = head.trim_ascii_start();
    if text.starts_with(b"<") {
        return Some("a web page or XML, not a checkpoint; the download was answered with a page (is a login or licence needed?)".into());
    }
    if text.starts_with(b"{") || text.starts_with(b"[") {
        return Some("JSON text; a list of shards is named *.index.json, anything else is no checkpoint".into());
    }
    None
}

/// `PROTO 2..5` and something that opens a pickle.
fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, opcode, ..] if b"}]().cX\x8a\x95\x8cK".contains(opcode))
}
