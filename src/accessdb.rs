//! The GDBM database behind `-access`: open, ask, open anew; and make, for `couriertcpd-access`.
//!
//! The daemon owns one [`AccessDb`] for its life, the access tool opens and writes its own. Sole
//! user of gdbm-sys. libgdbm must never end the process (no fatal function), never map the file
//! (one that shrinks would raise SIGBUS), and its silence must never pass for "not listed": a
//! fetch that gives nothing is an error unless libgdbm says, for this very call, "no such key".

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::FromRawFd;
use std::os::raw::{c_char, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::error::{StartError, errno_text};
use crate::log;
use crate::policy::access::{self, Lookup};
use crate::policy::env::Delta;

mod verify;

/// Flags that gdbm-sys does not name: read the file, do not map it.
const NO_MMAP: c_uint = 0x80;
/// The descriptor is close-on-exec.
const CLOEXEC: c_uint = 0x100;
/// libgdbm checks the header and each bucket it reads; 1.22 and older do not know the flag.
const VERIFY: c_uint = 0x800;
/// Buckets that a reader keeps in memory. libgdbm's own choice grows to all there are, which for
/// a file of 200,000 records is more memory than the rest of the daemon; this many are 64 KiB.
const READER_CACHE: c_int = 16;
/// libgdbm opens by name what was looked at before: tries to find both the same file. Whoever replaces it
/// more often than that between the two means harm.
const OPENINGS: usize = 5;
/// The smallest space one record takes in a bucket. With the file's size it bounds the records.
const ELEMENT_SIZE: u64 = 24;

type Handle = NonNull<gdbm_sys::_bindgen_ty_1>;

/// Why the database did not answer.
#[derive(Debug)]
pub enum DbError {
    /// The system's reason, at open, read or write.
    System(io::Error),
    /// Another program has it open for writing, in place.
    Busy,
    /// No regular file, or not of GDBM's make.
    NotGdbm,
    /// The file's bytes contradict each other.
    Damaged,
    /// Another file took the name each time that it was opened.
    Replaced,
    /// It was written in place since it was opened: what libgdbm keeps of it in memory may fit it no longer.
    Changed,
    /// libgdbm's reason, by its number.
    Gdbm(c_int),
}

impl DbError {
    /// Must be called before anything else can change errno.
    fn last() -> Self {
        let errno = io::Error::last_os_error();
        let code = gdbm_errno();
        match code as c_uint {
            // For other codes errno is stale: it tells of something that went well in the end.
            gdbm_sys::GDBM_FILE_OPEN_ERROR
            | gdbm_sys::GDBM_FILE_WRITE_ERROR
            | gdbm_sys::GDBM_FILE_SEEK_ERROR
            | gdbm_sys::GDBM_FILE_READ_ERROR
                if errno.raw_os_error() != Some(0) =>
            {
                DbError::System(errno)
            }
            gdbm_sys::GDBM_CANT_BE_READER | gdbm_sys::GDBM_CANT_BE_WRITER => DbError::Busy,
            gdbm_sys::GDBM_BAD_MAGIC_NUMBER | gdbm_sys::GDBM_EMPTY_DATABASE => DbError::NotGdbm,
            0 => DbError::Damaged,
            _ => DbError::Gdbm(code),
        }
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DbError::System(error) => f.write_str(&errno_text(error)),
            DbError::Busy => f.write_str("another program is writing it in place"),
            DbError::NotGdbm => f.write_str("not a GDBM database"),
            DbError::Damaged => f.write_str("the database is damaged"),
            DbError::Replaced => f.write_str("another program changes it again and again"),
            DbError::Changed => f.write_str("it was written in place"),
            DbError::Gdbm(code) => write!(f, "the database is damaged: {}", gdbm_text(*code)),
        }
    }
}

impl std::error::Error for DbError {}

impl From<io::Error> for DbError {
    fn from(error: io::Error) -> Self {
        DbError::System(error)
    }
}

impl From<DbError> for io::Error {
    fn from(error: DbError) -> Self {
        match error {
            DbError::System(error) => error,
            error => io::Error::other(error),
        }
    }
}

fn gdbm_errno() -> c_int {
    // SAFETY: no preconditions; gives a pointer to this thread's variable.
    let location = unsafe { gdbm_sys::gdbm_errno_location() };
    // SAFETY: the pointer is valid for the life of the thread.
    unsafe { *location }
}

