//! Files that are cut, forged or something else: each is one clear error, within a second, in little memory.

use std::path::Path;
use std::time::Duration;

use turbowan_wan_model::checkpoint::{Access, Checkpoint, TensorSource, pickle_globals};

use crate::forge::{Pickle, Zip, ZipEntry, floats, good_torch, line, one_tensor, safetensors, state_dict};
use crate::memory::measured;

/// Time within which a bad file must be refused, even on a busy machine; an unoptimised build may take longer.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
/// Memory for messages and small tables, whatever the file.
const SMALL: usize = 1 << 16;
/// Bytes of memory for one byte of a file: a pickle's one-byte instruction makes a value of some dozen bytes, twice while a list grows.
const PER_BYTE: usize = 160;

/// Opens `bytes` as a file and holds the refusal to its bounds; gives the message.
fn refusal(case: &str, bytes: Vec<u8>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pth");
    std::fs::write(&path, &bytes).unwrap();
    let budget = SMALL + PER_BYTE * bytes.len();
    for access in [Access::Map, Access::Read] {
        let (result, most, time) = measured(|| Checkpoint::open_with(&path, access).map(|_| ()));
        let message = result.expect_err(case).to_string();
        assert!(time < PATIENCE, "{case}: {time:?}");
        assert!(most <= budget, "{case}: held {most} bytes for a file of {}", bytes.len());
        assert!(message.starts_with(&path.display().to_string()), "{case}: {message}");
        assert!(message.len() < 1000, "{case}: a message of {} bytes", message.len());
        if access == Access::Read {
            return message;
        }
    }
    unreachable!()
}

fn refuse_all(cases: Vec<(&str, Vec<u8>, &str)>) {
    for (case, bytes, expected) in cases {
        let message = refusal(case, bytes);
        assert!(message.contains(expected), "{case}: {message:?} does not say {expected:?}");
    }
}

#[test]
fn safetensors_that_lie_are_refused() {
    let two = |a: (u64, u64), b: (u64, u64), data: usize| {
        let header = format!("{{{},{}}}", line("a", "F32", "[2]", a.0, a.1), line("b", "F32", "[2]", b.0, b.1));
        safetensors(&header, &vec![0; data])
    };
    let long_name = format!("{{{}}}", line(&"n".repeat(5000), "F32", "[1]", 0, 4));
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}        "].concat();
    let deep = format!("{{\"w\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    refuse_all(vec![
        ("empty", vec![], "empty"),
        ("seven bytes", vec![1; 7], "neither"),
        ("header length of all ones", with_length(u64::MAX), "neither"),
        ("header length beyond the file", with_length(1000), "truncated"),
        ("header length beyond memory", with_length(1 << 62), "neither"),
        ("header too long", safetensors(&format!("{{{}}}", " ".repeat(17 << 20)), &[]), "header of"),
        ("header that is no JSON", safetensors("{\"w\": oops}", &[]), "malformed safetensors header"),
        ("header that is a list", safetensors("[1]", &[]), "neither"),
        ("header that is not UTF-8", [&9u64.to_le_bytes()[..], b"{\"\xff\xfe\": 1}"].concat(), "malformed"),
        ("header nested deeply", safetensors(&deep, &[]), "malformed"),
        ("shape product overflows", one_tensor("[1099511627776,1099511627776]", &[0; 4]), "overflows"),
        ("zero axis beside huge ones", one_tensor("[0,9223372036854775808,16]", &[]), "overflows"),
        ("negative shape", one_tensor("[-1]", &[0; 4]), "malformed"),
        ("fractional shape", one_tensor("[1.5]", &[0; 4]), "malformed"),
        ("too many axes", one_tensor(&format!("[{}1]", "1,".repeat(16)), &[0; 4]), "at most 16 axes"),
        ("a million axes", one_tensor(&format!("[{}1]", "1,".repeat(1 << 20)), &[0; 4]), "at most 16 axes"),
        ("shape larger than its bytes", one_tensor("[3]", &[0; 8]), "needs 12 bytes"),
        ("offsets outside", safetensors(&format!("{{{}}}", line("w", "F32", "[4]", 0, 16)), &[0; 4]), "truncated"),
        ("offsets reversed", safetensors(&format!("{{{}}}", line("w", "F32", "[1]", 4, 0)), &[0; 4]), "outside"),
        (
            "offsets at the end of the world",
            safetensors(&format!("{{{}}}", line("w", "F32", "[1]", u64::MAX - 3, u64::MAX)), &[0; 4]),
            "outside",
        ),
        ("overlapping tensors", two((0, 8), (4, 12), 12), "overlaps"),
        ("tensors at one place", two((0, 8), (0, 8), 8), "overlaps"),
        ("a gap between tensors", two((0, 8), (12, 20), 20), "gap"),
        ("bytes after the last tensor", two((0, 8), (8, 16), 24), "follow the header"),
        ("a name twice", safetensors(&format!("{{{0},{0}}}", line("w", "F32", "[1]", 0, 4)), &[0; 4]), "appears twice"),
        ("a name of 5000 bytes", safetensors(&long_name, &[0; 4]), "name of 5000 bytes"),
        (
            "a name that moves the cursor",
            safetensors(&format!("{{{}}}", line("w\\u001b[2J", "F32", "[1]", 0, 4)), &[0; 4]),
            "control characters",
        ),
        ("a number format that is not read", safetensors(&format!("{{{}}}", line("w", "F8_E4M3", "[4]", 0, 4)), &[0; 4]), "F8_E4M3"),
        ("a number format that is none", safetensors(&format!("{{{}}}", line("w", "X7", "[4]", 0, 4)), &[0; 4]), "X7"),
        ("metadata that is no text", safetensors("{\"__metadata__\":{\"a\":1}}", &[]), "malformed"),
        ("metadata twice", safetensors("{\"__metadata__\":{},\"__metadata__\":{}}", &[]), "appears twice"),
    ]);
}

