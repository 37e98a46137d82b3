//! Puts a new database in the place of an old one, whole or not at all.
//!
//! It is written beside the old one, synced, and renamed over it: who opens the name sees the old
//! one or the new. The old file is never opened for writing, so that a daemon that has it open
//! reads on undisturbed.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::accessdb::{DbError, Inserted, Writer};
use crate::error::StartError;

/// Why there is no new database. The old one is as it was.
#[derive(Debug)]
pub enum Failure {
    /// The file could not be made.
    File(StartError),
    /// A key came a second time.
    Twice(String),
    /// What is to be written is at fault; the text says where.
    Content(String),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Failure::File(error)
    }
}

/// A file that is removed again unless it is renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A database that is being filled.
pub struct Filling<'a> {
    writer: Writer,
    path: &'a Path,
}

impl Filling<'_> {
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        match self.writer.insert(key, value) {
            Ok(Inserted::New) => Ok(()),
            Ok(Inserted::Duplicate) => Err(Failure::Twice(String::from_utf8_lossy(key).into_owned())),
            Err(error) => Err(cannot_write(self.path, error).into()),
        }
    }
}

fn cannot_write(path: &Path, error: DbError) -> StartError {
    StartError::file(path, "cannot write", error)
}

/// `FILE` beside itself: hidden, with our process number, so that two of us do not meet.
pub fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    file.with_file_name(name)
}

/// Replaces `file` by the database that `fill` makes, by way of `temporary`, which must be in the
/// same file system. The new file has the mode and the owner of the old one.
pub fn replace(
    file: &Path,
    temporary: &Path,
    fill: impl FnOnce(&mut Filling<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // One left behind by a run that was killed is in nobody's way.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StartError::file(temporary, "cannot remove", error).into());
        }
        _ => {}
    }
    let old = fs::metadata(file).ok().filter(|old| old.is_file());
    // Made by us and not by libgdbm, which would follow a link that a stranger put there.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if old.is_some() { 0o600 } else { 0o666 })
        .open(temporary)
        .map_err(|error| StartError::file(temporary, "cannot create", error))?;
    let temporary = Temporary(temporary.to_owned());
    let writer = Writer::create(&temporary.0, 0o600).map_err(|error| cannot_write(&temporary.0, error))?;
    let mut filling = Filling { writer, path: &temporary.0 };
    fill(&mut filling)?;
    filling.writer.finish(&temporary.0).map_err(|error| cannot_write(&temporary.0, error))?;
    if let Some(old) = old {
        keep_owner_and_mode(&made, &old).map_err(|error| StartError::file(file, "cannot keep its owner", error))?;
    }
    fs::rename(&temporary.0, file).map_err(|error| StartError::file(file, "cannot replace", error))?;
    sync_directory(file);
    Ok(())
}

fn keep_owner_and_mode(new: &File, old: &fs::Metadata) -> io::Result<()> {
    let made = new.metadata()?;
    if made.uid() != old.uid() {
        // Only root may; another owner who may write here may also own the file.
        let _ = fchown(new, Some(old.uid()), None);
    }
    if made.gid() != old.gid() {
        fchown(new, None, Some(old.gid()))?;
    }
    new.set_permissions(Permissions::from_mode(old.mode() & 0o777))
}

/// The rename outlives a crash of the machine. Not every file system can; the file is in place.
fn sync_directory(file: &Path) {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}