/// What one call says must not be taken for what an earlier one said.
fn forget_errors() {
    // SAFETY: no preconditions; gives a pointer to this thread's variable.
    let location = unsafe { gdbm_sys::gdbm_errno_location() };
    // SAFETY: the pointer is valid for the life of the thread, and nothing else holds it.
    unsafe { *location = 0 };
    nix::errno::Errno::clear();
}

fn gdbm_text(code: c_int) -> String {
    // SAFETY: any number is allowed; gives a string that lives for ever.
    let text = unsafe { gdbm_sys::gdbm_strerror(code) };
    if text.is_null() {
        return format!("database error {code}");
    }
    // SAFETY: not null, NUL-terminated and static, as libgdbm documents.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A key or a value on its way in. libgdbm reads it and keeps no pointer.
fn datum(bytes: &[u8]) -> Option<gdbm_sys::datum> {
    Some(gdbm_sys::datum { dptr: bytes.as_ptr() as *mut c_char, dsize: c_int::try_from(bytes.len()).ok()? })
}

/// Copies what libgdbm allocated, and frees it. None if it is the null datum.
fn take(datum: gdbm_sys::datum) -> Option<Vec<u8>> {
    if datum.dptr.is_null() {
        return None;
    }
    let length = usize::try_from(datum.dsize).unwrap_or(0);
    // SAFETY: libgdbm allocated at least `dsize` bytes at `dptr` and wrote them.
    let bytes = unsafe { std::slice::from_raw_parts(datum.dptr.cast::<u8>(), length) }.to_vec();
    // SAFETY: libgdbm allocates what it returns with malloc and leaves it to the caller.
    unsafe { libc::free(datum.dptr.cast()) };
    Some(bytes)
}

/// libgdbm would wait for ever at a FIFO, so that a file is looked at first.
fn regular_file(path: &Path) -> Result<File, DbError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(DbError::NotGdbm) }
}

/// An open database; closed on drop.
#[derive(Debug)]
struct Database(Handle);

/// By what a file is known that was looked at: a write in place changes it, and a new name, or none, does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let seen = file.metadata()?;
        let modified = (seen.mtime(), seen.mtime_nsec());
        Ok(Stamp { device: seen.dev(), inode: seen.ino(), size: seen.len(), modified })
    }
}

impl Database {
    fn open(path: &Path, flags: c_uint, mode: c_int) -> Result<Self, DbError> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)?;
        forget_errors();
        // SAFETY: the path is NUL-terminated and not written to, whatever the binding's type
        // says; without a fatal function libgdbm reports its errors by the result.
        let file = unsafe { gdbm_sys::gdbm_open(path.as_ptr().cast_mut(), 0, (flags | CLOEXEC) as c_int, mode, None) };
        NonNull::new(file).map(Database).ok_or_else(DbError::last)
    }

    /// Looks at the file with `check`, then opens it; gives both, which are the same file, as it was before the look.
    fn open_as_seen(
        path: &Path,
        mut check: impl FnMut(&File) -> Result<(), DbError>,
    ) -> Result<(Self, File, Stamp), DbError> {
        for _ in 0..OPENINGS {
            let file = regular_file(path)?;
            let stamp = Stamp::of(&file)?;
            check(&file)?;
            let database = Database::open_unchecked(path)?;
            if database.stamp()? == stamp {
                return Ok((database, file, stamp));
            }
        }
        Err(DbError::Replaced)
    }

    /// What the open file is now.
    fn stamp(&self) -> Result<Stamp, DbError> {
        // SAFETY: the handle is open.
        let number = unsafe { gdbm_sys::gdbm_fdesc(self.0.as_ptr()) };
        // SAFETY: libgdbm keeps this descriptor open until the handle is closed, which outlives this value; it is
        // never dropped, and so does not close it.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(number) });
        Ok(Stamp::of(&file)?)
    }

    fn open_unchecked(path: &Path) -> Result<Self, DbError> {
        let database = Database::open(path, gdbm_sys::GDBM_READER | NO_MMAP | VERIFY, 0)?;
        database.set_cache_size(READER_CACHE);
        Ok(database)
    }

    /// A matter of memory alone, so that a refusal changes nothing.
    fn set_cache_size(&self, mut buckets: c_int) {
        // SAFETY: the handle is open, and the option reads one int at the pointer.
        unsafe {
            gdbm_sys::gdbm_setopt(
                self.0.as_ptr(),
                gdbm_sys::GDBM_CACHESIZE as c_int,
                &mut buckets,
                size_of::<c_int>() as c_int,
            )
        };
    }

    fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, DbError> {
        let Some(key) = datum(key) else { return Ok(None) };
        forget_errors();
        // SAFETY: the handle is open, and the key lives through the call.
        let value = unsafe { gdbm_sys::gdbm_fetch(self.0.as_ptr(), key) };
        absent_or_error(take(value))
    }

    fn first_key(&mut self) -> Result<Option<Vec<u8>>, DbError> {
        forget_errors();
        // SAFETY: the handle is open.
        let key = unsafe { gdbm_sys::gdbm_firstkey(self.0.as_ptr()) };
        absent_or_error(take(key))
    }

    fn next_key(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, DbError> {
        let Some(key) = datum(key) else { return Err(DbError::Damaged) };
        forget_errors();
        // SAFETY: the handle is open, and the key lives through the call.
        let next = unsafe { gdbm_sys::gdbm_nextkey(self.0.as_ptr(), key) };
        absent_or_error(take(next))
    }
}