#[test]
fn pickles_that_would_execute_are_refused_by_name() {
    let marker = std::env::temp_dir().join("turbowan-pickle-was-executed");
    let command = format!("touch {}", marker.display());
    let torch = |pickle: Vec<u8>| Zip::torch(&pickle, &[("0", &floats(6))]).build();
    let refused = |op: &[u8]| torch(state_dict(|pickle| pickle.raw(b"(").raw(op)));
    refuse_all(vec![
        ("os.system", torch(Pickle::new().global("os", "system").text(&command).raw(b"\x85R").stop()), "`os.system`"),
        ("posix.system as a value", torch(state_dict(|pickle| pickle.global("posix", "system"))), "`posix.system`"),
        (
            "builtins.eval",
            torch(Pickle::new().text("builtins").text("eval").raw(b"\x93").text(&command).raw(b"\x85R").stop()),
            "`builtins.eval`",
        ),
        ("a name with a line feed", torch(Pickle::new().text("a\nb").text("c").raw(b"\x93").stop()), "`a\\nb.c`"),
        (
            "a storage type that is not read",
            torch(state_dict(|pickle| pickle.storage("ComplexFloatStorage", "0", 6))),
            "ComplexFloatStorage",
        ),
        ("another rebuild function", torch(state_dict(|pickle| pickle.global("torch._utils", "_rebuild_qtensor"))), "_rebuild_qtensor"),
        ("INST", refused(b"ios\nsystem\n"), "INST"),
        ("OBJ", refused(b"o"), "OBJ"),
        ("NEWOBJ", refused(b"\x81"), "NEWOBJ"),
        ("EXT1", refused(b"\x82\x01"), "EXT"),
        ("PERSID", refused(b"Pstorage\n"), "PERSID"),
        ("calling a text", torch(Pickle::new().text("os").raw(b")R").stop()), "calls something"),
        (
            "calling a dictionary with arguments",
            torch(Pickle::new().global("collections", "OrderedDict").int(1).raw(b"\x85R").stop()),
            "OrderedDict",
        ),
    ]);
    assert!(!marker.exists());
}

#[test]
fn the_names_of_a_refused_pickle_can_still_be_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.pth");
    let pickle = state_dict(|pickle| pickle.global("torch", "FloatStorage").global("os", "system").text("id").raw(b"\x85R\xff"));
    std::fs::write(&path, Zip::torch(&pickle, &[]).build()).unwrap();
    assert_eq!(pickle_globals(&path).unwrap(), ["torch.FloatStorage", "os.system"]);
}

