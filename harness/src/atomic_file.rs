//! Files that are either whole or absent.
//!
//! Bytes go to a temporary name in the same folder, are flushed to the disk, and take the final name by a rename, which a reader sees
//! as one step. Then the folder itself is flushed (on Unix; elsewhere the system has no such call and the rename stands alone).
//! An error or a panic on the way removes the temporary file; a power cut can leave one, named `.NAME.PID-COUNT.partial`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder is missing, or one of its parts is a file.
    #[error("{}: the folder {} does not exist or cannot hold files ({source})", path.display(), folder.display())]
    NoFolder {
        /// The file that was to be written.
        path: PathBuf,
        /// The folder that is missing.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder or the disk does not allow writing.
    #[error("{}: no permission to write there ({source}); choose another folder", path.display())]
    NotWritable {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No room on the disk, or the user's share of it is used up.
    #[error("{}: the disk is full ({source}); nothing was left behind under this name", path.display())]
    Full {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder bears the name.
    #[error("{}: this is a folder; name a file in it", path.display())]
    IsFolder {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// Something bears the name that must not be replaced: a device, a pipe, a socket.
    #[error("{}: this is no plain file and is left alone", path.display())]
    NotAFile {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// No file name at the end of the path.
    #[error("{:?}: no file name", path)]
    NoName {
        /// As it was given.
        path: PathBuf,
    },
    /// Anything else that the system refuses.
    #[error("{}: cannot {doing} ({source})", path.display())]
    Io {
        /// The file that was to be written.
        path: PathBuf,
        /// What was tried, in words.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl WriteError {
    /// Sorts a system error by what the user can do about it.
    pub fn of(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                let folder = folder_of(&path).to_owned();
                Self::NoFolder { path, folder, source }
            }
            io::ErrorKind::IsADirectory => Self::IsFolder { path },
            _ => Self::Io { path, doing, source },
        }
    }
}

/// A file being written under a temporary name; dropped before [`AtomicFile::seal`], it vanishes.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    pending: Pending,
}

/// A whole file, on the disk, still under its temporary name; dropped before [`Sealed::publish`], it vanishes.
#[derive(Debug)]
pub struct Sealed {
    pending: Pending,
}

/// Removes its temporary file unless that has been renamed.
#[derive(Debug)]
struct Pending {
    temporary: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl AtomicFile {
    /// Opens a temporary file beside `target`, whose folder must exist.
    ///
    /// # Errors
    /// As [`WriteError`] says; nothing is left behind.
    pub fn create(target: &Path) -> Result<Self, WriteError> {
        check_target(target)?;
        let name = target.file_name().ok_or_else(|| WriteError::NoName { path: target.to_owned() })?;
        // Two writers in one process, or two processes, never share a temporary name.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = format!("{}-{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut temporary_name = std::ffi::OsString::from(".");
        if name.len() <= LONGEST_NAME_KEPT {
            temporary_name.push(name);
            temporary_name.push(".");
        }
        temporary_name.push(unique);
        let temporary = folder_of(target).join(temporary_name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|error| WriteError::of(target, "create the file", error))?;
        Ok(Self { file, pending: Pending { temporary, target: target.to_owned(), is_published: false } })
    }

    /// Flushes the bytes to the disk and closes the file.
    ///
    /// # Errors
    /// [`WriteError`]; the temporary file is removed.
    pub fn seal(self) -> Result<Sealed, WriteError> {
        self.file.sync_all().map_err(|error| WriteError::of(&self.pending.target, "flush the file to the disk", error))?;
        Ok(Sealed { pending: self.pending })
    }

    /// [`Self::seal`], then [`Sealed::publish`].
    ///
    /// # Errors
    /// [`WriteError`]; the temporary file is removed.
    pub fn commit(self) -> Result<(), WriteError> {
        self.seal()?.publish()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sealed {
    /// Gives the file its name, replacing a file that has it.
    ///
    /// # Errors
    /// [`WriteError`]; the temporary file is removed.
    pub fn publish(mut self) -> Result<(), WriteError> {
        let pending = &mut self.pending;
        fs::rename(&pending.temporary, &pending.target).map_err(|error| WriteError::of(&pending.target, "name the file", error))?;
        pending.is_published = true;
        sync_folder(folder_of(&pending.target)).map_err(|error| WriteError::of(&pending.target, "flush the folder to the disk", error))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_published {
            // Nobody is left to hear of a failure; the name says what the file is.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` as the whole of `target`.
///
/// # Errors
/// [`WriteError`]; what stood under the name before still stands there.
pub fn write(target: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    stage(target, bytes)?.publish()
}

/// Writes `bytes` for `target` without giving them that name yet: several files can be made ready and then named together.
///
/// # Errors
/// [`WriteError`]; nothing is left behind.
pub fn stage(target: &Path, bytes: &[u8]) -> Result<Sealed, WriteError> {
    let mut file = AtomicFile::create(target)?;
    file.write_all(bytes).map_err(|error| WriteError::of(target, "write the file", error))?;
    file.seal()
}

/// Makes the folder of `target` where it is missing, and tries out that a file can be made in it.
///
/// # Errors
/// [`WriteError`]; the file itself is not touched.
pub fn check(target: &Path) -> Result<(), WriteError> {
    check_target(target)?;
    let folder = folder_of(target);
    fs::create_dir_all(folder).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            WriteError::of(target, "make the folder", source)
        }
        _ => WriteError::NoFolder { path: target.to_owned(), folder: folder.to_owned(), source },
    })?;
    let mut probe = AtomicFile::create(target)?;
    probe.write_all(b"?").map_err(|error| WriteError::of(target, "write the file", error))
}

/// Longer names stay out of the temporary name, which must fit the 255 bytes that most file systems allow.
const LONGEST_NAME_KEPT: usize = 200;

/// Only a plain file, or nothing, may stand under the name.
fn check_target(target: &Path) -> Result<(), WriteError> {
    let ends_as_folder = target.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
    match fs::metadata(target) {
        Ok(found) if found.is_dir() => Err(WriteError::IsFolder { path: target.to_owned() }),
        Ok(found) if !found.is_file() => Err(WriteError::NotAFile { path: target.to_owned() }),
        _ if ends_as_folder || target.file_name().is_none() => Err(WriteError::NoName { path: target.to_owned() }),
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot flush a folder; the rename has happened all the same.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()).len(), 2);
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        drop(AtomicFile::create(&path).unwrap());
        drop(stage(&path, b"whole but never named").unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_folder_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(write(folder.path(), b""), Err(WriteError::IsFolder { .. })));
        assert!(matches!(check(&folder.path().join("..")), Err(WriteError::IsFolder { .. })));
        assert!(matches!(check(&folder.path().join("new/")), Err(WriteError::NoName { .. })));
        assert!(matches!(check(Path::new("")), Err(WriteError::NoName { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_left_alone() {
        assert!(matches!(write(Path::new("/dev/null"), b""), Err(WriteError::NotAFile { .. })));
        assert!(matches!(check(Path::new("/dev/null")), Err(WriteError::NotAFile { .. })));
    }

    #[test]
    fn a_missing_folder_is_named_and_check_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/a.bin");
        assert!(matches!(write(&path, b""), Err(WriteError::NoFolder { folder, .. }) if folder.ends_with("deep/er")));
        check(&path).unwrap();
        assert!(names(&folder.path().join("deep/er")).is_empty());
        write(&path, b"x").unwrap();
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"x").unwrap();
        assert!(matches!(check(&folder.path().join("file/a.bin")), Err(WriteError::NoFolder { .. })));
        assert!(matches!(write(&folder.path().join("file/a.bin"), b""), Err(WriteError::NoFolder { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_without_permission_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        match check(&folder.path().join("a.bin")) {
            Ok(()) => eprintln!("skipped: this user may write everywhere"),
            Err(error) => assert!(matches!(error, WriteError::NotWritable { .. }), "{error}"),
        }
    }

    #[test]
    fn a_full_disk_is_told() {
        let error = WriteError::of(Path::new("a.mp4"), "write the file", io::ErrorKind::StorageFull.into());
        assert!(matches!(error, WriteError::Full { .. }) && error.to_string().starts_with("a.mp4: the disk is full"));
        #[cfg(target_os = "linux")]
        {
            let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let error = full.write_all(b"x").unwrap_err();
            assert!(matches!(WriteError::of(Path::new("a.mp4"), "write the file", error), WriteError::Full { .. }));
        }
    }

    #[test]
    fn a_name_as_long_as_the_system_allows_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a".repeat(255));
        write(&path, b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