/// Must follow its call at once: "no such key" is told by the error number alone.
fn absent_or_error(result: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, DbError> {
    if result.is_some() {
        return Ok(result);
    }
    match DbError::last() {
        DbError::Gdbm(code) if code as c_uint == gdbm_sys::GDBM_ITEM_NOT_FOUND => Ok(None),
        error => Err(error),
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { gdbm_sys::gdbm_close(self.0.as_ptr()) };
    }
}

/// A handle that gave an error.
#[derive(Debug)]
struct Failed {
    /// Before this moment no new one is opened.
    retry_at: Instant,
}

/// To open a file is to look at all of it, so that clients of a damaged one do not each cause that.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Failed {
    fn now() -> Self {
        Failed { retry_at: Instant::now() + RETRY_PAUSE }
    }
}

/// An access file, open for reading.
#[derive(Debug)]
pub struct AccessDb {
    path: PathBuf,
    database: Database,
    /// The file when it was opened.
    stamp: Stamp,
    /// Set while the handle is of no use: after one error libgdbm answers nothing more on it.
    failed: Option<Failed>,
    /// When it was last opened anew after an error, whether that went well or not.
    anew: Option<Instant>,
    /// The same file, if not all of it was checked at open.
    unchecked: Option<File>,
}

impl AccessDb {
    /// Opens `path`. A failure is one line for the user: missing, unreadable, no GDBM file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StartError> {
        let path = path.into();
        let (database, stamp) = open_for_user(&path)?;
        Ok(AccessDb { path, database, stamp, failed: None, anew: None, unchecked: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Like [`AccessDb::open`] for a program that asks a few keys and ends: what is asked is
    /// checked, and not all of a large file.
    pub fn open_to_ask(path: impl Into<PathBuf>) -> Result<Self, StartError> {
        let path = path.into();
        let opened = Database::open_as_seen(&path, |_| Ok(()));
        let (database, file, stamp) = opened.map_err(|error| cannot_open(&path, error))?;
        Ok(AccessDb { path, database, stamp, failed: None, anew: None, unchecked: Some(file) })
    }

    /// Opens the file anew (SIGHUP). If it does not open well, the old one stays in force.
    pub fn reload(&mut self) -> Result<(), StartError> {
        (self.database, self.stamp) = open_for_user(&self.path)?;
        self.failed = None;
        self.unchecked = None;
        Ok(())
    }

    /// What the file says of a connection, as [`access::decide`]. At a read error all of it is read once
    /// more from the file as it is now, so that a passing trouble, or a file written in place and then
    /// replaced, refuses nobody.
    pub fn decide(
        &mut self,
        remote: IpAddr,
        local: Option<SocketAddr>,
        env: &mut Delta,
    ) -> Result<access::Access, DbError> {
        let before = env.clone();
        match access::decide(self, remote, local, env) {
            Err(error) if self.is_opened_at_once(&error) => {
                log::access_opened_anew(&self.path, &error);
                *env = before;
                access::decide(self, remote, local, env)
            }
            decided => decided,
        }
    }

    /// Opens the file anew after an error, if that was not tried within the pause; or was, and it has changed again
    /// since that went well. True if it did.
    fn is_opened_at_once(&mut self, error: &DbError) -> bool {
        let pauses = self.anew.is_some_and(|at| at.elapsed() < RETRY_PAUSE) && !matches!(error, DbError::Changed);
        !pauses && self.open_anew().is_ok()
    }

    fn open_anew(&mut self) -> Result<(), DbError> {
        self.anew = Some(Instant::now());
        self.failed = Some(Failed::now());
        (self.database, self.stamp) = open_checked(&self.path)?;
        self.failed = None;
        self.unchecked = None;
        Ok(())
    }

    /// Every key, in the file's own order, which is none. An error ends it; a damaged file can
    /// neither hide its end nor make it go on for ever.
    pub fn keys(&mut self) -> Result<Vec<Vec<u8>>, DbError> {
        let most = std::fs::metadata(&self.path).map(|m| m.len()).unwrap_or(0) / ELEMENT_SIZE;
        let mut keys = Vec::new();
        let mut key = self.database.first_key()?;
        while let Some(this) = key {
            if keys.len() as u64 >= most {
                return Err(DbError::Damaged);
            }
            key = self.database.next_key(&this)?;
            keys.push(this);
        }
        Ok(keys)
    }
}

/// Checks all of the file first.
fn open_checked(path: &Path) -> Result<(Database, Stamp), DbError> {
    Database::open_as_seen(path, verify::verify).map(|(database, _, stamp)| (database, stamp))
}

fn open_for_user(path: &Path) -> Result<(Database, Stamp), StartError> {
    open_checked(path).map_err(|error| cannot_open(path, error))
}

fn cannot_open(path: &Path, error: DbError) -> StartError {
    match error {
        DbError::NotGdbm => StartError::File { path: path.into(), doing: "not a GDBM database", error: None },
        error => StartError::file(path, "cannot open", error),
    }
}

impl Lookup for AccessDb {
    type Error = DbError;

    fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, DbError> {
        if let Some(failed) = &self.failed {
            if Instant::now() < failed.retry_at {
                return Err(DbError::Damaged);
            }
            // Anew by name: a file that was mended meanwhile serves again without a SIGHUP.
            self.open_anew()?;
        }
        if let Some(file) = &self.unchecked {
            verify::verify_bucket_of(file, key)?;
        }
        let mut result = self.database.fetch(key);
        if self.database.stamp()? != self.stamp {
            result = Err(DbError::Changed);
        }
        if result.is_err() {
            self.failed = Some(Failed::now());
        }
        result
    }
}

/// True if `path` begins as GDBM's files do, on this machine or another: whoever asks takes it for
/// a database and not for text, however damaged it is.
pub fn has_magic(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .and_then(|mut file| if file.metadata()?.is_file() { file.read_exact(&mut start) } else { Ok(()) });
    let known = |first: u8, rest: [u8; 3]| (0xcd..=0xd1).contains(&first) && rest == [0x9a, 0x57, 0x13];
    read.is_ok() && (known(start[0], [start[1], start[2], start[3]]) || known(start[3], [start[2], start[1], start[0]]))
}

/// A new database, for one writer. It is whole only after [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    database: Database,
}

/// What [`Writer::insert`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    New,
    /// The key is there already; its record stays.
    Duplicate,
}