#[test]
fn pickles_that_lie_about_tensors_are_refused() {
    let torch = |pickle: Vec<u8>| Zip::torch(&pickle, &[("0", &floats(6))]).build();
    let tensor = |values, offset, shape: &[i32], strides: &[i32]| {
        torch(state_dict(|pickle| pickle.rebuilt(|pickle| pickle.storage("FloatStorage", "0", values), offset, shape, strides)))
    };
    let persistent =
        |id: &dyn Fn(Pickle) -> Pickle| torch(state_dict(|pickle| pickle.rebuilt(|pickle| id(pickle).raw(b"Q"), 0, &[2], &[1])));
    let arguments = |bytes: &[u8]| torch(state_dict(|pickle| pickle.global("torch._utils", "_rebuild_tensor_v2").raw(bytes).raw(b"R")));
    let twice = Pickle::new().raw(b"}(");
    let twice = (0..2).fold(twice, |pickle, _| pickle.text("w").tensor("FloatStorage", "0", 6, &[6], &[1])).raw(b"u").stop();
    let many_views = (0..100).fold(Pickle::new().raw(b"}("), |pickle, index| {
        pickle.text(&format!("w{index}")).rebuilt(|pickle| pickle.storage("FloatStorage", "0", 20_000), 0, &[100, 200], &[1, 100])
    });
    refuse_all(vec![
        ("negative offset", tensor(6, -1, &[2], &[1]), "offset -1"),
        ("negative stride", tensor(6, 5, &[2], &[-1]), "strides holds -1"),
        ("negative shape", tensor(6, 0, &[-2], &[1]), "shape holds -2"),
        ("offset outside", tensor(6, 5, &[2], &[1]), "reach outside"),
        ("stride outside", tensor(6, 0, &[2, 3], &[4, 1]), "reach outside"),
        ("a tensor of 2^40 values", tensor(6, 0, &[1 << 20, 1 << 20], &[1 << 20, 1]), "reach outside"),
        ("a size that overflows", tensor(6, 0, &[i32::MAX; 8], &[0; 8]), "overflows"),
        ("values repeated by strides of zero", tensor(6, 0, &[1 << 20, 6], &[0, 1]), "repeats"),
        ("strides of another rank", tensor(6, 0, &[2, 3], &[1]), "strides"),
        ("17 axes", tensor(6, 0, &[1; 17], &[1; 17]), "17 axes"),
        ("a storage larger than its entry", tensor(7, 0, &[2], &[1]), "24 bytes for 7 values"),
        ("a storage smaller than its entry", tensor(2, 0, &[2], &[1]), "24 bytes for 2 values"),
        ("a storage of negative size", tensor(-6, 0, &[2], &[1]), "-6 values"),
        ("a storage that is not there", torch(state_dict(|pickle| pickle.tensor("FloatStorage", "9", 6, &[6], &[1]))), "data/9"),
        (
            "a storage key that climbs",
            torch(state_dict(|pickle| pickle.tensor("FloatStorage", "../version", 6, &[6], &[1]))),
            "not in the archive",
        ),
        ("a persistent id that is a text", persistent(&|pickle| pickle.text("storage")), "expected a tuple"),
        ("a short persistent id", persistent(&|pickle| pickle.text("storage").raw(b"\x85")), "persistent id of 1 parts"),
        (
            "a persistent id of no storage",
            persistent(&|pickle| pickle.raw(b"(").text("module").int(1).text("0").text("cpu").int(6).raw(b"t")),
            "persistent id",
        ),
        (
            "a persistent id with a tail",
            persistent(&|pickle| {
                pickle.raw(b"(").text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(6).int(7).raw(b"t")
            }),
            "persistent id of 6",
        ),
        ("no arguments", arguments(b")"), "with 0 arguments"),
        ("arguments that are no tuple", arguments(b"N"), "expected a tuple"),
        ("arguments of the wrong kind", arguments(b"(NNNNNNt"), "with 6 arguments"),
        ("a name twice", torch(twice), "appears twice"),
        (
            "a name that rings",
            torch(Pickle::new().raw(b"}").text("w\x07").tensor("FloatStorage", "0", 6, &[6], &[1]).raw(b"s").stop()),
            "control characters",
        ),
        (
            "a hundred transposed views of one storage",
            Zip::torch(&many_views.raw(b"u").stop(), &[("0", &floats(20_000))]).build(),
            "more memory than the file",
        ),
        ("a dictionary without tensors", torch(state_dict(|pickle| pickle.int(1))), "no tensors by name"),
        ("a bare tensor", torch(Pickle::new().tensor("FloatStorage", "0", 6, &[6], &[1]).stop()), "no dictionary of tensors"),
    ]);
}

#[test]
fn pickles_that_are_broken_are_refused() {
    let torch = |pickle: Vec<u8>| Zip::torch(&pickle, &[]).build();
    let raw = |bytes: &[u8]| torch(Pickle::new().raw(bytes).stop());
    let wrapped = (0..20).fold(Pickle::new(), |pickle, _| pickle.raw(b"}(").text("model"));
    let wrapped = (0..20).fold(wrapped.raw(b"}"), |pickle, _| pickle.raw(b"u"));
    let circular = Pickle::new().raw(b"}q\x00(").text("model").raw(b"h\x00u");
    refuse_all(vec![
        ("an empty pickle", torch(vec![]), "ends inside"),
        ("no end", torch(vec![0x80, 2, b'}']), "ends inside"),
        ("an unknown instruction", raw(b"\xff"), "no pickle instruction"),
        ("protocol 0", torch(b"(dp0\n.".to_vec()), "protocol 0"),
        ("protocol 9", torch(vec![0x80, 9, b'.']), "protocol 9"),
        ("a frame past the end", raw(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f"), "frame"),
        ("a text past the end", raw(b"X\xff\xff\xff\xff"), "more than 65536"),
        ("a text of 2^63 bytes", raw(b"\x8d\0\0\0\0\0\0\0\x80"), "bytes in the pickle"),
        ("a text that is not UTF-8", raw(b"X\x02\0\0\0\xff\xfe"), "UTF-8"),
        ("a line without end", torch([vec![0x80, 2, b'c'], vec![b'a'; 100_000]].concat()), "no end"),
        ("an integer of 255 bytes", raw(&[&[0x8a, 255][..], &[1; 255]].concat()), "255 bytes"),
        ("an empty stack", raw(b"R"), "empty stack"),
        ("nothing at the end", raw(b""), "empty stack"),
        ("a mark that was never set", raw(b"t"), "mark"),
        ("a value from below a mark", raw(b"}(s"), "empty stack"),
        ("a key without a value", raw(b"}(Nu"), "key without a value"),
        ("an entry of a list", raw(b"](NNu"), "no dictionary"),
        ("a value appended to a dictionary", raw(b"}Na"), "no list"),
        ("the state of a text", raw(b"U\x01aNb"), "no dictionary"),
        ("a memo entry that was never stored", raw(b"j\xff\xff\xff\xff"), "never stored"),
        (
            "two million memo entries",
            torch(
                [vec![0x80, 2, b'}'], (0..2_000_000u32).flat_map(|slot| [&b"r"[..], &slot.to_le_bytes()].concat()).collect(), vec![b'.']]
                    .concat(),
            ),
            "more than",
        ),
        ("two million values", torch([vec![0x80, 2], vec![b'N'; 2_000_000], vec![b'.']].concat()), "more than"),
        ("two million dictionaries", torch([vec![0x80, 2], b"}0".repeat(2_000_000), vec![b'.']].concat()), "more than"),
        ("many tuples in one another", torch([vec![0x80, 2, b')'], vec![0x85; 200_000], vec![b'.']].concat()), "no dictionary"),
        ("a pickle of 17 MiB", torch(vec![b'N'; 17 << 20]), "a pickle of"),
        ("twenty dictionaries in one another", torch(wrapped.stop()), "inside one another"),
        ("a dictionary that holds itself", torch(circular.raw(b".").0), "inside one another"),
    ]);
}

#[test]
fn archives_that_lie_are_refused() {
    let pickle = state_dict(|pickle| pickle.tensor("FloatStorage", "0", 6, &[2, 3], &[3, 1]));
    let changed = |change: &dyn Fn(&mut Zip)| {
        let mut zip = Zip::torch(&pickle, &[("0", &floats(6))]);
        change(&mut zip);
        zip.build()
    };
    let storage = |change: fn(&mut ZipEntry)| changed(&|zip| change(&mut zip.entries[2]));
    let whole = good_torch();
    let appended = [&whole[..], b"tail"].concat();
    let (size, start) = Zip::torch(&pickle, &[("0", &floats(6))]).directory();
    let wide_place = [&[1, 0, 8, 0][..], &u64::MAX.to_le_bytes()].concat();
    refuse_all(vec![
        ("no directory", whole[..whole.len() - 22].to_vec(), "truncated"),
        ("bytes after the end", appended, "truncated"),
        ("a directory elsewhere", changed(&|zip| zip.moved_directory = 1), "does not end"),
        ("a directory far outside", changed(&|zip| zip.moved_directory = 0x7fff_0000), "outside the file"),
        ("more entries than listed", changed(&|zip| zip.more_entries = 1), "claims 5 entries"),
        ("60000 entries", changed(&|zip| zip.more_entries = 60_000), "claims 60004 entries"),
        ("several parts", changed(&|zip| zip.disk = 1), "several parts"),
        ("a compressed entry", storage(|entry| entry.method = 8), "compressed"),
        ("an encrypted entry", storage(|entry| entry.flags = 1), "encrypted"),
        ("two sizes", storage(|entry| entry.packed = Some(5)), "two sizes"),
        ("an entry past the file", storage(|entry| entry.size = Some(1 << 30)), "outside the file"),
        ("an entry over the next", storage(|entry| entry.size = Some(40)), "overlap"),
        ("an entry at another's place", storage(|entry| entry.place = Some(0)), "not its own"),
        ("an entry at no place", storage(|entry| entry.place = Some(u32::MAX - 1)), "outside the file"),
        ("another name inside", storage(|entry| entry.local_name = Some("x/data/1".into())), "not its own"),
        ("a name twice", changed(&|zip| zip.entries.push(ZipEntry::new("x/data/0", b""))), "twice"),
        (
            "two names for one place",
            changed(&|zip| {
                let mut shadow = ZipEntry::new("x/data.pkl", b"");
                shadow.place = Some(0);
                zip.entries.push(shadow);
            }),
            "twice",
        ),
        ("zip64 place at the end of the world", storage_with_extra(&pickle, wide_place), "outside the file"),
        ("zip64 place promised but absent", storage_with_extra(&pickle, vec![]), "directory is broken"),
        ("zip64 field cut", storage_with_extra(&pickle, vec![1, 0, 8, 0, 1]), "directory is broken"),
        (
            "zip64 record elsewhere",
            changed(&|zip| (zip.zip64, zip.zip64_at) = (Some((4, size, start)), Some(u64::MAX))),
            "end record is broken",
        ),
        (
            "zip64 record at a wrong place",
            changed(&|zip| (zip.zip64, zip.zip64_at) = (Some((4, size, start)), Some(3))),
            "end record is broken",
        ),
        ("zip64 entries beyond count", changed(&|zip| zip.zip64 = Some((u64::MAX, size, start))), "claims"),
        ("zip64 directory beyond the file", changed(&|zip| zip.zip64 = Some((4, u64::MAX, start))), "outside the file"),
        ("zip64 directory elsewhere", changed(&|zip| zip.zip64 = Some((4, size, 1))), "does not end"),
        ("no pickle", changed(&|zip| drop(zip.entries.remove(0))), "without data.pkl"),
        ("two pickles", changed(&|zip| zip.entries.push(ZipEntry::new("y/data.pkl", b"."))), "more than one data.pkl"),
        ("a pickle deep down", Zip::of(vec![ZipEntry::new("a/b/data.pkl", &pickle)]).build(), "deeper"),
        ("a TorchScript program", changed(&|zip| zip.entries.push(ZipEntry::new("x/code/a.py", b""))), "TorchScript"),
        ("a big-endian file", changed(&|zip| zip.entries[1] = ZipEntry::new("x/byteorder", b"big")), "little-endian"),
    ]);
}

/// A good archive whose storage says that its place is in a zip64 field, and has this extra field.
fn storage_with_extra(pickle: &[u8], extra: Vec<u8>) -> Vec<u8> {
    let mut zip = Zip::torch(pickle, &[("0", &floats(6))]);
    zip.entries[2].place = Some(u32::MAX);
    zip.entries[2].extra = extra;
    zip.build()
}

#[test]
fn an_honest_zip64_archive_is_read() {
    let pickle = state_dict(|pickle| pickle.tensor("FloatStorage", "0", 6, &[2, 3], &[3, 1]));
    let mut zip = Zip::torch(&pickle, &[("0", &floats(6))]);
    let place: usize = zip.entries[..2].iter().map(|entry| 30 + entry.name.len() + entry.bytes.len()).sum();
    zip.entries[2].place = Some(u32::MAX);
    zip.entries[2].extra = [&[9, 0, 1, 0, 7, 1, 0, 8, 0][..], &(place as u64).to_le_bytes()].concat();
    let (size, start) = zip.directory();
    zip.zip64 = Some((4, size, start));
    let checkpoint = Checkpoint::from_vec("wide.pth", zip.build()).unwrap();
    assert_eq!(checkpoint.get("w").unwrap().bytes, floats(6));
}

#[test]
fn foreign_files_are_named_with_the_next_step() {
    let legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    let mut tar = vec![0; 1024];
    tar[..4].copy_from_slice(b"file");
    tar[257..262].copy_from_slice(b"ustar");
    refuse_all(vec![
        ("GGUF", b"GGUF\x03\0\0\0\x10\0\0\0\0\0\0\0".to_vec(), "GGUF"),
        ("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "PNG"),
        ("JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF".to_vec(), "JPEG"),
        ("a web page", b"\n  <!DOCTYPE html><html><body>Sign in</body></html>".to_vec(), "web page"),
        ("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n".to_vec(), "git lfs pull"),
        ("legacy torch", legacy, "legacy torch"),
        ("a bare pickle", Pickle::new().raw(b"}").stop(), "bare pickle"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "gunzip"),
        ("zstd", b"\x28\xb5\x2f\xfd\0\0\0\0\0".to_vec(), "unzstd"),
        ("tar", tar, "tar archive"),
        ("JSON", b"{\"error\": \"Invalid username or password.\"}".to_vec(), "JSON"),
        ("an empty archive", Zip::of(vec![]).build(), "empty zip"),
        ("zeros", vec![0; 4096], "zeros"),
        ("plain text", b"hello, I am a model".to_vec(), "neither"),
    ]);
}

#[test]
fn every_cut_of_a_good_file_is_refused() {
    let tensors = format!("{{{},{}}}", line("a", "F32", "[2,3]", 0, 24), line("b", "F32", "[2]", 24, 32));
    for whole in [good_torch(), safetensors(&tensors, &floats(8))] {
        Checkpoint::from_vec("whole", whole.clone()).unwrap();
        for len in 0..whole.len() {
            assert!(Checkpoint::from_vec("cut", whole[..len].to_vec()).is_err(), "cut to {len} of {}", whole.len());
        }
    }
}

#[test]
fn a_cut_pickle_inside_a_whole_archive_is_refused() {
    let pickle = state_dict(|pickle| pickle.tensor("FloatStorage", "0", 6, &[2, 3], &[3, 1]));
    for len in 0..pickle.len() {
        assert!(Checkpoint::from_vec("cut", Zip::torch(&pickle[..len], &[("0", &floats(6))]).build()).is_err(), "pickle cut to {len}");
    }
}

#[test]
fn paths_that_are_no_checkpoint_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    assert!(message(&folder.path().join("absent.pth")).contains("absent.pth"));
    assert!(message(folder.path()).contains("without a checkpoint"));
    write("a.safetensors", &one_tensor("[1]", &[0; 4]));
    write("b.safetensors", &one_tensor("[1]", &[0; 4]));
    assert!(message(folder.path()).contains("2 checkpoints; name one: a.safetensors, b.safetensors"));

    for (index, expected) in [
        ("not json", "malformed index"),
        ("{\"weight_map\":{}}", "no tensors"),
        ("{\"weight_map\":{\"w\":\"../a.safetensors\"}}", "no file beside the index"),
        ("{\"weight_map\":{\"w\":\"/etc/passwd\"}}", "no file beside the index"),
        ("{\"weight_map\":{\"w\":\"..\"}}", "no file beside the index"),
        ("{\"weight_map\":{\"w\":\"absent.safetensors\"}}", "1 of 1 shards are missing: absent.safetensors"),
        ("{\"weight_map\":{\"w\":\"a.safetensors\",\"v\":\"a.safetensors\"}}", "not in its shards"),
        ("{\"weight_map\":{\"w\":\"a.safetensors\",\"v\":\"b.safetensors\"}}", "is also in"),
    ] {
        write("model.safetensors.index.json", index.as_bytes());
        let message = message(&folder.path().join("model.safetensors.index.json"));
        assert!(message.contains(expected), "{index}: {message}");
    }
    #[cfg(unix)]
    assert!(message(Path::new("/dev/zero")).contains("not a regular file"));
}