impl Writer {
    /// Makes an empty database at `path`, over what is there. Not mapped either: a full disk
    /// is then an error, not a signal.
    pub fn create(path: &Path, mode: u32) -> Result<Self, DbError> {
        let mode = c_int::try_from(mode).unwrap_or(0o600);
        Database::open(path, gdbm_sys::GDBM_NEWDB | NO_MMAP, mode).map(|database| Writer { database })
    }

    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<Inserted, DbError> {
        let (Some(key), Some(value)) = (datum(key), datum(value)) else { return Err(DbError::Damaged) };
        forget_errors();
        // SAFETY: the handle is open, and key and value live through the call.
        let result =
            unsafe { gdbm_sys::gdbm_store(self.database.0.as_ptr(), key, value, gdbm_sys::GDBM_INSERT as c_int) };
        match result {
            0 => Ok(Inserted::New),
            1 => Ok(Inserted::Duplicate),
            _ => Err(DbError::last()),
        }
    }

    /// Writes out what is held back, and waits until it is on the disk.
    pub fn finish(self, path: &Path) -> Result<(), DbError> {
        forget_errors();
        // SAFETY: the handle is open.
        unsafe { gdbm_sys::gdbm_sync(self.database.0.as_ptr()) };
        if gdbm_errno() != 0 {
            return Err(DbError::last());
        }
        drop(self.database);
        File::open(path)?.sync_all()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
